package node

import (
	"context"
	"math"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/ratelimit"
)

// limitedNodes are the limits of three nodes that share them, in a synctest bubble.
type limitedNodes struct {
	t       *testing.T
	nodes   []*limits
	signals []fabric.Signal
	drops   atomic.Int64
}

func newLimitedNodes(t *testing.T) *limitedNodes {
	l := &limitedNodes{t: t}
	base := memory.New()
	t.Cleanup(func() { _ = base.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); synctest.Wait() })
	for range 3 {
		provider := base.Join(memory.Options{})
		t.Cleanup(func() { _ = provider.Close() })
		rates, err := provider.Signal(ctx, "rates")
		if err != nil {
			t.Fatal(err)
		}
		n := newLimits(config.RateLimit{
			APIRequests: 30, APIWindow: time.Minute, Connects: 6, ConnectsWindow: time.Minute, MaxTrackedPeers: 10,
		})
		tellers, err := n.share(rates, func() int { return 3 }, func(string) { l.drops.Add(1) })
		if err != nil {
			t.Fatal(err)
		}
		for _, teller := range tellers {
			go func() { _ = teller.run(ctx) }()
		}
		l.nodes, l.signals = append(l.nodes, n), append(l.signals, rates)
	}
	synctest.Wait()
	return l
}

// Three nodes that are asked all the time allow the limit, and what two of them are asked for
// between two tellings.
func TestLimitsOfThreeNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit, seconds = 100, 10
		l := newLimitedNodes(t)
		most, total := 0, 0
		for range seconds {
			count := 0
			for range 1000 { // a request a millisecond on each node
				for _, n := range l.nodes {
					if n.backendEvents.AllowWithin("app", 1, limit).OK {
						count++
					}
				}
				time.Sleep(time.Millisecond)
			}
			most, total = max(most, count), total+count
		}
		const over = 2 * 2 * int(tellPause/time.Millisecond)
		if most > limit+over || total < seconds*limit {
			t.Errorf("%d a second and %d in all are allowed, want %d to %d a second", most, total, limit, limit+over)
		}
		if l.drops.Load() != 0 {
			t.Errorf("%d messages are dropped", l.drops.Load())
		}
	})
}

// Each limit is shared, under its own name.
func TestLimitsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimitedNodes(t)
		ip4, ip6, none := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::"), netip.Addr{}
		for name, ask := range map[string]func(n *limits) ratelimit.Result{
			"backend events":   func(n *limits) ratelimit.Result { return n.backendEvents.AllowWithin("app", 2, 12) },
			"read requests":    func(n *limits) ratelimit.Result { return n.readRequests.AllowWithin("app", 1, 6) },
			"api":              func(n *limits) ratelimit.Result { return n.api.Allow(ip4, 5) },
			"api over IPv6":    func(n *limits) ratelimit.Result { return n.api.Allow(ip6, 5) },
			"connects":         func(n *limits) ratelimit.Result { return n.connects.Allow(ip4, 1) },
			"connects, socket": func(n *limits) ratelimit.Result { return n.connects.Allow(none, 1) },
		} {
			remaining := math.MaxInt
			for i := range 6 {
				r := ask(l.nodes[i%3])
				if i == 0 {
					r = ask(l.nodes[0]) // so that it is worth telling
				}
				if i < 5 && !r.OK || i == 5 && r.OK || r.Remaining > remaining {
					t.Errorf("%s: request %d: got %+v", name, i+1, r)
				}
				remaining = r.Remaining
				time.Sleep(tellPause)
				synctest.Wait()
			}
		}
	})
}

func TestMalformedRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimitedNodes(t)
		for _, subject := range []string{"backend_events", "read_requests", "api", "websocket_connect"} {
			if err := l.signals[0].Publish(t.Context(), subject, []byte("malformed")); err != nil {
				t.Fatal(err)
			}
		}
		// An address of three bytes.
		if err := l.signals[0].Publish(t.Context(), "api", []byte{1, 3, 1, 2, 3, 1, 1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := l.drops.Load(); got != 10 {
			t.Errorf("%d messages are dropped, want 10", got)
		}
	})
}
