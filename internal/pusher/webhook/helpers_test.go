package webhook

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// registry is an Apps whose apps a test may replace at any time.
type registry struct {
	mu   sync.Mutex
	apps map[string]*apps.App
	away bool // nobody can tell
}

func newRegistry(t *testing.T, list ...apps.App) *registry {
	t.Helper()
	r := &registry{apps: make(map[string]*apps.App)}
	for _, app := range list {
		r.put(t, app)
	}
	return r
}

func (r *registry) put(t *testing.T, app apps.App) {
	t.Helper()
	for i := range app.Webhooks {
		if err := app.Webhooks[i].Filter.Compile(); err != nil {
			t.Fatal(err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apps[app.ID] = &app
}

func (r *registry) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.apps, id)
}

func (r *registry) ByID(id string) (*apps.App, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	app, found := r.apps[id]
	return app, found
}

func (r *registry) FindByID(_ context.Context, id string) (*apps.App, error) {
	r.mu.Lock()
	away := r.away
	r.mu.Unlock()
	if away {
		return nil, apps.ErrUnavailable
	}
	if app, found := r.ByID(id); found {
		return app, nil
	}
	return nil, apps.ErrNotFound
}

// setAway has FindByID answer, or not.
func (r *registry) setAway(away bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away = away
}

// counts is a Metrics that remembers.
type counts struct {
	mu            sync.Mutex
	sent, dropped map[string]int
	ledger        map[string]int
}

func newCounts() *counts {
	return &counts{sent: make(map[string]int), dropped: make(map[string]int), ledger: make(map[string]int)}
}

func (c *counts) Ledger(result string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger[result] += n
}

func (c *counts) Sent(result string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent[result] += n
}

func (c *counts) Dropped(reason string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropped[reason] += n
}

func (c *counts) sentNow() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.sent)
}

func (c *counts) droppedNow() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.dropped)
}

// recorder is a queue that keeps what it is given and works on nothing.
type recorder struct {
	mu      sync.Mutex
	jobs    []fabric.Job
	failure error           // what Enqueue returns
	blocked chan struct{}   // if set, Enqueue waits until it is closed
	ids     map[string]bool // of the jobs, where each is taken once
}

func (r *recorder) Enqueue(ctx context.Context, job fabric.Job) (string, error) {
	r.mu.Lock()
	blocked, failure := r.blocked, r.failure
	r.mu.Unlock()
	if blocked != nil {
		select {
		case <-blocked:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if failure != nil {
		return "", failure
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.jobs = append(r.jobs, job)
	return job.ID, nil
}

func (r *recorder) setFailure(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failure = err
}

func (r *recorder) Work(ctx context.Context, _ fabric.Handler) error {
	<-ctx.Done()
	return nil
}

func (r *recorder) Len(context.Context) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.jobs), nil
}

func (r *recorder) DeadLetters(context.Context, string, int) ([]fabric.DeadLetter, error) {
	return nil, nil
}
func (r *recorder) Replay(context.Context, string) error  { return fabric.ErrNotFound }
func (r *recorder) Discard(context.Context, string) error { return fabric.ErrNotFound }

// sentBatch is a batch as tests compare it: where it goes and its events' JSON.
type sentBatch struct {
	AppID, URL string
	Events     []string
}

// batches returns what was enqueued, in order.
func (r *recorder) batches(t *testing.T) []sentBatch {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []sentBatch
	for _, job := range r.jobs {
		var p payload
		if err := json.Unmarshal(job.Payload, &p); err != nil {
			t.Fatal(err)
		}
		list = append(list, sentBatch{AppID: p.AppID, URL: p.URL, Events: texts(p.Events)})
	}
	return list
}

// events returns all events that were enqueued, in order.
func (r *recorder) events(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, b := range r.batches(t) {
		list = append(list, b.Events...)
	}
	return list
}

func texts(raw []json.RawMessage) []string {
	var list []string
	for _, event := range raw {
		list = append(list, string(event))
	}
	return list
}

// bench is an Emitter that runs in a synctest bubble and enqueues into a recorder.
type bench struct {
	*Emitter
	queue  *recorder
	counts *counts
	stop   func() // ends Run and waits for it; may be called twice
}

// inBubble runs test with a fake clock and an Emitter that is ended afterwards.
func inBubble(t *testing.T, options Options, list []apps.App, test func(*testing.T, *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{queue: &recorder{}, counts: newCounts()}
		b.Emitter = New(options, newRegistry(t, list...), b.queue, slog.New(slog.DiscardHandler), b.counts)
		b.stop = start(t, b.Emitter)
		test(t, b)
		b.stop()
	})
}

// start runs the Emitter until the function it returns is called, or the test ends.
func start(t *testing.T, e *Emitter) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := e.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(stop)
	return stop
}

// after lets d pass on the fake clock and everything that is due happen.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

const hookURL = "http://receiver.test/hook"

// oneHook is an app with one hook that wants everything.
func oneHook(id string) apps.App {
	return apps.App{ID: id, Key: "key-" + id, Secret: "secret-" + id,
		Webhooks: []apps.Webhook{{URL: hookURL}}}
}
