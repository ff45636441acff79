package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// freeAge is how long the record of a lock that was released is kept.
	freeAge = time.Minute
	// deadAge is how long that of a holder that is gone is kept at least, when nobody takes
	// the lock over. It is far over any lease that it does not scale with, because this alone
	// goes by the clocks of the servers.
	deadAge = time.Hour
	// lockPoll is the longest time after which a waiter looks again without being woken.
	lockPoll = time.Second
	// maxSightings is how many leases of others a handle remembers.
	maxSightings = 4096
)

// locks is one handle of the locks of a name: a stream with one message, the lease, for each
// lock. Who writes the next message on the subject, under the condition that the last one is
// the one he saw, has the lock.
type locks struct {
	provider *Provider
	name     string
	stream   jetstream.Stream
	turns    fabric.Turns // so that a node does not race with itself

	mu        sync.Mutex // guards sightings
	sightings map[string]sighting
}

// sighting is a lease of another that was seen, and since when.
type sighting struct {
	revision uint64
	since    time.Time
}

// lease is the record of a lock. An empty holder means that it is free.
type lease struct {
	Holder   string `json:"holder,omitempty"`
	Duration int64  `json:"lease_ms,omitempty"`
}

func (l *locks) subject(name string) string {
	return l.provider.subject("lock", l.name) + fabric.Token(name)
}

// wakeSubject is where those who wait are told that the lock is free. A message that gets
// lost costs them lockPoll.
func (l *locks) wakeSubject(name string) string {
	return l.provider.subject("unlock", l.name) + fabric.Token(name)
}

func openLocks(ctx context.Context, p *Provider, name string) (*locks, error) {
	l := &locks{provider: p, name: name, sightings: map[string]sighting{}}
	var err error
	l.stream, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              p.stream("lock", name),
		Subjects:          []string{p.subject("lock", name) + "*"},
		Storage:           jetstream.FileStorage,
		Replicas:          p.replicas,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
		AllowMsgTTL:       true,
		Duplicates:        retryWindow,
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (l *locks) failed(operation, name string, err error) error {
	return fmt.Errorf("%s lock %.300q of %q: %w", operation, name, l.name, translate(err))
}

func (l *locks) check(ctx context.Context, name string, duration time.Duration) error {
	if err := l.provider.life.Ready(ctx); err != nil {
		return err
	}
	return errors.Join(fabric.CheckText(name), fabric.CheckLease(duration))
}

// TryAcquire implements fabric.Locks.
func (l *locks) TryAcquire(ctx context.Context, name string, duration time.Duration) (fabric.Lock, error) {
	err := l.check(ctx, name, duration)
	var held *lock
	if err == nil {
		held, _, err = l.try(ctx, name, duration)
	}
	if err != nil {
		return nil, l.failed("acquire", name, err)
	}
	return held, nil
}

// Acquire implements fabric.Locks.
func (l *locks) Acquire(ctx context.Context, name string, duration time.Duration) (fabric.Lock, error) {
	err := l.check(ctx, name, duration)
	var held *lock
	if err == nil {
		held, err = l.wait(ctx, name, duration)
	}
	if err != nil {
		return nil, l.failed("acquire", name, err)
	}
	return held, nil
}

func (l *locks) wait(ctx context.Context, name string, duration time.Duration) (*lock, error) {
	bound, release := l.provider.life.Bind(ctx)
	defer release()
	held, err := l.waitInLine(bound, name, duration)
	if err != nil && l.provider.life.Err() != nil {
		err = fabric.ErrClosed
	}
	return held, err
}

// waitInLine tries when the others of this handle that came before are through, then
// whenever the lock may be free.
func (l *locks) waitInLine(ctx context.Context, name string, duration time.Duration) (*lock, error) {
	end, err := l.turns.Take(ctx, name, fabric.MaxLockWaiters)
	if err != nil {
		return nil, err
	}
	defer end()
	wake := make(chan struct{}, 1) // more than one would say no more
	// A subscription with a channel would be a slow consumer when that is full.
	sub, err := l.provider.conn.Subscribe(l.wakeSubject(name), func(*natsgo.Msg) {
		select {
		case wake <- struct{}{}:
		default: // there is one
		}
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails when the connection is closed
	for {
		held, wait, err := l.try(ctx, name, duration)
		if err == nil {
			return held, nil
		}
		if !errors.Is(err, fabric.ErrLocked) {
			if ctx.Err() != nil || l.provider.conn.IsClosed() {
				return nil, err
			}
			wait = lockPoll // the store is away for a moment
		}
		timer := time.NewTimer(min(wait, lockPoll))
		select {
		case <-wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// try takes the lock if it is free or its holder gone. With ErrLocked it returns how long the
// holder may still live.
func (l *locks) try(ctx context.Context, name string, duration time.Duration) (*lock, time.Duration, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	mine := &lock{locks: l, name: name, duration: duration, id: nuid.Next()}
	for range 3 { // a conflict may also mean that a record has just expired
		current, revision, err := l.read(ctx, name)
		if err != nil {
			return nil, 0, err
		}
		if current.Holder == mine.id { // written, though the answer got lost
			return mine.hold(revision), 0, nil
		}
		if current.Holder != "" {
			if wait := l.sight(name, revision, current); wait > 0 {
				return nil, wait, fabric.ErrLocked
			}
		}
		mine.began = time.Now()
		revision, err = mine.write(ctx, lease{mine.id, duration.Milliseconds()}, revision)
		if err == nil {
			l.forget(name)
			return mine.hold(revision), 0, nil
		}
		if !movedOn(err) {
			return nil, 0, err
		}
	}
	return nil, 0, fabric.ErrLocked
}

// read returns the record of a lock and its revision, 0 when there is none.
func (l *locks) read(ctx context.Context, name string) (lease, uint64, error) {
	msg, err := lastOf(ctx, l.stream, l.subject(name))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return lease{}, 0, nil
	}
	if err != nil {
		return lease{}, 0, err
	}
	var record lease
	if err := json.Unmarshal(msg.Data, &record); err != nil {
		return lease{}, 0, fmt.Errorf("decode lease: %w", err)
	}
	return record, msg.Sequence, nil
}

// sight returns how long the holder of a lease must be given still: its whole length, and a
// little more for clocks that run unevenly, from when it was first seen at this revision.
func (l *locks) sight(name string, revision uint64, current lease) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, ok := l.sightings[name]
	if !ok || seen.revision != revision {
		if len(l.sightings) >= maxSightings {
			clear(l.sightings) // some locks of the dead are free later
		}
		seen = sighting{revision, time.Now()}
		l.sightings[name] = seen
	}
	duration := time.Duration(current.Duration) * time.Millisecond
	return time.Until(seen.since.Add(duration + duration/8))
}

func (l *locks) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sightings, name)
}
