package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// firstTry and maxTry are the shortest and the longest time between two tries to settle a job.
	firstTry = 100 * time.Millisecond
	maxTry   = 2 * time.Second
)

// attempt is one run of the handler.
type attempt struct {
	worker   *worker
	envelope envelope
	payload  []byte
	job      fabric.Job
	doubtful bool // the message may be of a state that the job has left

	// Guarded by the worker's mu, as a lost session replaces them.
	delivery amqp.Delivery
	consumer *consumer
	tag      string // of the consumer that stands for the handler; empty when there is none
}

// run runs the handler and settles the job by what it returns. When it ends its goroutine
// without returning, it is a worker that died.
func (a *attempt) run(ctx context.Context, missed func()) {
	w := a.worker
	returned := false
	defer func() {
		<-w.slots
		if !returned {
			w.running.Go(func() { a.expire(ctx) })
		}
	}()
	if a.isNotDue(ctx) {
		returned = true
		missed()
		return
	}
	w.queue.tally.start()
	w.mu.Lock()
	a.register()
	w.mu.Unlock()
	started := time.Now()
	err := w.handler(ctx, a.job)
	returned = true
	settling, end := outlive(ctx, settleTimeout)
	defer end()
	w.queue.config.Settle(a.job, a.settle(ctx, settling, started, err))
}

// isNotDue deals with a message of which no attempt is to be made, or not yet.
func (a *attempt) isNotDue(ctx context.Context) bool {
	w, e := a.worker, a.envelope
	if a.doubtful && w.queue.claims.isOver(ctx, e) {
		w.remove(a.leave())
		return true
	}
	if time.Until(e.readyAt()) <= 0 {
		return false
	}
	d := a.leave() // what is stored now may be delivered before this goes on
	e.Again = true // should this end before the old message is removed
	settling, end := outlive(ctx, settleTimeout)
	defer end()
	if err := w.queue.store(settling, e, a.payload); err != nil {
		w.report("delay job", err)
		w.giveBack(ctx, d)
		return true
	}
	w.report("delay job", d.Ack(false))
	return true
}

// register makes the broker count the handler. The caller holds the worker's mu.
func (a *attempt) register() {
	c := a.consumer
	a.tag = ""
	if c.busy.IsClosed() {
		return
	}
	tag := c.tag()
	if _, err := c.busy.Consume(a.worker.queue.names.busy, tag, true, false, false, true, nil); err == nil {
		a.tag = tag
	}
}

// leave ends the attempt and returns the delivery that is to be settled.
func (a *attempt) leave() amqp.Delivery {
	w := a.worker
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.attempts[a.envelope.Instance] == a {
		delete(w.attempts, a.envelope.Instance)
	}
	return a.delivery
}

// uncount ends what register and the tally's start began. It waits for the broker, so that a
// count that begins afterwards does not have the handler in it.
func (a *attempt) uncount(ctx context.Context, finished bool) {
	a.worker.mu.Lock()
	c, tag := a.consumer, a.tag
	a.worker.mu.Unlock()
	if tag != "" && !c.busy.IsClosed() {
		_ = c.call(ctx, func() error { return c.busy.Cancel(tag, false) }) // it ends with the channel at the latest
	}
	a.worker.queue.tally.stop(finished)
}

// giveBack has the job delivered again, to any worker.
func (a *attempt) giveBack(ctx, settling context.Context) {
	a.worker.giveBack(ctx, a.leave())
	a.uncount(settling, false)
}

// expire gives back the job of a handler that is gone, after the time of visibility.
func (a *attempt) expire(ctx context.Context) {
	fabric.Pause(ctx, a.worker.queue.config.Visibility)
	settling, end := outlive(ctx, settleTimeout)
	defer end()
	a.giveBack(ctx, settling)
}

// settle decides by what the handler returned where the job goes. It returns why that is not
// stored.
func (a *attempt) settle(ctx, settling context.Context, started time.Time, err error) error {
	switch {
	case err == nil:
		return a.finish(ctx, settling, a.envelope)
	case fabric.IsPutBack(ctx, err):
		a.giveBack(ctx, settling)
		return nil
	default:
		return a.fail(ctx, settling, started, err)
	}
}

// finish removes the job.
func (a *attempt) finish(ctx, settling context.Context, e envelope) error {
	w := a.worker
	err := w.persist(settling, "note job as finished", func(ctx context.Context) error {
		return w.queue.claims.finished(ctx, e)
	})
	if err != nil {
		w.report("finish job", err)
		a.giveBack(ctx, settling)
		return err
	}
	w.report("finish job", a.leave().Ack(false)) // otherwise it comes again, and is over by its claim
	a.uncount(settling, true)
	return nil
}

// fail records a failed attempt: as the next state of the job, or as a dead letter. The old
// state is removed when the new one is stored, so that an end between the two repeats the
// attempt.
func (a *attempt) fail(ctx, settling context.Context, started time.Time, cause error) error {
	w, e, now := a.worker, a.envelope, time.Now()
	if e.Failures == 0 {
		e.FirstAttempt = started.UTC()
	}
	e.Failures++
	e.FailedAt = now.UTC()
	retry := w.queue.config.Retry
	if retry.GiveUp(e.FirstAttempt, now, cause) {
		return a.bury(ctx, settling, e, fabric.Reason(cause))
	}
	e.RetryAt = now.Add(retry.Wait(e.Failures)).UTC()
	if err := w.queue.store(settling, e, a.payload); err != nil {
		w.report("retry job", err)
		a.giveBack(ctx, settling)
		return err
	}
	w.queue.claims.failed(settling, e)
	w.report("retry job", a.leave().Ack(false))
	a.uncount(settling, false)
	return nil
}

// bury makes the job a dead letter.
func (a *attempt) bury(ctx, settling context.Context, e envelope, reason string) error {
	w := a.worker
	letter := fabric.DeadLetter{Job: e.job(a.payload, e.Failures), Reason: reason, FailedAt: e.FailedAt}
	err := w.persist(settling, "bury job", func(ctx context.Context) error {
		return w.queue.letters.put(ctx, letter)
	})
	if err != nil {
		w.report("bury job", err)
		a.giveBack(ctx, settling)
		return err
	}
	err = a.finish(ctx, settling, e)
	if err == nil && w.queue.config.Dead != nil {
		w.queue.config.Dead(letter)
	}
	return err
}

// file makes a dead letter of a job that the broker gave up.
func (w *worker) file(ctx context.Context, d amqp.Delivery) {
	e, err := decodeEnvelope(d.Headers)
	if err != nil {
		w.queue.logger.Warn("dead job unreadable, dropped", slog.Any("error", err))
		w.queue.provider.options.Dropped(fabric.DropJobUnreadable, w.queue.config.Name, 1)
		w.remove(d)
		return
	}
	if w.queue.claims.isOver(ctx, e) {
		w.remove(d)
		return
	}
	settling, end := outlive(ctx, settleTimeout)
	defer end()
	why, at := death(d.Headers)
	if at.IsZero() {
		at = time.Now()
	}
	reason := "RabbitMQ gave the job up: " + why
	if why == "delivery_limit" {
		reason = fmt.Sprintf("delivered %d times, and each time the worker was gone before it had an outcome",
			deliveryLimit+1)
	}
	letter := fabric.DeadLetter{Job: e.job(d.Body, e.Failures+1), Reason: reason, FailedAt: at}
	err = w.persist(settling, "bury job", func(ctx context.Context) error {
		if err := w.queue.letters.put(ctx, letter); err != nil {
			return err
		}
		return w.queue.claims.finished(ctx, e)
	})
	if err != nil {
		w.report("bury job", errors.Join(err, d.Nack(false, true)))
		return
	}
	w.remove(d)
	w.queue.logger.Warn("job given up by the broker is a dead letter now", slog.String("reason", why))
	if w.queue.config.Dead != nil {
		w.queue.config.Dead(letter)
	}
}

// persist calls write until it succeeds or ctx ends. The job stays with its worker meanwhile,
// and takes the place of another: to give it back would repeat it, and again, for as long as
// the store is away.
func (w *worker) persist(ctx context.Context, what string, write func(context.Context) error) error {
	wait := firstTry
	for told := false; ; told = true {
		err := write(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, fabric.ErrClosed) {
			return err
		}
		if !told {
			w.queue.logger.Warn("job not settled yet, trying on", slog.String("operation", what), slog.Any("error", err))
		}
		fabric.Pause(ctx, wait)
		wait = min(2*wait, maxTry)
	}
}
