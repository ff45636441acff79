package transport

import (
	"context"
	"sync"
	"sync/atomic"
)

// backlog counts the bytes that wait over all connections and lets publishers wait until
// they are fewer than a limit.
type backlog struct {
	bytes atomic.Int64
	limit func() int64

	mu      sync.Mutex
	waiting chan struct{} // closed when the backlog falls below the limit; nil when nobody waits
	waiters atomic.Int32
}

func (b *backlog) init(limit func() int64) { b.limit = limit }

func (b *backlog) add(n int64) {
	if n == 0 {
		return
	}
	now := b.bytes.Add(n)
	if n < 0 && b.waiters.Load() > 0 && now < b.limit() {
		b.release()
	}
}

func (b *backlog) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting != nil {
		close(b.waiting)
		b.waiting = nil
	}
}

func (b *backlog) wait(ctx context.Context) error {
	if b.bytes.Load() < b.limit() {
		return nil
	}
	b.waiters.Add(1)
	defer b.waiters.Add(-1)
	for {
		b.mu.Lock()
		if b.waiting == nil {
			b.waiting = make(chan struct{})
		}
		below := b.waiting
		b.mu.Unlock()
		if b.bytes.Load() < b.limit() {
			return nil
		}
		select {
		case <-below:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
