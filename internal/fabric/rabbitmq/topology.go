package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// deliveryLimit is how often the broker delivers one state of a job that then comes back
// without an outcome. The next time it gives the job up: its workers die of it. It is an
// argument of the queue, so that another number would need other queues.
const deliveryLimit = 20

// waits are the times after which a job comes out of the waiting queues. They are names and
// arguments of queues, too. Each is at most six times the one before, so that a job passes
// through few of them, and there are few.
var waits = []struct {
	name string
	time time.Duration
}{
	{"50ms", 50 * time.Millisecond},
	{"200ms", 200 * time.Millisecond},
	{"1s", time.Second},
	{"4s", 4 * time.Second},
	{"15s", 15 * time.Second},
	{"1m", time.Minute},
	{"5m", 5 * time.Minute},
	{"30m", 30 * time.Minute},
}

// Bounds of how late a job may come out of the waiting queues: a sixteenth of its wait, but not
// below and above these. The last queue on its way may so be one that takes a little too long,
// instead of several more.
const (
	minLateness = 50 * time.Millisecond
	maxLateness = time.Second
)

// waitFor returns the queue for a job that has to wait for left, of all in all; an index of
// waits. Never early: what is left after the queue is waited for in another one.
func waitFor(left, all time.Duration) int {
	lateness := min(max(all/16, minLateness), maxLateness)
	longest := 0
	for i, wait := range waits {
		if wait.time >= left && wait.time-left <= lateness {
			return i
		}
		if wait.time <= left {
			longest = i
		}
	}
	return longest
}

// topology are the names of the broker's queues that make up one queue.
type topology struct {
	main string // jobs that may start
	dead string // jobs that the broker gave up, until a worker has written them down
	busy string // never a message: its consumers are the handlers that run
	wait []string
}

// newTopology names the queues. A prefix and a name have letters, digits, - and _ only, so that
// the dots between the parts make the names unambiguous.
func newTopology(prefix, name string) topology {
	main := prefix + "." + name
	t := topology{main: main, dead: main + ".dead", busy: main + ".busy"}
	for _, wait := range waits {
		t.wait = append(t.wait, main+".wait-"+wait.name)
	}
	return t
}

// stores are the queues that hold jobs.
func (t topology) stores() []string { return append([]string{t.main, t.dead}, t.wait...) }

// declare creates the queues that are not there.
func (t topology) declare(ctx context.Context, s *session) error {
	quorum := func(more amqp.Table) amqp.Table {
		arguments := amqp.Table{"x-queue-type": "quorum"}
		for key, value := range more {
			arguments[key] = value
		}
		return arguments
	}
	// What leaves for another queue stays until that has confirmed it. The broker asks for the
	// overflow argument with it, though no length is limited.
	leavingTo := func(queue string, more amqp.Table) amqp.Table {
		arguments := quorum(more)
		arguments["x-dead-letter-exchange"] = ""
		arguments["x-dead-letter-routing-key"] = queue
		arguments["x-dead-letter-strategy"] = "at-least-once"
		arguments["x-overflow"] = "reject-publish"
		return arguments
	}
	// Without a limit of their own, queues have one in RabbitMQ 4.
	unlimited := amqp.Table{"x-delivery-limit": int64(1_000_000_000)}
	queues := map[string]amqp.Table{
		t.dead: quorum(unlimited),
		t.main: leavingTo(t.dead, amqp.Table{"x-delivery-limit": int64(deliveryLimit)}),
	}
	for i, wait := range waits {
		queues[t.wait[i]] = leavingTo(t.main, amqp.Table{"x-message-ttl": wait.time.Milliseconds()})
	}
	_, err := ask(ctx, &s.questions, func(ch *amqp.Channel) (none struct{}, err error) {
		for _, queue := range t.stores() {
			if _, err := ch.QueueDeclare(queue, true, false, false, false, queues[queue]); err != nil {
				return none, fmt.Errorf("declare queue %s: %w", queue, err)
			}
		}
		// A classic queue: a consumer of a quorum queue costs a write on a majority of disks, and
		// 2.4 ms where this one costs 0.2 ms. It is away while its node is.
		_, err = ch.QueueDeclare(t.busy, true, false, false, false, amqp.Table{"x-queue-type": "classic"})
		if err != nil && !isMissing(err) {
			return none, fmt.Errorf("declare queue %s: %w", t.busy, err)
		}
		return none, nil
	})
	return err
}

// extent is what the broker tells of a queue.
type extent struct {
	waiting int // jobs that no worker has
	running int // handlers that run
}

// inspect asks for the extent.
func (t topology) inspect(ctx context.Context, s *session) (extent, error) {
	return ask(ctx, &s.questions, func(ch *amqp.Channel) (extent, error) {
		var e extent
		for _, name := range t.stores() {
			queue, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
			if err != nil {
				return extent{}, fmt.Errorf("inspect queue %s: %w", name, err)
			}
			e.waiting += queue.Messages
		}
		queue, err := ch.QueueDeclarePassive(t.busy, true, false, false, false, nil)
		if err != nil && !isMissing(err) {
			return extent{}, fmt.Errorf("inspect queue %s: %w", t.busy, err)
		}
		e.running = queue.Consumers
		return e, nil
	})
}

// remove deletes the queues with what is in them.
func (t topology) remove(ctx context.Context, s *session) error {
	_, err := ask(ctx, &s.questions, func(ch *amqp.Channel) (none struct{}, err error) {
		for _, queue := range append(t.stores(), t.busy) {
			if _, err := ch.QueueDelete(queue, false, false, false); err != nil && !isMissing(err) {
				return none, fmt.Errorf("delete queue %s: %w", queue, err)
			}
		}
		return none, nil
	})
	return err
}

// isMissing says whether a queue is not there, or not at the moment.
func isMissing(err error) bool {
	var answer *amqp.Error
	return errors.As(err, &answer) && answer.Code == amqp.NotFound
}
