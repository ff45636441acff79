//go:build linux

package faults

import (
	"testing"
	"time"
)

// TestMessagesOverPause stops two nodes in turn for longer than the node timeout while messages are sent, some
// of them through it. Another node takes its place meanwhile. What it still has when it goes on, from
// its clients and on the way to its logs, must not get in between: it is not the owner any more.
func TestMessagesOverPause(t *testing.T) {
	t.Parallel()
	c := newCluster(t, options{node: quickFlags, messaging: true})
	c.startAll()
	m := newChat(t, c)
	hearers := m.listen()
	for _, n := range c.nodes[:2] { // any of the three may own nothing
		end := m.begin()
		m.grows(100)
		n.pause()
		time.Sleep(quickTimeout + 2*quickBeat) // the length of the pause is what is tested
		m.grows(100)
		n.resume()
		m.grows(100)
		end()
		m.check(n.name + " paused")
		m.heard(n.name+" paused", hearers)
	}
}

// TestMessagesOverPartition loses what a node and the others send to each other, in all directions and
// in one, while messages are sent on both sides. The short form cuts a node off, and no more.
func TestMessagesOverPartition(t *testing.T) {
	t.Parallel()
	w := newNetwork(t)
	c := newCluster(t, options{node: quickFlags, messaging: true})
	w.attach(c)
	c.startAll()
	m := newChat(t, c)
	hearers := m.listen()
	kinds := lossKinds
	if !long() {
		kinds = kinds[:1]
	}
	for i, kind := range kinds {
		end := m.begin()
		m.grows(100)
		kind.begin(w, i)
		time.Sleep(quickTimeout + 2*quickBeat) // as long as it takes until both sides know
		m.grows(100)
		w.heal(i)
		m.grows(100)
		end()
		what := c.nodes[i].name + " " + kind.name
		m.check(what)
		m.heard(what, hearers)
	}
}
