package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"
)

// ErrTooManyFailures means that so many connections failed that the figures would not be
// those of the benchmark that was asked for.
var ErrTooManyFailures = errors.New("too many connections failed")

// connecting is the state of connecting many subscribers.
type connecting struct {
	next, ready        atomic.Int64
	established, whole histogram // until connection_established; until subscribed
	failures           failures
	failuresMax        int64
	firstErr           error
	firstOnce          sync.Once
}

// connectAll connects and subscribes all subscribers, a bounded number at a time.
func (r *runner) connectAll(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	total := int64(r.cfg.Connections)
	c := &connecting{failuresMax: 10 + total/10}
	start := r.clock.now()
	stop := r.progress.during(func() string {
		return fmt.Sprintf("connected %d of %d, %d failed", c.ready.Load(), total,
			c.failures.total())
	})
	var wg sync.WaitGroup
	for range min(r.cfg.ConnectConcurrency, r.cfg.Connections) {
		wg.Go(func() {
			for i := c.next.Add(1) - 1; i < total && ctx.Err() == nil; i = c.next.Add(1) - 1 {
				if err := r.connectOne(ctx, c, int(i)); err != nil {
					c.fail(ctx, err, cancel)
				}
			}
		})
	}
	wg.Wait()
	stop()
	seconds := time.Duration(r.clock.now() - start).Seconds()
	r.report.Connect = c.report(seconds)
	return c.verdict(ctx)
}

func (r *runner) connectOne(ctx context.Context, c *connecting, i int) error {
	start := r.clock.now()
	l, err := r.dial.open(ctx, i)
	if err != nil {
		return err
	}
	established := r.clock.now()
	channel := i % len(r.channels)
	if err := r.dial.subscribe(ctx, l, r.channels[channel]); err != nil {
		l.conn.Close()
		return err
	}
	subscribed := r.clock.now()
	s, err := l.become(r.loops[i%len(r.loops)], r.tally)
	if err != nil {
		return err
	}
	if r.sockets != nil {
		r.sockets[i] = s
	}
	c.established.record(established - start)
	c.whole.record(subscribed - start)
	atomic.AddInt64(&r.members[channel], 1)
	c.ready.Add(1)
	return nil
}

// fail counts a failure, and gives up when there are too many. Failures that the end of
// the run itself causes do not count.
func (c *connecting) fail(ctx context.Context, err error, cancel context.CancelFunc) {
	if ctx.Err() != nil {
		return
	}
	c.firstOnce.Do(func() { c.firstErr = err })
	c.failures.add(err)
	if c.failures.total() >= c.failuresMax {
		cancel()
	}
}

func (c *connecting) verdict(ctx context.Context) error {
	failed := c.failures.total()
	if failed >= c.failuresMax || failed > 0 && c.ready.Load() == 0 {
		return fmt.Errorf("%w: %d failed, the first one: %w", ErrTooManyFailures, failed, c.firstErr)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("connect: %w", context.Cause(ctx))
	}
	return nil
}

func (c *connecting) report(seconds float64) *ConnectReport {
	return &ConnectReport{
		Connected:   c.ready.Load(),
		Failed:      c.failures.counts(),
		Seconds:     seconds,
		PerSecond:   float64(c.ready.Load()) / max(seconds, 1e-9),
		Established: c.established.latency(),
		Subscribed:  c.whole.latency(),
	}
}

// failures counts errors by what caused them.
type failures struct {
	mu       sync.Mutex // guards byReason
	byReason map[string]int64
}

func (f *failures) add(err error) { f.addReason(failureReason(err)) }

func (f *failures) addReason(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byReason == nil {
		f.byReason = map[string]int64{}
	}
	f.byReason[reason]++
}

func (f *failures) total() (n int64) {
	for _, v := range f.counts() {
		n += v
	}
	return n
}

// counts returns a copy.
func (f *failures) counts() map[string]int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	counts := make(map[string]int64, len(f.byReason))
	for k, v := range f.byReason {
		counts[k] = v
	}
	return counts
}

// failureReason names the cause without addresses and ports, so that equal causes have
// equal names.
func failureReason(err error) string {
	var status ws.StatusError
	var errno syscall.Errno
	switch {
	case errors.As(err, &status):
		return fmt.Sprintf("upgrade answered with status %d", int(status))
	case errors.Is(err, errRefused), errors.Is(err, errClosedEarly):
		return err.Error()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}
