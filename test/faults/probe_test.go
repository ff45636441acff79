//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws/wsutil"
)

// probes numbers them, so that the channels of one are not those of another.
var probes atomic.Int64

// Codes of the protocol.
const (
	codeOverQuota    = 4004
	codeUnauthorized = 4009
)

// publish publishes in the app of the probes.
func (p *population) publish(n *node, name, data string, channels ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	if err := n.publish(ctx, probeApp, name, data, channels...); err != nil {
		p.t.Errorf("publish through %s: %v", n.name, err)
	}
}

// probe tries through every living node what the traffic does not: client events, events for
// users, the termination of users and cache channels.
func (p *population) probe() {
	p.t.Helper()
	id := probes.Add(1)
	channel := fmt.Sprintf("private-probe-%d", id)
	var clients []*client
	for _, n := range p.cluster.living() {
		c := connect(p.t, n, probeApp, "probe at "+n.name, fmt.Sprintf("probe%d-%s", id, n.name))
		clients = append(clients, c)
		p.signin(c)
		if !c.wait(settleLimit, func() bool { return len(c.texts("pusher:signin_success")) > 0 }) {
			p.t.Errorf("%s is not signed in", c.name)
		}
		if err := c.subscribe(channel, userChannel+c.user); err != nil {
			p.t.Fatal(err)
		}
	}
	p.clientEvents(channel, clients)
	p.userEvents(clients)
	p.cached(fmt.Sprintf("cache-probe-%d", id), clients)
	p.terminated(clients)
	for _, c := range clients {
		c.close()
	}
}

// texts are the data of the events of a name that a client has heard, sorted. c.mu is held.
func (c *client) texts(name string) (list []string) {
	for _, f := range c.events {
		if f.Event == name {
			var text string
			if json.Unmarshal(f.Data, &text) != nil {
				text = string(f.Data)
			}
			list = append(list, text)
		}
	}
	slices.Sort(list)
	return list
}

// hears demands that a client hears exactly these events of a name.
func (p *population) hears(c *client, name string, want []string) {
	p.t.Helper()
	slices.Sort(want)
	var got []string
	if !c.wait(settleLimit, func() bool {
		got = c.texts(name)
		return slices.Equal(got, want)
	}) {
		p.t.Errorf("%s hears %v of %q, not %v", c.name, got, name, want)
	}
}

// clientEvents sends one from each client to all others, as soon as interest in the channel
// has spread.
func (p *population) clientEvents(channel string, clients []*client) {
	p.t.Helper()
	for _, c := range clients {
		p.spreads(channel, clients, c.node)
	}
	const name = "client-hello"
	for _, c := range clients {
		data, err := json.Marshal(c.name)
		if err != nil {
			panic(err) // a text
		}
		if err := c.send(frame{Event: name, Channel: channel, Data: data}); err != nil {
			p.t.Errorf("client event of %s: %v", c.name, err)
		}
	}
	for _, c := range clients {
		var want []string
		for _, other := range clients {
			if other != c {
				want = append(want, other.name)
			}
		}
		p.hears(c, name, want)
	}
}

// spreads publishes to a channel through a node until every client hears it.
func (p *population) spreads(channel string, clients []*client, through *node) {
	p.t.Helper()
	begin := time.Now()
	heard := eventually(settleLimit, func() bool {
		text := fmt.Sprintf("through %s after %v", through.name, time.Since(begin))
		p.publish(through, "spread", text, channel)
		for _, c := range clients {
			if !c.wait(10*poll, func() bool { return slices.Contains(c.texts("spread"), text) }) {
				return false
			}
		}
		return true
	})
	if !heard {
		p.t.Errorf("what %s publishes does not reach all nodes within %v", through.name, settleLimit)
	}
}

// userEvents sends each user one event through each node, as soon as interest in the user's
// channel has spread.
func (p *population) userEvents(clients []*client) {
	p.t.Helper()
	const name = "for-user"
	var want []string
	for _, through := range clients {
		want = append(want, through.node.name)
	}
	for _, c := range clients {
		for _, through := range clients {
			p.awaitUser(through.node, c)
			p.publish(through.node, name, through.node.name, userChannel+c.user)
		}
		p.hears(c, name, want)
	}
}

const userChannel = "#server-to-user-"

// awaitUser waits until a user's client hears what a node publishes.
func (p *population) awaitUser(through *node, c *client) {
	p.t.Helper()
	name := "there-yet-" + through.name
	if !eventually(settleLimit, func() bool {
		p.publish(through, name, "", userChannel+c.user)
		return c.wait(10*poll, func() bool { return len(c.texts(name)) > 0 })
	}) {
		p.t.Errorf("%s does not hear what %s publishes for its user", c.name, through.name)
	}
}

// cached publishes to a cache channel through each node, and has clients of all nodes ask. An
// event that is still on its way when they do may come as the last one and live.
func (p *population) cached(channel string, clients []*client) {
	p.t.Helper()
	for _, through := range clients {
		channel := channel + "-" + through.node.name
		p.publish(through.node, "kept", through.node.name, channel)
		for _, c := range clients {
			if err := c.subscribe(channel); err != nil {
				p.t.Error(err)
			}
		}
	}
	var want []string
	for _, through := range clients {
		want = append(want, through.node.name)
	}
	for _, c := range clients {
		var got []string
		if !c.wait(settleLimit, func() bool {
			got = slices.Compact(c.texts("kept"))
			return slices.Equal(got, want)
		}) {
			p.t.Errorf("%s is told the last events %v, not %v", c.name, got, want)
		}
	}
}

// terminated ends the connections of each user through the next node.
func (p *population) terminated(clients []*client) {
	p.t.Helper()
	for i, c := range clients {
		through := clients[(i+1)%len(clients)].node
		ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
		err := through.call(ctx, probeApp, http.MethodPost, "/users/"+c.user+"/terminate_connections", nil, []byte("{}"), nil)
		cancel()
		if err != nil {
			p.t.Errorf("terminate %s through %s: %v", c.user, through.name, err)
			continue
		}
		var closed wsutil.ClosedError
		if !c.wait(settleLimit, func() bool { return !c.closed.IsZero() }) || !errors.As(c.why, &closed) || closed.Code != codeUnauthorized {
			p.t.Errorf("%s was terminated through %s and ended with: %v", c.name, through.name, c.why)
		}
		for _, other := range clients[i+1:] {
			if !other.open() {
				p.t.Errorf("%s lost its connection when %s was terminated", other.name, c.user)
			}
		}
	}
}

// keepCached has a node take the last event of a cache channel and returns the channel.
func (p *population) keepCached(n *node) (channel string) {
	p.t.Helper()
	channel = fmt.Sprintf("cache-kept-%d", probes.Add(1))
	p.publish(n, "kept", channel, channel)
	return channel
}

// stillCached demands that the others have the event.
func (p *population) stillCached(channel string, nodes ...*node) {
	p.t.Helper()
	for _, n := range nodes {
		tries, begin := 0, time.Now()
		found := eventually(settleLimit, func() bool {
			tries++
			c := connect(p.t, n, probeApp, "asks for the last event", "")
			defer c.close()
			return c.subscribe(channel) == nil && c.wait(answerLimit, func() bool { return len(c.events) > 0 }) &&
				slices.Contains(c.texts("kept"), channel)
		})
		figure(p.t, fmt.Sprintf("last event of a cache channel found on %s, tries %d", n.name, tries), time.Since(begin))
		if !found {
			p.t.Errorf("%s does not know the last event of %s", n.name, channel)
		}
	}
}

// placesAreCertain waits until a place in the quota cannot be lost any more to somebody who came to
// another node at the same moment: it takes a second, and nothing tells.
func placesAreCertain() { time.Sleep(1100 * time.Millisecond) }

// quota fills the app's quota, half of it on one node, and returns what ends at its death.
func (p *population) quota(half *node) (rest []*client) {
	p.t.Helper()
	others := p.cluster.except(half)
	for i := range quotaSize {
		n := half
		if i%2 == 1 {
			n = others[i/2%len(others)]
		}
		c := p.admitted(n)
		if n == half {
			c.expect()
		} else {
			rest = append(rest, c)
		}
	}
	placesAreCertain()
	for _, n := range p.cluster.nodes {
		p.full(n)
	}
	return rest
}

// freed demands that a dead node's half of the quota is free, and no more.
func (p *population) freed(rest []*client, nodes ...*node) {
	p.t.Helper()
	for range quotaSize / 2 {
		rest = append(rest, p.admitted(nodes[0]))
	}
	placesAreCertain()
	for _, n := range nodes {
		p.full(n)
	}
	for _, c := range rest {
		if !c.open() {
			p.t.Errorf("%s lost its connection", c.name)
		}
		c.close()
	}
}

// admitted connects as soon as the node knows that the quota allows it.
func (p *population) admitted(n *node) (c *client) {
	p.t.Helper()
	var err error
	if !eventually(settleLimit, func() bool {
		c, err = dial(n, quotaApp, "one of the quota", "")
		return err == nil
	}) {
		p.t.Fatal(err)
	}
	p.t.Cleanup(c.close)
	return c
}

// full demands that a node refuses the next connection, as soon as it knows of all others.
func (p *population) full(n *node) {
	p.t.Helper()
	var err error
	if !eventually(settleLimit, func() bool {
		var c *client
		if c, err = dial(n, quotaApp, "one too many", ""); err == nil {
			c.close()
		}
		var code refusal
		return errors.As(err, &code) && code == codeOverQuota
	}) {
		p.t.Errorf("%s takes more connections than the quota allows: %v", n.name, err)
	}
}
