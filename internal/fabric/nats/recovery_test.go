package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
)

// open returns a provider on an engine of its own, and a context for the test.
func open(t testing.TB) (context.Context, *Provider) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // only what hangs takes as long
	t.Cleanup(cancel)
	silent := slog.New(slog.DiscardHandler)
	e, err := engine.Start(ctx, engine.Options{DataDir: t.TempDir(), Logger: silent})
	check(t, err)
	t.Cleanup(func() { check(t, e.Stop(ctx)) })
	conn, err := e.Connect("test")
	check(t, err)
	p, err := New(conn, Options{Logger: silent})
	check(t, err)
	return ctx, p
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openTestQueue(ctx context.Context, t testing.TB, p *Provider) *queue {
	t.Helper()
	return openQueueFor(ctx, t, p, 30*time.Second) // no lease runs out while the machine is busy
}

func openQueueFor(ctx context.Context, t testing.TB, p *Provider, visibility time.Duration) *queue {
	t.Helper()
	q, err := p.Queue(ctx, fabric.QueueConfig{
		Name: "q", Visibility: visibility, MaxJobs: 1_000_000, MaxDead: 10, Concurrency: 1,
		Retry: fabric.RetryPolicy{Initial: time.Millisecond, Max: time.Millisecond, Elapsed: time.Minute},
	})
	check(t, err)
	return q.(*queue)
}

// startWork runs handler until the test ends, and returns the IDs of the jobs it was given.
func startWork(ctx context.Context, t testing.TB, q fabric.Queue, result error) <-chan string {
	t.Helper()
	ids := make(chan string, 1000)
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- q.Work(ctx, func(_ context.Context, job fabric.Job) error {
			select {
			case ids <- job.ID:
			default: // more than any test looks at
			}
			return result
		})
	}()
	t.Cleanup(func() { stop(); check(t, <-done) })
	return ids
}

func next[T any](ctx context.Context, t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-ctx.Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// TestConnectionLost checks that a watch and a worker go on after the connection was lost.
func TestConnectionLost(t *testing.T) {
	ctx, p := open(t)
	q := openTestQueue(ctx, t, p)
	d, err := p.Documents(ctx, "d")
	check(t, err)
	keys := make(chan string, 100)
	watching := make(chan struct{})
	watch, stop := context.WithCancel(ctx)
	watched := make(chan error, 1)
	go func() {
		watched <- d.Watch(watch, func(c fabric.Change) { keys <- c.Key }, func() { close(watching) })
	}()
	defer func() { stop(); check(t, <-watched) }()
	next(ctx, t, watching)
	ids := startWork(ctx, t, q, nil)
	for i := range 3 {
		_, err := d.Put(ctx, fmt.Sprint("key", i), nil, 0)
		check(t, err)
		if got, want := next(ctx, t, keys), fmt.Sprint("key", i); got != want {
			t.Errorf("watch told of %s, want %s", got, want)
		}
		id, err := q.Enqueue(ctx, fabric.Job{})
		check(t, err)
		if got := next(ctx, t, ids); got != id {
			t.Errorf("got job %s, want %s", got, id)
		}
		check(t, p.conn.ForceReconnect())
	}
}

// TestWatchEndsEarly ends watches at every moment of the set-up of their subscription. Each
// must return, and not by running into the bound on that.
func TestWatchEndsEarly(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	d, err := p.Documents(ctx, "d")
	check(t, err)
	for i := range 600 {
		watch, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		began := time.Now()
		go func() {
			done <- d.Watch(watch, func(fabric.Change) {}, func() {
				time.AfterFunc(time.Duration(i)*time.Microsecond, stop)
			})
		}()
		check(t, next(ctx, t, done))
		if took := time.Since(began); took >= settleTimeout {
			t.Fatalf("watch %d took %v to end", i, took)
		}
	}
}

// TestConsumerLost checks that a worker makes its consumer anew.
func TestConsumerLost(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	q := openTestQueue(ctx, t, p)
	ids := startWork(ctx, t, q, nil)
	_, err := q.Enqueue(ctx, fabric.Job{ID: "1"})
	check(t, err)
	next(ctx, t, ids)
	for waiting := 0; waiting == 0; { // until the worker asks for the next job
		consumer, err := q.jobs.Consumer(ctx, workers)
		check(t, err)
		waiting = consumer.CachedInfo().NumWaiting
	}
	check(t, q.jobs.DeleteConsumer(ctx, workers))
	_, err = q.Enqueue(ctx, fabric.Job{ID: "2"})
	check(t, err)
	if id := next(ctx, t, ids); id != "2" {
		t.Errorf("got job %s", id)
	}
}

// TestUnreadable puts into the streams what no queue wrote.
func TestUnreadable(t *testing.T) {
	ctx, p := open(t)
	var dropped atomic.Int64
	p.dropped = func(reason, _ string, n int) {
		if reason == fabric.DropJobUnreadable {
			dropped.Add(int64(n))
		}
	}
	q := openTestQueue(ctx, t, p)
	for _, header := range []string{"", "{", "{}", "[]", `{"id":1}`} {
		for _, prefix := range []string{q.jobsPrefix(), q.deadPrefix()} {
			msg := natsgo.NewMsg(prefix + token(header))
			msg.Header.Set(envelopeHeader, header)
			_, err := p.js.PublishMsg(ctx, msg)
			check(t, err)
		}
	}
	_, err := q.Enqueue(ctx, fabric.Job{ID: "good"})
	check(t, err)
	if id := next(ctx, t, startWork(ctx, t, q, fabric.ErrGiveUp)); id != "good" {
		t.Errorf("got job %q", id)
	}
	var letters []fabric.DeadLetter
	for len(letters) == 0 && ctx.Err() == nil {
		letters, err = q.DeadLetters(ctx, "", 10)
		check(t, err)
	}
	if len(letters) != 1 || letters[0].ID != "good" {
		t.Errorf("got %+v", letters)
	}
	if n := dropped.Load(); n != 5 {
		t.Errorf("%d unreadable jobs were counted, want 5", n)
	}
}

// TestBuriedTwice is the state that an end between the two writes of bury leaves behind: the
// letter is written and the job still there. Neither its repetition nor a replay doubles it.
func TestBuriedTwice(t *testing.T) {
	ctx, p := open(t)
	q := openTestQueue(ctx, t, p)
	both := func() {
		t.Helper()
		_, err := q.Enqueue(ctx, fabric.Job{ID: "job"})
		check(t, err)
		msg, err := envelope{ID: "job", Failures: 1, Reason: "first"}.message(q.deadPrefix(), nil)
		check(t, err)
		_, err = p.js.PublishMsg(ctx, msg)
		check(t, err)
	}
	both()
	check(t, q.Replay(ctx, "job"))
	wantState(ctx, t, q, 1, 0)
	both()
	startWork(ctx, t, q, fabric.ErrGiveUp)
	for n := 1; n != 0 && ctx.Err() == nil; {
		var err error
		n, err = q.Len(ctx)
		check(t, err)
	}
	wantState(ctx, t, q, 0, 1)
}

func wantState(ctx context.Context, t *testing.T, q *queue, jobs, dead int) {
	t.Helper()
	n, err := q.Len(ctx)
	check(t, err)
	letters, err := q.DeadLetters(ctx, "", 10)
	check(t, err)
	if n != jobs || len(letters) != dead {
		t.Errorf("%d jobs and %d dead letters, want %d and %d", n, len(letters), jobs, dead)
	}
}

// pullOne returns the next job of the queue as it is delivered.
func pullOne(t *testing.T, q *queue) *natsgo.Msg {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		jobs, err := q.newPuller()
		check(t, err)
		msg, err := jobs.pull(t.Context())
		jobs.close()
		if errors.Is(err, errSilent) { // the engine was not run for a while
			continue
		}
		check(t, err)
		if msg != nil {
			return msg
		}
	}
	t.Fatal("no job was delivered")
	return nil
}

// TestSettledElsewhere has a worker fail a job that another one has settled meanwhile: the
// late failure must not bring it back.
func TestSettledElsewhere(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	q := openQueueFor(ctx, t, p, time.Second)
	_, err := q.Enqueue(ctx, fabric.Job{ID: "job"})
	check(t, err)
	late := pullOne(t, q)
	other := pullOne(t, q) // after the lease ran out
	check(t, other.AckSync(natsgo.Context(ctx)))
	e, err := decodeEnvelope(late.Header)
	check(t, err)
	meta, err := late.Metadata()
	check(t, err)
	w := &worker{queue: q}
	w.fail(ctx, late, meta.Sequence.Stream, e, time.Now(), context.DeadlineExceeded)
	wantState(ctx, t, q, 0, 0)
}

// TestElapsedOutlivesWorkers fails a job whose first attempt, in a process long gone, was
// too long ago.
func TestElapsedOutlivesWorkers(t *testing.T) {
	ctx, p := open(t)
	q := openTestQueue(ctx, t, p)
	old := envelope{ID: "job", Failures: 4, FirstAttempt: time.Now().Add(-2 * time.Minute)}
	check(t, q.store(ctx, old, nil, "job"))
	next(ctx, t, startWork(ctx, t, q, context.DeadlineExceeded))
	var letters []fabric.DeadLetter
	for len(letters) == 0 && ctx.Err() == nil {
		var err error
		letters, err = q.DeadLetters(ctx, "", 10)
		check(t, err)
	}
	if len(letters) != 1 || letters[0].Attempt != 5 {
		t.Errorf("got %+v", letters)
	}
}

func BenchmarkEnqueue(b *testing.B) {
	for _, writers := range []int{1, 32} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			ctx, p := open(b)
			q := openTestQueue(ctx, b, p)
			payload := make([]byte, 256)
			b.SetParallelism(max(1, writers/2)) // of the two processors it is run on
			if writers == 1 {
				for b.Loop() {
					_, err := q.Enqueue(ctx, fabric.Job{Payload: payload})
					check(b, err)
				}
				return
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := q.Enqueue(ctx, fabric.Job{Payload: payload}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
