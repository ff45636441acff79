package primitives

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the families of the service.
type Metrics struct {
	requests    *prometheus.CounterVec
	subscribers prometheus.Gauge
	held        prometheus.GaugeFunc
	server      *Server // nil until there is one
}

// NewMetrics declares the families.
func NewMetrics(prefix string) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "primitives_requests_total", Help: "Requests for primitives, by route and status.",
		}, []string{"route", "status"}),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: prefix + "primitives_subscribers", Help: "Subscribers of signals at this node.",
		}),
	}
	m.held = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: prefix + "primitives_held", Help: "Jobs on lease and locks that this node holds for clients.",
	}, func() float64 {
		if m.server == nil {
			return 0
		}
		return float64(m.server.held.count())
	})
	return m
}

// watch has the gauges tell of a server. It is called before anybody collects.
func (m *Metrics) watch(s *Server) { m.server = s }

// answered counts a request. The route is one of those that there are.
func (m *Metrics) answered(route string, status int) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(into chan<- *prometheus.Desc) {
	for _, c := range m.all() {
		c.Describe(into)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(into chan<- prometheus.Metric) {
	for _, c := range m.all() {
		c.Collect(into)
	}
}

func (m *Metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.requests, m.subscribers, m.held}
}
