package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// lockTable is the state that all handles of one name share.
type lockTable struct {
	mu    sync.Mutex // guards the following fields
	token uint64     // the last one given
	held  map[string]*lock
}

func newLockTable() *lockTable { return &lockTable{held: map[string]*lock{}} }

// locks is one handle.
type locks struct {
	provider *Provider
	table    *lockTable
	name     string
	turns    fabric.Turns
}

// lock is one that is held. It needs no renewal: its holder is alive while its provider is.
type lock struct {
	locks *locks
	name  string
	lease time.Duration
	token uint64
	lost  chan struct{} // closed when its provider is closed
	freed chan struct{} // closed when others may have the lock
	once  sync.Once
	alive func() bool // ends the watch over the provider; false when that has ended
}

func (l *locks) failed(operation, name string, err error) error {
	return fmt.Errorf("%s lock %.300q of %q: %w", operation, name, l.name, err)
}

func (l *locks) check(ctx context.Context, name string, lease time.Duration) error {
	return errors.Join(l.provider.life.Ready(ctx), fabric.CheckText(name), fabric.CheckLease(lease))
}

// Acquire implements fabric.Locks.
func (l *locks) Acquire(ctx context.Context, name string, lease time.Duration) (fabric.Lock, error) {
	err := l.check(ctx, name, lease)
	var held *lock
	if err == nil {
		held, err = l.wait(ctx, name, lease)
	}
	if err != nil {
		return nil, l.failed("acquire", name, err)
	}
	return held, nil
}

func (l *locks) wait(ctx context.Context, name string, lease time.Duration) (*lock, error) {
	bound, release := l.provider.life.Bind(ctx)
	defer release()
	end, err := l.turns.Take(bound, name, fabric.MaxLockWaiters)
	if err == nil {
		defer end()
	}
	for err == nil {
		mine, other := l.try(name, lease)
		if mine != nil {
			return mine, nil
		}
		select {
		case <-other.freed:
		case <-bound.Done():
			err = bound.Err()
		}
	}
	if l.provider.life.Err() != nil {
		err = fabric.ErrClosed
	}
	return nil, err
}

// TryAcquire implements fabric.Locks.
func (l *locks) TryAcquire(ctx context.Context, name string, lease time.Duration) (fabric.Lock, error) {
	err := l.check(ctx, name, lease)
	if err == nil {
		mine, _ := l.try(name, lease)
		if mine != nil {
			return mine, nil
		}
		err = fabric.ErrLocked
	}
	return nil, l.failed("acquire", name, err)
}

// try returns the lock as held by the caller, or else the one that another holds.
func (l *locks) try(name string, lease time.Duration) (mine, other *lock) {
	l.table.mu.Lock()
	defer l.table.mu.Unlock()
	if other := l.table.held[name]; other != nil {
		return nil, other
	}
	l.table.token++
	mine = &lock{
		locks: l, name: name, lease: lease, token: l.table.token,
		lost: make(chan struct{}), freed: make(chan struct{}),
	}
	mine.alive = context.AfterFunc(l.provider.life, func() {
		close(mine.lost)
		time.AfterFunc(lease, mine.free)
	})
	l.table.held[name] = mine
	return mine, nil
}

// free lets others have the lock.
func (k *lock) free() {
	k.locks.table.mu.Lock()
	defer k.locks.table.mu.Unlock()
	delete(k.locks.table.held, k.name)
	close(k.freed)
}

// Token implements fabric.Lock.
func (k *lock) Token() uint64 { return k.token }

// Until implements fabric.Lock.
func (k *lock) Until() time.Time {
	now := time.Now()
	if k.locks.provider.life.Err() != nil {
		return now
	}
	return now.Add(k.lease)
}

// Lost implements fabric.Lock.
func (k *lock) Lost() <-chan struct{} { return k.lost }

// Release implements fabric.Lock.
func (k *lock) Release(context.Context) error {
	var err error
	k.once.Do(func() {
		if k.alive() {
			k.free()
			return
		}
		err = k.locks.failed("release", k.name, fabric.ErrLost)
	})
	return err
}
