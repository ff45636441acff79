package telemetry

import "github.com/prometheus/client_golang/prometheus"

// NewCarrier returns the gauge that says whether a broker is there that carries parts of what nodes
// share, under prefix.
func NewCarrier(prefix, driver, parts string, there func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        prefix + "carrier_up",
		Help:        "1 while the broker that carries the parts answers, else 0.",
		ConstLabels: prometheus.Labels{"driver": driver, "parts": parts},
	}, func() float64 {
		if there() {
			return 1
		}
		return 0
	})
}
