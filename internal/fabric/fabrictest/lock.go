package fabrictest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func openLocks(t *testing.T, p fabric.Provider) fabric.Locks {
	t.Helper()
	l, err := p.Locks(patient(t), shortName(t))
	must(t, "open locks", err)
	return l
}

func acquire(t *testing.T, l fabric.Locks, name string, lease time.Duration) fabric.Lock {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	held, err := l.Acquire(ctx, name, lease)
	must(t, "acquire "+name, err)
	return held
}

func testLock(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLocks(t, p)
	first, err := l.TryAcquire(ctx, "a b*", time.Minute)
	must(t, "acquire", err)
	_, err = l.TryAcquire(ctx, "a b*", time.Minute)
	wantError(t, "acquire what is held", err, fabric.ErrLocked)
	other := acquire(t, l, "other", time.Minute)
	must(t, "release other", other.Release(ctx))
	brief, cancel := context.WithTimeout(ctx, short)
	defer cancel()
	_, err = l.Acquire(brief, "a b*", time.Minute)
	wantError(t, "wait for what is held", err, context.DeadlineExceeded)

	waited := make(chan fabric.Lock, 1)
	go func() { waited <- acquire(t, l, "a b*", time.Minute) }()
	must(t, "release", first.Release(ctx))
	must(t, "release again", first.Release(ctx))
	second := receive(t, "the lock", waited)
	if second.Token() <= first.Token() || first.Token() == 0 {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	must(t, "release", second.Release(ctx))
	third, err := l.TryAcquire(ctx, "a b*", time.Minute)
	must(t, "acquire after release", err)
	if third.Token() <= second.Token() {
		t.Errorf("token %d after %d", third.Token(), second.Token())
	}
	must(t, "release", third.Release(ctx))

	for _, lease := range []time.Duration{0, fabric.MinLease - 1, fabric.MaxLease + 1} {
		_, err := l.TryAcquire(ctx, "x", lease)
		wantError(t, "lease "+lease.String(), err, fabric.ErrInvalidConfig)
		_, err = l.Acquire(ctx, "x", lease)
		wantError(t, "lease "+lease.String(), err, fabric.ErrInvalidConfig)
	}
	for _, name := range []string{"", strings.Repeat("n", fabric.MaxKeySize+1)} {
		_, err := l.TryAcquire(ctx, name, time.Minute)
		wantError(t, "name", err, fabric.ErrInvalidKey)
	}
}

// testLockRenewal holds a lock for longer than its lease while the store is busy.
func testLockRenewal(t *testing.T, p fabric.Provider) {
	const lease = 4 * time.Second // longer than a busy machine keeps a renewal waiting
	ctx := context.Background()
	l := openLocks(t, p)
	held := acquire(t, l, "renewed", lease)
	busy := openCache(t, p)
	for range 4 {
		background(t, "load", func(ctx context.Context) error {
			for ctx.Err() == nil {
				if err := busy.Set(context.Background(), "k", make([]byte, 1000), 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	last := held.Until()
	for end := time.Now().Add(2 * lease); time.Now().Before(end); time.Sleep(lease / 20) {
		_, err := l.TryAcquire(ctx, "renewed", lease)
		wantError(t, "acquire what is renewed", err, fabric.ErrLocked)
		until, now := held.Until(), time.Now()
		if until.Before(last) || until.After(now.Add(lease)) {
			t.Errorf("held until %v from now, and before until %v", until.Sub(now), last.Sub(now))
		}
		last = until
	}
	select {
	case <-held.Lost():
		t.Error("the lock was lost")
	default:
	}
	must(t, "release", held.Release(ctx))
}

// contend has many contenders take a lock many times. Tokens must grow in the order in which
// the lock was held, and no two may hold it at once.
func contend(t *testing.T, handles []fabric.Locks, contenders, each int) {
	t.Helper()
	var inside atomic.Int64
	var last atomic.Uint64
	var running sync.WaitGroup
	for i := range contenders {
		running.Go(func() {
			for range each {
				held := acquire(t, handles[i%len(handles)], "contended", time.Minute)
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d holders at once", n)
				}
				if before := last.Swap(held.Token()); before >= held.Token() {
					t.Errorf("token %d after %d", held.Token(), before)
				}
				inside.Add(-1)
				if err := held.Release(context.Background()); err != nil {
					t.Errorf("release: %v", err)
				}
			}
		})
	}
	running.Wait()
}

func testLockContended(t *testing.T, p fabric.Provider) {
	contend(t, []fabric.Locks{openLocks(t, p)}, 20, 5)
}

// testLockFair has contenders stand in line. Nothing tells when one does, and on a busy machine one may
// be overtaken on the way there: then it is given more time. By accident the order is hardly ever right.
func testLockFair(t *testing.T, p fabric.Provider) {
	l := openLocks(t, p)
	want := []int{0, 1, 2, 3, 4, 5, 6}
	for pause := 50 * time.Millisecond; ; pause *= 2 {
		got := lineUp(t, l, len(want), pause)
		if slices.Equal(got, want) {
			return
		}
		if pause > time.Second {
			t.Fatalf("contenders came in the order %v", got)
		}
	}
}

// lineUp has contenders come for a lock that is held, with a pause between them, and returns the order
// in which they get it.
func lineUp(t *testing.T, l fabric.Locks, contenders int, pause time.Duration) (got []int) {
	t.Helper()
	held := acquire(t, l, "fair", time.Minute)
	order := make(chan int, contenders)
	for i := range contenders {
		go func() {
			mine := acquire(t, l, "fair", time.Minute)
			order <- i
			_ = mine.Release(context.Background())
		}()
		time.Sleep(pause)
	}
	must(t, "release", held.Release(context.Background()))
	for range contenders {
		got = append(got, receive(t, "next holder", order))
	}
	return got
}

func testLockClose(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLocks(t, p)
	held := acquire(t, l, "k", time.Minute)
	result := make(chan error, 1)
	go func() {
		_, err := l.Acquire(ctx, "k", time.Minute)
		result <- err
	}()
	must(t, "close", p.Close())
	receive(t, "the lock is lost", held.Lost())
	wantError(t, "release", held.Release(ctx), fabric.ErrLost)
	wantError(t, "wait", receive(t, "end of the wait", result), fabric.ErrClosed)
	_, err := l.TryAcquire(ctx, "k", time.Minute)
	wantError(t, "acquire", err, fabric.ErrClosed)
	_, err = p.Locks(ctx, shortName(t))
	wantError(t, "open", err, fabric.ErrClosed)
}

func testLockBetweenNodes(t *testing.T, open func() fabric.Provider) {
	contend(t, []fabric.Locks{openLocks(t, open()), openLocks(t, open()), openLocks(t, open())}, 12, 4)
}

// testLockHolderDies closes the provider of a holder, which then renews no more and gives
// nothing back. The lock must stay taken for the lease and be free soon after it, both for
// one who waits and for one who tries now and then.
func testLockHolderDies(t *testing.T, open func() fabric.Provider) {
	const lease = time.Second
	ctx := context.Background()
	doomed := open()
	survivor := openLocks(t, open())
	l := openLocks(t, doomed)
	waitedFor, tried := acquire(t, l, "waited for", lease), acquire(t, l, "tried", lease)
	until, triedUntil := waitedFor.Until(), tried.Until()
	must(t, "close the holder's node", doomed.Close())
	receive(t, "loss", waitedFor.Lost())
	var running sync.WaitGroup
	running.Go(func() {
		next := acquire(t, survivor, "waited for", time.Minute)
		if early := time.Until(until); early > 0 {
			t.Errorf("free %v before the holder had to know that it was", early)
		}
		if next.Token() <= waitedFor.Token() {
			t.Errorf("token %d after %d", next.Token(), waitedFor.Token())
		}
		if err := next.Release(ctx); err != nil {
			t.Errorf("release: %v", err)
		}
	})
	eventually(t, "the lock is free for one who tries", func() bool {
		next, err := survivor.TryAcquire(ctx, "tried", time.Minute)
		if err != nil {
			wantError(t, "try", err, fabric.ErrLocked)
			return false
		}
		if early := time.Until(triedUntil); early > 0 || next.Token() <= tried.Token() {
			t.Errorf("free %v early with token %d after %d", early, next.Token(), tried.Token())
		}
		must(t, "release", next.Release(ctx))
		return true
	})
	running.Wait()
	wantError(t, "release what is lost", tried.Release(ctx), fabric.ErrLost)
}
