package fabrictest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	const jobs = 20
	config.Idle = idle(&secondBusy)
	second := openQueue(t, p, config)
	var done atomic.Int32
	toSecond, secondAttempts := record(func(fabric.Job) error {
		// It becomes busy while it works. One that did so while it asks might be given one more job.
		secondBusy.Store(done.Add(1) >= jobs)
		return nil
	})
	work(t, second, toSecond)

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

// testWake has a worker become idle again and again, each time for one job and with a word to it.
// TestAwaitIdle of fabric says that the word saves it the IdleInterval.
func testWake(t *testing.T, p fabric.Provider) {
	const jobs = 20
	config := queueConfig(t)
	var idle atomic.Bool
	wake := make(chan struct{}, 1)
	config.Idle, config.Wake = idle.Load, wake
	q := openQueue(t, p, config)
	handler, attempts := record(succeed)
	work(t, q, func(ctx context.Context, job fabric.Job) error {
		idle.Store(false) // before the next word
		return handler(ctx, job)
	})
	for i := range jobs {
		enqueue(t, q, fabric.Job{ID: fmt.Sprint(i)})
	}
	for range jobs {
		idle.Store(true)
		select {
		case wake <- struct{}{}:
		default: // one that was not needed is still there
		}
		receive(t, "attempt", attempts)
	}
	wantLen(t, q, 0)
}

// testTaken has a worker that could run many handlers take jobs as they are wanted: it is told of each
// before it asks for the next one, so it takes as many as are wanted and no more; in the exact order of
// Enqueue if the driver takes none that it has to give back.
func testTaken(t *testing.T, p fabric.Provider, exact bool) {
	const jobs, atOnce = 20, 2
	config := queueConfig(t)
	config.Concurrency = 8
	var mu sync.Mutex // guards wanted, taken and missed
	wanted, missed, taken := 0, 0, []string(nil)
	wake := make(chan struct{}, 1)
	config.Wake = wake
	config.Idle = func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(taken)-missed < wanted
	}
	config.Taken = func(job fabric.Job) func() {
		mu.Lock()
		defer mu.Unlock()
		taken = append(taken, fmt.Sprint(job.ID, " ", job.Attempt, " ", string(job.Payload)))
		return func() {
			mu.Lock()
			defer mu.Unlock()
			missed++
		}
	}
	q := openQueue(t, p, config)
	handler, attempts := record(func(job fabric.Job) error {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(taken, job.ID+" 1 x") {
			t.Errorf("the handler of %s is called before it was taken", job.ID)
		}
		return nil
	})
	work(t, q, handler)
	var want []string
	for i := range jobs {
		enqueue(t, q, fabric.Job{ID: fmt.Sprint("job-", i), Payload: []byte("x")})
		want = append(want, fmt.Sprintf("job-%d 1 x", i))
	}
	for range jobs / atOnce {
		mu.Lock()
		wanted += atOnce
		mu.Unlock()
		wake <- struct{}{}
		for range atOnce {
			receive(t, "attempt", attempts)
		}
	}
	quiet(t, "when no job is wanted", attempts)
	mu.Lock()
	defer mu.Unlock()
	if !exact {
		slices.Sort(taken)
		slices.Sort(want)
	}
	if missed == 0 && !slices.Equal(taken, want) {
		t.Errorf("taken were %q", taken)
	}
}

// testPutBack puts a job back and stops in between: neither counts as a failure.
func testPutBack(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.Retry.Initial, config.Retry.Max = time.Minute, time.Minute
	q := openQueue(t, p, config)
	var times atomic.Int32
	handler, attempts := record(func(fabric.Job) error {
		if times.Add(1) < 4 {
			return fmt.Errorf("not now: %w", fabric.ErrPutBack)
		}
		return nil
	})
	work(t, q, handler)
	enqueue(t, q, fabric.Job{ID: "a"})
	for range 4 {
		if a := receive(t, "attempt", attempts); a.ID != "a" || a.Attempt != 1 {
			t.Errorf("%s in attempt %d", a.ID, a.Attempt)
		}
	}
	wantLen(t, q, 0)
	wantDead(t, q)
}

// testSettled hears of each attempt when what came of it is stored.
func testSettled(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	told := make(chan string, 100)
	var q fabric.Queue
	config.Settled = func(job fabric.Job, err error) {
		must(t, "settle "+job.ID, err)
		told <- fmt.Sprintf("%s %d %s", job.ID, job.Attempt, job.Payload)
	}
	q = openQueue(t, p, config)
	work(t, q, func(_ context.Context, job fabric.Job) error {
		switch {
		case job.ID == "dies":
			return fabric.ErrGiveUp
		case job.ID == "fails" && job.Attempt == 1:
			return errors.New("once")
		}
		return nil
	})
	next := func(want string) {
		t.Helper()
		if got := receive(t, want, told); got != want {
			t.Errorf("told of %q, want %q", got, want)
		}
	}
	enqueue(t, q, fabric.Job{ID: "works", Payload: []byte("x")})
	next("works 1 x")
	wantLen(t, q, 0)
	enqueue(t, q, fabric.Job{ID: "dies"})
	next("dies 1 ")
	if dead := idsOf(deadLetters(t, q)); !slices.Equal(dead, []string{"dies"}) {
		t.Errorf("the dead letters are %q when it was settled", dead)
	}
	enqueue(t, q, fabric.Job{ID: "fails"})
	next("fails 1 ")
	next("fails 2 ")
}

// testRemoved removes a queue with what is in it, where the driver can do that.
func testRemoved(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	remover, ok := p.(fabric.QueueRemover)
	if !ok {
		t.Skip("the driver does not remove queues")
	}
	config := queueConfig(t)
	q := openQueue(t, p, config)
	kill(t, q, "dead")
	enqueue(t, q, fabric.Job{ID: "a"})
	err := remover.RemoveQueue(ctx, config.Name)
	if errors.Is(err, fabric.ErrUnsupported) {
		t.Skip("the driver does not remove queues")
	}
	must(t, "remove", err)
	must(t, "remove again", remover.RemoveQueue(ctx, config.Name))
	q = openQueue(t, p, config)
	wantLen(t, q, 0)
	wantDead(t, q)
	enqueue(t, q, fabric.Job{ID: "b"})
	wantLen(t, q, 1)
}
