package node

import (
	"context"
	"fmt"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/primitives"
	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/api"
	"github.com/parleyio/parley/internal/ratelimit"
)

// limits are the rate limits that all nodes of a cluster count together.
type limits struct {
	backendEvents, readRequests *ratelimit.Keyed[string]      // by app
	api, connects               *ratelimit.Keyed[api.Address] // by address
	primitives                  *ratelimit.Keyed[string]      // by key
}

func newLimits(c config.RateLimit) *limits {
	return &limits{
		backendEvents: pusher.NewQuota(),
		readRequests:  pusher.NewQuota(),
		api:           ratelimit.NewKeyed[api.Address](c.APIRequests, c.APIWindow, c.MaxTrackedPeers),
		connects:      ratelimit.NewKeyed[api.Address](c.Connects, c.ConnectsWindow, c.MaxTrackedPeers),
		primitives:    primitives.NewRates(),
	}
}

// tellPause is the time between two tellings of what was counted. A request that comes to
// another node within it, and what the message takes, can go over the limit.
const tellPause = 5 * time.Millisecond

// Reasons under which losses of that telling are counted.
const (
	dropRatesMalformed = "rates_malformed" // a message that cannot be read
	dropRatesUntold    = "rates_untold"    // a use of a key too many to be told
	dropRatesPublish   = "rates_publish"   // a message that was not sent
)

// shared is what the exchange of a limit needs of it.
type shared interface {
	Tell() (message []byte, untold int)
	Hear(message []byte) error
}

// shareLimits has this node count the limits together with the others, if they tell each other.
func (n *Node) shareLimits(ctx, background context.Context) error {
	if n.carriers.rates == nil {
		return nil
	}
	rates, err := n.carriers.rates.Signal(ctx, "rates")
	if err != nil {
		return fmt.Errorf("open the signal of rate limits: %w", err)
	}
	nodes := func() int { return len(n.cluster.membership.View().Members) }
	tellers, err := n.limits.share(rates, nodes, n.metrics.Drop)
	if err != nil {
		return err
	}
	for _, t := range tellers {
		n.goes("rate limits", func() error { return t.run(background) })
	}
	return nil
}

// share has the limits counted together with other nodes, and returns what is to run.
func (l *limits) share(rates fabric.Signal, nodes func() int, drop func(reason string)) ([]teller, error) {
	apps := ratelimit.Cluster[string]{
		Nodes:  nodes,
		Append: func(message []byte, id string) []byte { return append(message, id...) },
		Read:   func(text []byte) (string, error) { return string(text), nil },
	}
	addresses := ratelimit.Cluster[api.Address]{
		Nodes:  nodes,
		Append: appendAddress,
		Read: func(text []byte) (address api.Address, err error) {
			return address, address.UnmarshalBinary(text)
		},
	}
	tellers := []teller{
		{rates, drop, "backend_events", l.backendEvents.Share(apps), l.backendEvents},
		{rates, drop, "read_requests", l.readRequests.Share(apps), l.readRequests},
		{rates, drop, "api", l.api.Share(addresses), l.api},
		{rates, drop, "websocket_connect", l.connects.Share(addresses), l.connects},
		{rates, drop, "primitives", l.primitives.Share(apps), l.primitives},
	}
	for _, t := range tellers {
		if _, err := rates.Subscribe(t.subject, t.hear, fabric.SkipSelf()); err != nil {
			return nil, fmt.Errorf("subscribe to rate limits: %w", err)
		}
	}
	return tellers, nil
}

func appendAddress(message []byte, address api.Address) []byte {
	message, _ = address.AppendBinary(message) // it never fails
	return message
}

// teller carries what is counted for one limit between the nodes.
type teller struct {
	rates   fabric.Signal
	drop    func(reason string)
	subject string
	waiting <-chan struct{}
	limit   shared
}

// hear takes what another node tells.
func (t teller) hear(m fabric.Message) {
	if err := t.limit.Hear(m.Payload); err != nil {
		t.drop(dropRatesMalformed)
	}
}

// run tells the other nodes, until ctx ends, which is no error.
func (t teller) run(ctx context.Context) error {
	for {
		select {
		case <-t.waiting:
		case <-ctx.Done():
			return nil
		}
		t.tell(ctx)
		select {
		case <-time.After(tellPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// tell tells what waits. What is lost is not counted elsewhere.
func (t teller) tell(ctx context.Context) {
	for {
		message, untold := t.limit.Tell()
		for range untold {
			t.drop(dropRatesUntold)
		}
		if message == nil {
			return
		}
		if err := t.rates.Publish(ctx, t.subject, message); err != nil {
			t.drop(dropRatesPublish)
		}
	}
}
