package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/client"
)

// rig starts nodes and a client of all of them.
func rig(t *testing.T, count int, change func(*client.Options)) ([]*node, *client.Client) {
	t.Helper()
	nodes, stop := start(count)
	t.Cleanup(stop)
	return nodes, newClient(nodes, change)
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestOptions(t *testing.T) {
	for _, o := range []client.Options{
		{}, {Endpoints: []string{"http://x"}}, {Token: "t"}, {Endpoints: []string{"x:1"}, Token: "t"}, {Endpoints: []string{"ftp://x"}, Token: "t"},
	} {
		if _, err := client.New(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestCache(t *testing.T) {
	_, c := rig(t, 2, nil)
	ctx, cache := within(t), c.Cache()
	_, err := cache.Get(ctx, "k")
	wantIs(t, "get", err, client.ErrNotFound)
	binary := []byte("a\x00\xff")
	must(t, "set", cache.Set(ctx, "a b/c", binary, time.Minute))
	must(t, "set", cache.Set(ctx, "empty", nil, 0))
	value, err := cache.Get(ctx, "a b/c")
	if err != nil || !bytes.Equal(value, binary) {
		t.Errorf("got %q, %v", value, err)
	}
	values, err := cache.GetMany(ctx, "a b/c", "empty", "none")
	if err != nil || len(values) != 2 || !bytes.Equal(values["a b/c"], binary) || len(values["empty"]) != 0 {
		t.Errorf("got %q, %v", values, err)
	}
	wantIs(t, "swap", cache.CompareAndSwap(ctx, "a b/c", nil, []byte("x"), 0), client.ErrConflict)
	must(t, "swap", cache.CompareAndSwap(ctx, "a b/c", binary, nil, 0))
	must(t, "swap", cache.CompareAndSwap(ctx, "a b/c", []byte{}, []byte("x"), 0))
	must(t, "swap", cache.CompareAndSwap(ctx, "new", nil, []byte("x"), 0))
	_, err = cache.Add(ctx, "new", 1, 0)
	wantIs(t, "add", err, client.ErrNotCounter)
	for want := range int64(3) {
		if n, err := cache.Add(ctx, "n", 1, time.Minute); err != nil || n != want+1 {
			t.Errorf("got %d, %v", n, err)
		}
	}
	must(t, "delete", cache.Delete(ctx, "n"))
	_, err = cache.Get(ctx, "n")
	wantIs(t, "get", err, client.ErrNotFound)
	wantIs(t, "set", cache.Set(ctx, strings.Repeat("k", 201), nil, 0), client.ErrInvalid)
	wantIs(t, "set", cache.Set(ctx, "k", make([]byte, 512<<10+1), 0), client.ErrTooLarge)
}

func TestKeys(t *testing.T) {
	_, c := rig(t, 1, func(o *client.Options) { o.Token = token + "-read" })
	ctx := within(t)
	_, err := c.Cache().Get(ctx, "k")
	wantIs(t, "get", err, client.ErrNotFound)
	wantIs(t, "set", c.Cache().Set(ctx, "k", nil, 0), client.ErrForbidden)
	_, c = rig(t, 1, func(o *client.Options) { o.Token = "wrong" })
	_, err = c.Cache().Get(ctx, "k")
	wantIs(t, "get", err, client.ErrForbidden)
	wantIs(t, "subscribe", c.Signals().Subscribe(ctx, client.SubscribeOptions{Subjects: []string{"s"}}, nil), client.ErrForbidden)
	wantIs(t, "work", c.Queue("q").Work(ctx, client.WorkOptions{}, nil), client.ErrForbidden)
	var told *client.Error
	if !errors.As(err, &told) || told.Status != 401 || told.Code != "unauthorized" || told.Message == "" {
		t.Errorf("got %#v", err)
	}
}

// What was done is not done again when its answer gets lost.
func TestLostAnswers(t *testing.T) {
	nodes, c := rig(t, 2, nil)
	ctx := within(t)
	for i, n := range nodes {
		n.lose.Store(2)
		sum, err := c.Cache().Add(ctx, "n", 1, 0)
		if err != nil || sum != int64(i+1) {
			t.Errorf("got %d, %v", sum, err)
		}
	}
	nodes[0].lose.Store(1)
	nodes[1].lose.Store(1)
	_, err := c.Queue("q").Publish(ctx, client.NewJob{Payload: []byte("x")})
	must(t, "publish", err)
	if state, err := c.Queue("q").State(ctx); err != nil || state.Jobs != 1 {
		t.Errorf("%d jobs, %v", state.Jobs, err)
	}
	nodes[0].lose.Store(1)
	nodes[1].lose.Store(1)
	lock, err := c.Lock(ctx, "l", client.LockOptions{})
	must(t, "lock", err)
	nodes[0].lose.Store(1)
	nodes[1].lose.Store(1)
	must(t, "release", lock.Release(ctx))
	nodes[0].lose.Store(1)
	nodes[1].lose.Store(1)
	first, err := c.Signals().Publish(ctx, client.NewSignal{Subject: "s"})
	must(t, "publish", err)
	second, err := c.Signals().Publish(ctx, client.NewSignal{Subject: "s"})
	if err != nil || second != first+1 {
		t.Errorf("positions %d and %d, %v", first, second, err)
	}
	// Jobs that were leased unheard come back by themselves, so the request is not repeated.
	for _, n := range nodes {
		n.lose.Store(1)
	}
	_, err = c.Queue("q").Lease(ctx, client.LeaseOptions{Wait: time.Second})
	wantIs(t, "lease", err, client.ErrUnavailable)
}

// Another node is asked when one does not answer, or is of no use.
func TestFailover(t *testing.T) {
	nodes, c := rig(t, 3, func(o *client.Options) { o.RetryFor = 5 * time.Second })
	ctx := within(t)
	must(t, "set", c.Cache().Set(ctx, "k", []byte("x"), 0))
	nodes[0].stop()
	for range 3 {
		if value, err := c.Cache().Get(ctx, "k"); err != nil || string(value) != "x" {
			t.Errorf("got %q, %v", value, err)
		}
	}
	nodes[1].refuse.Store(http.StatusBadGateway)
	if value, err := c.Cache().Get(ctx, "k"); err != nil || string(value) != "x" {
		t.Errorf("got %q, %v", value, err)
	}
	served := nodes[2].served.Load()
	must(t, "set", c.Cache().Set(ctx, "k", []byte("y"), 0))
	if nodes[2].served.Load() != served+1 {
		t.Error("the node that answers is not asked first")
	}
	nodes[2].refuse.Store(http.StatusServiceUnavailable)
	begin := time.Now()
	_, err := c.Cache().Get(ctx, "k")
	wantIs(t, "get", err, client.ErrUnavailable)
	if took := time.Since(begin); took < 2*time.Second {
		t.Errorf("it gave up after %v", took)
	}
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = c.Cache().Get(brief, "k")
	wantIs(t, "get", err, context.DeadlineExceeded)
}

// A node that hangs is given up after a time.
func TestHangingNode(t *testing.T) {
	nodes, _ := rig(t, 1, nil)
	hangs := make(chan struct{})
	hanging := http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hangs })}
	listener := listen(t)
	go func() { _ = hanging.Serve(listener) }()
	t.Cleanup(func() { close(hangs); _ = hanging.Close() })
	c, err := client.New(client.Options{
		Endpoints: []string{"http://" + listener.Addr().String(), nodes[0].http.URL}, Token: token, AttemptTimeout: 200 * time.Millisecond,
	})
	must(t, "client", err)
	if n, err := c.Cache().Add(within(t), "n", 1, 0); err != nil || n != 1 {
		t.Errorf("got %d, %v", n, err)
	}
}

func TestQueue(t *testing.T) {
	_, c := rig(t, 2, nil)
	ctx, q := within(t), c.Queue("q")
	_, err := q.State(ctx)
	wantIs(t, "state", err, client.ErrNotFound)
	settings := client.DefaultQueueSettings()
	settings.MaxAttempts, settings.RetryInitial = 2, time.Millisecond
	must(t, "configure", q.Configure(ctx, settings))
	if state, err := q.State(ctx); err != nil || state.QueueSettings != settings {
		t.Errorf("got %+v, %v", state, err)
	}
	id, err := q.Publish(ctx, client.NewJob{ID: "the/job", Payload: []byte("a\xff")})
	if err != nil || id != "the/job" {
		t.Errorf("got %s, %v", id, err)
	}
	lease := func() *client.Lease {
		t.Helper()
		leases, err := q.Lease(ctx, client.LeaseOptions{Max: 5, Wait: patience, Lease: time.Minute})
		if err != nil || len(leases) != 1 {
			t.Fatalf("leased %d, %v", len(leases), err)
		}
		return leases[0]
	}
	job := lease()
	if job.ID != id || string(job.Payload) != "a\xff" || job.Attempt != 1 || time.Until(job.Until) > time.Minute || job.EnqueuedAt.IsZero() {
		t.Errorf("leased %+v", job)
	}
	must(t, "extend", job.Extend(ctx, time.Hour))
	if left := time.Until(job.Until); left < 50*time.Minute {
		t.Errorf("extended to %v", left)
	}
	must(t, "release", job.Release(ctx))
	job = lease()
	must(t, "nack", job.Nack(ctx, "first"))
	wantIs(t, "ack", job.Ack(ctx), client.ErrLost)
	wantIs(t, "extend", job.Extend(ctx, 0), client.ErrLost)
	job = lease()
	if job.Attempt != 2 {
		t.Errorf("attempt %d", job.Attempt)
	}
	must(t, "nack", job.Nack(ctx, "second"))
	letters, next, err := q.DeadLetters(ctx, "", 1)
	if err != nil || len(letters) != 1 || next != id || letters[0].Reason != "second" || letters[0].Attempts != 2 || string(letters[0].Payload) != "a\xff" {
		t.Errorf("got %+v, %q, %v", letters, next, err)
	}
	if letters, next, err = q.DeadLetters(ctx, next, 1); err != nil || len(letters) != 0 || next != "" {
		t.Errorf("got %+v, %q, %v", letters, next, err)
	}
	must(t, "replay", q.Replay(ctx, id))
	must(t, "give up", lease().GiveUp(ctx, "third"))
	must(t, "discard", q.Discard(ctx, id))
	wantIs(t, "discard", q.Discard(ctx, id), client.ErrNotFound)
	wantIs(t, "replay", q.Replay(ctx, id), client.ErrNotFound)
	must(t, "remove", q.Remove(ctx))
	wantIs(t, "remove", q.Remove(ctx), client.ErrNotFound)
}

// Workers do every job, those that take long as well, and what they do not do goes to others.
func TestWork(t *testing.T) {
	nodes, c := rig(t, 2, nil)
	ctx, q := within(t), c.Queue("q")
	settings := client.DefaultQueueSettings()
	settings.RetryInitial = time.Millisecond
	must(t, "configure", q.Configure(ctx, settings))
	const jobs = 20
	var mu sync.Mutex
	done := map[string]int{}
	all := make(chan struct{})
	finish := sync.OnceFunc(func() { close(all) })
	working, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	var inside, most atomic.Int32
	for i := range 2 {
		workers.Go(func() {
			o := client.WorkOptions{Concurrency: 3, Lease: 3 * time.Second}
			err := newClient(nodes[i:i+1], nil).Queue("q").Work(working, o, func(ctx context.Context, job *client.Lease) error {
				most.Store(max(most.Load(), inside.Add(1)))
				defer inside.Add(-1)
				if job.Attempt == 1 {
					return errors.New("not at first")
				}
				if string(job.Payload) == "0" { // is extended meanwhile
					time.Sleep(4 * time.Second)
				}
				held := ctx.Err() // from the last one on, it may end because the test does
				mu.Lock()
				defer mu.Unlock()
				done[string(job.Payload)]++
				if len(done) == jobs {
					finish()
				}
				return held
			})
			if err != nil {
				t.Errorf("work: %v", err)
			}
		})
	}
	for i := range jobs {
		_, err := q.Publish(ctx, client.NewJob{Payload: []byte(fmt.Sprint(i))})
		must(t, "publish", err)
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatal("not all is done")
	}
	stop()
	workers.Wait()
	for payload, times := range done {
		if times != 1 {
			t.Errorf("%s was done %d times", payload, times)
		}
	}
	if most.Load() > 6 {
		t.Errorf("%d handlers at a time", most.Load())
	}
	if state, err := q.State(ctx); err != nil || state.Jobs != 0 {
		t.Errorf("%d jobs are left, %v", state.Jobs, err)
	}
}

// What a handler says becomes of the job; one that is to end gives its job to others.
func TestWorkOutcomes(t *testing.T) {
	nodes, c := rig(t, 1, nil)
	ctx, q := within(t), c.Queue("q")
	_, err := q.Publish(ctx, client.NewJob{ID: "bad"})
	must(t, "publish", err)
	working, stop := context.WithCancel(ctx)
	defer stop()
	var failed []error
	o := client.WorkOptions{Failed: func(err error) { failed = append(failed, err) }}
	err = q.Work(working, o, func(_ context.Context, job *client.Lease) error {
		stop()
		return fmt.Errorf("hopeless: %w", client.ErrGiveUp)
	})
	must(t, "work", err)
	if letters, _, err := q.DeadLetters(ctx, "", 5); err != nil || len(letters) != 1 || letters[0].Reason != "hopeless: give up" {
		t.Errorf("got %+v, %v", letters, err)
	}
	_, err = q.Publish(ctx, client.NewJob{ID: "unfinished"})
	must(t, "publish", err)
	working, stop = context.WithCancel(ctx)
	defer stop()
	err = q.Work(working, o, func(ctx context.Context, job *client.Lease) error {
		stop()
		<-ctx.Done()
		return ctx.Err()
	})
	must(t, "work", err)
	leases, err := q.Lease(ctx, client.LeaseOptions{Wait: patience})
	if err != nil || len(leases) != 1 || leases[0].ID != "unfinished" || leases[0].Attempt != 1 {
		t.Fatalf("leased %+v, %v", leases, err)
	}
	must(t, "release", leases[0].Release(ctx))
	if len(failed) != 0 {
		t.Errorf("failed: %v", failed)
	}
	// A worker whose job is lost hears of it.
	working, stop = context.WithCancel(ctx)
	defer stop()
	o.Lease = 300 * time.Millisecond
	err = q.Work(working, o, func(ctx context.Context, job *client.Lease) error {
		nodes[0].refuse.Store(http.StatusBadGateway)
		<-ctx.Done()
		stop()
		if cause := context.Cause(ctx); !errors.Is(cause, client.ErrLost) {
			t.Errorf("the cause is %v", cause)
		}
		return nil
	})
	must(t, "work", err)
	if len(failed) != 1 || !errors.Is(failed[0], client.ErrLost) {
		t.Errorf("failed: %v", failed)
	}
}

// A node that does not work on a key gives no jobs of it.
func TestWorkByRole(t *testing.T) {
	_, c := rig(t, 1, nil)
	ctx, q := within(t), c.Queue("q")
	_, err := q.Publish(ctx, client.NewJob{})
	must(t, "publish", err)
	if leases, err := q.Lease(ctx, client.LeaseOptions{Key: "other:work"}); err != nil || len(leases) != 0 {
		t.Errorf("leased %d, %v", len(leases), err)
	}
	if leases, err := q.Lease(ctx, client.LeaseOptions{Key: "mail:send", Wait: patience}); err != nil || len(leases) != 1 {
		t.Errorf("leased %d, %v", len(leases), err)
	}
	r, err := c.Roles(ctx, "mail:send", "other:work")
	if err != nil || !r.Works["mail:send"] || r.Works["other:work"] || !r.ServesRequests || !slices.Equal(r.Roles, []string{"gateway", "mail:send"}) {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A lock is renewed while it is held, and others wait.
func TestLock(t *testing.T) {
	_, c := rig(t, 2, nil)
	ctx := within(t)
	first, err := c.Lock(ctx, "l", client.LockOptions{TTL: 3 * time.Second})
	must(t, "lock", err)
	time.Sleep(4 * time.Second) // more than its TTL
	if err := first.Context().Err(); err != nil {
		t.Errorf("it was lost: %v", context.Cause(first.Context()))
	}
	_, err = c.Lock(ctx, "l", client.LockOptions{Wait: 100 * time.Millisecond})
	wantIs(t, "lock", err, client.ErrLocked)
	waited := make(chan *client.Lock, 1)
	go func() {
		second, err := c.Lock(ctx, "l", client.LockOptions{Wait: -1})
		if err != nil {
			t.Error(err)
		}
		waited <- second
	}()
	must(t, "release", first.Release(ctx))
	second := <-waited
	if second.Token() <= first.Token() {
		t.Errorf("token %d after %d", second.Token(), first.Token())
	}
	if first.Context().Err() == nil {
		t.Error("a lock that was given back has a context still")
	}
	must(t, "release", second.Release(ctx))
	err = c.WithLock(ctx, "l", client.LockOptions{}, func(ctx context.Context, token uint64) error {
		_, err := c.Lock(ctx, "l", client.LockOptions{})
		wantIs(t, "lock", err, client.ErrLocked)
		if token <= second.Token() {
			t.Errorf("token %d after %d", token, second.Token())
		}
		return nil
	})
	must(t, "with lock", err)
	third, err := c.Lock(ctx, "l", client.LockOptions{})
	must(t, "lock", err)
	must(t, "release", third.Release(ctx))
}

// The holder learns when its lock is lost: from a node, or since no node answers in time.
func TestLockLost(t *testing.T) {
	nodes, c := rig(t, 2, nil)
	ctx := within(t)
	lock, err := c.Lock(ctx, "l", client.LockOptions{TTL: time.Second})
	must(t, "lock", err)
	nodes[0].stop()
	select {
	case <-lock.Context().Done():
	case <-ctx.Done():
		t.Fatal("it does not hear of it")
	}
	wantIs(t, "cause", context.Cause(lock.Context()), client.ErrLost)
	wantIs(t, "release", lock.Release(ctx), client.ErrLost)

	lock, err = c.Lock(ctx, "m", client.LockOptions{TTL: time.Second})
	must(t, "lock", err)
	nodes[1].refuse.Store(http.StatusBadGateway)
	select {
	case <-lock.Context().Done():
	case <-ctx.Done():
		t.Fatal("it does not hear of it")
	}
	wantIs(t, "cause", context.Cause(lock.Context()), client.ErrLost)
}

func TestIDs(t *testing.T) {
	_, c := rig(t, 2, nil)
	ctx := within(t)
	ids, err := c.NewIDs(ctx, 100)
	if err != nil || len(ids) != 100 || !slices.IsSorted(ids) {
		t.Errorf("got %d, %v", len(ids), err)
	}
	if at := client.IDTime(ids[0]); time.Since(at).Abs() > time.Minute {
		t.Errorf("made at %v", at)
	}
	first, err := c.Worker(ctx, 3*time.Second)
	must(t, "worker", err)
	second, err := c.Worker(ctx, 0)
	must(t, "worker", err)
	if first.Number() != 0 || second.Number() != 1 {
		t.Errorf("numbers %d and %d", first.Number(), second.Number())
	}
	seen := map[int64]bool{}
	for _, id := range ids {
		seen[id] = true
	}
	mint := func(w *client.Worker, count int) {
		t.Helper()
		last := int64(0)
		for range count {
			id, err := w.NewID()
			must(t, "new id", err)
			if seen[id] || id <= last {
				t.Fatalf("%d came twice, or after %d", id, last)
			}
			seen[id], last = true, id
		}
	}
	mint(first, 1000)
	mint(second, 1000)
	time.Sleep(4 * time.Second) // more than its TTL
	mint(first, 1000)
	must(t, "release", first.Release(ctx))
	if _, err := first.NewID(); err == nil {
		t.Error("a worker that was given back makes ids")
	}
	third, err := c.Worker(ctx, 0)
	must(t, "worker", err)
	if third.Number() != 0 {
		t.Errorf("number %d", third.Number())
	}
	mint(third, 100_000) // more than a second has
}

// A subscriber hears everything once through the loss of a node, and what was said meanwhile.
func TestSignals(t *testing.T) {
	nodes, c := rig(t, 2, nil)
	ctx := within(t)
	publish := func(payload string) uint64 {
		t.Helper()
		position, err := c.Signals().Publish(ctx, client.NewSignal{Subject: "news.a", Payload: []byte(payload), Sender: "me"})
		must(t, "publish", err)
		return position
	}
	start := publish("before")
	subscribed, stop := context.WithCancel(ctx)
	defer stop()
	ready, heard := make(chan uint64, 10), make(chan string, 100)
	interrupted := make(chan error, 100)
	done := make(chan error, 1)
	go func() {
		done <- c.Signals().Subscribe(subscribed, client.SubscribeOptions{
			Subjects: []string{"news.*"}, After: &start, Ready: func(p uint64) { ready <- p }, Interrupted: func(err error) { interrupted <- err },
		}, func(s client.Signal) error {
			heard <- fmt.Sprintf("%s %s %s", s.Subject, s.Sender, s.Payload)
			if s.Position <= start || s.Time.IsZero() {
				t.Errorf("got %+v", s)
			}
			return nil
		})
	}()
	want := func(payload string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != "news.a me "+payload {
				t.Errorf("heard %s, want %s", got, payload)
			}
		case <-ctx.Done():
			t.Fatalf("%s was not heard", payload)
		}
	}
	if at := <-ready; at != start {
		t.Errorf("ready behind %d, want %d", at, start)
	}
	publish("one")
	want("one")
	nodes[0].stop()
	publish("two")
	publish("three")
	want("two")
	want("three")
	if err := <-interrupted; err == nil {
		t.Error("no reason")
	}
	stop()
	must(t, "subscribe", <-done)
	// An error of the handler ends it.
	mine := errors.New("enough")
	after := uint64(0)
	err := c.Signals().Subscribe(ctx, client.SubscribeOptions{Subjects: []string{">"}, After: &after}, func(client.Signal) error { return mine })
	if err != mine {
		t.Errorf("got %v", err)
	}
	// What is not kept is told.
	after = 1_000_000
	gaps := 0
	err = c.Signals().Subscribe(ctx, client.SubscribeOptions{
		Subjects: []string{">"}, After: &after, Gap: func(uint64) { gaps++ }, Coalesce: time.Millisecond, SkipSender: "other",
	}, func(client.Signal) error { return mine })
	if err != mine || gaps != 1 {
		t.Errorf("got %v after %d gaps", err, gaps)
	}
}
