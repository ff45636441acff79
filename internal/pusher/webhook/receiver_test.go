package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// patience bounds every wait for something that must happen.
const patience = time.Minute

// delivery is one request that a receiver got.
type delivery struct {
	header http.Header
	body   []byte
}

// events returns the events of a delivery as JSON texts.
func (d delivery) events(t *testing.T) []string {
	t.Helper()
	var content struct {
		TimeMS int64             `json:"time_ms"`
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(d.body, &content); err != nil {
		t.Fatalf("body %s: %v", d.body, err)
	}
	if age := time.Since(time.UnixMilli(content.TimeMS)); age < 0 || age > time.Minute {
		t.Errorf("time_ms is %v ago", age)
	}
	return texts(content.Events)
}

// signedWith reports whether the signature is that of the raw body.
func (d delivery) signedWith(secret string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(d.body)
	return d.header.Get("X-Pusher-Signature") == hex.EncodeToString(mac.Sum(nil))
}

// receiver is an application's server. It answers with the given statuses in turn, and
// then with the last of them.
type receiver struct {
	*httptest.Server
	got chan delivery

	mu       sync.Mutex
	statuses []int
}

func newReceiver(t *testing.T, statuses ...int) *receiver {
	t.Helper()
	r := &receiver{got: make(chan delivery, 1000), statuses: statuses}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(request.Body)
		if err != nil || request.Method != http.MethodPost {
			t.Errorf("%s with %v", request.Method, err)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(r.status())
		r.got <- delivery{header: request.Header.Clone(), body: body}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) status() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := r.statuses[0]
	if len(r.statuses) > 1 {
		r.statuses = r.statuses[1:]
	}
	return status
}

func (r *receiver) answerWith(statuses ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statuses = statuses
}

// next waits for a request.
func (r *receiver) next(t *testing.T) delivery {
	t.Helper()
	select {
	case d := <-r.got:
		return d
	case <-time.After(patience):
		t.Fatalf("no request within %v", patience)
		return delivery{}
	}
}

// none fails the test if a request came that next did not take.
func (r *receiver) none(t *testing.T) {
	t.Helper()
	select {
	case d := <-r.got:
		t.Errorf("unexpected request %s", d.body)
	default:
	}
}

// appAt is an app with one hook at each address.
func appAt(urls ...string) apps.App {
	app := apps.App{ID: "a", Key: "key-a", Secret: "secret-a"}
	for _, url := range urls {
		app.Webhooks = append(app.Webhooks, apps.Webhook{URL: url})
	}
	return app
}

// quick are options with which failures take milliseconds.
func quick() Options {
	return Options{
		BatchInterval: time.Millisecond,
		Timeout:       5 * time.Second,
		RetryInitial:  5 * time.Millisecond,
		RetryMax:      20 * time.Millisecond,
		RetryElapsed:  time.Minute,
	}
}

// node is an Emitter over a real queue.
type node struct {
	*Emitter
	apps   *registry
	counts *counts
	log    *lockedBuffer
}

func newNode(t *testing.T, provider fabric.Provider, options Options, list ...apps.App) *node {
	t.Helper()
	queue, err := provider.Queue(t.Context(), options.QueueConfig())
	if err != nil {
		t.Fatal(err)
	}
	n := &node{apps: newRegistry(t, list...), counts: newCounts(), log: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	n.Emitter = New(options, n.apps, queue, log, n.counts)
	return n
}

// startNode returns a node that runs until the test ends.
func startNode(t *testing.T, options Options, list ...apps.App) *node {
	t.Helper()
	n := newNode(t, memory.New(), options, list...)
	start(t, n.Emitter)
	return n
}

// waitDead waits for the first dead letter.
func (n *node) waitDead(t *testing.T) Dead {
	t.Helper()
	var list []Dead
	eventually(t, "a dead letter", func() (err error) {
		list, err = n.ListDead(t.Context(), "", 10)
		return err
	}, func() bool { return len(list) > 0 })
	return list[0]
}

// waitSent waits until n events ended with that result.
func (n *node) waitSent(t *testing.T, result string, events int) {
	t.Helper()
	eventually(t, result, func() error { return nil },
		func() bool { return n.counts.sentNow()[result] == events })
}

// eventually refreshes until the condition holds, for what no event can be awaited.
func eventually(t *testing.T, what string, refresh func() error, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := refresh(); err != nil {
			t.Fatal(err)
		}
		if holds() {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// lockedBuffer is a log that may be written and read at once.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
