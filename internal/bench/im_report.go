package bench

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// IMReport is what a run measured. Rates and latencies are of the window, counts of the whole run.
type IMReport struct {
	Nodes          []string         `json:"nodes"`
	Senders        int              `json:"senders"`
	Channels       int              `json:"channels"`
	Receivers      int              `json:"receivers"`
	GroupSize      int              `json:"group_size"`
	Persons        bool             `json:"persons"`
	Fill           int              `json:"fill,omitempty"` // messages for each channel, when it was filled
	Persist        bool             `json:"persist"`
	PayloadBytes   int              `json:"payload_bytes"`
	Encrypted      bool             `json:"encrypted"`
	Offered        float64          `json:"offered_per_second"` // 0 is flat out
	Seconds        float64          `json:"window_seconds"`
	Sent           int64            `json:"sent"`
	Acknowledged   int64            `json:"acknowledged"`
	Refused        map[string]int64 `json:"refused"` // by reason
	SendsPerSecond float64          `json:"sends_per_second"`
	Ack            *Latency         `json:"send_to_ack,omitempty"`
	Received       int64            `json:"received"`
	Expected       int64            `json:"expected"`
	RecvsPerSecond float64          `json:"receives_per_second"`
	Recv           *Latency         `json:"send_to_receive,omitempty"`
	Server         *ServerReport    `json:"server,omitempty"`
}

// WriteText writes the report for a person.
func (r *IMReport) WriteText(w io.Writer) error {
	t := &textReport{}
	rate := "flat out"
	if r.Fill > 0 {
		rate = fmt.Sprintf("%d for each", r.Fill)
	}
	if r.Offered > 0 {
		rate = fmt.Sprintf("%g/s", r.Offered)
	}
	kept := "stored"
	if !r.Persist {
		kept = "not stored"
	}
	sealed := "plain"
	if r.Encrypted {
		sealed = "encrypted"
	}
	t.line("load", "%d senders to %d channels of %s, %s, %s, %s, %d bytes", r.Senders, r.Channels,
		strings.Join(r.Nodes, ", "), rate, kept, sealed, r.PayloadBytes)
	if r.Persons {
		t.line("", "each between a sender and a person who is not online")
	} else {
		t.line("", "%d members each, %d receivers online", r.GroupSize, r.Receivers)
	}
	t.line("window", "%.2f s", r.Seconds)
	t.line("sends", "%.0f/s acknowledged; %d of %d in all, refused: %s", r.SendsPerSecond, r.Acknowledged, r.Sent, counts(r.Refused))
	t.latency("  to ack", r.Ack)
	t.line("receives", "%.0f/s; %d of %d expected in all", r.RecvsPerSecond, r.Received, r.Expected)
	t.latency("  since send", r.Recv)
	t.server(r.Server, "throughput")
	if _, err := io.WriteString(w, t.text.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func (r *imRun) report() *IMReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	seconds := time.Duration(r.to - r.from).Seconds()
	return &IMReport{
		Nodes: r.cfg.TCP, Senders: r.cfg.Senders, Channels: r.cfg.Channels, Receivers: r.cfg.Receivers,
		GroupSize: max(r.cfg.GroupSize, r.cfg.Receivers+1), Persist: r.cfg.Persist, PayloadBytes: r.cfg.Payload, Persons: r.cfg.Persons, Fill: r.cfg.Fill,
		Encrypted: r.conns[0].block != nil, Offered: r.cfg.Rate, Seconds: seconds, Sent: r.sent.Load(),
		Acknowledged: r.acked.Load(), Refused: r.refused, SendsPerSecond: float64(r.windowAcked.Load()) / seconds,
		Ack: r.acks.latency(), Received: r.received.Load(), Expected: r.expected(),
		RecvsPerSecond: float64(r.windowReceived.Load()) / seconds, Recv: r.recvs.latency(),
	}
}
