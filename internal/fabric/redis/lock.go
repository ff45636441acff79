package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// lockMemory is how long the record of a lock is kept at least after its last change.
	lockMemory = time.Hour
	// lockPoll is the longest time after which a waiter looks again without being woken.
	lockPoll = time.Second
	// maxSightings is how many leases of others a handle remembers.
	maxSightings = 4096
)

var (
	takeLockScript  = load("lock_take")
	renewLockScript = load("lock_renew")
	freeLockScript  = load("lock_free")
)

// locks is one handle of the locks of a name. Each lock has a key and a hash slot of its own, and
// they share a channel, on which the name of one that is freed is told.
type locks struct {
	provider *Provider
	name     string
	base     string
	freed    string       // the channel
	turns    fabric.Turns // so that a node does not race with itself

	mu        sync.Mutex // guards sightings
	sightings map[string]sighting
}

// sighting is a lease of another that was seen, and since when.
type sighting struct {
	revision string
	since    time.Time
}

func newLocks(p *Provider, name string) *locks {
	return &locks{
		provider: p, name: name, base: p.key("lock", name), freed: p.channel("lock", name) + "w",
		sightings: map[string]sighting{},
	}
}

// key is that of a lock.
func (l *locks) key(name string) string {
	return l.provider.key("lock", l.name+":"+fabric.Token(name))
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
	held, _, err := l.try(ctx, name, duration)
	if !errors.Is(err, fabric.ErrLocked) && !errors.Is(err, fabric.ErrUnavailable) {
		return held, err
	}
	woken := make(chan struct{}, 1) // more than one would say no more
	bus, err := l.provider.bus(l.base)
	if err != nil {
		return nil, err
	}
	defer bus.listen(l.freed, func(freed string) {
		if freed != "" && freed != name {
			return
		}
		select {
		case woken <- struct{}{}:
		default:
		}
	})()
	for wait := time.Duration(0); ; {
		timer := time.NewTimer(min(wait, lockPoll))
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		held, wait, err = l.try(ctx, name, duration)
		switch {
		case err == nil:
			return held, nil
		case errors.Is(err, fabric.ErrUnavailable): // for a moment
			wait = lockPoll
		case !errors.Is(err, fabric.ErrLocked):
			return nil, err
		}
	}
}

// try takes the lock if it is free or its holder gone. With ErrLocked it returns how long the
// holder may still live.
func (l *locks) try(ctx context.Context, name string, duration time.Duration) (*lock, time.Duration, error) {
	mine := &lock{locks: l, name: name, duration: duration, id: rand.Text()}
	keep := max(lockMemory, 4*duration)
	for dead := ""; ; {
		mine.began = time.Now()
		answer, err := l.provider.runDurable(ctx, takeLockScript, []string{l.key(name)},
			[]string{mine.id, milliseconds(duration), dead, milliseconds(keep)})
		if err != nil {
			go l.letGo(name, mine.id)
			return nil, 0, err
		}
		parts, err := list(answer, 2)
		if err != nil {
			return nil, 0, err
		}
		if taken, _ := parts[0].AsInt64(); taken == 1 {
			token, err := number(parts[1])
			if err != nil {
				return nil, 0, err
			}
			l.forget(name)
			return mine.hold(token), 0, nil
		}
		if parts, err = list(answer, 3); err != nil {
			return nil, 0, err
		}
		revision, _ := parts[1].ToString() // is a text
		lease, err := number(parts[2])
		if err != nil {
			return nil, 0, err
		}
		wait := l.sight(name, revision, time.Duration(lease)*time.Millisecond)
		if wait > 0 || dead == revision {
			return nil, wait, fabric.ErrLocked
		}
		dead = revision
	}
}

// letGo frees a lock that may have been taken although its caller got an error. When that fails, it
// is free after its lease.
func (l *locks) letGo(name, id string) {
	ctx, cancel := context.WithTimeout(l.provider.life, operationTimeout)
	defer cancel()
	answer, err := l.provider.run(ctx, freeLockScript, []string{l.key(name)}, []string{id, "0", milliseconds(lockMemory)})
	if err != nil {
		return
	}
	if freed, _ := answer.AsInt64(); freed == 1 {
		l.tellFreed(ctx, name)
	}
}

// sight returns how long the holder of a lease must be given still: its whole length, and a
// little more for clocks that run unevenly, from when it was first seen at this revision.
func (l *locks) sight(name, revision string, lease time.Duration) time.Duration {
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
	return time.Until(seen.since.Add(lease + lease/8))
}

func (l *locks) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sightings, name)
}

// tellFreed wakes those who wait for a lock. When it gets lost, they wait for lockPoll.
func (l *locks) tellFreed(ctx context.Context, name string) {
	b := l.provider.client.B()
	_ = l.provider.client.Do(ctx, b.Spublish().Channel(l.freed).Message(name).Build())
}
