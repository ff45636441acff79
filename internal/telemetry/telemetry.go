// Package telemetry is how a node tells what it does: its log, its metrics, its health.
//
// It may import the Prometheus client and the standard library. It must never import
// another room of Parley: everybody reports to it.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// NewLogger returns a logger that writes to w; level and format are values of the options
// log.level and log.format.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var threshold slog.Level
	if err := threshold.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: %w", level, err)
	}
	options := &slog.HandlerOptions{Level: threshold}
	if strings.EqualFold(format, "json") {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}

// Metrics is the node's registry of metric families.
type Metrics struct {
	registry *prometheus.Registry
	dropped  *prometheus.CounterVec
	unsent   prometheus.Counter
	webhooks *prometheus.CounterVec
	ledger   *prometheus.CounterVec
	lookups  *prometheus.CounterVec
}

// NewMetrics returns a registry with the families of the process and the Go runtime, under
// their standard names, and those of losses under prefix.
func NewMetrics(prefix, version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "dropped_total",
			Help: "What was lost or refused, by reason.",
		}, []string{"reason"}),
		unsent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "horizontal_broadcast_unsent_total",
			Help: "Events for other nodes that could not be sent.",
		}),
		webhooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "webhook_events_total",
			Help: "Webhook events by the result of each attempt to deliver them.",
		}, []string{"result"}),
		ledger: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "webhook_ledger_total",
			Help: "Changes of channels by what became of them at the webhook ledger of a cluster.",
		}, []string{"result"}),
		lookups: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "app_lookups_total",
			Help: "Apps that were looked up in the database because they were not in memory, by result.",
		}, []string{"result"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        prefix + "build_info",
		Help:        "Always 1; the labels tell what runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.Register(m.dropped, m.unsent, m.webhooks, m.ledger, m.lookups, build,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Register adds families. Two of one name are a mistake of the program.
func (m *Metrics) Register(families ...prometheus.Collector) { m.registry.MustRegister(families...) }

// Gauge adds a gauge that is read when somebody scrapes.
func (m *Metrics) Gauge(name, help string, read func() float64) {
	m.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, read))
}

// Drop counts one loss under its reason, a fixed name. Every loss anywhere goes through it.
func (m *Metrics) Drop(reason string) { m.dropped.WithLabelValues(reason).Inc() }

// Lost counts n things that were lost for a reason.
func (m *Metrics) Lost(reason string, n int) { m.dropped.WithLabelValues(reason).Add(float64(n)) }

// Unsent counts n events that could not be sent to other nodes.
func (m *Metrics) Unsent(n int) { m.unsent.Add(float64(n)) }

// Sent counts webhook events by the result of an attempt.
func (m *Metrics) Sent(result string, n int) { m.webhooks.WithLabelValues(result).Add(float64(n)) }

// Ledger counts changes of channels by their result at the webhook ledger.
func (m *Metrics) Ledger(result string, n int) { m.ledger.WithLabelValues(result).Add(float64(n)) }

// AppLookup counts an app that was looked up in the database.
func (m *Metrics) AppLookup(result string) { m.lookups.WithLabelValues(result).Inc() }

// Dropped counts n lost webhook events.
func (m *Metrics) Dropped(reason string, n int) {
	m.dropped.WithLabelValues("webhook_" + reason).Add(float64(n))
}

// Handler serves the families in Prometheus' text form.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}
