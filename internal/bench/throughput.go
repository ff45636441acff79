package bench

import (
	"context"
	"fmt"
	"time"
)

// Bounds of waiting for events that are still on their way when publishing has ended.
const (
	drainMax  = 30 * time.Second
	drainPoll = 10 * time.Millisecond
)

// startDelay lets every publisher reach its first wait before the schedule begins.
const startDelay = 20 * time.Millisecond

// throughput connects the subscribers, publishes, and measures what arrives.
func (r *runner) throughput(ctx context.Context) error {
	if err := r.connectAll(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx, r.cfg.Settle); err != nil {
		return err
	}
	l := &load{clock: r.clock, rate: r.cfg.Rate, tally: r.tally}
	publishers := r.newPublishers(l)
	if err := openAll(ctx, publishers); err != nil {
		return err
	}
	defer closeAll(publishers)
	return r.measure(ctx, l, publishers)
}

// settle rests and then records the memory of the connected server.
func (r *runner) settle(ctx context.Context, d time.Duration) error {
	if !r.clock.sleepUntil(ctx, r.clock.now()+int64(d)) {
		return fmt.Errorf("settle: %w", context.Cause(ctx))
	}
	if r.server == nil {
		return nil
	}
	now, err := r.server.usage()
	if err != nil {
		return err
	}
	grown := now.rss - r.rss
	r.report.Server = &ServerReport{
		RSSBefore: r.rss, RSSConnected: now.rss,
		RSSPerConnection: float64(grown) / float64(r.report.Connect.Connected),
	}
	return nil
}

// snapshot is what was counted up to a moment.
type snapshot struct {
	at                          int64 // ns
	deliveries, bytes, accepted int64
	serverCPU, ownCPU           time.Duration
}

// refusedEvents is how many client events the server answered with an error. HTTP publishes
// never count as accepted before they are.
func (r *runner) refusedEvents() int64 {
	if r.cfg.Via == ViaHTTP {
		return 0
	}
	return r.tally.errorCount()
}

// expected is how many deliveries all accepted events should cause. Errors do not tell
// which client event they refuse, so each takes the average away.
func (r *runner) expected(l *load) int64 {
	expected, refused := l.expected.Load(), r.refusedEvents()
	if refused == 0 {
		return expected
	}
	return expected - expected*refused/max(l.accepted.Load(), 1)
}

func (r *runner) snapshot(l *load) (snapshot, error) {
	s := snapshot{
		at:         r.clock.now(),
		deliveries: r.tally.deliveries.Load(),
		bytes:      r.tally.bytes.Load(),
		accepted:   l.accepted.Load() - r.refusedEvents(),
		ownCPU:     ownCPU(),
	}
	if r.server != nil {
		usage, err := r.server.usage()
		if err != nil {
			return snapshot{}, err
		}
		s.serverCPU = usage.cpu
	}
	return s, nil
}

// measure runs the load: warm-up, window, rest of the deliveries.
func (r *runner) measure(ctx context.Context, l *load, publishers []publisher) error {
	l.start = r.clock.now() + int64(startDelay)
	from := l.start + int64(r.cfg.Warmup)
	l.until = from + int64(r.cfg.Duration)
	r.tally.from.Store(from)
	r.tally.to.Store(l.until)
	stop := r.progress.during(func() string {
		return fmt.Sprintf("published %d, delivered %d, %s left", l.accepted.Load(),
			r.tally.deliveries.Load(), time.Duration(l.until-r.clock.now()).Round(time.Second))
	})
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.run(ctx, publishers)
	}()
	first, last, err := r.window(ctx, l, from)
	<-done
	if err != nil {
		return err
	}
	if ctx.Err() == nil {
		r.drain(ctx, l)
	}
	r.reportLoad(l, first, last)
	return nil
}

// window takes the snapshots at both ends of the measured window. An interruption during
// the window ends it early.
func (r *runner) window(ctx context.Context, l *load, from int64) (first, last snapshot, err error) {
	if !r.clock.sleepUntil(ctx, from) {
		return first, last, fmt.Errorf("warm up: %w", context.Cause(ctx))
	}
	if first, err = r.snapshot(l); err != nil {
		return first, last, err
	}
	if !r.clock.sleepUntil(ctx, l.until) {
		r.report.Interrupted = true
		r.tally.to.Store(r.clock.now())
	}
	last, err = r.snapshot(l)
	return first, last, err
}

// drain waits until every expected delivery has arrived, or no more come.
func (r *runner) drain(ctx context.Context, l *load) {
	end := r.clock.now() + int64(drainMax)
	seen, seenAt := r.tally.deliveries.Load(), r.clock.now()
	for r.tally.deliveries.Load() < r.expected(l) {
		if !r.clock.sleepUntil(ctx, r.clock.now()+int64(drainPoll)) {
			return
		}
		now := r.clock.now()
		if n := r.tally.deliveries.Load(); n != seen {
			seen, seenAt = n, now
		}
		if now >= end || now-seenAt >= int64(r.cfg.drainStall) {
			return
		}
	}
}

// reportLoad fills in the figures of the window and of the whole load.
func (r *runner) reportLoad(l *load, first, last snapshot) {
	seconds := time.Duration(last.at - first.at).Seconds()
	perSecond := func(n int64) float64 { return float64(n) / max(seconds, 1e-9) }
	accepted, deliveries := last.accepted-first.accepted, last.deliveries-first.deliveries
	r.report.WindowSeconds = seconds
	r.report.Publish = &PublishReport{
		Accepted:          l.accepted.Load() - r.refusedEvents(),
		AcceptedPerSecond: perSecond(accepted),
		Refused:           l.refused.counts(),
		Failed:            l.failed.counts(),
		Missed:            l.missed(last.at),
		BehindMax:         milliseconds(max(l.behindMax.Load(), 0)),
		Response:          l.calls.latency(),
	}
	delivered, expected := r.tally.deliveries.Load(), r.expected(l)
	r.report.Delivery = &DeliveryReport{
		Delivered:      delivered,
		Expected:       expected,
		PerSecond:      perSecond(deliveries),
		BytesPerSecond: perSecond(last.bytes - first.bytes),
		SinceDue:       r.tally.sinceDue.latency(),
		SinceSent:      r.tally.sinceSent.latency(),
	}
	if expected > 0 {
		r.report.Delivery.Ratio = float64(delivered) / float64(expected)
	}
	if own := last.ownCPU - first.ownCPU; own > 0 {
		r.report.Bench = newCPU(own, seconds, deliveries, accepted)
	}
	if r.server != nil {
		r.report.Server.CPU = newCPU(last.serverCPU-first.serverCPU, seconds, deliveries, accepted)
	}
}
