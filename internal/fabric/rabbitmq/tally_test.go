package rabbitmq

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func TestTally(t *testing.T) {
	begin := time.Unix(0, 0)
	var tally tally
	count := func(ms, waiting, running, want int) {
		t.Helper()
		at := begin.Add(time.Duration(ms) * time.Millisecond)
		if got := tally.add(at, tally.before(), extent{waiting, running}); got != want {
			t.Errorf("after %d ms: %d jobs, want %d", ms, got, want)
		}
	}
	count(0, 3, 0, 3)
	count(10, 2, 0, 3) // one is on its way
	tally.start()
	count(20, 2, 0, 3)
	count(30, 2, 1, 3)
	tally.stop(true)
	count(40, 2, 0, 2)
	count(50, 1, 0, 2)
	count(900, 0, 0, 2)
	count(1049, 0, 0, 1)
	count(1051, 0, 0, 0) // those that another process has finished
	count(1100, 0, 2, 2) // handlers of another process
	tally.finish()
	tally.finish()
	tally.finish()
	count(1150, 0, 0, 0)
}

// TestRoom has many enter a room at once of which nobody leaves.
func TestRoom(t *testing.T) {
	const limit = 100
	var jobs, entered atomic.Int64
	r := room{turn: make(chan struct{}, 1)}
	ask := func(context.Context) (int, error) { return int(jobs.Load()), nil }
	var running sync.WaitGroup
	for range 16 {
		running.Go(func() {
			for {
				leave, err := r.enter(t.Context(), limit, ask)
				if errors.Is(err, fabric.ErrFull) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				entered.Add(1)
				jobs.Add(1)
				leave()
			}
		})
	}
	running.Wait()
	if n := entered.Load(); n > limit || n < limit-16 {
		t.Errorf("%d entered", n)
	}
	failure := errors.New("no answer")
	other := room{turn: make(chan struct{}, 1)}
	answer := func(err error) func(context.Context) (int, error) {
		return func(context.Context) (int, error) { return 0, err }
	}
	if _, err := other.enter(t.Context(), 1, answer(failure)); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	if _, err := other.enter(t.Context(), 1, answer(nil)); err != nil {
		t.Errorf("got %v", err)
	}
}
