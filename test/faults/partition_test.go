//go:build linux

package faults

import (
	"testing"
	"time"
)

// What loss between nodes may take.
const (
	noticeLimit = 40 * time.Second // until both sides hold each other for gone
	healLimit   = 40 * time.Second // until all is as before: routes try again at intervals
)

// TestPartition loses what one node and the others send to each other: all of it, what the
// one sends, what the others send. Its clients stay and see the others go; the majority sees
// it go; then all is as before.
func TestPartition(t *testing.T) {
	t.Parallel()
	disturb(t, newNetwork(t))
}

// TestPartitionByProxies does the same where losing one direction does not stop the other.
func TestPartitionByProxies(t *testing.T) {
	t.Parallel()
	disturb(t, newProxies(t))
}

// disturb starts a cluster in a network and inflicts every kind of loss there.
func disturb(t *testing.T, w network) {
	t.Helper()
	hooks := newReceiver(t, w.host())
	c := newCluster(t, options{webhooks: hooks.server.URL, node: pauseFlags})
	w.attach(c)
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	p.onlyInterested(w)
	for i, kind := range lossKinds {
		tr := startTraffic(t, c)
		excused := p.loss(w, kind, i%nodeCount, hooks)
		tr.check(p.clients, excused)
		p.forget()
	}
}

// lossKind is a way to lose what nodes send.
type lossKind struct {
	name  string
	begin func(w network, node int)
}

var lossKinds = []lossKind{
	{"cut off", network.cut},
	{"not heard", network.mute},
	{"hearing nobody", network.deafen},
}

// loss cuts a node off in one way and heals that.
func (p *population) loss(w network, kind lossKind, i int, hooks *receiver) excuse {
	p.t.Helper()
	lost := p.cluster.nodes[i]
	rest, all, minority, majority := p.cluster.except(lost), p.clients, p.at(lost), p.notAt(lost)
	var others []string // who is on the majority's side only
	for _, n := range rest {
		others = append(others, n.ownUsers()...)
	}
	others = append(others, p.cluster.sharedUser((i+1)%nodeCount))
	what := lost.name + " " + kind.name
	before, webhooks, at := p.mark(), hooks.mark(), time.Now()
	kind.begin(w, i)
	last := p.moved(before, noticeLimit, majority, lost.ownUsers(), false)
	figure(p.t, what+", last member_removed heard by the majority", last.Sub(at))
	last = p.moved(before, noticeLimit, minority, others, false)
	figure(p.t, what+", last member_removed heard by its clients", last.Sub(at))
	p.clients = majority
	p.settle(settleLimit, rest...)
	p.clients = minority
	p.settle(settleLimit, lost)
	hooks.exactly("while "+what, webhooks, settleLimit, whenMoved(lost, false)...)
	p.clients = all
	p.moved(before, 0, majority, lost.ownUsers(), false) // nobody comes and goes meanwhile
	p.moved(before, 0, minority, others, false)
	gone, webhooks := p.mark(), hooks.mark()
	healed := time.Now()
	w.heal(i)
	last = p.moved(gone, healLimit, majority, lost.ownUsers(), true)
	figure(p.t, what+" no more, last member_added heard by the majority", last.Sub(healed))
	last = p.moved(gone, healLimit, minority, others, true)
	figure(p.t, what+" no more, last member_added heard by its clients", last.Sub(healed))
	p.settle(healLimit, p.cluster.nodes...)
	settled := time.Now()
	hooks.exactly("after "+what, webhooks, settleLimit, whenMoved(lost, true)...)
	p.moved(gone, 0, majority, lost.ownUsers(), true)
	p.moved(gone, 0, minority, others, true)
	p.connected()
	p.probe()
	return excuse{lost, at.Add(-lastMoment), settled}
}
