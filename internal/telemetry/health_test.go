package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// probe is a check that a test fails and mends.
type probe struct {
	err   error
	asked int
}

func (p *probe) ask(context.Context) error {
	p.asked++
	return p.err
}

// ask returns status and word of a health endpoint.
func ask(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	if w.Code != http.StatusNotFound || w.Header().Get("X-Health-Check") != "" {
		if w.Header().Get("X-Health-Check") != w.Body.String() || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %q with %v", path, w.Body, w.Header())
		}
	}
	return w.Code, w.Body.String()
}

func TestHealth(t *testing.T) { synctest.Test(t, testHealth) }

func testHealth(t *testing.T) {
	var log bytes.Buffer
	critical, other := &probe{}, &probe{}
	h := &Health{
		Checks: []Check{{"other", false, other.ask}, {"critical", true, critical.ask}},
		App: func(_ context.Context, id string) (bool, error) {
			if id == "away" {
				return false, errors.New("nobody can tell")
			}
			return id == "known", nil
		},
		Log: slog.New(slog.NewTextHandler(&log, nil)),
	}
	mux := http.NewServeMux()
	h.Register(mux, "/prefix", false)
	want := func(path string, status int, word string) {
		t.Helper()
		if s, w := ask(t, mux, "/prefix"+path); s != status || w != word {
			t.Errorf("%s: got %d %q, want %d %q", path, s, w, status, word)
		}
	}
	all := func(status int, word string) {
		t.Helper()
		time.Sleep(checkInterval) // until then the last answer is used
		asked := other.asked
		for _, path := range []string{"/up", "/ready", "/up/known"} {
			want(path, status, word)
		}
		want("/live", 200, "OK")
		want("/up/unknown", 404, "NOT_FOUND")
		want("/up/away", 503, "ERROR")
		if n := other.asked - asked; n > 1 {
			t.Errorf("the parts were asked %d times for three probes", n)
		}
	}
	all(200, "OK")
	other.err = errors.New("other is gone")
	all(200, "DEGRADED")
	critical.err = errors.New("critical is gone")
	all(503, "ERROR")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/prefix/ready", nil))
	if got := w.Header().Get(failedHeader); got != "other, critical" {
		t.Errorf("the parts that failed are %q", got)
	}
	other.err = nil
	all(503, "ERROR")
	critical.err = fmt.Errorf("%w: nothing can be stored", ErrDegraded)
	all(200, "DEGRADED")
	critical.err = nil
	all(200, "OK")
	h.Drain()
	all(503, "DRAINING")
	for _, part := range []string{"check=other", `error="other is gone"`, "check=critical"} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("%q is not in the log", part)
		}
	}
	if lines := strings.Count(log.String(), "check=critical"); lines != 1 {
		t.Errorf("one failure is logged %d times", lines)
	}
	h.Resume()
	critical.err = errors.New("critical is gone for long")
	for range 90 { // seconds
		all(503, "ERROR")
	}
	if lines := strings.Count(log.String(), "for long"); lines != 2 {
		t.Errorf("a failure of one and a half minutes is logged %d times", lines)
	}
	if s, _ := ask(t, mux, "/prefix/usage"); s != 404 {
		t.Errorf("/usage is served: %d", s)
	}
	if s, _ := ask(t, mux, "/up"); s != 404 {
		t.Errorf("it is served without the prefix: %d", s)
	}
}

// A node that starts says so and for what it waits, before it has checks and apps.
func TestHealthStarting(t *testing.T) {
	h := &Health{}
	h.Starting("waiting for two others")
	mux := http.NewServeMux()
	h.Register(mux, "", false)
	expect := func(path string, status int, word, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != status || w.Header().Get("X-Health-Check") != word || w.Body.String() != body {
			t.Errorf("%s: got %d %v %q", path, w.Code, w.Header(), w.Body)
		}
	}
	for _, path := range []string{"/ready", "/up", "/up/any"} {
		expect(path, 503, "STARTING", "waiting for two others")
	}
	expect("/live", 200, "OK", "OK")
	h.Drain()
	expect("/ready", 503, "DRAINING", "DRAINING")
	h.Resume()
	h.App = func(_ context.Context, id string) (bool, error) { return id == "7", nil }
	h.Started()
	expect("/up/7", 200, "OK", "OK")
	expect("/up/8", 404, "NOT_FOUND", "NOT_FOUND")
}

// A check that hangs fails in time and does not use up the time of the next.
func TestHealthTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left time.Duration
		hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		h := &Health{
			Checks: []Check{
				{"first", false, hangs},
				{"second", true, func(ctx context.Context) error {
					deadline, _ := ctx.Deadline()
					left = time.Until(deadline)
					return nil
				}},
			},
			Log: slog.New(slog.DiscardHandler),
		}
		start := time.Now()
		status, word, failed := h.state(t.Context())
		if took := time.Since(start); status != 200 || word != "DEGRADED" || failed[0] != "first" || took != checkTimeout || left != checkTimeout {
			t.Errorf("got %d %s %v after %v, %v were left", status, word, failed, took, left)
		}
	})
}

// While a part thinks for long the last answer is given in time, and not for ever.
func TestHealthSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		close(slow)
		h := &Health{
			Checks: []Check{{"part", true, func(context.Context) error { <-slow; return errors.New("gone") }}},
			Log:    slog.New(slog.DiscardHandler),
		}
		want := func(status int, word string, within time.Duration) {
			t.Helper()
			start := time.Now()
			s, w, failed := h.state(t.Context())
			if took := time.Since(start); s != status || w != word || took > within {
				t.Errorf("got %d %s %v after %v", s, w, failed, took)
			}
		}
		h.Checks[0].Critical = false
		want(200, "DEGRADED", 0)
		h.Checks[0].Critical = true
		slow = make(chan struct{})
		time.Sleep(checkInterval)
		for range 5 {
			want(200, "DEGRADED", answerTime)
			time.Sleep(500 * time.Millisecond)
		}
		want(503, "ERROR", answerTime)
		close(slow)
		h.Wait()
		want(503, "ERROR", 0)
	})
}

func TestUsage(t *testing.T) {
	mux := http.NewServeMux()
	(&Health{}).Register(mux, "", true)
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/usage", nil))
	var usage map[string]map[string]float64
	if err := json.Unmarshal(w.Body.Bytes(), &usage); err != nil || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%s: %v", w.Body, err)
	}
	m := usage["memory"]
	if len(m) != 4 || m["used"] <= 0 || m["total"] < m["used"] || m["free"] != m["total"]-m["used"] ||
		m["percent"] <= 0 || m["percent"] > 100 {
		t.Errorf("got %v", usage)
	}
}
