package pusher

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleyio/parley/internal/pusher/protocol"
)

// stats are an app's counters. They are plain atomics, read when somebody scrapes, because
// a labelled counter costs a map look-up for every frame.
type stats struct {
	opened, closed         atomic.Int64
	framesIn, bytesIn      atomic.Int64
	framesOut, bytesOut    atomic.Int64
	joinedKind, leftByKind [kinds]atomic.Int64
	toNodes, fromNodes     atomic.Int64 // events sent to and received from other nodes
}

// kinds is one more than the largest Kind.
const kinds = int(protocol.UserOnly) * 2

func (s *stats) connected()                   { s.opened.Add(1) }
func (s *stats) disconnected()                { s.closed.Add(1) }
func (s *stats) subscribed(k protocol.Kind)   { s.joinedKind[k].Add(1) }
func (s *stats) unsubscribed(k protocol.Kind) { s.leftByKind[k].Add(1) }

func (s *stats) received(bytes int) {
	s.framesIn.Add(1)
	s.bytesIn.Add(int64(bytes))
}

func (s *stats) sent(frames, bytes int) {
	s.framesOut.Add(int64(frames))
	s.bytesOut.Add(int64(bytes))
}

// Metrics are the channel surface's families, named as Sockudo's and soketi's dashboards
// expect them, under a prefix of one's own.
type Metrics struct {
	hub *Hub

	connected, opened, closed, bytesIn, bytesOut *prometheus.Desc
	framesIn, framesOut, joined, left, active    *prometheus.Desc
	toNodes, fromNodes                           *prometheus.Desc
	errors, rejections                           *prometheus.CounterVec
	latency                                      *prometheus.HistogramVec
}

// NewMetrics declares the families; port is the value of their port label.
func NewMetrics(prefix, port string) *Metrics {
	constant := prometheus.Labels{"port": port}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+name, help, append([]string{"app_id"}, labels...), constant)
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help, ConstLabels: constant}, labels)
	}
	return &Metrics{
		connected: desc("connected", "Clients that are connected now."),
		opened:    desc("new_connections_total", "Clients that connected."),
		closed:    desc("new_disconnections_total", "Clients that went."),
		bytesIn:   desc("socket_received_bytes", "Bytes of messages received from clients."),
		bytesOut:  desc("socket_transmitted_bytes", "Bytes of frames queued for clients."),
		framesIn:  desc("ws_messages_received_total", "Messages received from clients."),
		framesOut: desc("ws_messages_sent_total", "Messages queued for clients."),
		joined:    desc("channel_subscriptions_total", "Subscriptions made.", "channel_type"),
		left:      desc("channel_unsubscriptions_total", "Subscriptions ended.", "channel_type"),
		toNodes: desc("horizontal_broadcast_published_total",
			"Events handed over for other nodes; only those with subscribers of the channel receive them."),
		fromNodes: desc("horizontal_broadcast_received_total",
			"Events received from other nodes, each for a channel with subscribers here."),
		active: desc("active_channels", "Channels with subscribers now.", "channel_type"),
		errors: counter("connection_errors_total",
			"Connections refused, by reason.", "app_id", "error_type"),
		rejections: counter("rejected_messages_total",
			"Client messages refused and clients closed for a fault, by reason.", "reason"),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:        prefix + "broadcast_latency_ms",
			Help:        "Time from accepting an event to having it queued for all its subscribers.",
			ConstLabels: constant,
			Buckets:     []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 5000},
		}, []string{"app_id", "channel_type", "recipient_count_bucket"}),
	}
}

func (m *Metrics) attach(h *Hub) { m.hub = h }

func (m *Metrics) connectionError(appID, reason string) {
	m.errors.WithLabelValues(appID, reason).Inc()
}
func (m *Metrics) rejected(reason string) { m.rejections.WithLabelValues(reason).Inc() }

// forget drops the series of a deleted app.
func (m *Metrics) forget(appID string) {
	labels := prometheus.Labels{"app_id": appID}
	m.errors.DeletePartialMatch(labels)
	m.latency.DeletePartialMatch(labels)
}

func (m *Metrics) published(appID string, kind protocol.Kind, recipients int, d time.Duration) {
	m.latency.WithLabelValues(appID, kind.String(), sizeBucket(recipients)).
		Observe(float64(d) / float64(time.Millisecond))
}

func sizeBucket(recipients int) string {
	switch {
	case recipients <= 10:
		return "xs"
	case recipients <= 100:
		return "sm"
	case recipients <= 1000:
		return "md"
	case recipients <= 10000:
		return "lg"
	}
	return "xl"
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.connected, m.opened, m.closed, m.bytesIn, m.bytesOut,
		m.framesIn, m.framesOut, m.joined, m.left, m.active, m.toNodes, m.fromNodes} {
		ch <- d
	}
	m.errors.Describe(ch)
	m.rejections.Describe(ch)
	m.latency.Describe(ch)
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	m.errors.Collect(ch)
	m.rejections.Collect(ch)
	m.latency.Collect(ch)
	if m.hub == nil {
		return
	}
	for _, r := range m.hub.all() {
		m.collectApp(ch, r)
	}
}

func (m *Metrics) collectApp(ch chan<- prometheus.Metric, r *realm) {
	value := func(d *prometheus.Desc, kind prometheus.ValueType, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(v), append([]string{r.id}, labels...)...)
	}
	s := &r.stats
	value(m.connected, prometheus.GaugeValue, int64(r.connections()))
	value(m.opened, prometheus.CounterValue, s.opened.Load())
	value(m.closed, prometheus.CounterValue, s.closed.Load())
	value(m.bytesIn, prometheus.CounterValue, s.bytesIn.Load())
	value(m.bytesOut, prometheus.CounterValue, s.bytesOut.Load())
	value(m.framesIn, prometheus.CounterValue, s.framesIn.Load())
	value(m.framesOut, prometheus.CounterValue, s.framesOut.Load())
	value(m.toNodes, prometheus.CounterValue, s.toNodes.Load())
	value(m.fromNodes, prometheus.CounterValue, s.fromNodes.Load())
	var active [kinds]int64
	r.rooms.each(func(room *room) {
		if room.Len() > 0 {
			active[room.Kind]++
		}
	})
	for k := range kinds {
		joined, left := s.joinedKind[k].Load(), s.leftByKind[k].Load()
		if joined == 0 {
			continue
		}
		name := protocol.Kind(k).String()
		value(m.joined, prometheus.CounterValue, joined, name)
		value(m.left, prometheus.CounterValue, left, name)
		value(m.active, prometheus.GaugeValue, active[k], name)
	}
}
