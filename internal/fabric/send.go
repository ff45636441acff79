package fabric

import (
	"context"
	"time"
)

// SendTimeout is after how long a Send that nobody answered has failed.
const SendTimeout = 5 * time.Second

// NewEntry is an entry to be stored.
type NewEntry struct {
	Subject string
	Payload []byte
}

// PipeLog is a Log that takes many appends at a time from one writer. The drivers of Redis do not
// have it.
type PipeLog interface {
	Log
	// Send appends an entry behind the one with the sequence number last, so that it gets last+1. It does
	// not wait: calls reach the log in the order in which they were made, so one may follow the other
	// before that is answered. done is called once, from another goroutine, and must not wait: with nil
	// when the entry is on the disks of a majority, ErrConflict when last was not the newest, and then it
	// is not stored. After another error it may have been stored, or still be. An error that Send
	// returns itself says that nothing was sent, and done is not called.
	Send(last uint64, entry NewEntry, done func(error)) error
	// Led tells whether the log is led from the server that serves this process: a Send takes no detour
	// then. True where a log has no leader, or cannot be led there.
	Led(ctx context.Context) (bool, error)
	// Lead moves the lead there, and returns when it is so. Of a Send that is not answered yet nobody
	// may ever tell, and the log may take none for a moment.
	Lead(ctx context.Context) error
}

// CheckSend returns an error that says why an entry cannot be sent.
func CheckSend(e NewEntry) error {
	if err := CheckSubject(e.Subject); err != nil {
		return err
	}
	return CheckValue(e.Payload)
}
