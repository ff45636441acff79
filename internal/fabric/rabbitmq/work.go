package rabbitmq

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// settleTimeout is how long a job may take to be settled after its worker has been stopped.
	settleTimeout = 5 * time.Second
	// maxTrouble is the longest time between two tries to get jobs while the connection is there.
	maxTrouble = 5 * time.Second
	// watchInterval is between two looks at whether jobs wait though the broker delivers none.
	watchInterval = 2 * time.Second
	// maxPrefetch is how many messages a consumer can have at most, by the protocol.
	maxPrefetch = 1<<16 - 1
)

// errEnded says that the broker has ended a delivery, as it does when the queue was deleted.
var errEnded = errors.New("the broker has ended the delivery")

// errStalled says that the broker does not deliver what is there. RabbitMQ 3.10 does that when
// a queue was deleted and at once declared again: it forgets the consumer and does not say so.
var errStalled = errors.New("jobs wait, and none is delivered")

// Tags of the two consumers of a worker.
const (
	mainConsumer = "jobs"
	deadConsumer = "dead"
)

// worker is one Work call.
type worker struct {
	queue   *queue
	handler fabric.Handler
	slots   chan struct{}  // holds a token for each handler that runs
	running sync.WaitGroup // everything that still settles a job

	mu       sync.Mutex          // guards attempts
	attempts map[string]*attempt // those that run, by instance
}

// Work implements fabric.Queue. A job is delivered when there is a handler free for it, so
// that no job waits here while another worker is idle.
func (q *queue) Work(ctx context.Context, handler fabric.Handler) error {
	if q.provider.life.Err() != nil {
		return q.failed("work on", fabric.ErrClosed)
	}
	bound, release := q.provider.life.Bind(ctx)
	defer release()
	w := &worker{
		queue: q, handler: handler,
		slots:    make(chan struct{}, q.config.Concurrency),
		attempts: map[string]*attempt{},
	}
	wait := storePause
	for bound.Err() == nil {
		began := time.Now()
		s, err := q.provider.current(bound)
		if err == nil {
			err = w.consume(bound, s)
		}
		if bound.Err() != nil {
			break
		}
		if s != nil && s.isLost() { // the Provider says so in the log, and connects
			continue
		}
		if time.Since(began) > maxTrouble {
			wait = storePause
		}
		q.logger.Warn("worker interrupted, trying on", slog.Any("error", err))
		fabric.Pause(bound, wait)
		wait = min(2*wait, maxTrouble)
	}
	w.running.Wait()
	if err := q.provider.life.Ended(ctx); err != nil {
		return q.failed("work on", err)
	}
	return nil
}

// consume gets jobs until ctx ends, and waits for their handlers then, or until the session or
// its channel is lost.
func (w *worker) consume(ctx context.Context, s *session) error {
	c, err := w.open(ctx, s)
	if err != nil {
		return err
	}
	for {
		w.queue.config.AwaitIdle(ctx)
		if ctx.Err() != nil {
			break
		}
		if err := w.take(ctx, c); err != nil {
			c.close()
			return err
		}
	}
	w.running.Wait()
	c.close()
	return nil
}

// consumer is a worker's way to the broker, for as long as the session lasts.
type consumer struct {
	worker  *worker
	session *session
	channel *amqp.Channel
	closed  <-chan *amqp.Error // takes why the broker closed the channel
	busy    *amqp.Channel      // has the consumers that stand for handlers
	tags    atomic.Int64
}

// open opens the channels of a worker.
func (w *worker) open(ctx context.Context, s *session) (*consumer, error) {
	if err := w.queue.names.declare(ctx, s); err != nil {
		return nil, err
	}
	// What a worker is about to get is in nobody's count for a moment; see tally.
	if _, err := w.queue.count(ctx); err != nil {
		return nil, err
	}
	c := &consumer{worker: w, session: s}
	var err error
	if c.channel, err = s.channel(ctx); err != nil {
		return nil, err
	}
	c.closed = c.channel.NotifyClose(make(chan *amqp.Error, 1))
	c.busy, err = s.channel(ctx)
	if err == nil {
		err = c.call(ctx, func() error {
			return c.channel.Qos(min(w.queue.config.Concurrency, maxPrefetch), 0, false)
		})
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// call runs what may wait for the broker.
func (c *consumer) call(ctx context.Context, request func() error) error {
	_, err := within(ctx, c.session, func() (struct{}, error) { return struct{}{}, request() }, func(struct{}) {})
	return err
}

// close closes the channels; what is not settled goes back to the broker.
func (c *consumer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	for _, ch := range []*amqp.Channel{c.channel, c.busy} {
		if ch != nil {
			_ = c.call(ctx, ch.Close) // the session may be gone
		}
	}
}

// take gets jobs for as long as this process wants work. It returns nil when it does not, or
// ctx has ended.
func (w *worker) take(ctx context.Context, c *consumer) error {
	jobs, err := c.consume(ctx, w.queue.names.main, mainConsumer)
	if err != nil {
		return err
	}
	defer c.stop(mainConsumer, jobs)
	dead, err := c.consume(ctx, w.queue.names.dead, deadConsumer)
	if err != nil {
		return err
	}
	defer c.stop(deadConsumer, dead)
	var look <-chan time.Time
	if w.queue.config.Idle != nil {
		ticker := time.NewTicker(fabric.IdleInterval)
		defer ticker.Stop()
		look = ticker.C
	}
	watch := time.NewTicker(watchInterval)
	defer watch.Stop()
	var seen watched
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look:
			if !w.queue.config.IsIdle() {
				return nil
			}
		case <-watch.C:
			if w.isStalled(ctx, c, &seen) {
				return errStalled
			}
		case d, ok := <-jobs:
			if !ok {
				return c.reason()
			}
			seen.job = true
			if !w.queue.config.IsIdle() {
				w.giveBack(ctx, d)
				return nil
			}
			w.begin(ctx, c, d)
		case d, ok := <-dead:
			if !ok {
				return c.reason()
			}
			seen.dead = true
			w.running.Go(func() { w.file(ctx, d) })
		}
	}
}

// watched is what a worker has seen since it looked for jobs that are not delivered.
type watched struct {
	job, dead bool // one was delivered
	before    bool // the last look found some
}

// isStalled looks whether jobs wait that this worker could do, and says whether it was so
// twice.
func (w *worker) isStalled(ctx context.Context, c *consumer, seen *watched) bool {
	ctx, cancel := context.WithTimeout(ctx, watchInterval)
	defer cancel()
	wantsJob, wantsDead := !seen.job && len(w.slots) < cap(w.slots), !seen.dead
	waits, err := ask(ctx, &c.session.questions, func(ch *amqp.Channel) (bool, error) {
		jobs, err1 := ch.QueueDeclarePassive(w.queue.names.main, true, false, false, false, nil)
		dead, err2 := ch.QueueDeclarePassive(w.queue.names.dead, true, false, false, false, nil)
		return wantsJob && jobs.Messages > 0 || wantsDead && dead.Messages > 0, errors.Join(err1, err2)
	})
	waits = waits && err == nil // what is wrong shows in another way
	stalled := waits && seen.before
	*seen = watched{before: waits}
	return stalled
}

// reason is why there are no more deliveries.
func (c *consumer) reason() error {
	select {
	case reason := <-c.closed:
		return reasonOf(reason)
	default:
		return errEnded
	}
}

// consume has the broker deliver what is in a queue.
func (c *consumer) consume(ctx context.Context, queue, tag string) (<-chan amqp.Delivery, error) {
	return within(ctx, c.session, func() (<-chan amqp.Delivery, error) {
		return c.channel.Consume(queue, tag, false, false, false, false, nil)
	}, func(late <-chan amqp.Delivery) {
		for range late { // until the channel is closed, which follows
		}
	})
}

// stop ends the delivery, and returns what was delivered after the last job was taken.
func (c *consumer) stop(tag string, deliveries <-chan amqp.Delivery) {
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	err := c.call(ctx, func() error { return c.channel.Cancel(tag, false) })
	if err != nil && !isLost(err) {
		c.worker.queue.logger.Warn("delivery of jobs not stopped", slog.Any("error", err))
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return
			}
			c.worker.giveBack(ctx, d)
		case <-ctx.Done(): // what is left goes back when the channel is closed
			return
		}
	}
}

// begin starts the handler for a job as soon as one is free.
func (w *worker) begin(ctx context.Context, c *consumer, d amqp.Delivery) {
	e, err := decodeEnvelope(d.Headers)
	if err != nil { // not written by a queue: no attempt can mend it
		w.queue.logger.Warn("job unreadable, dropped", slog.Any("error", err))
		w.queue.provider.options.Dropped(fabric.DropJobUnreadable, w.queue.config.Name, 1)
		w.remove(d)
		return
	}
	if w.meet(c, d, e) {
		return
	}
	select {
	case w.slots <- struct{}{}:
	case <-ctx.Done():
		w.giveBack(ctx, d)
		return
	case <-c.session.lost:
		return
	}
	if c.channel.IsClosed() { // meanwhile: the job may be another's by now
		<-w.slots
		return
	}
	a := &attempt{
		worker: w, envelope: e, payload: d.Body, delivery: d, consumer: c,
		doubtful: d.Redelivered || e.Again || e.Failures > 0,
		job:      e.job(d.Body, e.Failures+1),
	}
	w.mu.Lock()
	w.attempts[e.Instance] = a
	w.mu.Unlock()
	missed := w.queue.config.Take(a.job)
	w.running.Go(func() { a.run(ctx, missed) })
}

// meet says whether the delivery is of a job whose handler runs here. It is when the session
// was lost meanwhile: then the attempt goes on with the new delivery, and the job keeps its
// worker. A second message of the same state is not needed while the first is there.
func (w *worker) meet(c *consumer, d amqp.Delivery, e envelope) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.attempts[e.Instance]
	if a == nil || a.envelope.Failures != e.Failures {
		return false
	}
	if a.consumer.channel.IsClosed() {
		a.consumer, a.delivery = c, d
		a.register()
	} else {
		w.remove(d)
	}
	return true
}

// giveBack has the broker deliver a job again, in its old place. Most versions count that, as
// if a worker had died: a job that was given back often becomes a new message, at the end.
func (w *worker) giveBack(ctx context.Context, d amqp.Delivery) {
	e, err := decodeEnvelope(d.Headers)
	if err != nil || deliveries(d.Headers) < deliveryLimit/2 {
		w.report("give job back", d.Nack(false, true))
		return
	}
	w.running.Go(func() {
		settling, end := outlive(ctx, settleTimeout)
		defer end()
		e.Again = true // should this end before the old message is removed
		if err := w.queue.store(settling, e, d.Body); err != nil {
			w.report("give job back", errors.Join(err, d.Nack(false, true)))
			return
		}
		w.report("give job back", d.Ack(false))
	})
}

// remove takes a message out of the broker's queue whose job has no other.
func (w *worker) remove(d amqp.Delivery) {
	w.report("remove job", d.Ack(false))
	w.queue.tally.finish()
}

// report logs what could not be told to the broker, which delivers the job again then. A lost
// session is told once, by the Provider.
func (w *worker) report(operation string, err error) {
	if err != nil && !isLost(err) {
		w.queue.logger.Warn("job not settled", slog.String("operation", operation), slog.Any("error", err))
	}
}

// outlive returns a context that ends some time after ctx does.
func outlive(ctx context.Context, by time.Duration) (context.Context, func()) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		fabric.Pause(longer, by)
		cancel()
	})
	return longer, func() { stop(); cancel() }
}

// tag returns a name that no other consumer of the channel has.
func (c *consumer) tag() string { return strconv.FormatInt(c.tags.Add(1), 10) }
