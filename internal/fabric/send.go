package fabric

import (
	"context"
	"fmt"
	"time"
)

// Limits of PipeLog.Send.
const (
	// MaxSend is how many entries one Send stores, and MaxSendSize how many bytes of payload.
	MaxSend     = 500
	MaxSendSize = 1 << 20
	// SendTimeout is after how long a Send that nobody answered has failed.
	SendTimeout = 5 * time.Second
)

// NewEntry is an entry to be stored.
type NewEntry struct {
	Subject string
	Payload []byte
	// TTL is after how long the entry is removed, in whole seconds; 0 is never.
	TTL time.Duration
}

// PipeLog is a Log that takes many appends at a time from one writer. The drivers of Redis do not
// have it.
type PipeLog interface {
	Log
	// Send appends entries behind the one with the sequence number last, all or none: the first
	// gets last+1, and nothing comes between them. It does not wait: calls reach the log in the
	// order in which they were made, so one may follow the other before that is answered. done is
	// called once, from another goroutine, and must not wait: with nil when they are on the disks
	// of a majority, ErrConflict when last was not the newest, and then none of them is stored.
	// After another error they may have been stored, or still be. An error that Send returns
	// itself says that nothing was sent, and done is not called.
	Send(last uint64, entries []NewEntry, done func(error)) error
	// PurgeBefore removes the entries under the pattern that come before the sequence number.
	PurgeBefore(ctx context.Context, pattern string, before uint64) error
}

// CheckSend returns an error that says which entries cannot be sent.
func CheckSend(entries []NewEntry) error {
	size := 0
	for _, e := range entries {
		if err := CheckSubject(e.Subject); err != nil {
			return err
		}
		if err := CheckValue(e.Payload); err != nil {
			return err
		}
		if e.TTL < 0 || e.TTL%time.Second != 0 {
			return fmt.Errorf("TTL %v is not in whole seconds: %w", e.TTL, ErrInvalidConfig)
		}
		size += len(e.Payload)
	}
	if len(entries) == 0 || len(entries) > MaxSend || size > MaxSendSize {
		return fmt.Errorf("%d entries of %d bytes: %w", len(entries), size, ErrTooLarge)
	}
	return nil
}
