package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// queue is one handle of a queue.
type queue struct {
	provider *Provider
	jobs     *jobs
	config   fabric.QueueConfig
}

func (q *queue) failed(operation string, err error) error {
	return fmt.Errorf("%s queue %q: %w", operation, q.config.Name, err)
}

// Enqueue implements fabric.Queue.
func (q *queue) Enqueue(ctx context.Context, job fabric.Job) (string, error) {
	if err := q.provider.life.Ready(ctx); err != nil {
		return "", q.failed("enqueue to", err)
	}
	if err := fabric.CheckJob(job); err != nil {
		return "", q.failed("enqueue to", err)
	}
	if job.ID == "" {
		job.ID = rand.Text()
	}
	job = cloneJob(job)
	job.Attempt = 0
	job.EnqueuedAt = time.Now()
	q.jobs.mu.Lock()
	defer q.jobs.mu.Unlock()
	if q.jobs.seen(job.ID) {
		return job.ID, nil
	}
	if err := q.jobs.add(job, q.config.MaxJobs); err != nil {
		return "", q.failed("enqueue to", err)
	}
	q.jobs.remember(job.ID)
	return job.ID, nil
}

// Work implements fabric.Queue.
func (q *queue) Work(ctx context.Context, handler fabric.Handler) error {
	if q.provider.life.Err() != nil {
		return q.failed("work on", fabric.ErrClosed)
	}
	bound, release := q.provider.life.Bind(ctx)
	defer release()
	slots := make(chan struct{}, q.config.Concurrency)
	var running sync.WaitGroup
	for {
		e := q.next(bound, slots)
		if e == nil {
			break
		}
		job := cloneJob(e.job)
		job.Attempt = e.failures + 1
		q.config.Take(job) // its handler is called
		running.Go(func() {
			defer func() { <-slots }()
			q.attempt(bound, e, job, handler)
		})
	}
	running.Wait()
	if err := q.provider.life.Ended(ctx); err != nil {
		return q.failed("work on", err)
	}
	return nil
}

// next takes a slot and returns an entry to fill it with, or nil when ctx has ended.
func (q *queue) next(ctx context.Context, slots chan<- struct{}) *entry {
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	for {
		q.config.AwaitIdle(ctx)
		if ctx.Err() != nil {
			return nil
		}
		e, wait, changed := q.jobs.take()
		if e != nil {
			return e
		}
		var due <-chan time.Time
		if wait >= 0 {
			due = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-due:
		}
	}
}

// attempt runs the handler once and settles the entry by what it returns. A handler that
// ends its goroutine without returning is a worker that died.
func (q *queue) attempt(ctx context.Context, e *entry, job fabric.Job, handler fabric.Handler) {
	started := time.Now()
	returned := false
	defer func() {
		if !returned {
			q.jobs.putBack(e, time.Now().Add(q.config.Visibility))
		}
	}()
	err := handler(ctx, job)
	returned = true
	defer q.config.Settle(job, nil)
	if err == nil {
		q.jobs.done(e)
		return
	}
	if fabric.IsPutBack(ctx, err) {
		q.jobs.putBack(e, e.readyAt)
		return
	}
	if e.failures == 0 {
		e.firstAttempt = started
	}
	e.failures++
	now := time.Now()
	if q.config.Retry.GiveUp(e.firstAttempt, now, err) {
		if lost := q.jobs.bury(e, fabric.Reason(err), q.config.MaxDead); lost > 0 {
			q.provider.dropped(fabric.DropDeadLetter, q.config.Name, lost)
		}
		if q.config.Dead != nil {
			q.config.Dead(fabric.DeadLetter{Job: job, Reason: fabric.Reason(err), FailedAt: now})
		}
		return
	}
	q.jobs.putBack(e, now.Add(q.config.Retry.Wait(e.failures)))
}

// Len implements fabric.Queue.
func (q *queue) Len(ctx context.Context) (int, error) {
	if err := q.provider.life.Ready(ctx); err != nil {
		return 0, q.failed("count jobs of", err)
	}
	q.jobs.mu.Lock()
	defer q.jobs.mu.Unlock()
	return len(q.jobs.present), nil
}

// DeadLetters implements fabric.Queue.
func (q *queue) DeadLetters(ctx context.Context, after string, limit int) ([]fabric.DeadLetter, error) {
	if err := q.provider.life.Ready(ctx); err != nil {
		return nil, q.failed("list dead letters of", err)
	}
	q.jobs.mu.Lock()
	defer q.jobs.mu.Unlock()
	start := 0
	if after != "" {
		i := q.jobs.deadIndex(after)
		if i < 0 {
			return nil, q.failed("list dead letters of", fabric.ErrNotFound)
		}
		start = i + 1
	}
	limit = max(0, min(limit, fabric.MaxDeadLettersPage, len(q.jobs.dead)-start))
	page := slices.Clone(q.jobs.dead[start : start+limit])
	for i := range page {
		page[i].Job = cloneJob(page[i].Job)
	}
	return page, nil
}

// Replay implements fabric.Queue.
func (q *queue) Replay(ctx context.Context, id string) error {
	return q.takeDead(ctx, "replay dead letter of", id, func(letter fabric.DeadLetter) error {
		job := letter.Job
		job.Attempt = 0
		job.NotBefore = time.Time{}
		return q.jobs.add(job, q.config.MaxJobs)
	})
}

// Discard implements fabric.Queue.
func (q *queue) Discard(ctx context.Context, id string) error {
	return q.takeDead(ctx, "discard dead letter of", id, func(fabric.DeadLetter) error { return nil })
}

// takeDead removes a dead letter if use accepts it. The queue is locked meanwhile.
func (q *queue) takeDead(
	ctx context.Context, operation, id string, use func(fabric.DeadLetter) error,
) error {
	if err := q.provider.life.Ready(ctx); err != nil {
		return q.failed(operation, err)
	}
	q.jobs.mu.Lock()
	defer q.jobs.mu.Unlock()
	i := q.jobs.deadIndex(id)
	if i < 0 {
		return q.failed(operation, fmt.Errorf("id %.300q: %w", id, fabric.ErrNotFound))
	}
	if err := use(q.jobs.dead[i]); err != nil {
		return q.failed(operation, fmt.Errorf("id %.300q: %w", id, err))
	}
	q.jobs.dead = slices.Delete(q.jobs.dead, i, i+1)
	return nil
}

// cloneJob returns a job whose payload shares no memory with the given one.
func cloneJob(job fabric.Job) fabric.Job {
	job.Payload = append([]byte{}, job.Payload...)
	return job
}
