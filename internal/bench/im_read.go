package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// IMReadReport is what reading of the newest messages took.
type IMReadReport struct {
	API            string        `json:"api"`
	Channels       int           `json:"channels"`
	Persons        bool          `json:"persons"`
	Newest         int           `json:"newest"`
	Offered        float64       `json:"offered_per_second"` // 0 is flat out
	Seconds        float64       `json:"window_seconds"`
	Reads          int64         `json:"reads"`
	ReadsPerSecond float64       `json:"reads_per_second"`
	Messages       int64         `json:"messages"`
	Short          int64         `json:"short"` // reads that returned fewer messages than were asked for
	Failed         int64         `json:"failed"`
	Failure        string        `json:"failure,omitempty"` // the first one
	Latency        *Latency      `json:"latency,omitempty"` // of reads that did not fail
	Server         *ServerReport `json:"server,omitempty"`
}

// WriteText writes the report for a person.
func (r *IMReadReport) WriteText(w io.Writer) error {
	t := &textReport{}
	rate := "flat out"
	if r.Offered > 0 {
		rate = fmt.Sprintf("%g/s", r.Offered)
	}
	t.line("load", "newest %d messages of %d channels, each at most once, over %s, %s", r.Newest, r.Channels, r.API, rate)
	t.line("window", "%.2f s", r.Seconds)
	t.line("reads", "%.0f/s; %d in all with %d messages, %d with fewer than asked for", r.ReadsPerSecond, r.Reads,
		r.Messages, r.Short)
	t.latency("  response", r.Latency)
	t.line("failed", "%d %s", r.Failed, r.Failure)
	if s := r.Server; s != nil {
		t.line("server memory", "%.1f MiB before, %.1f MiB at the end", float64(s.RSSBefore)/(1<<20), float64(s.RSSAfter)/(1<<20))
		t.cpu("server CPU", s.CPU)
	}
	if _, err := io.WriteString(w, t.text.String()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// RunIMRead reads the newest messages of channels that an earlier run has filled, in random order and
// each at most once, until cfg.Duration is over or all are read. No channel is read before the
// measurement: after a start of the server all of them are cold. With a rate, times count from when a
// read was due.
func RunIMRead(ctx context.Context, cfg IMConfig, out io.Writer) (*IMReadReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := newIMRun(cfg, out)
	defer r.close()
	server := &process{pids: cfg.PIDs}
	before, err := server.usage()
	if err != nil {
		return nil, err
	}
	report := &IMReadReport{API: cfg.API, Channels: cfg.Channels, Persons: cfg.Persons, Newest: cfg.Newest,
		Offered: cfg.Rate}
	if err := r.readAll(ctx, report); err != nil {
		return nil, err
	}
	after, err := server.usage()
	if err != nil {
		return nil, err
	}
	if len(cfg.PIDs) > 0 {
		report.Server = &ServerReport{
			RSSBefore: before.rss, RSSAfter: after.rss, CPU: newCPU(after.cpu-before.cpu, report.Seconds, 0, 0),
		}
	}
	return report, nil
}

// readAll reads the channels and writes what it took into the report. That no read works is an error.
func (r *imRun) readAll(ctx context.Context, report *IMReadReport) error {
	order := rand.Perm(r.cfg.Channels)
	times := &histogram{}
	var next atomic.Int64
	step := int64(0)
	if r.cfg.Rate > 0 {
		step = int64(float64(time.Second) / r.cfg.Rate)
	}
	from := r.clock.now()
	to := from + int64(r.cfg.Duration)
	var workers sync.WaitGroup
	var failure error
	for range r.cfg.Concurrency {
		workers.Go(func() {
			for {
				i := next.Add(1) - 1
				at := from + i*step
				if step == 0 {
					at = r.clock.now()
				}
				if i >= int64(len(order)) || at >= to || !r.clock.sleepUntil(ctx, at) {
					return
				}
				n, err := r.newest(ctx, order[i])
				took := r.clock.now() - at
				r.mu.Lock()
				switch {
				case err != nil:
					report.Failed++
					failure = cmp.Or(failure, err)
				case n < r.cfg.Newest:
					report.Short++
				}
				report.Messages += int64(n)
				r.mu.Unlock()
				if err == nil {
					times.record(took)
				}
			}
		})
	}
	workers.Wait()
	report.Seconds = time.Duration(r.clock.now() - from).Seconds()
	report.Reads, report.Latency = times.count.Load(), times.latency()
	report.ReadsPerSecond = float64(report.Reads) / max(report.Seconds, 1e-9)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case report.Reads == 0 && failure != nil:
		return failure
	case failure != nil:
		report.Failure = failure.Error()
	}
	return nil
}

// newest reads the newest messages of a channel and returns how many there were.
func (r *imRun) newest(ctx context.Context, channel int) (int, error) {
	var answer struct {
		Messages []json.RawMessage `json:"messages"`
	}
	err := r.post(ctx, "/channel/messagesync", map[string]any{
		"login_uid": r.user(channel % r.cfg.Senders), "channel_id": r.channel(channel), "channel_type": r.kind(),
		"limit": r.cfg.Newest,
	}, &answer)
	return len(answer.Messages), err
}
