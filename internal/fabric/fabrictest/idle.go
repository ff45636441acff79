package fabrictest

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
)

// testIdle has two processes work on a queue, of which one wants no work at first: it gets
// none, though it asks first, until it is idle and the other is not.
func testIdle(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	var firstBusy, secondBusy atomic.Bool
	firstBusy.Store(true)
	idle := func(busy *atomic.Bool) func() bool { return func() bool { return !busy.Load() } }

	config.Idle = idle(&firstBusy)
	first := openQueue(t, p, config)
	toFirst, firstAttempts := record(succeed)
	work(t, first, toFirst)
	config.Idle = idle(&secondBusy)
	second := openQueue(t, p, config)
	toSecond, secondAttempts := record(succeed)
	work(t, second, toSecond)

	const jobs = 20
	for i := range jobs {
		enqueue(t, second, fabric.Job{ID: fmt.Sprintf("job-%d", i)})
	}
	for range jobs {
		if a := receive(t, "attempt of the idle worker", secondAttempts); a.Attempt != 1 {
			t.Errorf("%s in attempt %d", a.ID, a.Attempt)
		}
	}
	wantLen(t, second, 0)
	if len(firstAttempts) != 0 {
		t.Errorf("the busy worker was given %d jobs", len(firstAttempts))
	}

	secondBusy.Store(true)
	firstBusy.Store(false)
	for i := range jobs {
		enqueue(t, second, fabric.Job{ID: fmt.Sprintf("later-%d", i)})
	}
	for range jobs {
		if a := receive(t, "attempt of the other worker", firstAttempts); a.Attempt != 1 {
			t.Errorf("%s in attempt %d", a.ID, a.Attempt)
		}
	}
	wantLen(t, second, 0)
	if len(secondAttempts) != 0 {
		t.Errorf("the busy worker was given %d jobs", len(secondAttempts))
	}
}
