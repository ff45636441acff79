package fabrictest

import (
	"context"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// testWorkerStops ends Work while a handler runs: Work waits for it, the job comes back at
// once (its visibility is a minute) and has not failed.
func testWorkerStops(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.Retry.Elapsed = 0 // one failure would be the end
	q := openQueue(t, p, config)
	enqueue(t, q, fabric.Job{ID: "job"})
	enqueue(t, q, fabric.Job{ID: "next"})
	for range 3 {
		running, ended := make(chan fabric.Job, 10), make(chan struct{})
		stop := work(t, q, func(ctx context.Context, job fabric.Job) error {
			running <- job
			<-ctx.Done()
			time.Sleep(10 * time.Millisecond)
			close(ended)
			return ctx.Err()
		})
		if job := receive(t, "handler", running); job.ID != "job" || job.Attempt != 1 {
			t.Errorf("got %s in attempt %d", job.ID, job.Attempt)
		}
		stop()
		select {
		case <-ended:
		default:
			t.Error("work returned before its handler")
		}
	}
	handler, attempts := record(succeed)
	work(t, q, handler)
	for _, want := range []string{"job", "next"} {
		if a := receive(t, "attempt", attempts); a.ID != want || a.Attempt != 1 {
			t.Errorf("got %s in attempt %d, want %s", a.ID, a.Attempt, want)
		}
	}
	wantLen(t, q, 0)
	if letters := deadLetters(t, q); len(letters) != 0 {
		t.Errorf("got dead letters %+v", letters)
	}
}

// testHandover adds a job while the worker stops that has asked for one. Whether it still comes
// there or not, the next worker has it at once and not when a lease is over.
func testHandover(t *testing.T, p fabric.Provider) {
	q := openQueue(t, p, queueConfig(t))
	handler, attempts := record(succeed)
	for round := range 4 {
		stop := work(t, q, handler)
		enqueue(t, q, fabric.Job{})
		receive(t, "job of a worker", attempts)
		wantLen(t, q, 0)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop()
		}()
		if round%2 == 0 {
			<-stopped
		}
		enqueue(t, q, fabric.Job{})
		<-stopped
		stop = work(t, q, handler)
		receive(t, "job of the worker after", attempts)
		stop()
		wantLen(t, q, 0)
	}
}
