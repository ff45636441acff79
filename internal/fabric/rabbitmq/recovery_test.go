package rabbitmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/fabric/rabbitmq"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// dial returns a connection of an operator who looks after the broker.
func dial(t *testing.T, server *servers.RabbitMQ) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(server.URL("/"))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func openChannel(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	must(t, err)
	return ch
}

// testQueueDeleted has somebody delete the broker's queues.
func testQueueDeleted(t *testing.T, server *servers.RabbitMQ) {
	q := openQueue(t, open(t, options(server, memory.New())), config("deleted"))
	handler, jobs := attempts()
	work(t, q, handler)
	enqueue(t, q, fabric.Job{ID: "before"})
	receive(t, "job", jobs)
	ch := openChannel(t, dial(t, server))
	for _, queue := range []string{"parley.deleted", "parley.deleted.wait-1s", "parley.deleted.busy"} {
		_, err := ch.QueueDelete(queue, false, false, false)
		must(t, err)
	}
	enqueue(t, q, fabric.Job{ID: "after"})
	enqueue(t, q, fabric.Job{ID: "later", NotBefore: time.Now().Add(time.Second)})
	for _, want := range []string{"after", "later"} {
		if job := receive(t, "job", jobs); job.ID != want {
			t.Errorf("got %s, want %s", job.ID, want)
		}
	}
	wantLen(t, q, 0)
}

// testQueueEmptied has somebody empty the broker's queue: its jobs are gone, and what is known
// of their IDs does not keep others from being enqueued after the time for which IDs are
// remembered.
func testQueueEmptied(t *testing.T, server *servers.RabbitMQ) {
	q := openQueue(t, open(t, options(server, memory.New())), config("emptied"))
	enqueue(t, q, fabric.Job{ID: "job"})
	_, err := openChannel(t, dial(t, server)).QueuePurge("parley.emptied", false)
	must(t, err)
	wantLen(t, q, 0)
	enqueue(t, q, fabric.Job{ID: "job"}) // known still
	wantLen(t, q, 0)
}

// testPolicy has an operator limit the length of the broker's queue: jobs are not taken beyond
// it, those that were are not lost, and others are taken when those are done.
func testPolicy(t *testing.T, server *servers.RabbitMQ) {
	var log lines
	o := options(server, memory.New())
	o.Logger = log.logger()
	q := openQueue(t, open(t, o), config("policy"))
	server.Eval(t, `rabbit_policy:set(<<"/">>, <<"limit">>, <<"^parley[.]policy$">>,
		[{<<"max-length">>, 1}], 0, <<"queues">>, <<"test">>).`)
	stored := 0
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := q.Enqueue(ctx, fabric.Job{ID: fmt.Sprint(stored)})
		cancel()
		refused := errors.Is(err, fabric.ErrUnavailable)
		if refused && log.count("job not stored") > 0 {
			break
		}
		if !refused && !errors.Is(err, context.DeadlineExceeded) { // as when the broker is only slow
			must(t, err)
			stored++
		}
	}
	handler, jobs := attempts()
	work(t, q, handler)
	for range stored {
		receive(t, "job", jobs)
	}
	enqueue(t, q, fabric.Job{ID: fmt.Sprint(stored)})
	receive(t, "job", jobs)
	wantLen(t, q, 0)
	if len(jobs) != 0 || log.count("job not stored") != 1 {
		t.Errorf("%d jobs too many, log:\n%s", len(jobs), log.text.String())
	}
}

// testPoison has the workers of a job die of it.
func testPoison(t *testing.T, server *servers.RabbitMQ) {
	c := config("poison")
	buried := make(chan fabric.DeadLetter, 10)
	c.Dead = func(letter fabric.DeadLetter) { buried <- letter }
	q := openQueue(t, open(t, options(server, memory.New())), c)
	enqueue(t, q, fabric.Job{ID: "poison", Payload: []byte("payload")})
	conn := dial(t, server)
	for range 21 {
		ch := openChannel(t, conn)
		process.Eventually(t, "the job is delivered again", func() bool {
			_, ok, err := ch.Get("parley.poison", false)
			must(t, err)
			return ok
		})
		must(t, ch.Close())
	}
	handler, jobs := attempts()
	work(t, q, handler)
	letter := receive(t, "dead letter", buried)
	if letter.ID != "poison" || string(letter.Payload) != "payload" || letter.Attempt != 1 ||
		!strings.Contains(letter.Reason, "delivered 21 times") || time.Since(letter.FailedAt) > process.Patience {
		t.Errorf("got %+v", letter)
	}
	wantLen(t, q, 0)
	letters, err := q.DeadLetters(t.Context(), "", 10)
	must(t, err)
	if len(letters) != 1 || letters[0].ID != "poison" {
		t.Errorf("got %+v", letters)
	}
	must(t, q.Replay(t.Context(), "poison"))
	if job := receive(t, "job", jobs); job.ID != "poison" || job.Attempt != 1 {
		t.Errorf("got %s in attempt %d", job.ID, job.Attempt)
	}
}

// testGivenBackOften has workers stop while they have a job, more often than the broker
// delivers it: nobody died, so that it is not given up.
func testGivenBackOften(t *testing.T, server *servers.RabbitMQ) {
	q := openQueue(t, open(t, options(server, memory.New())), config("given-back"))
	enqueue(t, q, fabric.Job{ID: "job"})
	for range 25 {
		started := make(chan struct{}, 1)
		stop := work(t, q, func(ctx context.Context, _ fabric.Job) error {
			started <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		})
		receive(t, "handler", started)
		stop()
	}
	handler, jobs := attempts()
	work(t, q, handler)
	if job := receive(t, "job", jobs); job.ID != "job" || job.Attempt != 1 {
		t.Errorf("got %s in attempt %d", job.ID, job.Attempt)
	}
	wantLen(t, q, 0)
}

// testStoredTwice has a message in the broker twice, as after an answer that was lost.
func testStoredTwice(t *testing.T, server *servers.RabbitMQ) {
	q := openQueue(t, open(t, options(server, memory.New())), config("twice"))
	enqueue(t, q, fabric.Job{ID: "job"})
	ch := openChannel(t, dial(t, server))
	d, ok, err := ch.Get("parley.twice", true)
	must(t, err)
	if !ok {
		t.Fatal("no message")
	}
	for _, again := range []bool{false, true} {
		if text := d.Headers["parley-job"].(string); again {
			d.Headers["parley-job"] = strings.Replace(text, "{", `{"again":true,`, 1)
		}
		must(t, ch.Publish("", "parley.twice", true, false, amqp.Publishing{Headers: d.Headers, Body: d.Body}))
	}
	wantLen(t, q, 2)
	handler, jobs := attempts()
	work(t, q, handler)
	receive(t, "job", jobs)
	wantLen(t, q, 0)
	if len(jobs) != 0 {
		t.Error("the job ran twice")
	}
}

// faulty is a cache that is away at times.
type faulty struct {
	fabric.Cache
	away atomic.Bool
}

func (f *faulty) Get(ctx context.Context, key string) ([]byte, error) {
	if f.away.Load() {
		return nil, fabric.ErrUnavailable
	}
	return f.Cache.Get(ctx, key)
}

type faultyCarrier struct {
	*memory.Provider
	faulty *faulty
}

func (c *faultyCarrier) Cache(ctx context.Context, config fabric.CacheConfig) (fabric.Cache, error) {
	cache, err := c.Provider.Cache(ctx, config)
	c.faulty.Cache = cache
	return c.faulty, err
}

// testBookkeepingAway has the cache go away while a job runs: it is not repeated, and none is
// begun that cannot be finished.
func testBookkeepingAway(t *testing.T, server *servers.RabbitMQ) {
	store := &faultyCarrier{memory.New(), &faulty{}}
	o := options(server, store.Provider)
	o.Cache = store
	o.Logger = quiet(t)
	q := openQueue(t, open(t, o), config("bookkeeping"))
	started, release := make(chan string, 10), make(chan struct{}, 10)
	work(t, q, func(_ context.Context, job fabric.Job) error {
		started <- job.ID
		<-release
		return nil
	})
	enqueue(t, q, fabric.Job{ID: "first"})
	enqueue(t, q, fabric.Job{ID: "second"})
	receive(t, "handler", started)
	store.faulty.away.Store(true)
	if _, err := q.Enqueue(t.Context(), fabric.Job{ID: "third"}); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("enqueue: %v", err)
	}
	release <- struct{}{}
	select {
	case id := <-started:
		t.Errorf("%s was begun", id)
	case <-time.After(500 * time.Millisecond):
	}
	store.faulty.away.Store(false)
	if id := receive(t, "handler", started); id != "second" {
		t.Errorf("%s was begun", id)
	}
	release <- struct{}{}
	wantLen(t, q, 0)
}

// testLargeDeadLetter buries the largest job with the largest reason.
func testLargeDeadLetter(t *testing.T, server *servers.RabbitMQ) {
	q := openQueue(t, open(t, options(server, memory.New())), config("large"))
	job := fabric.Job{
		ID: strings.Repeat("\x00", fabric.MaxKeySize), Payload: bytes.Repeat([]byte("x"), fabric.MaxValueSize),
	}
	enqueue(t, q, job)
	work(t, q, func(context.Context, fabric.Job) error {
		return errors.Join(errors.New(strings.Repeat("\x01", fabric.MaxReasonSize)), fabric.ErrGiveUp)
	})
	wantLen(t, q, 0)
	letters, err := q.DeadLetters(t.Context(), "", 10)
	must(t, err)
	if len(letters) != 1 || letters[0].ID != job.ID || !bytes.Equal(letters[0].Payload, job.Payload) ||
		len(letters[0].Reason) != fabric.MaxReasonSize {
		t.Errorf("got %d letters", len(letters))
	}
}

// workerVariable makes the test binary a worker of the queue "killed" on the broker with that
// URL.
const workerVariable = "PARLEY_TEST_WORKER"

// runWorker takes jobs, says which, and never finishes one.
func runWorker(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), process.Patience)
	defer cancel()
	store := memory.New()
	p, err := rabbitmq.Open(ctx, rabbitmq.Options{URLs: []string{url}, Cache: store, Documents: store})
	if err != nil {
		return err
	}
	q, err := p.Queue(ctx, config("killed"))
	if err != nil {
		return err
	}
	return q.Work(ctx, func(ctx context.Context, job fabric.Job) error {
		_, _ = os.Stdout.WriteString("has " + job.ID + "\n")
		<-ctx.Done()
		return ctx.Err()
	})
}

// testWorkerKilled kills the process of a worker: its job comes to another at once, though its
// visibility is a minute.
func testWorkerKilled(t *testing.T, server *servers.RabbitMQ) {
	q := openQueue(t, open(t, options(server, memory.New())), config("killed"))
	worker := process.Start(t, process.Command{
		Args: []string{os.Args[0]}, Env: []string{workerVariable + "=" + server.URL("/")},
	})
	enqueue(t, q, fabric.Job{ID: "job"})
	process.Eventually(t, "the worker has the job", func() bool { return strings.Contains(worker.Output(), "has job") })
	handler, jobs := attempts()
	work(t, q, handler)
	worker.Kill()
	killed := time.Now()
	if job := receive(t, "job", jobs); job.ID != "job" || job.Attempt != 1 {
		t.Errorf("got %s in attempt %d", job.ID, job.Attempt)
	}
	if late := time.Since(killed); late > config("").Visibility/2 {
		t.Errorf("it came after %v", late)
	}
	wantLen(t, q, 0)
}
