package bench

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// newcomersMax bounds the new connects in flight, so that a server that answers none
// cannot exhaust this process.
const newcomersMax = 4096

// drop connects the subscribers and drops them all at once while new ones keep connecting
// at a steady rate, and measures how long the new ones take.
func (r *runner) drop(ctx context.Context) error {
	if err := r.connectAll(ctx); err != nil {
		return err
	}
	if err := r.settle(ctx, r.cfg.Settle); err != nil {
		return err
	}
	fresh, err := newReceiver()
	if err != nil {
		return fmt.Errorf("start event loop: %w", err)
	}
	defer fresh.close()
	n := &newcomers{runner: r, into: fresh, slots: make(chan struct{}, newcomersMax)}
	n.start = r.clock.now() + int64(startDelay)
	n.until = n.start + int64(r.cfg.Warmup+r.cfg.Duration)
	n.dropAt.Store(n.until)
	stop := r.progress.during(func() string {
		return fmt.Sprintf("new connects: %d before the drop, %d after it, %d failed",
			n.before.count.Load(), n.after.count.Load(), n.failed.total())
	})
	defer stop()
	arriving := make(chan struct{})
	go func() {
		defer close(arriving)
		n.arrive(ctx)
	}()
	took, usedFrom, err := r.dropAll(ctx, n)
	<-arriving
	if err != nil {
		return err
	}
	r.report.Drop = &DropReport{
		Dropped: r.report.Connect.Connected, DropMilliseconds: milliseconds(took),
		Before: n.before.latency(), After: n.after.latency(), Failed: n.failed.counts(),
	}
	r.report.Interrupted = ctx.Err() != nil
	return r.reportDropUsage(n, usedFrom)
}

// dropAll ends all subscribers' connections after the warm-up. It returns how long that
// took in ns, and what the server had used when it began.
func (r *runner) dropAll(ctx context.Context, n *newcomers) (took int64, from usage, err error) {
	if !r.clock.sleepUntil(ctx, n.start+int64(r.cfg.Warmup)) {
		return 0, from, fmt.Errorf("warm up: %w", context.Cause(ctx))
	}
	if from, err = r.serverUsage(); err != nil {
		return 0, from, err
	}
	start := r.clock.now()
	n.dropAt.Store(start)
	var wg sync.WaitGroup
	for _, l := range r.loops {
		wg.Go(l.close)
	}
	wg.Wait()
	took = r.clock.now() - start
	r.progress.say("dropped %d connections in %s", r.report.Connect.Connected,
		time.Duration(took).Round(time.Millisecond))
	return took, from, nil
}

func (r *runner) reportDropUsage(n *newcomers, from usage) error {
	if r.server == nil {
		return nil
	}
	now, err := r.serverUsage()
	if err != nil {
		return err
	}
	seconds := float64(r.clock.now()-n.dropAt.Load()) / 1e9
	r.report.Server.CPU = newCPU(now.cpu-from.cpu, seconds, 0, 0)
	r.report.Server.RSSAfter = now.rss
	return nil
}

// newcomers are the connections that arrive at a steady rate.
type newcomers struct {
	*runner
	into          receiver
	slots         chan struct{} // one for each connect in flight
	start, until  int64         // ns
	dropAt        atomic.Int64  // ns
	before, after histogram
	failed        failures
}

// arrive starts the connects at their due times and waits for all of them.
func (n *newcomers) arrive(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := 0; ; i++ {
		due := n.start + int64(float64(i)*float64(time.Second)/n.cfg.ConnectRate)
		if due >= n.until || !n.clock.sleepUntil(ctx, due) {
			return
		}
		due = n.clock.now() // the timer's delay is not the server's
		select {
		case n.slots <- struct{}{}:
		default:
			n.failed.addReason("too many in flight")
			continue
		}
		wg.Go(func() {
			n.connect(ctx, i, due)
			<-n.slots
		})
	}
}

// connect measures from the due time until connection_established. The newcomer then
// subscribes like everybody else and stays.
func (n *newcomers) connect(ctx context.Context, i int, due int64) {
	l, err := n.dial.open(ctx, i)
	if err == nil {
		now := n.clock.now()
		if now < n.dropAt.Load() {
			n.before.record(now - due)
		} else {
			n.after.record(now - due)
		}
		if err = n.dial.subscribe(ctx, l, n.channels[i%len(n.channels)]); err != nil {
			l.conn.Close()
		} else {
			err = l.handOver(n.into, n.tally)
		}
	}
	if err != nil && ctx.Err() == nil {
		n.failed.add(err)
	}
}
