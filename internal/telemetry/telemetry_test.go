package telemetry

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestNewLogger(t *testing.T) {
	for _, test := range []struct {
		level, format string
		debug, info   bool
		json          bool
	}{
		{"debug", "text", true, true, false},
		{"info", "text", false, true, false},
		{"warn", "json", false, false, true},
		{"error", "json", false, false, true},
	} {
		var out bytes.Buffer
		log, err := NewLogger(&out, test.level, test.format)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug("one")
		log.Info("two")
		log.Error("three", "key", "a b")
		text := out.String()
		if strings.Contains(text, "one") != test.debug || strings.Contains(text, "two") != test.info || !strings.Contains(text, "three") {
			t.Errorf("%s: got %s", test.level, text)
		}
		last := text[strings.LastIndex(strings.TrimSpace(text), "\n")+1:]
		if json.Valid([]byte(last)) != test.json {
			t.Errorf("%s: got %s", test.format, last)
		}
	}
	if _, err := NewLogger(&bytes.Buffer{}, "loud", "text"); err == nil || !strings.Contains(err.Error(), `"loud"`) {
		t.Errorf("an unknown level: %v", err)
	}
}

// scrape returns what Prometheus would read.
func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestMetrics(t *testing.T) {
	m := NewMetrics("x_", "v1.2.3")
	m.Drop("slow_consumer")
	m.Drop("slow_consumer")
	m.Dropped("queue_full", 3)
	m.Lost("signal_stale", 2)
	m.Unsent(4)
	m.Sent("accepted", 5)
	waiting := 7.0
	m.Gauge("x_waiting", "What waits.", func() float64 { return waiting })
	waiting = 8 // it is read when somebody scrapes
	text := scrape(t, m)
	for _, line := range []string{
		`x_dropped_total{reason="slow_consumer"} 2`,
		`x_dropped_total{reason="webhook_queue_full"} 3`,
		`x_dropped_total{reason="signal_stale"} 2`,
		`x_horizontal_broadcast_unsent_total 4`,
		`x_webhook_events_total{result="accepted"} 5`,
		`x_build_info{version="v1.2.3"} 1`,
		`x_waiting 8`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is missing in\n%s", line, text)
		}
	}
}

func TestRegisterTwice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("two families of one name went unnoticed")
		}
	}()
	m := NewMetrics("x_", "")
	m.Gauge("x_dropped_total", "", func() float64 { return 0 })
}
