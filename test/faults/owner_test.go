//go:build linux

package faults

import (
	"fmt"
	"testing"
)

// TestKillHeldBack kills a node that holds webhooks of leaves back, as it does for
// webhooks.leave_debounce: they are of channels whose subscribers were on another node.
func TestKillHeldBack(t *testing.T) {
	t.Parallel()
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL, node: func(int) []string { return []string{"--webhooks.leave_debounce=1s"} }})
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	var left []*client
	var occupied, vacated []string
	before := hooks.mark()
	for i := range 12 { // of which each node reports some
		channel := fmt.Sprintf("held-back-%d", i)
		left = append(left, p.add(c.nodes[0], "leaver of "+channel, "", channel))
		occupied, vacated = append(occupied, "channel_occupied "+channel), append(vacated, "channel_vacated "+channel)
	}
	hooks.exactly("of the new channels", before, settleLimit, occupied...)
	before = hooks.mark()
	for _, one := range left {
		one.close()
		p.clients = p.without(one)
	}
	p.settle(settleLimit, c.nodes...)
	victim := c.nodes[2]
	p.lose(victim)
	victim.kill()
	hooks.exactly("of leaves before the death of "+victim.name, before, settleLimit, append(vacated, whenMoved(victim, false)...)...)
}

// without are all clients but one.
func (p *population) without(not *client) (list []*client) {
	for _, c := range p.clients {
		if c != not {
			list = append(list, c)
		}
	}
	return list
}
