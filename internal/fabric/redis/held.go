package redis

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// lock is one that is held, with a goroutine that renews its lease.
type lock struct {
	locks    *locks
	name     string
	duration time.Duration
	id       string // of the holder
	token    uint64

	end   atomic.Pointer[time.Time] // of the lease, as far as it is renewed
	began time.Time                 // before the last renewal that succeeded was asked for; used by the keeper
	lost  chan struct{}             // closed by the keeper
	stop  context.CancelFunc
	kept  chan struct{} // closed when the keeper has ended
	once  sync.Once
}

// renewals is how often a lock is renewed within its lease. An answer may take what is left of it:
// a server that is busy, or whose machine is, leaves some open for long.
const renewals = 4

// hold begins to keep the lock that was taken with that token.
func (k *lock) hold(token uint64) *lock {
	k.token = token
	k.reckon()
	k.lost, k.kept = make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	go k.keep(ctx)
	return k
}

// Token implements fabric.Lock. It is the time of the server at which the lock was taken, in
// microseconds, or more when that would not be over the one before.
func (k *lock) Token() uint64 { return k.token }

// reckon tells until when the lock is certainly held.
func (k *lock) reckon() {
	end := k.began.Add(k.duration)
	k.end.Store(&end)
}

// Until implements fabric.Lock.
func (k *lock) Until() time.Time { return *k.end.Load() }

// Lost implements fabric.Lock.
func (k *lock) Lost() <-chan struct{} { return k.lost }

// keep renews the lease until it is stopped or lost.
func (k *lock) keep(ctx context.Context) {
	defer close(k.kept)
	life := k.locks.provider.life
	interval := k.duration / renewals
	next := k.began.Add(interval)
	for {
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-life.Done():
			timer.Stop()
			close(k.lost)
			return
		case <-timer.C:
		}
		err := k.renew(ctx)
		switch end := k.began.Add(k.duration); {
		case ctx.Err() != nil:
			return
		case err == nil:
			next = k.began.Add(interval)
		case errors.Is(err, fabric.ErrLost) || !time.Now().Before(end):
			if life.Err() == nil {
				k.locks.provider.options.Logger.Warn("lock lost", slog.String("locks", k.locks.name),
					slog.String("lock", k.name), slog.Any("error", err))
			}
			close(k.lost)
			return
		default: // again soon, and in any case at the end
			next = time.Now().Add(max(interval/4, time.Millisecond))
			if next.After(end) {
				next = end
			}
		}
	}
}

// renew writes the lease anew, by as many tries as it allows. ErrLost when another has the lock.
func (k *lock) renew(ctx context.Context) error {
	life, cancelLife := k.locks.provider.life.Bind(ctx)
	defer cancelLife()
	ctx, cancel := context.WithDeadline(life, k.began.Add(k.duration))
	defer cancel()
	began := time.Now()
	keep := max(lockMemory, 4*k.duration)
	answer, err := k.locks.provider.run(ctx, renewLockScript, []string{k.locks.key(k.name)},
		[]string{k.id, milliseconds(k.duration), strconv.FormatUint(k.token, 10), milliseconds(keep)})
	if err != nil {
		return err
	}
	if renewed, err := answer.AsInt64(); err != nil || renewed != 1 {
		return errors.Join(fabric.ErrLost, err)
	}
	k.began = began
	k.reckon()
	return nil
}

// Release implements fabric.Lock.
func (k *lock) Release(ctx context.Context) error {
	var err error
	k.once.Do(func() {
		k.stop()
		<-k.kept
		select {
		case <-k.lost:
			err = fabric.ErrLost
		default:
			err = k.free(ctx)
		}
	})
	if err != nil {
		return k.locks.failed("release", k.name, err)
	}
	return nil
}

// free marks the lock as free and wakes those who wait for it.
func (k *lock) free(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	answer, err := k.locks.provider.run(ctx, freeLockScript, []string{k.locks.key(k.name)},
		[]string{k.id, strconv.FormatUint(k.token, 10), milliseconds(lockMemory)})
	if err != nil {
		return err
	}
	if freed, err := answer.AsInt64(); err != nil || freed != 1 {
		return errors.Join(fabric.ErrLost, err)
	}
	k.locks.tellFreed(ctx, k.name)
	return nil
}
