package api

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/ratelimit"
)

// Metrics are the families of the REST API and of the rate limits.
type Metrics struct {
	bytesIn, bytesOut, calls *prometheus.CounterVec
	answers, rejected        *prometheus.CounterVec
	checks, triggered        *prometheus.CounterVec
	upgradeErrors            prometheus.Counter
}

// NewMetrics declares the families; port is the value of their port label.
func NewMetrics(prefix, port string) *Metrics {
	options := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: prefix + name, Help: help, ConstLabels: prometheus.Labels{"port": port}}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(options(name, help), labels)
	}
	return &Metrics{
		bytesIn:       counter("http_received_bytes", "Bytes of API request bodies.", "app_id"),
		bytesOut:      counter("http_transmitted_bytes", "Bytes of API answers.", "app_id"),
		calls:         counter("http_calls_received_total", "API requests received.", "app_id"),
		answers:       counter("http_answers_total", "API requests answered, by status.", "status"),
		rejected:      counter("http_rejected_total", "API requests refused, by reason.", "reason"),
		checks:        counter("rate_limit_checks_total", "Requests held against a rate limit.", "limiter_type", "request_context"),
		triggered:     counter("rate_limit_triggered_total", "Requests refused by a rate limit.", "limiter_type", "request_context"),
		upgradeErrors: prometheus.NewCounter(options("upgrade_errors_total", "WebSocket handshakes that failed.")),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(ch)
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.bytesIn, m.bytesOut, m.calls, m.answers, m.checks, m.triggered, m.upgradeErrors, m.rejected}
}

func (m *Metrics) called(app *apps.App, bytes int) {
	m.calls.WithLabelValues(app.ID).Inc()
	m.bytesIn.WithLabelValues(app.ID).Add(float64(bytes))
}

// answered counts an answer; app is nil when the request named no known app, since a
// caller's text must not become a label.
func (m *Metrics) answered(app *apps.App, status, bytes int) {
	m.answers.WithLabelValues(strconv.Itoa(status)).Inc()
	if app != nil {
		m.bytesOut.WithLabelValues(app.ID).Add(float64(bytes))
	}
}

// Forget drops the series of a deleted app.
func (m *Metrics) Forget(appID string) {
	labels := prometheus.Labels{"app_id": appID}
	for _, family := range []*prometheus.CounterVec{m.bytesIn, m.bytesOut, m.calls} {
		family.DeletePartialMatch(labels)
	}
}

// limit asks a limiter and counts the answer.
func (m *Metrics) limit(context string, limiter Limiter, address Address) ratelimit.Result {
	if limiter.Limit() <= 0 {
		return ratelimit.Result{OK: true}
	}
	m.checks.WithLabelValues("ip", context).Inc()
	result := limiter.Allow(subscriber(address), 1)
	if !result.OK {
		m.triggered.WithLabelValues("ip", context).Inc()
	}
	return result
}

func (m *Metrics) quotaExceeded(context string) {
	m.triggered.WithLabelValues("app", context).Inc()
}
