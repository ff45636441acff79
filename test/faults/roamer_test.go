//go:build linux

package faults

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// roamer is a client that connects to another node when it loses its own, as the client
// libraries do behind a load balancer.
type roamer struct {
	name    string
	cluster *cluster
	gap     time.Duration // the longest time without a connection

	mu      sync.Mutex
	current *client
	past    []*client
}

// roam keeps n clients connected until ctx ends.
func roam(ctx context.Context, t *testing.T, c *cluster, n int) []*roamer {
	t.Helper()
	var list []*roamer
	var running sync.WaitGroup
	for i := range n {
		r := &roamer{name: "roamer" + string(rune('a'+i)), cluster: c}
		first, err := r.connect(c.nodes[i%len(c.nodes)])
		if err != nil {
			t.Fatal(err)
		}
		r.current = first
		running.Go(func() { r.follow(ctx) })
		list = append(list, r)
	}
	t.Cleanup(running.Wait)
	return list
}

func (r *roamer) connect(n *node) (*client, error) {
	c, err := dial(n, mainApp, r.name, r.name)
	if err != nil {
		return nil, err
	}
	if err := c.subscribe(plainChannel, presenceChannel); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (r *roamer) follow(ctx context.Context) {
	for {
		current := r.client()
		select {
		case <-ctx.Done():
			current.close()
			return
		case <-current.ended:
		}
		lost := time.Now()
		next := r.next(ctx, current.node)
		if next == nil {
			return
		}
		r.mu.Lock()
		r.current, r.past = next, append(r.past, current)
		r.gap = max(r.gap, time.Since(lost))
		r.mu.Unlock()
	}
}

// next tries the other nodes until one takes the client.
func (r *roamer) next(ctx context.Context, not *node) *client {
	for ctx.Err() == nil {
		for _, n := range r.cluster.living() {
			if n == not {
				continue
			}
			if c, err := r.connect(n); err == nil {
				return c
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(poll):
		}
	}
	return nil
}

func (r *roamer) client() *client {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

func (r *roamer) longestGap() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gap
}

// everybody are all clients that roamers have been.
func everybody(roamers []*roamer) (list []*client) {
	for _, r := range roamers {
		r.mu.Lock()
		list = append(append(list, r.past...), r.current)
		r.mu.Unlock()
	}
	return slices.Compact(list)
}
