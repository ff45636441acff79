package fabric

import (
	"context"
	"sync"
)

// Flights lets callers who want the same key at the same time share one call, for drivers.
// The zero value is ready.
type Flights struct {
	mu     sync.Mutex // guards the following field and the waiters of each flight
	flying map[string]*flight
}

type flight struct {
	waiters int
	cancel  context.CancelFunc
	landed  chan struct{} // closed when value and err are set
	value   []byte
	err     error
}

// Do returns what load returns, called once for all who wait. Its context keeps the values of
// the first caller's and ends when all have gone. Nobody may change the value.
func (f *Flights) Do(
	ctx context.Context, key string, load func(context.Context) ([]byte, error),
) ([]byte, error) {
	f.mu.Lock()
	if f.flying == nil {
		f.flying = map[string]*flight{}
	}
	current := f.flying[key]
	if current == nil {
		flightCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		current = &flight{cancel: cancel, landed: make(chan struct{})}
		f.flying[key] = current
		go func() {
			defer cancel()
			current.value, current.err = load(flightCtx)
			f.mu.Lock()
			f.forget(key, current)
			f.mu.Unlock()
			close(current.landed)
		}()
	}
	current.waiters++
	f.mu.Unlock()
	select {
	case <-current.landed:
		return current.value, current.err
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		if current.waiters--; current.waiters == 0 {
			current.cancel()
			f.forget(key, current) // whoever comes now starts anew
		}
		return nil, ctx.Err()
	}
}

// forget has the next caller start a flight of its own. The caller holds f.mu.
func (f *Flights) forget(key string, current *flight) {
	if f.flying[key] == current {
		delete(f.flying, key)
	}
}
