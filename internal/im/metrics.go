package im

import "github.com/prometheus/client_golang/prometheus"

// Reasons under which losses and refusals are counted.
const (
	dropMalformed   = "im_malformed"          // a message of another node that cannot be read
	dropTell        = "im_not_told"           // the other nodes were not told of a login or a kick
	dropRelay       = "im_not_handed_on"      // messages for another node that were not sent; they go again
	dropSource      = "im_datasource"         // a channel that the datasource did not tell of
	dropFrame       = "im_bad_frame"          // bytes of a client that are no frame
	dropProtocol    = "im_protocol"           // a packet that may not come then, or from a client at all
	dropFirstFrame  = "im_no_connect"         // no CONNECT in time
	dropIdle        = "im_idle"               // nothing came from the client for too long
	dropFlood       = "im_flood"              // more SENDs than a connection may have under way
	dropSendRate    = "im_send_rate"          // more SENDs a second than a connection may send
	dropPacketRate  = "im_packet_rate"        // more packets a second; the connection is ended
	dropInbox       = "im_inbox_full"         // more packets than a connection may have waiting
	dropCursor      = "im_cursor_not_written" // commands that were confirmed are handed out again
	dropUnacked     = "im_unacked_forgotten"  // too many RECVs wait for their RECVACK; the oldest is not sent again
	dropUndelivered = "im_never_acked"        // a RECV that was sent again as often as it may be
)

// Metrics are those of messaging.
type Metrics struct {
	sends       *prometheus.CounterVec // by reason
	receives    prometheus.Counter
	receiveAcks prometheus.Counter
	resends     prometheus.Counter
	logins      *prometheus.CounterVec // by reason
	kicks       prometheus.Counter
	lost        func(reason string, n int)
	connections prometheus.Gauge
	users       prometheus.Gauge
	sendSeconds prometheus.Histogram
	all         []prometheus.Collector
}

// NewMetrics makes the metrics; their names begin with prefix. lost is told of what is lost or refused,
// with one of the reasons above, and how many.
func NewMetrics(prefix string, lost func(reason string, n int)) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + name, Help: help})
	}
	byReason := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, []string{"reason"})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: help})
	}
	m := &Metrics{
		sends:       byReason("im_sends_total", "Messages that clients sent, by the reason code of their SENDACK."),
		receives:    counter("im_receives_total", "Messages handed to connections of clients."),
		receiveAcks: counter("im_receive_acks_total", "Messages whose receipt a client confirmed."),
		resends:     counter("im_receives_resent_total", "Messages handed to a connection again because it did not confirm them."),
		logins:      byReason("im_logins_total", "Logins of clients, by the reason code of their CONNACK."),
		kicks:       counter("im_kicks_total", "Connections ended because the user logged in elsewhere or was sent away."),
		lost:        lost,
		connections: gauge("im_connections", "Clients that are logged in on this node."),
		users:       gauge("im_users", "Users with a client that is logged in on this node."),
		sendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "im_send_seconds", Help: "Time from a SEND to its SENDACK.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
	}
	m.all = []prometheus.Collector{
		m.sends, m.receives, m.receiveAcks, m.resends, m.logins, m.kicks, m.connections, m.users, m.sendSeconds,
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(ch)
	}
}

func (m *Metrics) dropped(reason string) { m.lost(reason, 1) }
