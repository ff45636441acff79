package rabbitmq

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

func newClaims(t *testing.T) *claims {
	t.Helper()
	cache, err := memory.New().Cache(t.Context(), fabric.CacheConfig{Name: "ids", MaxBytes: claimsBytes})
	if err != nil {
		t.Fatal(err)
	}
	return &claims{
		cache: cache, logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		empty: func(context.Context) (bool, error) { return false, nil },
	}
}

// take wants to get, or not to get, the claim of an ID.
func take(t *testing.T, c *claims, id string, replay, want bool) claim {
	t.Helper()
	mine, isMine, err := c.take(t.Context(), id, replay)
	if err != nil || isMine != want {
		t.Fatalf("take returned %+v, %v, %v", mine, isMine, err)
	}
	return mine
}

// stateFor is the envelope of a job that was stored with a claim.
func stateFor(mine claim, enqueued time.Time) envelope {
	return envelope{ID: "id", Instance: mine.Instance, EnqueuedAt: enqueued}
}

func TestClaimOfAJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaims(t)
		mine := take(t, c, "id", false, true)
		e := stateFor(mine, time.Now())
		c.stored(t.Context(), mine, e)
		take(t, c, "id", false, false)
		take(t, c, "id", true, false)
		time.Sleep(fabric.DedupWindow + time.Second) // it is in the queue still
		take(t, c, "id", false, false)
		if c.isOver(t.Context(), e) {
			t.Error("it is over")
		}
		later := e
		later.Failures++
		c.failed(t.Context(), later)
		if !c.isOver(t.Context(), e) || c.isOver(t.Context(), later) {
			t.Error("what was before the failure is not over, or what is after it is")
		}
		if err := c.finished(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		if !c.isOver(t.Context(), later) {
			t.Error("it is not over")
		}
		next := take(t, c, "id", false, true)
		if next.Instance == mine.Instance || next.again {
			t.Errorf("got %+v after %+v", next, mine)
		}
	})
}

func TestClaimIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaims(t)
		mine := take(t, c, "id", false, true)
		e := stateFor(mine, time.Now())
		c.stored(t.Context(), mine, e)
		if err := c.finished(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		take(t, c, "id", false, false)
		replayed := take(t, c, "id", true, true)
		c.release(t.Context(), "id", replayed, false)
		time.Sleep(fabric.DedupWindow)
		take(t, c, "id", false, true)
	})
}

// TestClaimOfAnother has somebody end while he stores a job: another goes on after a while,
// with a job that can be told to be the same.
func TestClaimOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaims(t)
		first := take(t, c, "id", false, true)
		began := time.Now()
		second := take(t, c, "id", false, true)
		if waited := time.Since(began); waited < pendingFor || waited > pendingFor+time.Second {
			t.Errorf("waited for %v", waited)
		}
		if second.Instance != first.Instance || !second.again {
			t.Errorf("got %+v after %+v", second, first)
		}
		c.release(t.Context(), "id", second, true)
		third := take(t, c, "id", false, true) // at once
		if third.Instance != first.Instance || !third.again {
			t.Errorf("got %+v after %+v", third, second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := c.take(ctx, "id", false); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		unused := take(t, c, "other", false, true)
		c.release(t.Context(), "other", unused, false)
		if next := take(t, c, "other", false, true); next.again {
			t.Error("a job that nobody has tried to store may be there")
		}
	})
}

// TestClaimIsOvertaken has a worker finish a job before the one who enqueued it has noted that
// it is stored.
func TestClaimIsOvertaken(t *testing.T) {
	c := newClaims(t)
	mine := take(t, c, "id", false, true)
	e := stateFor(mine, time.Now().Add(-fabric.DedupWindow))
	if err := c.finished(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	c.stored(t.Context(), mine, e)
	c.failed(t.Context(), e)
	next := take(t, c, "id", false, true)
	c.stored(t.Context(), next, stateFor(next, time.Now()))
	if err := c.finished(t.Context(), e); err != nil { // a message of the first comes late
		t.Fatal(err)
	}
	take(t, c, "id", false, false)
}

// TestClaimWithoutJob has somebody empty the broker's queue.
func TestClaimWithoutJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClaims(t)
		var empty atomic.Bool
		c.empty = func(context.Context) (bool, error) { return empty.Load(), nil }
		mine := take(t, c, "id", false, true)
		c.stored(t.Context(), mine, stateFor(mine, time.Now()))
		empty.Store(true)
		take(t, c, "id", false, false)
		time.Sleep(fabric.DedupWindow)
		if next := take(t, c, "id", false, true); next.Instance == mine.Instance {
			t.Errorf("got %+v after %+v", next, mine)
		}
	})
}

func TestClaimRace(t *testing.T) {
	c := newClaims(t)
	var winners atomic.Int64
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			mine, isMine, err := c.take(t.Context(), "id", false)
			if err != nil {
				t.Error(err)
			}
			if isMine {
				winners.Add(1)
				c.stored(t.Context(), mine, stateFor(mine, time.Now()))
			}
		})
	}
	running.Wait()
	if winners.Load() != 1 {
		t.Errorf("%d got the claim", winners.Load())
	}
}
