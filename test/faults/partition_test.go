//go:build linux

package faults

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// networks are a network of the nodes and one of their clients, with each node in a network
// namespace of its own, so that nodes can be cut off from each other and not from clients.
type networks struct {
	t      *testing.T
	prefix string
	subnet string // the first two bytes of all addresses
}

// newNetworks makes them, or skips the test where that is not allowed.
func newNetworks(t *testing.T, nodes int) *networks {
	t.Helper()
	id := os.Getpid() % 1000
	w := &networks{t: t, prefix: fmt.Sprintf("pf%d", id), subnet: fmt.Sprintf("10.%d", 64+id%64)}
	t.Cleanup(func() {
		for i := range nodes {
			_ = w.ip("netns", "del", w.space(i)) // with the cables in it
		}
		_ = w.ip("link", "del", w.prefix+"m")
		_ = w.ip("link", "del", w.prefix+"c")
	})
	if err := w.ip("netns", "add", w.space(0)); err != nil {
		t.Skipf("network namespaces are not to be had: %v", err)
	}
	for i := 1; i < nodes; i++ {
		w.must("netns", "add", w.space(i))
	}
	for _, bridge := range []string{w.prefix + "m", w.prefix + "c"} {
		w.must("link", "add", bridge, "type", "bridge")
		w.must("link", "set", bridge, "up")
	}
	w.must("addr", "add", w.client(253)+"/24", "dev", w.prefix+"c")
	for i := range nodes {
		w.must("-n", w.space(i), "link", "set", "lo", "up")
		w.plug(i, "m", w.member(i))
		w.plug(i, "c", w.client(i))
	}
	return w
}

// plug lays a cable from a bridge into a namespace.
func (w *networks) plug(i int, bridge, address string) {
	w.t.Helper()
	outer, inner := w.cable(i, bridge), "eth"+bridge
	w.must("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", w.space(i))
	w.must("link", "set", outer, "master", w.prefix+bridge)
	w.must("link", "set", outer, "up")
	w.must("-n", w.space(i), "addr", "add", address+"/24", "dev", inner)
	w.must("-n", w.space(i), "link", "set", inner, "up")
}

func (w *networks) space(i int) string { return fmt.Sprintf("%sn%d", w.prefix, i) }
func (w *networks) cable(i int, bridge string) string {
	return fmt.Sprintf("%s%s%d", w.prefix, bridge, i)
}
func (w *networks) member(i int) string { return fmt.Sprintf("%s.1.%d", w.subnet, i+1) }
func (w *networks) client(i int) string { return fmt.Sprintf("%s.2.%d", w.subnet, i+1) }

// cut takes a node off the network of the nodes; heal puts it back.
func (w *networks) cut(i int)  { w.t.Helper(); w.must("link", "set", w.cable(i, "m"), "down") }
func (w *networks) heal(i int) { w.t.Helper(); w.must("link", "set", w.cable(i, "m"), "up") }

func (w *networks) must(args ...string) {
	w.t.Helper()
	if err := w.ip(args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *networks) ip(args ...string) error {
	if output, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

// TestPartition cuts one node off the others for longer than the node timeout. Its clients
// stay and see the others go; the majority sees it go; then all is as before.
func TestPartition(t *testing.T) {
	t.Parallel()
	w := newNetworks(t, 3)
	hooks := newReceiver(t, w.client(253))
	var seeds []string
	c := newCluster(t, options{webhooks: hooks.server.URL})
	for i, n := range c.nodes {
		n.host, n.inside = w.client(i), []string{"ip", "netns", "exec", w.space(i)}
		seeds = append(seeds, w.member(i)+":"+strconv.Itoa(n.hello))
	}
	for i, n := range c.nodes {
		n.args = append(append(n.args, quickFlags(i)...), "--channels.host=0.0.0.0",
			"--cluster.bind_host="+w.member(i), "--cluster.seeds="+strings.Join(seeds, ","))
	}
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	tr := startTraffic(t, c)
	excused := p.partition(w, hooks)
	tr.check(p.clients, excused)
}

// partition cuts the first node off and heals the cut.
func (p *population) partition(w *networks, hooks *receiver) excuse {
	p.t.Helper()
	lost, rest := p.cluster.nodes[0], p.cluster.nodes[1:]
	all, minority, majority := p.clients, p.at(p.cluster.nodes[0]), p.notAt(p.cluster.nodes[0])
	var others []string // who is on the majority's side only
	for _, n := range rest {
		others = append(others, n.ownUsers()...)
	}
	others = append(others, p.cluster.sharedUser(1))
	before, webhooks, at := p.mark(), hooks.mark(), time.Now()
	w.cut(0)
	limit := quickTimeout + 3*quickBeat
	last := p.moved(before, limit, majority, lost.ownUsers(), false)
	figure(p.t, "one node cut off, last member_removed heard by the majority", last.Sub(at))
	last = p.moved(before, limit, minority, others, false)
	figure(p.t, "one node cut off, last member_removed heard by its clients", last.Sub(at))
	p.clients = majority
	p.settle(settleLimit, rest...)
	p.clients = minority
	p.settle(settleLimit, lost)
	hooks.exactly("during the cut", webhooks, settleLimit, whenMoved(lost, false)...)
	p.clients = all
	gone, webhooks := p.mark(), hooks.mark()
	healed := time.Now()
	w.heal(0)
	const healLimit = 15 * time.Second // the engine's routes try again at intervals
	last = p.moved(gone, healLimit, majority, lost.ownUsers(), true)
	figure(p.t, "cut healed, last member_added heard by the majority", last.Sub(healed))
	last = p.moved(gone, healLimit, minority, others, true)
	figure(p.t, "cut healed, last member_added heard by the minority", last.Sub(healed))
	p.settle(healLimit, p.cluster.nodes...)
	settled := time.Now()
	hooks.exactly("after the cut", webhooks, settleLimit, whenMoved(lost, true)...)
	p.connected()
	return excuse{lost, at.Add(-spread), settled}
}
