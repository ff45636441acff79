package redis

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// settleTimeout bounds the writes that settle a job after its handler has returned. They do
// not end with the worker's context: what was done must be told.
const settleTimeout = 5 * time.Second

// Work implements fabric.Queue. It takes one job when it has a handler free for it, so that no
// job waits here while another worker is idle.
func (q *queue) Work(ctx context.Context, handler fabric.Handler) error {
	if q.provider.life.Err() != nil {
		return q.failed("work on", fabric.ErrClosed)
	}
	bound, release := q.provider.life.Bind(ctx)
	defer release()
	w := newWorker(q, handler)
	if bound.Err() == nil {
		news, err := q.provider.await(bound, q.base, q.news)
		if err != nil {
			return q.failed("work on", err)
		}
		defer news.stop()
		w.take(bound, news)
	}
	w.running.Wait()
	if err := q.provider.life.Ended(ctx); err != nil {
		return q.failed("work on", err)
	}
	return nil
}

// worker is one Work call.
type worker struct {
	queue   *queue
	handler fabric.Handler
	slots   chan struct{} // holds one token for each running handler
	running sync.WaitGroup
	memory  string // the key under which the server remembers its last turn

	// What follows is used by the goroutine that takes jobs alone.
	turn         uint64 // counts the jobs that were asked for
	unheard      bool   // nobody knows what the turn gave
	interruption fabric.Interruption
}

func newWorker(q *queue, handler fabric.Handler) *worker {
	return &worker{
		queue: q, handler: handler, slots: make(chan struct{}, q.config.Concurrency), memory: operation(q.base),
	}
}

// delivered is a job that was taken.
type delivered struct {
	entry    string // of the stream
	delivery string // how often the entry was delivered; it tells this time from a later one
	id       string
	envelope string
	payload  string
}

// take starts a handler for each job, until ctx ends.
func (w *worker) take(ctx context.Context, news *waiter) {
	defer w.leave(ctx)
	for {
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		d, ok := w.next(ctx, news)
		if !ok {
			return
		}
		e, err := decodeEnvelope(d.envelope)
		if err != nil { // not written by a queue: no attempt can mend it
			w.queue.warn("job unreadable, dropped", slog.String("id", d.id), slog.Any("error", err))
			w.queue.provider.options.Dropped(fabric.DropJobUnreadable, w.queue.config.Name, 1)
			_ = w.report("drop job", w.finish(ctx, d)) // it comes again, and is dropped then
			<-w.slots
			continue
		}
		job := e.job(d.id, notNil(d.payload), e.Failures+1)
		w.queue.config.Take(job) // its handler is called
		w.running.Go(func() {
			defer func() { <-w.slots }()
			w.attempt(ctx, d, e, job)
		})
	}
}

// next waits for a job; false when ctx has ended.
func (w *worker) next(ctx context.Context, news *waiter) (delivered, bool) {
	for {
		w.queue.config.AwaitIdle(ctx)
		if ctx.Err() != nil {
			return delivered{}, false
		}
		d, wait, err := w.ask(ctx)
		switch {
		case err == nil && d != nil:
			return *d, true
		case err == nil:
			news.wait(ctx, wait)
		case ctx.Err() == nil:
			if lasts, tell := w.interruption.Failed(); tell {
				w.queue.warn("worker interrupted, trying on", slog.Any("error", err),
					slog.Duration("lasts", lasts.Round(time.Second)))
			}
			news.wait(ctx, lookInterval)
		}
	}
}

// leaveTimeout bounds asking what became of a turn: a worker that stops while the server is away is
// not to wait for it.
const leaveTimeout = time.Second

// leave gives back the job of a turn whose answer the worker did not wait for.
func (w *worker) leave(ctx context.Context) {
	if !w.unheard {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	d, _, err := w.askOnce(ctx, "1")
	if err == nil && d != nil {
		err = w.keep(ctx, *d, w.queue.visibility())
	}
	_ = w.report("return job", err) // its lease runs out
}

// ask takes a job, or returns after how long to ask again.
func (w *worker) ask(ctx context.Context) (*delivered, time.Duration, error) {
	if !w.unheard {
		w.turn++
	}
	d, wait, err := w.askOnce(ctx, "0")
	if w.unheard = err != nil; w.unheard {
		return nil, 0, err
	}
	if lasted, was := w.interruption.Over(); was {
		w.queue.provider.options.Logger.Info("worker works again", slog.Duration("after", lasted.Round(time.Second)),
			slog.String("queue", w.queue.config.Name))
	}
	return d, wait, nil
}

// askOnce asks for the job of the turn.
func (w *worker) askOnce(ctx context.Context, leaves string) (*delivered, time.Duration, error) {
	answer, err := w.queue.provider.run(ctx, takeJobScript, w.queue.with(w.memory), []string{
		milliseconds(w.queue.visibility()), strconv.FormatUint(w.turn, 10), leaves, milliseconds(memoryTime),
	})
	if err != nil {
		return nil, 0, err
	}
	parts, err := answer.AsStrSlice()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errAnswer, err)
	}
	switch len(parts) {
	case 1:
		wait, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", errAnswer, err)
		}
		if wait < 0 {
			return nil, lookInterval, nil
		}
		return nil, min(time.Duration(wait)*time.Microsecond, lookInterval), nil
	case 5:
		return &delivered{parts[0], parts[1], parts[2], parts[3], parts[4]}, 0, nil
	}
	return nil, 0, fmt.Errorf("%w: %d parts", errAnswer, len(parts))
}

// visibility is the least that the server can tell apart.
func (q *queue) visibility() time.Duration { return max(q.config.Visibility, time.Millisecond) }

// attempt runs the handler once and settles the job by what it returns. When the handler
// ends its goroutine without returning, nothing is settled and the lease runs out.
func (w *worker) attempt(ctx context.Context, d delivered, e envelope, job fabric.Job) {
	started := time.Now()
	err := w.handle(ctx, d, job)
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch {
	case err == nil:
		err = w.report("finish job", w.finish(settle, d))
	case fabric.IsPutBack(ctx, err):
		err = w.report("return job", w.keep(settle, d, w.queue.visibility()))
	default:
		err = w.fail(settle, d, e, started, err)
	}
	w.queue.config.Settle(job, err)
}

// handle runs the handler and keeps the lease of its job meanwhile.
func (w *worker) handle(ctx context.Context, d delivered, job fabric.Job) error {
	var keeper sync.WaitGroup
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer keeper.Wait()
	defer stop()
	keeper.Go(func() {
		ticker := time.NewTicker(max(w.queue.config.Visibility/3, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-keeping.Done():
				return
			case <-w.queue.provider.life.Done():
				return
			case <-ticker.C:
				if err := w.keep(keeping, d, 0); keeping.Err() == nil {
					_ = w.report("keep job", err) // the lease may run out
				}
			}
		}
	})
	return w.handler(ctx, job)
}

// keep tells the server for how long the worker of a job has not been heard of.
func (w *worker) keep(ctx context.Context, d delivered, idle time.Duration) error {
	_, err := w.queue.provider.run(ctx, keepJobScript, w.queue.keys,
		[]string{w.queue.news, d.entry, d.delivery, milliseconds(idle)})
	return err
}

// finish removes a job.
func (w *worker) finish(ctx context.Context, d delivered) error {
	_, err := w.queue.provider.runDurable(ctx, finishJobScript, w.queue.keys, []string{d.entry, d.id})
	return err
}

// fail records a failed attempt: in the job, or as a dead letter. When the record cannot be
// written, the lease runs out and the attempt is repeated.
func (w *worker) fail(ctx context.Context, d delivered, e envelope, started time.Time, cause error) error {
	now := time.Now()
	if e.Failures == 0 {
		e.FirstAttempt = started.UTC()
	}
	e.Failures++
	if w.queue.config.Retry.GiveUp(e.FirstAttempt, now, cause) {
		return w.report("bury job", w.bury(ctx, d, e, now, cause))
	}
	next, err := e.encode()
	if err == nil {
		_, err = w.queue.provider.runDurable(ctx, retryJobScript, w.queue.keys, []string{
			w.queue.news, d.entry, d.delivery, d.id, next, microseconds(w.queue.config.Retry.Wait(e.Failures)),
		})
	}
	return w.report("retry job", err)
}

// bury makes the job a dead letter.
func (w *worker) bury(ctx context.Context, d delivered, e envelope, now time.Time, cause error) error {
	e.Reason, e.FailedAt = fabric.Reason(cause), now.UTC()
	letter, err := e.encode()
	if err != nil {
		return err
	}
	answer, err := w.queue.provider.runDurable(ctx, buryJobScript, w.queue.with(operation(w.queue.base)), []string{
		d.entry, d.delivery, d.id, letter, strconv.Itoa(w.queue.config.MaxDead), milliseconds(memoryTime),
	})
	if err != nil {
		return err
	}
	text, _ := answer.ToString() // is a number
	pushedOut, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	if pushedOut < 0 { // another worker has it, who will tell
		return nil
	}
	if pushedOut > 0 {
		w.queue.provider.options.Dropped(fabric.DropDeadLetter, w.queue.config.Name, pushedOut)
	}
	if w.queue.config.Dead != nil {
		w.queue.config.Dead(fabric.DeadLetter{
			Job: e.job(d.id, notNil(d.payload), e.Failures), Reason: e.Reason, FailedAt: e.FailedAt,
		})
	}
	return nil
}

// report logs what could not be told to the server, and returns it; the lease of the job runs out
// then.
func (w *worker) report(operation string, err error) error {
	if err != nil && w.queue.provider.life.Err() == nil {
		w.queue.warn("job not settled", slog.String("operation", operation), slog.Any("error", err))
	}
	return err
}
