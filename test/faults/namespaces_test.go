//go:build linux

package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// namespaces are a network of the nodes and one of their clients, with each node in a network
// namespace of its own, so that packets between nodes are lost and those of clients are not.
type namespaces struct {
	t      *testing.T
	prefix string
	subnet string // the first two bytes of all addresses
	number int    // of the network in this process
}

// networksMade counts the namespaces of this process.
var networksMade atomic.Int32

// newNamespaces makes them; an error says that this is not allowed.
func newNamespaces(t *testing.T) (*namespaces, error) {
	t.Helper()
	id, number := os.Getpid()%1000, int(networksMade.Add(1))-1
	w := &namespaces{t: t, prefix: fmt.Sprintf("pf%d%c", id, 'a'+number), subnet: fmt.Sprintf("10.%d", 64+id%64), number: number}
	if err := w.ip("netns", "add", w.space(0)); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		for i := range nodeCount {
			_ = w.ip("netns", "del", w.space(i)) // with the cables in it
		}
		_ = w.ip("link", "del", w.prefix+"m")
		_ = w.ip("link", "del", w.prefix+"c")
	})
	for i := 1; i < nodeCount; i++ {
		w.must("netns", "add", w.space(i))
	}
	for _, bridge := range []string{w.prefix + "m", w.prefix + "c"} {
		w.must("link", "add", bridge, "type", "bridge")
		w.must("link", "set", bridge, "up")
	}
	w.must("addr", "add", w.host()+"/24", "dev", w.prefix+"c")
	for i := range nodeCount {
		w.must("-n", w.space(i), "link", "set", "lo", "up")
		w.plug(i, "m", w.member(i))
		w.plug(i, "c", w.client(i))
	}
	return w, nil
}

// plug lays a cable from a bridge into a namespace.
func (w *namespaces) plug(i int, bridge, address string) {
	w.t.Helper()
	outer, inner := w.cable(i, bridge), "eth"+bridge
	w.must("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", w.space(i))
	w.must("link", "set", outer, "master", w.prefix+bridge)
	w.must("link", "set", outer, "up")
	w.must("-n", w.space(i), "addr", "add", address+"/24", "dev", inner)
	w.must("-n", w.space(i), "link", "set", inner, "up")
}

func (w *namespaces) space(i int) string { return fmt.Sprintf("%sn%d", w.prefix, i) }
func (w *namespaces) cable(i int, bridge string) string {
	return fmt.Sprintf("%s%s%d", w.prefix, bridge, i)
}
func (w *namespaces) member(i int) string { return fmt.Sprintf("%s.%d.%d", w.subnet, 2*w.number, i+1) }
func (w *namespaces) client(i int) string {
	return fmt.Sprintf("%s.%d.%d", w.subnet, 2*w.number+1, i+1)
}
func (w *namespaces) host() string { return w.client(252) }

func (w *namespaces) attach(c *cluster) {
	var seeds []string
	for i, n := range c.nodes {
		n.host, n.inside = w.client(i), []string{"ip", "netns", "exec", w.space(i)}
		seeds = append(seeds, w.member(i)+":"+strconv.Itoa(n.hello))
	}
	for i, n := range c.nodes {
		n.args = append(n.args, "--channels.host=0.0.0.0", "--metrics.host=0.0.0.0",
			"--cluster.bind_host="+w.member(i), "--cluster.seeds="+strings.Join(seeds, ","))
	}
}

func (w *namespaces) cut(i int) { w.t.Helper(); w.must("link", "set", w.cable(i, "m"), "down") }

func (w *namespaces) mute(i int) {
	w.t.Helper()
	for other := range nodeCount {
		if other != i {
			w.misdirect(i, other)
		}
	}
}

func (w *namespaces) deafen(i int) {
	w.t.Helper()
	for other := range nodeCount {
		if other != i {
			w.misdirect(other, i)
		}
	}
}

// misdirect gives what a node sends to another to a machine that is not there: it is lost on
// the way, and neither end is told.
func (w *namespaces) misdirect(from, to int) {
	w.t.Helper()
	w.must("-n", w.space(from), "neigh", "replace", w.member(to), "lladdr", "02:00:00:00:00:01", "dev", "ethm", "nud", "permanent")
}

func (w *namespaces) heal(i int) {
	w.t.Helper()
	w.must("link", "set", w.cable(i, "m"), "up")
	for other := range nodeCount {
		for _, way := range [][2]int{{i, other}, {other, i}} {
			_ = w.ip("-n", w.space(way[0]), "neigh", "del", w.member(way[1]), "dev", "ethm") // it may be right
		}
	}
}

func (w *namespaces) carried(i int) int64 {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/class/net", w.cable(i, "m"), "statistics/tx_bytes"))
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *namespaces) must(args ...string) {
	w.t.Helper()
	if err := w.ip(args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *namespaces) ip(args ...string) error {
	if output, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
