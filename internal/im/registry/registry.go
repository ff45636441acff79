// Package registry knows users and their tokens, channels with their flags, who is a member of what,
// and how far each user has read. All of it is in one log that keeps the newest entry of each
// subject; every node follows it and has it whole in its index.
//
// It may import fabric for the log, im/index and im/message. It must never import sessions, the
// cluster or an HTTP API.
package registry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// Sentinel errors.
var (
	// ErrStaleIndex says that the index was made from another log: it has to be cleared.
	ErrStaleIndex = errors.New("the index is of another registry")
	// ErrContended says that others changed the same all the time.
	ErrContended = errors.New("others change the same without a pause")
	// ErrTooMany says that a list has no room for more.
	ErrTooMany = errors.New("the list is full")
)

// Options configure a Registry.
type Options struct {
	Open  func(ctx context.Context, config fabric.LogConfig) (fabric.Log, error)
	Index *index.Index
	// Changed is told of members that came and went, in the order of the log; nil is nobody. It may
	// read the registry, and holds up what is applied next.
	Changed func(kind Kind, c message.Channel, added, removed []string)
	// FloorMoved is told that messages of a channel before a number are removed; nil is nobody.
	FloorMoved func(c message.Channel, floor uint64)
	Logger     *slog.Logger
}

// logName is the name of the log, and of its place in the index.
const logName = "im-registry"

// tableDocument is the letter of the index's table of documents, by subject.
const tableDocument = 'D'

// Registry is this node's replica.
type Registry struct {
	options Options
	log     fabric.Log
	rules   atomic.Uint64 // how often channels or sets changed

	mu       sync.Mutex // guards the following fields
	position uint64     // of the log up to which the index has it
	moved    chan struct{}
}

// Open opens the log. Nothing is followed before Run. It returns ErrStaleIndex when the index goes
// further than the log.
func Open(ctx context.Context, options Options) (*Registry, error) {
	l, err := options.Open(ctx, fabric.LogConfig{Name: logName, MaxPerSubject: 1})
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	r := &Registry{options: options, log: l, moved: make(chan struct{})}
	if r.position, err = options.Index.Applied(logName); err != nil {
		return nil, err
	}
	last, err := r.end(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	if last < r.position {
		return nil, ErrStaleIndex
	}
	return r, nil
}

// end returns the number of the newest entry of the log, as its leader knows it.
func (r *Registry) end(ctx context.Context) (uint64, error) {
	for {
		info, err := r.log.Info(ctx)
		if err == nil {
			return info.LastSeq, nil
		}
		if ctx.Err() != nil || !errors.Is(err, fabric.ErrUnavailable) {
			return 0, err
		}
	}
}

// CatchUp waits until the index has what the log had when it was called.
func (r *Registry) CatchUp(ctx context.Context) error {
	last, err := r.end(ctx)
	if err == nil {
		err = r.Await(ctx, last)
	}
	if err != nil {
		return fmt.Errorf("catch up with the registry: %w", err)
	}
	return nil
}

// Position returns the number of the newest entry that this node has.
func (r *Registry) Position() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.position
}

// Rules returns a number that is another one when a channel's settings or a set have changed: what was
// found out from them before holds as long as it is the same.
func (r *Registry) Rules() uint64 { return r.rules.Load() }

// Await waits until this node has the entry with that number.
func (r *Registry) Await(ctx context.Context, seq uint64) error {
	for {
		r.mu.Lock()
		there, moved := r.position >= seq, r.moved
		r.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run follows the log until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := r.log.Follow(ctx, ">", r.Position()+1, func(e fabric.Entry) {
		if ctx.Err() != nil {
			return
		}
		if err := r.apply(e); err != nil {
			cancel(fmt.Errorf("apply the registry: %w", err))
		}
	})
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// apply writes an entry into the index.
func (r *Registry) apply(e fabric.Entry) error {
	before, _, err := r.document(e.Subject)
	if err != nil {
		return err
	}
	batch := r.options.Index.Batch()
	key := index.Key(tableDocument, e.Subject)
	row := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(e.Payload)), e.Seq)
	batch.Set(key, append(row, e.Payload...)) // also an empty one: its number is needed to write again
	var change setChange
	if isSet(e.Subject) {
		if change, err = r.applySet(batch, e.Subject, before, e.Payload); err != nil {
			r.options.Logger.Error("an entry of the registry cannot be read", "seq", e.Seq, "error", err)
		}
	} else if isCursor(e.Subject) {
		r.applyCursor(batch, e.Payload)
	} else if isChannel(e.Subject) {
		applyChannel(batch, e.Payload)
	}
	if err := batch.Commit(logName, e.Seq); err != nil {
		return err
	}
	if isSet(e.Subject) || isChannel(e.Subject) {
		r.rules.Add(1)
	}
	r.mu.Lock()
	r.position = e.Seq
	close(r.moved)
	r.moved = make(chan struct{})
	r.mu.Unlock()
	if r.options.FloorMoved != nil && isChannel(e.Subject) {
		if c, floor, moved := floorMoved(before, e.Payload); moved {
			r.options.FloorMoved(c, floor)
		}
	}
	if len(change.added)+len(change.removed) > 0 && r.options.Changed != nil {
		r.options.Changed(change.kind, change.channel, change.added, change.removed)
	}
	return nil
}

// document returns what the index has under a subject, with its number: nothing and 0 if it never
// was there, nothing when it was removed.
func (r *Registry) document(subject string) (value []byte, seq uint64, err error) {
	row, err := r.options.Index.Get(index.Key(tableDocument, subject))
	if err != nil || len(row) < 8 {
		return nil, 0, err
	}
	return row[8:], binary.BigEndian.Uint64(row), nil
}

// maxTries bounds how often a change is tried while others change the same.
const maxTries = 50

// update changes what is under a subject, and waits until this node has it. change gets what is
// there, nothing when there is none; when it returns the same, nothing is written. It returns the
// number of the entry, 0 for none.
func (r *Registry) update(ctx context.Context, subject string, change func(old []byte) ([]byte, error)) (uint64, error) {
	for range maxTries {
		old, seq, err := r.document(subject)
		if err != nil {
			return 0, err
		}
		value, err := change(old)
		if err != nil {
			return 0, err
		}
		if string(value) == string(old) {
			return 0, nil
		}
		stored, err := r.log.Append(ctx, subject, value, fabric.ExpectLastOfSubject(seq))
		switch {
		case err == nil:
			return stored, r.Await(ctx, stored)
		case !errors.Is(err, fabric.ErrConflict):
			return 0, err
		}
		// Another was first, and this node does not have it yet.
		if err := r.CatchUp(ctx); err != nil {
			return 0, err
		}
	}
	return 0, ErrContended
}
