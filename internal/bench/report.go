package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what a run measured. Parts that a mode does not measure are nil.
type Report struct {
	Mode             string           `json:"mode"` // throughput, idle, drop or churn
	URLs             []string         `json:"urls"`
	Connections      int              `json:"connections"`
	Channels         int              `json:"channels"`
	Via              string           `json:"via,omitempty"`
	Publishers       int              `json:"publishers,omitempty"`
	OfferedPerSecond float64          `json:"offered_per_second"` // 0 is flat out
	PayloadBytes     int              `json:"payload_bytes,omitempty"`
	WindowSeconds    float64          `json:"window_seconds,omitempty"`
	Connect          *ConnectReport   `json:"connect,omitempty"`
	Publish          *PublishReport   `json:"publish,omitempty"`
	Delivery         *DeliveryReport  `json:"delivery,omitempty"`
	Drop             *DropReport      `json:"drop,omitempty"`
	Churn            *ChurnReport     `json:"churn,omitempty"`
	Server           *ServerReport    `json:"server,omitempty"`
	Bench            *CPU             `json:"bench,omitempty"` // this process in the window
	Closes           map[string]int64 `json:"closes"`          // by the server, by code
	Errors           map[string]int64 `json:"errors"`          // pusher:error, by code
	Pings            int64            `json:"pings"`
	Interrupted      bool             `json:"interrupted"`
}

// ConnectReport covers connecting all subscribers.
type ConnectReport struct {
	Connected   int64            `json:"connected"`
	Failed      map[string]int64 `json:"failed"`
	Seconds     float64          `json:"seconds"`
	PerSecond   float64          `json:"per_second"`
	Established *Latency         `json:"established,omitempty"` // TCP connect to established
	Subscribed  *Latency         `json:"subscribed,omitempty"`  // TCP connect to subscribed
}

// PublishReport covers publishing: rates in the window, counts of the whole load.
type PublishReport struct {
	Accepted          int64            `json:"accepted"`
	AcceptedPerSecond float64          `json:"accepted_per_second"`
	Refused           map[string]int64 `json:"refused"` // by HTTP status
	Failed            map[string]int64 `json:"failed"`  // without an answer, by cause
	Missed            int64            `json:"missed"`  // due, but no publisher was free
	BehindMax         float64          `json:"behind_max_ms"`
	Response          *Latency         `json:"response,omitempty"`
}

// DeliveryReport covers what the subscribers received: rates and latencies of the window,
// counts of the whole load.
type DeliveryReport struct {
	Delivered      int64    `json:"delivered"`
	Expected       int64    `json:"expected"`
	Ratio          float64  `json:"ratio"`
	PerSecond      float64  `json:"per_second"`
	BytesPerSecond float64  `json:"bytes_per_second"`
	SinceDue       *Latency `json:"since_due,omitempty"`  // from the scheduled time
	SinceSent      *Latency `json:"since_sent,omitempty"` // from the actual send
}

// DropReport covers new connects, from their scheduled time until established.
type DropReport struct {
	Dropped          int64            `json:"dropped"`
	DropMilliseconds float64          `json:"drop_ms"` // until this process had closed all
	Before           *Latency         `json:"before,omitempty"`
	After            *Latency         `json:"after,omitempty"`
	Failed           map[string]int64 `json:"failed"`
}

// ChurnReport covers clients that leave a channel and subscribe to another one: the rate and
// the latencies of the window, counts of the whole load. A latency ends when the client has
// its subscription_succeeded.
type ChurnReport struct {
	Cycles       int64            `json:"cycles"` // begun
	PerSecond    float64          `json:"per_second"`
	Missed       int64            `json:"missed"`      // due, but no client was free
	Outstanding  int64            `json:"outstanding"` // never acknowledged
	Unsent       map[string]int64 `json:"unsent"`      // by cause
	Refused      map[string]int64 `json:"refused"`     // by the server's error
	MemberEvents int64            `json:"member_events"`
	SinceDue     *Latency         `json:"since_due,omitempty"`
	SinceSent    *Latency         `json:"since_sent,omitempty"`
}

// ServerReport covers the server's processes.
type ServerReport struct {
	RSSBefore        int64   `json:"rss_before_bytes"`
	RSSConnected     int64   `json:"rss_connected_bytes"`
	RSSAfter         int64   `json:"rss_after_bytes,omitempty"` // at the end of a drop run
	RSSPerConnection float64 `json:"rss_per_connection_bytes"`
	CPU              *CPU    `json:"cpu,omitempty"` // in the window, at rest, or after the drop
	CPUConnecting    *CPU    `json:"cpu_connecting,omitempty"`
}

// CPU is processor time over a part of a run.
type CPU struct {
	Percent     float64 `json:"percent"` // of one processor
	PerDelivery float64 `json:"us_per_delivery,omitempty"`
	PerPublish  float64 `json:"us_per_publish,omitempty"`
	PerConnect  float64 `json:"us_per_connect,omitempty"`
	PerCycle    float64 `json:"us_per_cycle,omitempty"`
}

func newCPU(used time.Duration, seconds float64, deliveries, publishes int64) *CPU {
	c := &CPU{Percent: 100 * used.Seconds() / max(seconds, 1e-9)}
	if deliveries > 0 {
		c.PerDelivery = microseconds(used) / float64(deliveries)
	}
	if publishes > 0 {
		c.PerPublish = microseconds(used) / float64(publishes)
	}
	return c
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func newReport(cfg Config) *Report {
	r := &Report{URLs: cfg.URLs, Connections: cfg.Connections, Channels: cfg.Channels}
	switch {
	case cfg.Idle:
		r.Mode = "idle"
	case cfg.Drop:
		r.Mode, r.OfferedPerSecond = "drop", cfg.scheduled()
	case cfg.Churn:
		r.Mode, r.OfferedPerSecond = "churn", cfg.scheduled()
	default:
		r.Mode, r.OfferedPerSecond = "throughput", cfg.scheduled()
		r.Via, r.Publishers, r.PayloadBytes = cfg.Via, cfg.Publishers, cfg.Payload
	}
	return r
}

// WriteText writes the report for a person.
func (r *Report) WriteText(w io.Writer) error {
	t := &textReport{}
	t.line("load", "%s", r.describe())
	t.connect(r.Connect)
	t.publish(r.Publish, r.WindowSeconds)
	t.delivery(r.Delivery, r.OfferedPerSecond > 0)
	t.drop(r.Drop)
	t.churn(r.Churn, r.WindowSeconds)
	t.server(r.Server, r.Mode)
	t.cpu("bench CPU", r.Bench)
	t.line("closed", "%s by the server; %s errors; %d pings answered", counts(r.Closes),
		counts(r.Errors), r.Pings)
	if r.Interrupted {
		t.line("", "interrupted: the figures cover only the part that was measured")
	}
	if _, err := io.WriteString(w, t.text.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (r *Report) describe() string {
	text := fmt.Sprintf("%s, %d connections on %d channels of %s", r.Mode, r.Connections,
		r.Channels, strings.Join(r.URLs, ", "))
	switch r.Mode {
	case "idle":
		return text
	case "drop":
		return text + fmt.Sprintf(", %g new ones a second", r.OfferedPerSecond)
	case "churn":
		return text + fmt.Sprintf(", %g cycles a second", r.OfferedPerSecond)
	}
	rate := "flat out"
	if r.OfferedPerSecond > 0 {
		rate = fmt.Sprintf("%g/s", r.OfferedPerSecond)
	}
	return text + fmt.Sprintf(", %d publishers by %s, %s, %d bytes", r.Publishers, r.Via, rate,
		r.PayloadBytes)
}

// textReport lays a report out in lines of a name and a value.
type textReport struct{ text strings.Builder }

func (t *textReport) line(name, format string, args ...any) {
	fmt.Fprintf(&t.text, "%-15s "+format+"\n", append([]any{name}, args...)...)
}

func (t *textReport) latency(name string, l *Latency) {
	if l != nil {
		t.line(name, "p50 %.3f  p95 %.3f  p99 %.3f  max %.3f ms  (%d samples)", l.P50, l.P95,
			l.P99, l.Max, l.Samples)
	}
}

func (t *textReport) cpu(name string, c *CPU) {
	if c == nil {
		return
	}
	text := fmt.Sprintf("%.1f %% of a processor", c.Percent)
	for _, part := range []struct {
		of    string
		value float64
	}{{"delivery", c.PerDelivery}, {"publish", c.PerPublish}, {"connect", c.PerConnect}, {"cycle", c.PerCycle}} {
		if part.value > 0 {
			text += fmt.Sprintf(", %.3f µs per %s", part.value, part.of)
		}
	}
	t.line(name, "%s", text)
}

func (t *textReport) connect(c *ConnectReport) {
	if c == nil {
		return
	}
	t.line("connected", "%d in %.2f s (%.0f/s), failed: %s", c.Connected, c.Seconds, c.PerSecond,
		counts(c.Failed))
	t.latency("  established", c.Established)
	t.latency("  subscribed", c.Subscribed)
}

func (t *textReport) publish(p *PublishReport, window float64) {
	if p == nil {
		return
	}
	t.line("window", "%.2f s", window)
	t.line("published", "%.1f/s accepted (%d in all); refused: %s; failed: %s", p.AcceptedPerSecond,
		p.Accepted, counts(p.Refused), counts(p.Failed))
	t.line("  schedule", "at most %.3f ms behind, %d missed", p.BehindMax, p.Missed)
	t.latency("  response", p.Response)
}

func (t *textReport) delivery(d *DeliveryReport, scheduled bool) {
	if d == nil {
		return
	}
	t.line("delivered", "%.0f/s, %.1f MB/s; %d of %d expected in all (ratio %.6f)", d.PerSecond,
		d.BytesPerSecond/1e6, d.Delivered, d.Expected, d.Ratio)
	if scheduled {
		t.latency("  since due", d.SinceDue)
	}
	t.latency("  since sent", d.SinceSent)
}

func (t *textReport) drop(d *DropReport) {
	if d == nil {
		return
	}
	t.line("dropped", "%d in %.1f ms; new connects failed: %s", d.Dropped, d.DropMilliseconds,
		counts(d.Failed))
	t.latency("  before", d.Before)
	t.latency("  after", d.After)
}

func (t *textReport) churn(c *ChurnReport, window float64) {
	if c == nil {
		return
	}
	t.line("window", "%.2f s", window)
	t.line("cycles", "%.1f/s acknowledged (%d begun in all), %d missed, %d never acknowledged", c.PerSecond,
		c.Cycles, c.Missed, c.Outstanding)
	t.line("", "refused: %s; unsent: %s; %d member events", counts(c.Refused), counts(c.Unsent), c.MemberEvents)
	t.latency("  since due", c.SinceDue)
	t.latency("  since sent", c.SinceSent)
}

func (t *textReport) server(s *ServerReport, mode string) {
	if s == nil {
		return
	}
	const mib = 1 << 20
	t.line("server memory", "%.1f MiB before, %.1f MiB connected: %.0f bytes per connection",
		float64(s.RSSBefore)/mib, float64(s.RSSConnected)/mib, s.RSSPerConnection)
	if s.RSSAfter > 0 {
		t.line("", "%.1f MiB at the end", float64(s.RSSAfter)/mib)
	}
	t.cpu("  connecting", s.CPUConnecting)
	names := map[string]string{"throughput": "server CPU", "idle": "  at rest", "drop": "  after drop", "churn": "server CPU"}
	t.cpu(names[mode], s.CPU)
}

// counts writes named counts in a stable order, "0" for none.
func counts(m map[string]int64) string {
	if len(m) == 0 {
		return "0"
	}
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d × %s", m[k], k))
	}
	return strings.Join(parts, ", ")
}
