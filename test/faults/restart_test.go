//go:build linux

package faults

import (
	"context"
	"net/http"
	"testing"
	"time"
)

// TestRestart stops and starts the nodes one after the other, and then kills all at once.
func TestRestart(t *testing.T) {
	t.Parallel()
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL})
	c.startAll()
	stops(t, c, hooks)
	if output, err := command(t, patience, "app", "create", "--server", "http://"+c.nodes[0].address(), "--id", "by-cli"); err != nil {
		t.Fatalf("parley app create: %v\n%s", err, output)
	}
	c.know("by-cli")
	rollingRestart(t, c)
	c.know("by-cli")
	restartOfAll(t, c)
	c.know("by-cli")
}

// know demands that every node knows an app.
func (c *cluster) know(id string) {
	c.t.Helper()
	for _, n := range c.nodes {
		var err error
		if !eventually(settleLimit, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), settleLimit)
			defer cancel()
			err = n.admin(ctx, http.MethodGet, "apps/"+id, nil, nil)
			return err == nil
		}) {
			c.t.Errorf("%s does not know app %s: %v", n.name, id, err)
		}
	}
}

// stops ends and starts each node while its clients stay to the end.
func stops(t *testing.T, c *cluster, hooks *receiver) {
	t.Helper()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	for _, n := range c.nodes {
		p.stop(n, hooks)
		p.comeBack(n, hooks)
	}
	for _, one := range p.clients {
		one.close()
	}
	p.clients = nil
	p.settle(settleLimit, c.nodes...)
}

// stop ends a node as a process manager does. Its clients are sent away and do not return.
func (p *population) stop(n *node, hooks *receiver) {
	p.t.Helper()
	p.lose(n)
	before, webhooks, begin := p.mark(), hooks.mark(), time.Now()
	n.terminate()
	figure(p.t, n.name+" stopped by SIGTERM", time.Since(begin))
	p.moved(before, settleLimit, p.clients, p.lostWith(n), false)
	p.watched(before, settleLimit, p.clients, p.lostWith(n), false)
	p.settle(settleLimit, p.cluster.except(n)...)
	hooks.exactly("after the end of "+n.name, webhooks, settleLimit, whenMoved(n, false)...)
	p.connected()
}

func rollingRestart(t *testing.T, c *cluster) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	roamers := roam(ctx, t, c, 12)
	tr := startTraffic(t, c)
	begin := time.Now()
	for _, n := range c.nodes {
		stopping := time.Now()
		n.terminate()
		figure(t, n.name+" stopped by SIGTERM", time.Since(stopping))
		n.start()
		n.ready()
	}
	figure(t, "rolling restart of three nodes", time.Since(begin))
	p := &population{t: t, cluster: c}
	for _, r := range roamers {
		if !eventually(settleLimit, func() bool { return r.client().node.is() == up && r.client().open() }) {
			t.Errorf("%s is not connected again", r.name)
		}
		p.clients = append(p.clients, r.client())
	}
	p.settle(settleLimit, c.nodes...)
	var gap time.Duration
	for _, r := range roamers {
		gap = max(gap, r.longestGap())
	}
	figure(t, "rolling restart, longest time of a client without a connection", gap)
	if gap > slack*gapLimit {
		t.Errorf("a client was without a connection for %v", gap)
	}
	tr.check(everybody(roamers))
	figure(t, "rolling restart, publishes acknowledged", tr.total())
}

// open tells whether the connection stands.
func (c *client) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed.IsZero()
}

func restartOfAll(t *testing.T, c *cluster) {
	t.Helper()
	for _, n := range c.nodes {
		n.set(down)
	}
	for _, n := range c.nodes {
		n.kill()
	}
	figure(t, "all nodes killed at once, ready again", c.startAll())
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	tr := startTraffic(t, c)
	if !eventually(patience, func() bool { return tr.total() > 3*nodeCount*ratePerNode }) {
		t.Errorf("%d publishes were acknowledged", tr.total())
	}
	tr.check(p.clients)
	p.createApp(time.Now(), patience, c.nodes[0], c.nodes[1], "after-all-were-killed")
}
