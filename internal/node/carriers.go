package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/telemetry"
)

// What nodes share goes over carriers: the node's own engine, memory, or brokers that run beside
// it. Each part (signal, cache, …) has the one that the configuration chooses for it, and those
// that choose the same share it.

// carrierInterval is between two questions to a broker whether it is there.
const carrierInterval = 500 * time.Millisecond

// carrier is a driver in use.
type carrier struct {
	fabric.Carrier // nil until it is opened
	driver         string
	place          string   // of Redis, if it has one of its own
	parts          []string // that it carries, as in the configuration
	state          atomic.Pointer[carrierState]
}

// carrierState is what a broker answered last.
type carrierState struct {
	err   error     // nil when it is there
	since time.Time // when it became so
}

// isBroker tells whether the carrier is another program.
func (c *carrier) isBroker() bool {
	return c.driver != config.DriverEmbedded && c.driver != config.DriverMemory
}

// watch asks the carrier whether it is there, until ctx ends.
func (c *carrier) watch(ctx context.Context) {
	ticker := time.NewTicker(carrierInterval)
	defer ticker.Stop()
	for {
		err := c.Ping(ctx)
		if ctx.Err() != nil {
			return
		}
		if was := c.state.Load(); (was.err == nil) != (err == nil) {
			c.state.Store(&carrierState{err, time.Now()})
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// probe returns why the carrier is not there. It does not wait.
func (c *carrier) probe(context.Context) error {
	return c.state.Load().err
}

// inTouch tells for how long the carrier has been there without a break.
func (c *carrier) inTouch() time.Duration {
	if state := c.state.Load(); state.err == nil {
		return time.Since(state.since)
	}
	return 0
}

// eventsSignal is the signal that carries what clients at other nodes are to get.
const eventsSignal = "channels"

// lost counts what a carrier loses, and events that could not be sent by themselves: losses of
// heartbeats and of what is made good by asking mean nothing to clients.
func (n *Node) lost(reason, name string, count int) {
	n.metrics.Lost(reason, count)
	if name == eventsSignal && (reason == fabric.DropSignalOffline || reason == fabric.DropSignalBacklog) {
		n.metrics.Unsent(count)
	}
}

// carriers are those of a node.
type carriers struct {
	list   []*carrier
	byPart map[string]*carrier
	rates  fabric.SignalCarrier // of rate limits; nil when each node counts for itself
}

// fabricParts are the parts in the order in which they are opened, with the place of each in Redis.
// A queue over RabbitMQ needs the cache and the documents.
func fabricParts(c config.Config) []struct{ name, driver, place string } {
	f := c.Fabric.Chosen()
	return []struct{ name, driver, place string }{
		{"signal", f.Signal, c.Redis.Signal},
		{"cache", f.Cache, c.Redis.Cache},
		{"documents", f.Documents, c.Redis.Documents},
		{"lock", f.Lock, c.Redis.Lock},
		{"queue", f.Queue, c.Redis.Queue},
		{"rate_limit", f.RateLimit, c.Redis.Signal},
	}
}

// errLate says that a broker was not there yet.
var errLate = errors.New("it was not there yet")

// chooseCarriers finds what carriers the configuration asks for.
func (n *Node) chooseCarriers() {
	chosen := map[string]*carrier{} // by driver and place
	n.carriers.byPart = map[string]*carrier{}
	for _, part := range fabricParts(n.config) {
		if part.driver != config.DriverRedis && part.driver != config.DriverRedisCluster {
			part.place = ""
		}
		key := part.driver + " " + part.place
		c := chosen[key]
		if c == nil {
			c = &carrier{driver: part.driver, place: part.place}
			c.state.Store(&carrierState{errLate, time.Now()})
			chosen[key] = c
			n.carriers.list = append(n.carriers.list, c)
		}
		c.parts = append(c.parts, part.name)
		n.carriers.byPart[part.name] = c
	}
}

// openFabric opens the carriers that the configuration chooses, and waits for brokers that are
// late. The embedded one must be there if there is to be one.
func (n *Node) openFabric(ctx context.Context, embedded fabric.Provider) error {
	n.chooseCarriers()
	for _, c := range n.carriers.list {
		if c.isBroker() {
			n.metrics.Register(telemetry.NewCarrier(n.config.Metrics.Prefix, c.driver, strings.Join(c.parts, "+"),
				func() bool { return c.probe(ctx) == nil }))
		}
	}
	for _, c := range n.carriers.list {
		n.waits(fmt.Sprintf("waiting for %s, which carries %s", c.driver, c.parts[0]))
		opened, err := n.openCarrier(ctx, c.driver, c.place, embedded)
		if err != nil {
			return fmt.Errorf("open fabric.%s over %s: %w", c.parts[0], c.driver,
				withOptions(err, n.config.Redis, c.parts[0], c.driver, c.place))
		}
		c.Carrier = opened
		c.state.Store(&carrierState{nil, time.Now()})
	}
	n.fabric = n.compose()
	return nil
}

// compose puts the opened carriers together.
func (n *Node) compose() fabric.Provider {
	by := n.carriers.byPart
	documents := by["documents"].Carrier.(fabric.Provider) // all but RabbitMQ are
	if c := by["rate_limit"]; c.driver != config.DriverMemory {
		n.carriers.rates = c.Carrier.(fabric.SignalCarrier)
	}
	return fabric.Compose(fabric.Parts{
		Documents: documents,
		Log:       documents,
		Blobs:     documents,
		Signal:    by["signal"].Carrier.(fabric.SignalCarrier),
		Cache:     by["cache"].Carrier.(fabric.CacheCarrier),
		Locks:     by["lock"].Carrier.(fabric.LocksCarrier),
		Queue:     by["queue"].Carrier.(fabric.QueueCarrier),
	})
}

// openCarrier opens one driver, at another place of Redis if one is given.
func (n *Node) openCarrier(ctx context.Context, driver, place string, embedded fabric.Provider) (fabric.Carrier, error) {
	switch driver {
	case config.DriverEmbedded:
		return embedded, nil
	case config.DriverMemory:
		return memory.NewWith(memory.Options{Dropped: n.lost}), nil
	case config.DriverNATS:
		return n.openNATS(ctx)
	case config.DriverRabbitMQ:
		return n.openRabbitMQ(ctx)
	default:
		return n.openRedis(ctx, place, driver == config.DriverRedisCluster)
	}
}

// watchCarriers begins to ask the brokers whether they are there.
func (n *Node) watchCarriers(ctx context.Context) {
	for _, c := range n.carriers.list {
		if c.isBroker() {
			n.goes(c.driver, func() error { c.watch(ctx); return nil })
		}
	}
}

// carrierChecks are the checks of /ready: each part that a broker carries. Without it the node
// serves its clients all the same, and all nodes miss it alike.
func (n *Node) carrierChecks() []telemetry.Check {
	var checks []telemetry.Check
	for part, c := range n.carriers.byPart {
		if c.isBroker() {
			checks = append(checks, telemetry.Check{Name: part, Probe: c.probe})
		}
	}
	slices.SortFunc(checks, func(a, b telemetry.Check) int { return cmp.Compare(a.Name, b.Name) })
	return checks
}
