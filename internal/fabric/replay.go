package fabric

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"
)

// Replay is a signal with a memory: what is published is kept in a Log for as long as that
// keeps it, so that who was away hears what was said meanwhile. It costs an append for each
// message, where a Signal costs none; choose it for what must not be missed.
//
// Order is that of the Log: one order over all senders and subjects. Delivery is at least
// once: who subscribes again behind the last position that was handled misses nothing that is
// still kept.
type Replay struct {
	log Log
	id  string
}

// Kept is a message of a Replay.
type Kept struct {
	Message
	Position uint64    // in the log; subscribe behind it to go on
	Time     time.Time // by the clock of the node that stored it
}

// NewReplay returns a sender over the log, which nothing else may append to. Its id is new,
// unless one is given: the same id skips its own messages after a restart as well.
func NewReplay(log Log, id string) (*Replay, error) {
	if id == "" {
		id = rand.Text()
	}
	if len(id) > MaxKeySize {
		return nil, fmt.Errorf("sender id of %d bytes, at most %d: %w", len(id), MaxKeySize, ErrInvalidKey)
	}
	return &Replay{log: log, id: id}, nil
}

// ID is that of the sender.
func (r *Replay) ID() string { return r.id }

// Publish stores a message under the subject and returns its position. Errors are those of
// Log.Append; the payload may have MaxValueSize less MaxKeySize and one byte.
func (r *Replay) Publish(ctx context.Context, subject string, payload []byte) (uint64, error) {
	entry := make([]byte, 0, 1+len(r.id)+len(payload))
	entry = append(append(entry, byte(len(r.id))), r.id...)
	return r.log.Append(ctx, subject, append(entry, payload...))
}

// Subscribe calls handler for each message under the pattern behind the position after, those
// that are kept first and then those that come, in order, one call at a time, until ctx ends,
// which is not an error. 0 begins with the oldest that is kept; Position has those alone that
// come from now on. When messages behind after are no longer kept, or the log was begun anew
// and has no such position, gap is told first; it may be nil. Of the options SkipSelf counts.
func (r *Replay) Subscribe(
	ctx context.Context, pattern string, after uint64, handler func(Kept), gap func(Gap), options ...SubscribeOption,
) error {
	skip := NewSubscribeOptions(options).SkipSelf
	if after > 0 {
		info, err := r.log.Info(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		begunAnew := info.LastSeq < after
		if gap != nil && (begunAnew || info.FirstSeq > after+1) {
			gap(GapForgotten)
		}
		if begunAnew {
			after = 0
		}
	}
	return r.log.Follow(ctx, pattern, after+1, func(e Entry) {
		if kept, ok := readKept(e); ok && !(skip && kept.Sender == r.id) {
			handler(kept)
		}
	})
}

// readKept reads what Publish has written, and nothing else.
func readKept(e Entry) (kept Kept, ok bool) {
	size := 1
	if len(e.Payload) > 0 {
		size += int(e.Payload[0])
	}
	if len(e.Payload) < size {
		return Kept{}, false
	}
	return Kept{
		Message:  Message{Subject: e.Subject, Payload: e.Payload[size:], Sender: string(e.Payload[1:size])},
		Position: e.Seq,
		Time:     e.Time,
	}, true
}

// Read returns the messages under the pattern behind the position after that one Log.Read
// gives, with the position that the next call goes on behind. It is the end when that is after.
func (r *Replay) Read(
	ctx context.Context, pattern string, after uint64, limit int,
) (messages []Kept, next uint64, err error) {
	entries, err := r.log.Read(ctx, pattern, after+1, limit)
	if err != nil {
		return nil, after, err
	}
	for _, e := range entries {
		if kept, ok := readKept(e); ok {
			messages = append(messages, kept)
		}
		after = e.Seq
	}
	return messages, after, nil
}

// First is the position of the oldest message that is kept, and Position+1 when there is none.
func (r *Replay) First(ctx context.Context) (uint64, error) {
	info, err := r.log.Info(ctx)
	return info.FirstSeq, err
}

// Position is that of the newest message.
func (r *Replay) Position(ctx context.Context) (uint64, error) {
	info, err := r.log.Info(ctx)
	return info.LastSeq, err
}
