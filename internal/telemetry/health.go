package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// checkTimeout bounds one health check: a load balancer waits for the answer.
const checkTimeout = 2 * time.Second

// ErrDegraded is wrapped by the error of a critical Check that leaves the node able to serve.
var ErrDegraded = errors.New("serves with less")

// Check is one part that a node needs.
type Check struct {
	Name     string
	Critical bool // without it the node cannot serve; otherwise it serves less
	Probe    func(ctx context.Context) error
}

// failedHeader names the parts that are not well, separated by commas.
const failedHeader = "X-Health-Failed"

// Health answers whether the node lives, may get traffic, and is well.
type Health struct {
	Checks []Check
	// App tells whether an app exists and is enabled, for /up/{app}; an error if nobody can tell.
	App func(ctx context.Context, id string) (bool, error)
	Log *slog.Logger

	draining atomic.Bool
	starting atomic.Pointer[string] // what the node waits for; nil when it serves

	running sync.WaitGroup // who asks the parts

	mu      sync.Mutex    // guards the following fields
	asking  chan struct{} // closed when the parts have been asked; nil when nobody does, so that a flood of probes asks once
	began   time.Time     // when that began
	checked time.Time     // when they had been asked last
	status  int
	word    string
	failed  []string // names of the checks behind that

	logged time.Time // when one that failed was last logged; used by who asks
}

// logInterval is between two lines in the log about a check that goes on failing.
const logInterval = time.Minute

// checkInterval is how long an answer of the parts is used: probes come unauthenticated, and
// asking the engine costs it work.
const checkInterval = time.Second

// Load balancers give a probe about a second. While the parts are being asked for longer than
// answerTime, as during an election or while the disk is slow, the last answer counts, for askingTime:
// otherwise all nodes of a cluster leave the rotation together.
const (
	answerTime = 500 * time.Millisecond
	askingTime = 5 * time.Second
)

// Drain takes the node out of rotation: /ready and /up answer 503 until Resume.
func (h *Health) Drain() { h.draining.Store(true) }

// Resume takes the node back into the rotation.
func (h *Health) Resume() { h.draining.Store(false) }

// Draining tells whether Drain was called, and Resume not since.
func (h *Health) Draining() bool { return h.draining.Load() }

// Register adds the health endpoints to mux, below prefix.
func (h *Health) Register(mux *http.ServeMux, prefix string, usage bool) {
	mux.HandleFunc("GET "+prefix+"/live", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "OK") })
	mux.HandleFunc("GET "+prefix+"/ready", h.up)
	mux.HandleFunc("GET "+prefix+"/up", h.up)
	mux.HandleFunc("GET "+prefix+"/up/{app}", h.upApp)
	if usage {
		mux.HandleFunc("GET "+prefix+"/usage", serveUsage)
	}
}

// Starting says that the node does not serve yet, and what it waits for: until Started,
// /ready and /up answer 503 with that text. Checks and App may be set in between.
func (h *Health) Starting(waiting string) { h.starting.Store(&waiting) }

// Started says that the node serves.
func (h *Health) Started() { h.starting.Store(nil) }

// Waiting returns what a node that starts waits for, and whether it does start.
func (h *Health) Waiting() (waiting string, starting bool) {
	if text := h.starting.Load(); text != nil {
		return *text, true
	}
	return "", false
}

func say(w http.ResponseWriter, status int, word string) { explain(w, status, word, word) }

// explain answers with more than the word.
func explain(w http.ResponseWriter, status int, word, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Health-Check", word)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the prober is gone; nobody is left to tell
}

func (h *Health) up(w http.ResponseWriter, r *http.Request) {
	if waiting, starting := h.Waiting(); starting && !h.Draining() {
		explain(w, http.StatusServiceUnavailable, "STARTING", waiting)
		return
	}
	status, word, failed := h.state(r.Context())
	if len(failed) > 0 {
		w.Header().Set(failedHeader, strings.Join(failed, ", "))
	}
	say(w, status, word)
}

func (h *Health) upApp(w http.ResponseWriter, r *http.Request) {
	if _, starting := h.Waiting(); starting { // it does not know its apps yet
		h.up(w, r)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	switch there, err := h.App(ctx, r.PathValue("app")); {
	case err != nil:
		say(w, http.StatusServiceUnavailable, "ERROR")
	case !there:
		say(w, http.StatusNotFound, "NOT_FOUND")
	default:
		h.up(w, r)
	}
}

func (h *Health) state(ctx context.Context) (status int, word string, failed []string) {
	if h.Draining() {
		return http.StatusServiceUnavailable, "DRAINING", nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asking == nil && time.Since(h.checked) < checkInterval {
		return h.status, h.word, h.failed
	}
	if h.asking == nil {
		h.asking, h.began = make(chan struct{}), time.Now()
		// A prober that hangs up must not make the next one believe that a part failed.
		h.running.Go(func() { h.ask(context.WithoutCancel(ctx)) })
	}
	asking, wait := h.asking, answerTime
	if h.checked.IsZero() { // nothing is known yet
		wait = checkTimeout * time.Duration(1+len(h.Checks))
	}
	h.mu.Unlock()
	select {
	case <-asking:
	case <-time.After(wait):
	case <-ctx.Done():
	}
	h.mu.Lock()
	if h.checked.IsZero() || h.asking != nil && time.Since(h.began) >= askingTime {
		return http.StatusServiceUnavailable, "ERROR", []string{"health"} // a part hangs
	}
	return h.status, h.word, h.failed
}

// ask asks the parts and notes what they say.
func (h *Health) ask(ctx context.Context) {
	status, word, failed := h.check(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checked, h.status, h.word, h.failed = time.Now(), status, word, failed
	close(h.asking)
	h.asking = nil
}

// Wait returns when no part is being asked. Nobody may ask any more.
func (h *Health) Wait() { h.running.Wait() }

func (h *Health) check(ctx context.Context) (status int, word string, failed []string) {
	status, word = http.StatusOK, "OK"
	for _, check := range h.Checks {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		err := check.Probe(ctx)
		cancel()
		if err == nil {
			continue
		}
		if !slices.Contains(h.failed, check.Name) || time.Since(h.logged) >= logInterval {
			h.logged = time.Now()
			h.Log.Warn("health check failed", "check", check.Name, "error", err)
		}
		failed = append(failed, check.Name)
		switch {
		case check.Critical && !errors.Is(err, ErrDegraded):
			status, word = http.StatusServiceUnavailable, "ERROR"
		case status == http.StatusOK:
			word = "DEGRADED"
		}
	}
	return status, word, failed
}

// memoryUsage is the answer of /usage in the shape that Sockudo and soketi give. Free and
// total are those of the Go heap, the part of memory this process decides about.
type memoryUsage struct {
	Free    uint64  `json:"free"`
	Used    uint64  `json:"used"`
	Total   uint64  `json:"total"`
	Percent float64 `json:"percent"`
}

func serveUsage(w http.ResponseWriter, _ *http.Request) {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	usage := memoryUsage{Used: stats.HeapInuse + stats.StackInuse, Total: stats.Sys}
	usage.Free = usage.Total - min(usage.Used, usage.Total)
	usage.Percent = 100 * float64(usage.Used) / float64(max(1, usage.Total))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]memoryUsage{"memory": usage}) // the client is gone
}
