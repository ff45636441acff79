package fabric

import (
	"context"
	"fmt"
	"time"
)

// MaxLogPage is the most entries that one Read returns.
const MaxLogPage = 1000

// Entry is one entry of a Log.
type Entry struct {
	// Seq is the place in the log, over all its subjects: it grows from 1, and the entries
	// of one subject need not be consecutive.
	Seq     uint64
	Subject string
	Payload []byte
	Time    time.Time // by the clock of the node that stored it
}

// LogInfo is the extent of a Log.
type LogInfo struct {
	FirstSeq uint64 // of the oldest entry kept; LastSeq+1 when there is none
	LastSeq  uint64 // of the newest entry that ever was; 0 when there was none
	Entries  uint64
	Bytes    uint64
}

// Log is a durable sequence of entries, each under a subject. One log is wide: it serves any
// number of subjects, and costs the cluster one consensus group. Subjects are as in Signal;
// where a pattern is asked for, * and > may stand in it.
//
// An append that returned nil is on the disks of a majority. An append that failed by its
// context may have happened. A read may be stale by a moment on another node, never on the
// one that wrote.
type Log interface {
	// Append stores payload (at most MaxValueSize) and returns its sequence number.
	// ErrConflict when an expectation of the options does not hold.
	Append(ctx context.Context, subject string, payload []byte, options ...AppendOption) (uint64, error)
	// Read returns up to limit entries, at most MaxLogPage, under the pattern, from the
	// sequence number from on, in order. Fewer than limit means that there were no more, or
	// that they were large; an empty result is the end.
	Read(ctx context.Context, pattern string, from uint64, limit int) ([]Entry, error)
	// Last returns the newest entry under the pattern, or ErrNotFound.
	Last(ctx context.Context, pattern string) (Entry, error)
	// Follow calls handler for each entry under the pattern from the sequence number from
	// on, existing and later ones, in order, each once, one call at a time, until ctx ends,
	// which is not an error. It goes on behind a lost connection without a gap. A handler
	// that takes its time holds up nobody but itself.
	Follow(ctx context.Context, pattern string, from uint64, handler func(Entry)) error
	// Purge removes the entries under the pattern. Sequence numbers are not used again.
	Purge(ctx context.Context, pattern string) error
	// Delete removes one entry and overwrites it on disk; ErrNotFound if there is none.
	Delete(ctx context.Context, seq uint64) error
	// Info returns the extent of the log.
	Info(ctx context.Context) (LogInfo, error)
}

// LogConfig configures a log; the driver takes it when it opens the log, and the last one
// that opened it holds for all. A zero limit is none.
type LogConfig struct {
	Name          string        // letters, digits, - and _
	MaxAge        time.Duration // older entries are removed; at least 1 s
	MaxBytes      int64         // beyond it the oldest entries are removed
	MaxPerSubject int64         // beyond it the oldest entries of the subject are removed
}

// Check returns an error that wraps ErrInvalidConfig and names the field that cannot be used.
func (c LogConfig) Check() error {
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	bad := func(field string, value any) error {
		return fmt.Errorf("log %q: %s %v is out of range: %w", c.Name, field, value, ErrInvalidConfig)
	}
	switch {
	case c.MaxAge != 0 && c.MaxAge < time.Second:
		return bad("MaxAge", c.MaxAge)
	case c.MaxBytes < 0:
		return bad("MaxBytes", c.MaxBytes)
	case c.MaxPerSubject < 0:
		return bad("MaxPerSubject", c.MaxPerSubject)
	}
	return nil
}

// AppendOptions are what the options of an Append call add up to; drivers read it. A nil
// expectation is none.
type AppendOptions struct {
	LastSeq          *uint64
	LastSeqOfSubject *uint64
}

// AppendOption changes an Append call.
type AppendOption func(*AppendOptions)

// ExpectLast has Append succeed only when the newest entry that ever was in the log has this
// sequence number; 0 means that there was none.
func ExpectLast(seq uint64) AppendOption {
	return func(o *AppendOptions) { o.LastSeq = &seq }
}

// ExpectLastOfSubject has Append succeed only when the newest entry of its subject has this
// sequence number; 0 means that there is none.
func ExpectLastOfSubject(seq uint64) AppendOption {
	return func(o *AppendOptions) { o.LastSeqOfSubject = &seq }
}

// NewAppendOptions adds options up, for drivers.
func NewAppendOptions(options []AppendOption) AppendOptions {
	var o AppendOptions
	for _, option := range options {
		option(&o)
	}
	return o
}
