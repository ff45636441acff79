package nats

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// lock is one that is held, with a goroutine that renews its lease.
type lock struct {
	locks    *locks
	name     string
	duration time.Duration
	id       string // of the holder
	token    uint64

	end      atomic.Pointer[time.Time] // of the lease, as far as it is renewed
	began    time.Time                 // before the last renewal that succeeded was asked for
	revision uint64                    // of the record; used by the keeper, after its end by Release
	lost     chan struct{}             // closed by the keeper
	stop     context.CancelFunc
	kept     chan struct{} // closed when the keeper has ended
	once     sync.Once
}

// hold begins to keep the lock that was written at revision.
func (k *lock) hold(revision uint64) *lock {
	k.token, k.revision = revision, revision
	k.reckon()
	k.lost, k.kept = make(chan struct{}), make(chan struct{})
	ctx, stop := context.WithCancel(context.Background())
	k.stop = stop
	go k.keep(ctx)
	return k
}

// Token implements fabric.Lock. It is the sequence number of the record in its stream, which
// never runs backwards.
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

// write stores a record in the place of that at revision.
func (k *lock) write(ctx context.Context, record lease, revision uint64) (uint64, error) {
	body, err := json.Marshal(record)
	if err != nil {
		return 0, err
	}
	age := freeAge
	if record.Holder != "" {
		age, _ = fabric.RoundTTL(max(deadAge, 4*k.duration)) // is positive
	}
	ack, err := k.locks.provider.publish(ctx, newMsg(k.locks.subject(k.name), body),
		jetstream.WithExpectLastSequencePerSubject(revision), jetstream.WithMsgTTL(age))
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// keep renews the lease until it is stopped or lost.
func (k *lock) keep(ctx context.Context) {
	defer close(k.kept)
	life := k.locks.provider.life
	interval := k.duration / 3
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
			k.locks.provider.logger.Warn("lock lost", slog.String("locks", k.locks.name),
				slog.String("lock", k.name), slog.Any("error", err))
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

// renew writes the lease anew. ErrLost when another has the lock.
func (k *lock) renew(ctx context.Context) error {
	life, cancelLife := k.locks.provider.life.Bind(ctx)
	defer cancelLife()
	ctx, cancel := context.WithDeadline(life, k.began.Add(k.duration))
	defer cancel()
	began := time.Now()
	revision, err := k.write(ctx, lease{k.id, k.duration.Milliseconds()}, k.revision)
	if err == nil {
		k.began, k.revision = began, revision
		k.reckon()
		return nil
	}
	if movedOn(err) {
		return errors.Join(err, k.catchUp(ctx))
	}
	return err
}

// catchUp finds the revision of the record when an earlier write was done and its answer
// lost. ErrLost when the record is not of this holder.
func (k *lock) catchUp(ctx context.Context) error {
	record, revision, err := k.locks.read(ctx, k.name)
	if err != nil {
		return err
	}
	if record.Holder != k.id {
		return fabric.ErrLost
	}
	k.revision = revision
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
	ctx, cancel := bounded(ctx)
	defer cancel()
	_, err := k.write(ctx, lease{}, k.revision)
	// The last renewal may have been done, or still be on its way: then the engine refuses the
	// write, and a look does not show that renewal yet.
	for movedOn(err) && ctx.Err() == nil {
		if err = k.catchUp(ctx); err != nil {
			break
		}
		if _, err = k.write(ctx, lease{}, k.revision); movedOn(err) {
			fabric.Pause(ctx, tryPause)
		}
	}
	if err != nil {
		return err
	}
	// When this gets lost, the next holder waits for lockPoll.
	return k.locks.provider.conn.Publish(k.locks.wakeSubject(k.name), nil)
}
