//go:build linux

package faults

import (
	"testing"
	"time"
)

// Timing of a cluster that notices a silent node sooner than by default.
const (
	quickTimeout = 4 * time.Second
	quickBeat    = 500 * time.Millisecond
)

// pauseTimeout is the node timeout where a node is stopped for less, or where proxies carry what it
// says: what a busy machine adds must not come near it.
const pauseTimeout = 8 * time.Second

func quickFlags(int) []string { return timeoutFlags(quickTimeout) }

func pauseFlags(int) []string { return timeoutFlags(pauseTimeout) }

func timeoutFlags(timeout time.Duration) []string {
	return []string{"--cluster.node_timeout=" + timeout.String(), "--cluster.heartbeat_interval=" + quickBeat.String(), "--cluster.cleanup_interval=200ms"}
}

// TestPause stops each node for less and one for more than the node timeout.
func TestPause(t *testing.T) {
	t.Parallel()
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL, node: pauseFlags})
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	tr := startTraffic(t, c)
	for _, n := range c.nodes {
		p.shortPause(n, pauseTimeout/3, hooks)
	}
	excuses := []excuse{p.longPause(c.nodes[1], pauseTimeout+3*quickBeat, hooks)}
	tr.check(p.clients, excuses...)
}

// shortPause stops a node for less than the timeout: nobody shall notice.
func (p *population) shortPause(n *node, length time.Duration, hooks *receiver) {
	p.t.Helper()
	before, webhooks := p.mark(), hooks.mark()
	n.pause()
	time.Sleep(length) // the length of the pause is what is tested
	n.resume()
	p.settle(settleLimit, p.cluster.nodes...)
	hooks.exactly("for a short pause of "+n.name, webhooks, 0)
	p.moved(before, 0, p.clients, nil, false)
	p.watched(before, 0, p.clients, nil, false)
	p.connected()
	p.probe()
}

// longPause stops a node for longer than the timeout: it is dead meanwhile. Its clients keep
// their connections and hear of nobody who went. It returns when they may miss events.
func (p *population) longPause(n *node, length time.Duration, hooks *receiver) excuse {
	p.t.Helper()
	survivors, all := p.cluster.except(n), p.clients
	own, others := p.at(n), p.notAt(n)
	before, webhooks := p.mark(), hooks.mark()
	n.pause()
	at := time.Now()
	p.clients = others
	last := p.moved(before, settleLimit, others, p.lostWith(n), false)
	figure(p.t, n.name+" paused, last member_removed heard", last.Sub(at))
	p.watched(before, settleLimit, others, p.lostWith(n), false)
	p.settle(settleLimit, survivors...)
	hooks.exactly("while "+n.name+" is paused", webhooks, settleLimit, whenMoved(n, false)...)
	time.Sleep(time.Until(at.Add(length))) // the length of the pause is what is tested
	p.clients = all
	gone, webhooks := p.mark(), hooks.mark()
	n.resume()
	back := time.Now()
	last = p.moved(gone, settleLimit, others, p.lostWith(n), true)
	figure(p.t, n.name+" goes on, last member_added heard", last.Sub(back))
	p.watched(gone, settleLimit, others, p.lostWith(n), true)
	p.settle(settleLimit, p.cluster.nodes...)
	settled := time.Now()
	hooks.exactly("when "+n.name+" goes on", webhooks, settleLimit, whenMoved(n, true)...)
	p.moved(gone, 0, others, p.lostWith(n), true)
	p.moved(before, 0, own, nil, false)
	p.watched(before, 0, own, nil, false)
	p.connected()
	p.probe()
	return excuse{n, at.Add(-lastMoment), settled}
}
