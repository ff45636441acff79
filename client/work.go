package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Handler does one job. Its context ends when the job is not the worker's any more, or Work is to
// end. An error has the job tried again; one that wraps ErrGiveUp makes it a dead letter.
type Handler func(ctx context.Context, job *Lease) error

// WorkOptions configure Work.
type WorkOptions struct {
	Concurrency int           // handlers at a time; 0 is 1
	Lease       time.Duration // of each job, extended while its handler runs; 0 is the visibility of the queue
	Key         string        // as of LeaseOptions
	// Failed is told of what went wrong that no caller hears of; nil for nobody.
	Failed func(error)
}

const (
	workWait   = 30 * time.Second // of one question for jobs
	workPause  = time.Second      // after one that failed
	settleTime = 10 * time.Second // to say what became of a job when Work is to end
)

// Work runs handler for jobs until ctx ends, and returns when all handlers have: then what they
// did not do goes to other workers. The lease of a job is extended while its handler runs.
func (q Queue) Work(ctx context.Context, o WorkOptions, handler Handler) error {
	o.Concurrency = max(1, o.Concurrency)
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	slots := make(chan struct{}, o.Concurrency)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		free, err := takeSlots(ctx, slots)
		if err != nil {
			return nil
		}
		jobs, err := q.Lease(ctx, LeaseOptions{Max: min(free, maxBatch), Wait: workWait, Lease: o.Lease, Key: o.Key})
		for range free - len(jobs) {
			<-slots
		}
		for _, job := range jobs {
			running.Go(func() {
				defer func() { <-slots }()
				if err := job.run(ctx, handler, o.Lease); err != nil {
					o.Failed(err)
				}
			})
		}
		if err != nil && ctx.Err() == nil {
			if errors.Is(err, ErrForbidden) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnsupported) {
				return err
			}
			o.Failed(err)
			_ = sleep(ctx, workPause) // it ended, or it is time
		}
	}
}

// maxBatch is how many jobs one question gets.
const maxBatch = 100

// takeSlots waits for a free slot and takes all that are free.
func takeSlots(ctx context.Context, slots chan struct{}) (int, error) {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	for taken := 1; ; taken++ {
		if taken == maxBatch {
			return taken, nil
		}
		select {
		case slots <- struct{}{}:
		default:
			return taken, nil
		}
	}
}

// run runs the handler, keeps the lease meanwhile and says what became of the job.
func (l *Lease) run(ctx context.Context, handler Handler, length time.Duration) error {
	held, stop := keep(ctx, l.Until, func(ctx context.Context) (time.Time, error) { return l.extend(ctx, length) })
	err := handler(held, l)
	lost := stop()
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	switch {
	case lost != nil:
		return fmt.Errorf("job %s: %w", l.ID, lost)
	case err == nil:
		return l.Ack(settling)
	case errors.Is(err, ErrGiveUp):
		return l.GiveUp(settling, err.Error())
	case ctx.Err() != nil:
		return l.Release(settling)
	}
	return l.Nack(settling, err.Error())
}
