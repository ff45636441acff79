package nats

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// settleTimeout bounds the writes that settle a job after its handler has returned. They do
// not end with the worker's context: what was done must be told.
const settleTimeout = 5 * time.Second

// wellAfter is how long a worker waits undisturbed for a job when an interruption counts as
// over. It notices a dead server within silence.
const wellAfter = 2 * silence

// Work implements fabric.Queue. It asks for one job when it has a handler free for it, so
// that no job waits here while another worker is idle.
func (q *queue) Work(ctx context.Context, handler fabric.Handler) error {
	if q.provider.life.Err() != nil {
		return q.failed("work on", fabric.ErrClosed)
	}
	bound, release := q.provider.life.Bind(ctx)
	defer release()
	w := &worker{queue: q, handler: handler, slots: make(chan struct{}, q.config.Concurrency)}
	for bound.Err() == nil && !q.provider.conn.IsClosed() {
		err := w.consume(bound)
		if bound.Err() != nil || q.provider.conn.IsClosed() {
			break
		}
		if lasts, tell := w.interruption.Failed(); tell {
			q.warn("worker interrupted, trying on", slog.Any("error", err), slog.Duration("lasts", lasts.Round(time.Second)))
		}
		switch {
		case errors.Is(err, errSilent):
		case errors.Is(err, errElected), unanswered(err):
			fabric.Pause(bound, tryPause)
		default:
			pause(bound)
		}
	}
	w.running.Wait()
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	if err := q.provider.conn.FlushWithContext(flush); err != nil {
		q.warn("returned jobs may be late", slog.Any("error", err))
	}
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

	interruption fabric.Interruption
}

// works says in the log that an interruption is over.
func (w *worker) works() {
	if lasted, was := w.interruption.Over(); was {
		w.queue.provider.logger.Info("worker works again", slog.Duration("after", lasted.Round(time.Second)),
			slog.String("queue", w.queue.config.Name))
	}
}

// consume starts a handler for each job that the consumer delivers, until ctx ends or the
// delivery fails.
func (w *worker) consume(ctx context.Context) error {
	if err := w.queue.makeConsumer(ctx); err != nil {
		return err
	}
	jobs, err := w.queue.newPuller()
	if err != nil {
		return err
	}
	defer jobs.close()
	well := time.AfterFunc(wellAfter, w.works)
	defer well.Stop()
	for {
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := w.next(ctx, jobs); err != nil {
			return err
		}
	}
}

// next starts a handler for the next job, in the slot that its caller took.
func (w *worker) next(ctx context.Context, jobs *puller) error {
	started := false
	defer func() {
		if !started {
			<-w.slots
		}
	}()
	w.queue.config.AwaitIdle(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	msg, err := jobs.pull(ctx)
	if err != nil || msg == nil {
		return err
	}
	w.works()
	if ctx.Err() != nil || !w.queue.config.IsIdle() { // not so any more when it came
		_ = w.giveUpLease(msg, 0) // or its lease runs out
		return ctx.Err()
	}
	d, ok := w.read(msg)
	if !ok {
		return nil
	}
	missed := w.queue.config.Take(d.job)
	started = true
	w.running.Go(func() {
		defer func() { <-w.slots }()
		w.attempt(ctx, d, missed)
	})
	return nil
}

// delivered is a job that was taken.
type delivered struct {
	msg      *natsgo.Msg
	sequence uint64 // in the stream
	again    bool   // it was delivered before, and somebody else may have it or have settled it
	envelope envelope
	job      fabric.Job
}

// read returns the job that was delivered; false when there is none, or not yet.
func (w *worker) read(msg *natsgo.Msg) (delivered, bool) {
	d := delivered{msg: msg}
	meta, err := msg.Metadata()
	if err == nil {
		d.sequence, d.again = meta.Sequence.Stream, meta.NumDelivered > 1
		d.envelope, err = decodeEnvelope(msg.Header)
	}
	if err != nil { // not written by a queue: no attempt can mend it
		w.queue.warn("job unreadable, dropped", slog.String("subject", msg.Subject), slog.Any("error", err))
		w.queue.provider.dropped(fabric.DropJobUnreadable, w.queue.config.Name, 1)
		_ = w.report("drop job", msg.Term()) // it comes again, and is dropped then
		return d, false
	}
	if wait := time.Until(d.envelope.readyAt()); wait > 0 {
		_ = w.giveUpLease(msg, wait) // or its lease runs out
		return d, false
	}
	d.job = d.envelope.job(notNil(msg.Data), d.envelope.Failures+1)
	return d, true
}

// attempt runs the handler once and settles the job by what it returns. When the handler
// ends its goroutine without returning, nothing is settled and the lease runs out.
func (w *worker) attempt(ctx context.Context, d delivered, missed func()) {
	msg, job := d.msg, d.job
	err := w.inTouch(ctx, d)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		missed()
		return
	}
	if err != nil {
		missed()
		if ctx.Err() != nil {
			_ = w.giveUpLease(msg, 0)
			return
		}
		_ = w.report("begin job", err)
		return // the lease runs out, and another has it then
	}
	started := time.Now()
	err = w.handle(ctx, msg, job)
	settle, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch {
	case err == nil:
		err = w.report("finish job", finish(settle, msg))
	case fabric.IsPutBack(ctx, err):
		err = w.giveUpLease(msg, 0)
	default:
		err = w.fail(settle, msg, d.sequence, d.envelope, started, err)
	}
	w.queue.config.Settle(job, err)
}

// inTouch renews the lease of a job that was just delivered, and returns when the queue has said
// that it did. A worker that hears the queue and is not heard by it would do jobs that others do
// again. Half of the lease is enough to wait: the other half is there for whoever is next.
//
// It returns jetstream.ErrMsgNotFound when who had the job before has settled it while it was on its way
// here: the consumer renews the lease of such a job without saying that there is none.
func (w *worker) inTouch(ctx context.Context, d delivered) error {
	ctx, cancel := context.WithTimeout(ctx, w.queue.config.Visibility/2)
	defer cancel()
	err := tries(ctx, func(ctx context.Context, _ bool) error {
		_, err := w.queue.provider.conn.RequestWithContext(ctx, d.msg.Reply, inProgress)
		return err
	})
	if err != nil || !d.again {
		return err
	}
	jobs := stored{provider: w.queue.provider, stream: w.queue.provider.stream("queue", w.queue.config.Name)}
	_, err = jobs.leader(ctx, getRequest{Seq: d.sequence})
	return err
}

// inProgress renews the lease of a job, and notDone gives it up, in the protocol of acknowledgements.
var inProgress, notDone = []byte("+WPI"), []byte("-NAK")

// handle runs the handler and keeps the lease of its job meanwhile.
func (w *worker) handle(ctx context.Context, msg *natsgo.Msg, job fabric.Job) error {
	var keeper sync.WaitGroup
	ended := make(chan struct{})
	defer keeper.Wait()
	defer close(ended)
	keeper.Go(func() {
		ticker := time.NewTicker(max(w.queue.config.Visibility/3, time.Millisecond))
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				_ = w.report("keep job", msg.InProgress()) // the lease may run out
			}
		}
	})
	return w.handler(ctx, job)
}

// fail records a failed attempt: in the place of the job, or as a dead letter. When the
// record cannot be written, the lease runs out and the attempt is repeated.
func (w *worker) fail(
	ctx context.Context, msg *natsgo.Msg, sequence uint64, e envelope, started time.Time, cause error,
) error {
	now := time.Now()
	if e.Failures == 0 {
		e.FirstAttempt = started.UTC()
	}
	e.Failures++
	if w.queue.config.Retry.GiveUp(e.FirstAttempt, now, cause) {
		return w.report("bury job", w.bury(ctx, msg, e, now, cause))
	}
	e.RetryAt = now.Add(w.queue.config.Retry.Wait(e.Failures)).UTC()
	next, err := e.message(w.queue.jobsPrefix(), msg.Data)
	if err == nil {
		_, err = w.queue.provider.publish(ctx, next, jetstream.WithExpectLastSequencePerSubject(sequence))
	}
	if err != nil && !movedOn(err) {
		return w.report("retry job", err)
	}
	// Stored; or another worker, to whom the job went when this one lost its lease, has
	// settled it. Either way the message that was delivered is gone.
	return w.report("retry job", msg.Ack())
}

// bury writes the dead letter before it removes the job, so that an end between the two
// repeats the attempt and loses nothing. The repetition writes the same letter again.
func (w *worker) bury(
	ctx context.Context, msg *natsgo.Msg, e envelope, now time.Time, cause error,
) error {
	e.RetryAt = time.Time{}
	e.Reason = fabric.Reason(cause)
	e.FailedAt = now.UTC()
	letter, err := e.message(w.queue.deadPrefix(), msg.Data)
	if err != nil {
		return err
	}
	pushesOut := w.queue.deadFull(ctx, letter.Subject)
	if _, err := w.queue.provider.publish(ctx, letter); err != nil {
		return err
	}
	if pushesOut {
		w.queue.provider.dropped(fabric.DropDeadLetter, w.queue.config.Name, 1)
	}
	if err := finish(ctx, msg); err != nil {
		return err
	}
	if w.queue.config.Dead != nil {
		w.queue.config.Dead(fabric.DeadLetter{
			Job: e.job(notNil(msg.Data), e.Failures), Reason: e.Reason, FailedAt: e.FailedAt,
		})
	}
	return nil
}

// deadFull says whether a dead letter under subject will push another out. What else is
// buried or removed at the same moment can make it wrong by one.
func (q *queue) deadFull(ctx context.Context, subject string) bool {
	info, err := infoOf(ctx, q.dead)
	if err != nil || info.State.Msgs < uint64(q.config.MaxDead) {
		return false
	}
	_, err = lastOf(ctx, q.dead, subject)
	return errors.Is(err, jetstream.ErrMsgNotFound)
}

// giveUpLease has the job delivered again after wait, to any worker. Without a wait it returns when the
// queue has it back, so that no job behind it is faster; it is told once: by a repetition somebody else
// could get the job who has not come to its end.
func (w *worker) giveUpLease(msg *natsgo.Msg, wait time.Duration) error {
	if wait > 0 {
		return w.report("delay job", msg.NakWithDelay(wait))
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	_, err := w.queue.provider.conn.RequestWithContext(ctx, msg.Reply, notDone)
	return w.report("return job", err)
}

// report logs what could not be told to the server, and returns it; the lease of the job runs
// out then.
func (w *worker) report(operation string, err error) error {
	if err != nil {
		w.queue.warn("job not settled", slog.String("operation", operation), slog.Any("error", err))
	}
	return err
}

// finish removes a job and returns when the queue has said that it did.
func finish(ctx context.Context, msg *natsgo.Msg) error {
	return tries(ctx, func(ctx context.Context, _ bool) error { return msg.AckSync(natsgo.Context(ctx)) })
}
