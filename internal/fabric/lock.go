package fabric

import (
	"context"
	"errors"
	"time"
)

// Sentinel errors of Locks.
var (
	// ErrLocked says that another holder has the lock.
	ErrLocked = errors.New("locked")
	// ErrLost says that the lock was not held any more when it was released.
	ErrLost = errors.New("lock lost")
)

// Limits of Locks that hold for every driver.
const (
	// MinLease and MaxLease bound the lease of a lock.
	MinLease = 100 * time.Millisecond
	MaxLease = time.Hour
	// MaxLockWaiters is how many Acquire calls of one handle wait for one lock.
	MaxLockWaiters = 4096
)

// Locks hands out locks by name, each to one holder at a time on all nodes. Names are any
// text of 1 to MaxKeySize bytes. A lock is not reentrant.
//
// A lock is held by a lease that its holder renews by itself until Release. When the holder
// is gone, others take the lock over after the lease. No clock readings of different nodes
// are compared: the holder counts the lease from before it asked for it, a contender from
// after it saw it, each by its own monotonic clock.
//
// A process that was stopped for longer than its lease may go on before it learns that the
// lock is lost. Against that the token helps: what the lock protects remembers the highest
// token it has met and refuses lower ones.
type Locks interface {
	// Acquire waits for the lock until ctx ends. Those who wait on one handle get it in
	// order; between handles nobody is preferred. ErrFull when MaxLockWaiters wait already,
	// ErrInvalidConfig when the lease is out of its bounds.
	Acquire(ctx context.Context, name string, lease time.Duration) (Lock, error)
	// TryAcquire does not wait: ErrLocked when another has the lock. The lock of a holder
	// that is gone is free for it when the handle has met the same lease before, at least the
	// length of that lease ago; so trying again now and then succeeds.
	TryAcquire(ctx context.Context, name string, lease time.Duration) (Lock, error)
}

// Lock is a lock that is held.
type Lock interface {
	// Token grows with each holder of the name.
	Token() uint64
	// Until is when the lock is lost at the latest unless it is renewed before; nobody else has
	// it until then. It moves on with each renewal, by less than a lease for each, and is
	// reckoned by the monotonic clock of this process.
	Until() time.Time
	// Lost is closed when the lock is no longer certainly held: it could not be renewed in
	// time, or was taken over. Release does not close it.
	Lost() <-chan struct{}
	// Release gives the lock back; ErrLost when it was lost before. When it fails otherwise,
	// the lock is free after its lease. Repeating it does nothing.
	Release(ctx context.Context) error
}
