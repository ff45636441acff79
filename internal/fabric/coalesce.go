package fabric

import (
	"sync"
	"time"
)

// Coalescer merges what is added for one key within a window and hands it over once, so that
// a burst of changes costs one message. Keys are handed over in the order of their first Add.
type Coalescer[K comparable, V any] struct {
	window time.Duration
	limit  int
	merge  func(older, newer V) V
	send   func(K, V)

	sending sync.Mutex // held while batches are sent, so that they keep their order

	mu     sync.Mutex // guards the following fields
	values map[K]V
	order  []K
	timer  *time.Timer
	closed bool
}

// NewCoalescer returns a Coalescer that calls send for a key at most window after its first
// Add, or at once when limit keys wait. A nil merge keeps the newest value. Neither merge nor
// send may use the Coalescer; send is called by one goroutine at a time.
func NewCoalescer[K comparable, V any](
	window time.Duration, limit int, merge func(older, newer V) V, send func(K, V),
) *Coalescer[K, V] {
	if merge == nil {
		merge = func(_, newer V) V { return newer }
	}
	return &Coalescer[K, V]{
		window: window,
		limit:  max(1, limit),
		merge:  merge,
		send:   send,
		values: map[K]V{},
	}
}

// Add merges value into what waits for key. After Close it does nothing and returns false.
func (c *Coalescer[K, V]) Add(key K, value V) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	older, waits := c.values[key]
	if waits {
		c.values[key] = c.merge(older, value)
	} else {
		c.values[key] = value
		c.order = append(c.order, key)
		if len(c.order) == 1 {
			c.timer = time.AfterFunc(c.window, c.Flush)
		}
	}
	full := len(c.order) >= c.limit
	c.mu.Unlock()
	if full {
		c.Flush()
	}
	return true
}

// Flush hands over what waits now.
func (c *Coalescer[K, V]) Flush() {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	values, order := c.values, c.order
	c.values, c.order = map[K]V{}, nil
	if c.timer != nil {
		c.timer.Stop()
		c.timer = nil
	}
	c.mu.Unlock()
	for _, key := range order {
		c.send(key, values[key])
	}
}

// Close hands over what waits; nothing is taken afterwards.
func (c *Coalescer[K, V]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.Flush()
}
