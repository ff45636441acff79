package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// presencePrefix begins the names of presence channels.
const presencePrefix = "presence-"

// churn connects the clients and has them change their channels at a steady rate.
func (r *runner) churn(ctx context.Context) error {
	c := &churning{runner: r}
	r.tally.churning, r.sockets = c, make([]*socket, r.cfg.Connections)
	if err := r.connectAll(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx, r.cfg.Settle); err != nil {
		return err
	}
	for i, s := range r.sockets {
		if s == nil {
			continue // it could not connect
		}
		s.channel = i % len(r.channels)
		c.clients = append(c.clients, s)
	}
	c.start = r.clock.now() + int64(startDelay)
	c.from = c.start + int64(r.cfg.Warmup)
	c.until = c.from + int64(r.cfg.Duration)
	stop := r.progress.during(func() string {
		return fmt.Sprintf("%d cycles acknowledged, %s left", c.acknowledged.Load(),
			time.Duration(max(0, c.until-r.clock.now())).Round(time.Second))
	})
	defer stop()
	return c.measure(ctx)
}

// churning is the state of a churn run.
type churning struct {
	*runner
	clients            []*socket
	start, from, until int64 // ns

	cycles, missed, acknowledged atomic.Int64
	unsent, refused              failures
	sinceDue, sinceSent          histogram // of cycles due in the measured window
}

// cycle is one change of channel that waits for its acknowledgement.
type cycle struct {
	channel   string
	due, sent int64 // ns
}

// measure runs the cycles and reports the window.
func (c *churning) measure(ctx context.Context) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx)
	}()
	first, last, err := c.window(ctx)
	<-ended
	if err != nil {
		return err
	}
	c.drain(ctx)
	seconds := time.Duration(last.at - first.at).Seconds()
	cycles := last.accepted - first.accepted
	c.report.WindowSeconds = seconds
	c.report.Churn = &ChurnReport{
		Cycles:       c.cycles.Load(),
		PerSecond:    float64(cycles) / max(seconds, 1e-9),
		Missed:       c.missed.Load(),
		Outstanding:  c.outstanding(),
		Unsent:       c.unsent.counts(),
		Refused:      c.refused.counts(),
		MemberEvents: c.tally.members.Load(),
		SinceDue:     c.sinceDue.latency(),
		SinceSent:    c.sinceSent.latency(),
	}
	if own := last.ownCPU - first.ownCPU; own > 0 {
		c.report.Bench = newCPU(own, seconds, 0, 0)
	}
	if c.server != nil {
		c.report.Server.CPU = newCPU(last.serverCPU-first.serverCPU, seconds, 0, 0)
		c.report.Server.CPU.PerCycle = microseconds(last.serverCPU-first.serverCPU) / float64(max(cycles, 1))
	}
	return nil
}

// window takes the snapshots at both ends of the measured window.
func (c *churning) window(ctx context.Context) (first, last snapshot, err error) {
	if !c.clock.sleepUntil(ctx, c.from) {
		return first, last, fmt.Errorf("warm up: %w", context.Cause(ctx))
	}
	if first, err = c.snapshot(); err != nil {
		return first, last, err
	}
	c.report.Interrupted = !c.clock.sleepUntil(ctx, c.until)
	last, err = c.snapshot()
	return first, last, err
}

func (c *churning) snapshot() (snapshot, error) {
	used, err := c.serverUsage()
	return snapshot{at: c.clock.now(), accepted: c.acknowledged.Load(), serverCPU: used.cpu, ownCPU: ownCPU()}, err
}

// run begins the cycles when they are due, each with a client that is not in one.
func (c *churning) run(ctx context.Context) {
	for i := 0; ; i++ {
		due := c.start + int64(float64(i)*float64(time.Second)/c.cfg.Rate)
		if due >= c.until || !c.clock.sleepUntil(ctx, due) {
			return
		}
		client := c.idle()
		if client == nil {
			c.missed.Add(1)
			continue
		}
		if err := c.begin(client, c.clock.now()); err != nil {
			client.cycle.Store(nil)
			c.unsent.add(err)
		}
	}
}

// idle returns a client that waits for no acknowledgement, nil when it finds none at once.
func (c *churning) idle() *socket {
	const tries = 16
	for range tries {
		if s := c.clients[rand.IntN(len(c.clients))]; s.cycle.Load() == nil {
			return s
		}
	}
	return nil
}

// begin takes a client from its channel to another one, in one write.
func (c *churning) begin(s *socket, due int64) error {
	old := s.channel
	if len(c.channels) > 1 {
		s.channel = (old + 1 + rand.IntN(len(c.channels)-1)) % len(c.channels)
	}
	leave, err := json.Marshal(map[string]any{"event": "pusher:unsubscribe", "data": map[string]string{"channel": c.channels[old]}})
	if err != nil {
		return fmt.Errorf("encode unsubscription: %w", err)
	}
	join, err := c.dial.subscription(s.id, c.channels[s.channel])
	if err != nil {
		return err
	}
	frames := appendMasked(appendMasked(nil, opText, leave), opText, join)
	c.cycles.Add(1)
	s.cycle.Store(&cycle{channel: c.channels[s.channel], due: due, sent: c.clock.now()})
	return s.writeLater(frames)
}

// succeeded takes the acknowledgement of a subscription.
func (c *churning) succeeded(s *socket, channel string) {
	y := s.cycle.Load()
	if y == nil || y.channel != channel {
		return
	}
	s.cycle.Store(nil)
	c.acknowledged.Add(1)
	if now := c.clock.now(); y.due >= c.from {
		c.sinceDue.record(now - y.due)
		c.sinceSent.record(now - y.sent)
	}
}

// failed takes an error event, which ends the cycle of the client, if there is one.
func (c *churning) failed(s *socket, reason string) {
	if s.cycle.Swap(nil) != nil {
		c.refused.addReason(reason)
	}
}

// drain waits until no cycle is left, or none ends any more.
func (c *churning) drain(ctx context.Context) {
	seen, seenAt := c.outstanding(), c.clock.now()
	for seen > 0 && c.clock.now()-seenAt < int64(c.cfg.drainStall) {
		if !c.clock.sleepUntil(ctx, c.clock.now()+int64(drainPoll)) {
			return
		}
		if n := c.outstanding(); n != seen {
			seen, seenAt = n, c.clock.now()
		}
	}
}

func (c *churning) outstanding() (n int64) {
	for _, s := range c.clients {
		if s.cycle.Load() != nil {
			n++
		}
	}
	return n
}
