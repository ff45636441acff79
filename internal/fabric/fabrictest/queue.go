package fabrictest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// queueConfig returns a configuration in which nothing happens by the passing of time.
func queueConfig(t *testing.T) fabric.QueueConfig {
	return fabric.QueueConfig{
		Name:        name(t),
		Visibility:  time.Minute,
		MaxJobs:     1000,
		MaxDead:     100,
		Concurrency: 1,
		Retry: fabric.RetryPolicy{
			Initial: 20 * time.Millisecond,
			Max:     time.Second,
			Elapsed: time.Minute,
		},
	}
}

func openQueue(t *testing.T, p fabric.Provider, config fabric.QueueConfig) fabric.Queue {
	t.Helper()
	q, err := p.Queue(patient(t), config)
	must(t, "open queue", err)
	return q
}

func enqueue(t *testing.T, q fabric.Queue, job fabric.Job) string {
	t.Helper()
	id, err := q.Enqueue(patient(t), job)
	must(t, "enqueue", err)
	return id
}

// work runs handler until the test or the returned function ends it.
func work(t *testing.T, q fabric.Queue, handler fabric.Handler) func() {
	t.Helper()
	return background(t, "work", func(ctx context.Context) error { return q.Work(ctx, handler) })
}

// attempt is a job with the time at which its handler began.
type attempt struct {
	fabric.Job
	at time.Time
}

// record returns a handler that tells of each attempt and returns what result says.
func record(result func(fabric.Job) error) (fabric.Handler, <-chan attempt) {
	attempts := make(chan attempt, 10_000)
	return func(_ context.Context, job fabric.Job) error {
		attempts <- attempt{Job: job, at: time.Now()}
		return result(job)
	}, attempts
}

func succeed(fabric.Job) error { return nil }

func wantLen(t *testing.T, q fabric.Queue, want int) {
	t.Helper()
	got := -1
	eventually(t, fmt.Sprintf("%d jobs in the queue", want), func() bool {
		var err error
		got, err = q.Len(context.Background())
		must(t, "len", err)
		return got == want
	})
}

// quiet fails the test when an attempt comes within a short time.
func quiet(t *testing.T, what string, attempts <-chan attempt) {
	t.Helper()
	select {
	case a := <-attempts:
		t.Errorf("%s: job %s was attempted", what, a.ID)
	case <-time.After(short):
	}
}

func testOrder(t *testing.T, p fabric.Provider) {
	const jobs = 30
	q := openQueue(t, p, queueConfig(t))
	wantLen(t, q, 0)
	began := time.Now().Add(-time.Second)
	ids := map[string]bool{}
	for i := range jobs {
		ids[enqueue(t, q, fabric.Job{Payload: []byte(strconv.Itoa(i)), Attempt: 9})] = true
	}
	if len(ids) != jobs || ids[""] {
		t.Errorf("%d jobs have %d IDs: %v", jobs, len(ids), ids)
	}
	wantLen(t, q, jobs)
	handler, attempts := record(succeed)
	work(t, q, handler)
	for i := range jobs {
		a := receive(t, "attempt", attempts)
		if string(a.Payload) != strconv.Itoa(i) || a.Attempt != 1 || !ids[a.ID] ||
			a.EnqueuedAt.Before(began) || a.EnqueuedAt.After(a.at.Add(time.Second)) {
			t.Errorf("job %d arrived as %+v", i, a)
		}
	}
	wantLen(t, q, 0)
	quiet(t, "after all were done", attempts)
}

func testJobLimits(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	q := openQueue(t, p, queueConfig(t))
	_, err := q.Enqueue(ctx, fabric.Job{Payload: make([]byte, fabric.MaxValueSize+1)})
	wantError(t, "payload too large", err, fabric.ErrTooLarge)
	_, err = q.Enqueue(ctx, fabric.Job{ID: strings.Repeat("i", fabric.MaxKeySize+1)})
	wantError(t, "id too long", err, fabric.ErrInvalidKey)
	_, err = q.Enqueue(ctx, fabric.Job{ID: "\xff"})
	wantError(t, "id not UTF-8", err, fabric.ErrInvalidKey)
	jobs := []fabric.Job{
		{ID: " a.b*c>\r\n\x00\"ü ", Payload: []byte{0, '\r', '\n', 0xff}},
		{ID: strings.Repeat("i", fabric.MaxKeySize), Payload: bytes.Repeat([]byte("x"), fabric.MaxValueSize)},
		{ID: "none"},
	}
	for _, job := range jobs {
		if id := enqueue(t, q, job); id != job.ID {
			t.Errorf("id %q became %q", job.ID, id)
		}
	}
	handler, attempts := record(succeed)
	work(t, q, handler)
	for _, job := range jobs {
		a := receive(t, "attempt", attempts)
		if a.ID != job.ID || !bytes.Equal(a.Payload, job.Payload) || a.Payload == nil {
			t.Errorf("job %q with %d bytes arrived as %q with %d", job.ID, len(job.Payload), a.ID, len(a.Payload))
		}
	}
}

func testNotBefore(t *testing.T, p fabric.Provider) {
	q := openQueue(t, p, queueConfig(t))
	handler, attempts := record(succeed)
	work(t, q, handler)
	enqueue(t, q, fabric.Job{ID: "first"})
	receive(t, "first attempt", attempts) // the worker is at work
	now := time.Now()
	later, soon := now.Add(800*time.Millisecond), now.Add(400*time.Millisecond)
	enqueue(t, q, fabric.Job{ID: "later", NotBefore: later})
	enqueue(t, q, fabric.Job{ID: "soon", NotBefore: soon})
	enqueue(t, q, fabric.Job{ID: "past", NotBefore: now.Add(-time.Hour)})
	enqueue(t, q, fabric.Job{ID: "now"})
	var order []string
	punctual := true
	for range 4 {
		a := receive(t, "attempt", attempts)
		if a.Attempt != 1 || a.at.Before(a.NotBefore.Round(0)) {
			t.Errorf("%s ran in attempt %d, %v before its time", a.ID, a.Attempt, a.NotBefore.Sub(a.at))
		}
		// A worker that was interrupted until all were due takes them as they were enqueued.
		switch len(order) {
		case 0, 1:
			punctual = punctual && a.at.Before(soon)
		case 2:
			punctual = punctual && a.at.Before(later)
		}
		order = append(order, a.ID)
	}
	want := []string{"past", "now", "soon", "later"}
	if punctual && !slices.Equal(order, want) {
		t.Errorf("they ran in the order %v, want %v", order, want)
	}
	slices.Sort(order)
	slices.Sort(want)
	if !slices.Equal(order, want) {
		t.Errorf("%v ran, want each of %v once", order, want)
	}
}

func testSameID(t *testing.T, p fabric.Provider) {
	q := openQueue(t, p, queueConfig(t))
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			id, err := q.Enqueue(context.Background(), fabric.Job{ID: "same", Payload: []byte("first")})
			if id != "same" || err != nil {
				t.Errorf("enqueue returned %q, %v", id, err)
			}
		})
	}
	running.Wait()
	wantLen(t, q, 1)
	handler, attempts := record(succeed)
	work(t, q, handler)
	receive(t, "attempt", attempts)
	wantLen(t, q, 0)
	enqueue(t, q, fabric.Job{ID: "same", Payload: []byte("again, the first being done")})
	quiet(t, "same ID within two minutes", attempts)
}

func testFull(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	config := queueConfig(t)
	config.MaxJobs = 3
	q := openQueue(t, p, config)
	for i := range 3 {
		enqueue(t, q, fabric.Job{ID: strconv.Itoa(i)})
	}
	_, err := q.Enqueue(ctx, fabric.Job{ID: "refused"})
	wantError(t, "enqueue to a full queue", err, fabric.ErrFull)
	if id, err := q.Enqueue(ctx, fabric.Job{ID: "1"}); err != nil || id != "1" {
		t.Errorf("enqueue what is there returned %q, %v", id, err)
	}
	failed := false
	handler, attempts := record(func(job fabric.Job) error {
		if !failed { // a full queue must be able to keep a failed job
			failed = true
			return errors.New("once")
		}
		return nil
	})
	work(t, q, handler)
	for range 4 {
		receive(t, "attempt", attempts)
	}
	wantLen(t, q, 0)
	enqueue(t, q, fabric.Job{ID: "refused"})
	if a := receive(t, "attempt", attempts); a.ID != "refused" {
		t.Errorf("got %s", a.ID)
	}
}

func testRetry(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.Retry = fabric.RetryPolicy{
		Initial: 800 * time.Millisecond, Max: 1200 * time.Millisecond, Elapsed: time.Minute, Jitter: 0.5,
	}
	q := openQueue(t, p, config)
	enqueue(t, q, fabric.Job{ID: "job", Payload: []byte("payload"), NotBefore: time.Now()})
	handler, attempts := record(func(job fabric.Job) error {
		if job.ID == "job" && job.Attempt == 1 {
			if _, err := q.Enqueue(context.Background(), fabric.Job{ID: "other"}); err != nil {
				t.Errorf("enqueue: %v", err)
			}
		}
		if job.ID == "job" && job.Attempt < 4 {
			return fmt.Errorf("attempt %d failed", job.Attempt)
		}
		return nil
	})
	work(t, q, handler)
	first := receive(t, "attempt", attempts)
	last, other := first, false
	for i, wait := range []time.Duration{800, 1200, 1200} {
		a := receive(t, "attempt", attempts)
		if a.ID == "other" && !other { // not always at once: a worker may be interrupted for as long as a wait
			other = true
			a = receive(t, "attempt", attempts)
		}
		if a.Attempt != i+2 || a.ID != "job" || string(a.Payload) != "payload" ||
			!a.EnqueuedAt.Equal(first.EnqueuedAt) || !a.NotBefore.Equal(first.NotBefore) {
			t.Errorf("attempt %d is %+v, the first was %+v", i+2, a, first)
		}
		if waited := a.at.Sub(last.at); waited < wait*time.Millisecond/2 {
			t.Errorf("attempt %d came after %v, want %d ms ± half", i+2, waited, wait)
		}
		last = a
	}
	if !other {
		t.Error("no other job ran while the failed one waited")
	}
	wantLen(t, q, 0)
}

func testGiveUpByTime(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.Retry = fabric.RetryPolicy{
		Initial: 50 * time.Millisecond, Max: 50 * time.Millisecond, Elapsed: time.Second, // for more than one attempt
	}
	q := openQueue(t, p, config)
	enqueue(t, q, fabric.Job{ID: "job", Payload: []byte("payload")})
	time.Sleep(config.Retry.Elapsed) // the time that counts begins with the first attempt
	reason := strings.Repeat("ü", fabric.MaxReasonSize) + "\r\n"
	handler, attempts := record(func(fabric.Job) error { return errors.New(reason) })
	began := time.Now()
	work(t, q, handler)
	wantLen(t, q, 0)
	letters := deadLetters(t, q)
	if len(letters) != 1 {
		t.Fatalf("got %d dead letters", len(letters))
	}
	count := len(attempts)
	if count < 2 {
		t.Errorf("given up after %d attempts", count)
	}
	first := receive(t, "attempt", attempts)
	letter := letters[0]
	if letter.ID != "job" || string(letter.Payload) != "payload" || letter.Attempt != count ||
		!letter.EnqueuedAt.Equal(first.EnqueuedAt) {
		t.Errorf("got %+v after %d attempts", letter, count)
	}
	if len(letter.Reason) > fabric.MaxReasonSize || !strings.HasPrefix(reason, letter.Reason) ||
		len(letter.Reason) < fabric.MaxReasonSize/2 {
		t.Errorf("reason of %d bytes", len(letter.Reason))
	}
	if age := letter.FailedAt.Sub(began); age < config.Retry.Elapsed || age > patience {
		t.Errorf("given up %v after the worker began", age)
	}
}

func testGiveUpAtOnce(t *testing.T, p fabric.Provider) {
	q := openQueue(t, p, queueConfig(t))
	enqueue(t, q, fabric.Job{ID: "job"})
	handler, attempts := record(func(fabric.Job) error {
		return fmt.Errorf("endpoint gone: %w", fabric.ErrGiveUp)
	})
	work(t, q, handler)
	receive(t, "attempt", attempts)
	wantLen(t, q, 0)
	letters := deadLetters(t, q)
	if len(letters) != 1 || letters[0].Attempt != 1 || letters[0].Reason != "endpoint gone: give up" {
		t.Errorf("got %+v", letters)
	}
	quiet(t, "after it was given up", attempts)
}

func testConcurrency(t *testing.T, p fabric.Provider) {
	const bound, jobs = 4, 20
	config := queueConfig(t)
	config.Concurrency = bound
	q := openQueue(t, p, config)
	for range jobs {
		enqueue(t, q, fabric.Job{})
	}
	arrived, release := make(chan struct{}, jobs), make(chan struct{})
	var running atomic.Int64
	work(t, q, func(context.Context, fabric.Job) error {
		if running.Add(1) > bound {
			t.Errorf("more than %d handlers at once", bound)
		}
		defer running.Add(-1)
		arrived <- struct{}{}
		<-release
		return nil
	})
	for range bound {
		receive(t, "handler", arrived)
	}
	select {
	case <-arrived:
		t.Errorf("more than %d handlers at once", bound)
	case <-time.After(short):
	}
	wantLen(t, q, jobs) // what is worked on counts
	close(release)
	for range jobs - bound {
		receive(t, "handler", arrived)
	}
	wantLen(t, q, 0)
}

// testTwoWorkers checks that each job goes to one worker, and that a busy worker does not
// hold a job back that another could do.
func testTwoWorkers(t *testing.T, p fabric.Provider) {
	const jobs = 40
	config := queueConfig(t)
	q, other := openQueue(t, p, config), openQueue(t, p, config)
	block := make(chan struct{})
	blocked := make(chan struct{}, jobs)
	handler, attempts := record(func(fabric.Job) error { return nil })
	work(t, q, func(ctx context.Context, job fabric.Job) error {
		blocked <- struct{}{}
		<-block
		return handler(ctx, job)
	})
	enqueue(t, q, fabric.Job{})
	receive(t, "blocked handler", blocked)
	work(t, other, handler)
	for range jobs - 1 {
		enqueue(t, q, fabric.Job{})
	}
	seen := map[string]bool{}
	for range jobs - 1 {
		seen[receive(t, "attempt by the other", attempts).ID] = true
	}
	close(block)
	seen[receive(t, "attempt by the blocked", attempts).ID] = true
	wantLen(t, q, 0)
	if len(seen) != jobs || len(attempts) != 0 {
		t.Errorf("%d of %d jobs done, %d twice", len(seen), jobs, len(attempts))
	}
}

func testLongHandler(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.Visibility = 6 * time.Second // longer than a busy machine keeps an extension waiting
	q := openQueue(t, p, config)
	enqueue(t, q, fabric.Job{})
	handler, attempts := record(func(fabric.Job) error {
		time.Sleep(config.Visibility * 3 / 2)
		return nil
	})
	work(t, q, handler)
	work(t, openQueue(t, p, config), handler)
	receive(t, "attempt", attempts)
	wantLen(t, q, 0)
	if len(attempts) != 0 {
		t.Errorf("%d more attempts while the first ran", len(attempts))
	}
}

// testWorkerDies ends the goroutine of a handler: a worker that neither returns nor keeps
// its job invisible.
func testWorkerDies(t *testing.T, p fabric.Provider) {
	config := queueConfig(t)
	config.Visibility = time.Second
	q := openQueue(t, p, config)
	began := time.Now() // before the job is taken, which may be long before its handler runs
	enqueue(t, q, fabric.Job{ID: "job"})
	var dead atomic.Bool
	handler, attempts := record(func(fabric.Job) error {
		if dead.CompareAndSwap(false, true) {
			runtime.Goexit()
		}
		return nil
	})
	work(t, q, handler)
	receive(t, "attempt", attempts)
	second := receive(t, "attempt after the worker died", attempts)
	if second.ID != "job" || second.Attempt != 1 {
		t.Errorf("got %s in attempt %d", second.ID, second.Attempt)
	}
	if waited := second.at.Sub(began); waited < config.Visibility/2 {
		t.Errorf("delivered again after %v, want about %v", waited, config.Visibility)
	}
	wantLen(t, q, 0)
}
