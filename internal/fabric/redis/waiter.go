package redis

import (
	"context"
	"sync/atomic"
	"time"
)

// lookInterval is after how long one who waits looks without being woken.
const lookInterval = 2 * time.Second

// waiter waits for what a channel tells.
type waiter struct {
	woken chan struct{} // holds one token
	gap   atomic.Bool   // something may have been missed
	stop  func()
}

// await returns a waiter on a channel, which misses nothing from now on but what it tells as a
// gap. The caller stops it.
func (p *Provider) await(ctx context.Context, base, channel string) (*waiter, error) {
	b, err := p.bus(base)
	if err != nil {
		return nil, err
	}
	w := &waiter{woken: make(chan struct{}, 1)}
	w.stop = b.listen(channel, func(text string) {
		if text == "" {
			w.gap.Store(true)
		}
		select {
		case w.woken <- struct{}{}:
		default:
		}
	})
	w.wait(ctx, tryTimeout) // until it is subscribed; without a connection that is told as a gap
	w.gap.Store(false)
	return w, nil
}

// wait returns when something came, after the limit, or when ctx ends.
func (w *waiter) wait(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-w.woken:
	case <-timer.C:
	case <-ctx.Done():
	}
}
