//go:build linux

package faults

import (
	"context"
	_ "embed"
	bits "encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// clockVariable names the file that a program with the wall clock of this test reads.
const clockVariable = "TEST_CLOCK"

// clockSource becomes a part of the package time of that program.
//
//go:embed testdata/clock.go.txt
var clockSource string

// steppedBinary builds, once, the program with a wall clock that a file puts forward or back.
// The monotonic clock stays as it is, as on a machine whose clock is set.
var steppedBinary = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find the standard library: %w", err)
	}
	packageTime := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	original, err := os.ReadFile(filepath.Join(packageTime, "time.go"))
	if err != nil {
		return "", err
	}
	const reads = "\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(original), reads) != 1 {
		return "", fmt.Errorf("time.Now does not read the clock as in Go 1.26: %q is not there once", reads)
	}
	changed := strings.Replace(string(original), reads, reads+"\tsec += steppedSeconds()\n", 1)
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range map[string]string{"time.go": changed, "stepped.go": clockSource} {
		file := filepath.Join(scratch, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(packageTime, name)] = file
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(scratch, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		return "", err
	}
	return build(filepath.Join(scratch, "stepped"), "-overlay", list)
})

// step is how far the node's wall clock is off.
func (n *node) step() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.off
}

// setClock puts the node's wall clock off by whole seconds.
func (n *node) setClock(off time.Duration) {
	n.t.Helper()
	file, err := os.OpenFile(n.clock, os.O_WRONLY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // it is written, or the test ends
	n.mu.Lock()                         // what is under way is signed with another time, and must not be judged in between
	defer n.mu.Unlock()
	if _, err := file.WriteAt(bits.NativeEndian.AppendUint64(nil, uint64(off/time.Second)), 0); err != nil {
		n.t.Fatal(err)
	}
	n.off = off
	n.turns++
}

// clocks gives each node of a cluster that was not started a wall clock of its own.
func (c *cluster) clocks(program string) {
	c.t.Helper()
	for _, n := range c.nodes {
		n.binary, n.clock = program, filepath.Join(n.logs, "clock")
		if err := os.WriteFile(n.clock, make([]byte, 8), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
}

// cacheFlag keeps last events for longer than a clock is put forward.
const cacheFlag = "--cache.ttl=100h"

// TestClock puts the wall clock of one node after the other forward or back, and right again.
func TestClock(t *testing.T) {
	t.Parallel()
	program, err := steppedBinary()
	if err != nil {
		t.Fatal(err)
	}
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL, node: func(i int) []string { return append(quickFlags(i), cacheFlag) }})
	c.clocks(program)
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	tr := startTraffic(t, c)
	p.clockSteps(c.nodes[0], hooks, time.Hour, -time.Hour, 0)
	p.clockSteps(c.nodes[1], hooks, 24*time.Hour, 0)
	tr.check(p.clients)
}

// clockSteps puts a node's clock off by this much, one after the other, which nobody shall
// notice who does not look at a clock.
func (p *population) clockSteps(n *node, hooks *receiver, steps ...time.Duration) {
	p.t.Helper()
	kept := p.keepCached(n)
	for _, off := range steps {
		when := fmt.Sprintf("with the clock of %s off by %v", n.name, off)
		before, webhooks, at := p.mark(), hooks.mark(), time.Now()
		n.setClock(off)
		for _, other := range p.cluster.nodes {
			p.timed(other)
		}
		p.comeAndGo(when, hooks, webhooks)
		p.stillCached(kept, p.cluster.nodes...)
		for i, through := range p.cluster.nodes {
			known := p.cluster.nodes[(i+1)%nodeCount]
			p.checkWritten("clock of a node put off, app created",
				p.createApp(time.Now(), patience, through, known, fmt.Sprintf("clock-%d", time.Now().UnixNano())))
		}
		p.probe()
		// That nobody is held for dead cannot be awaited otherwise.
		time.Sleep(time.Until(at.Add(quickTimeout + quickBeat)))
		p.settle(settleLimit, p.cluster.nodes...)
		p.moved(before, 0, p.clients, nil, false)
		p.watched(before, 0, p.clients, nil, false)
		p.connected()
	}
}

// timed demands that a node takes requests that were signed now, or refuses them if its own
// clock is off by more than the ten minutes that the protocol allows.
func (p *population) timed(n *node) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	err := n.callAt(ctx, time.Now(), probeApp, http.MethodGet, "/channels", nil, nil, nil)
	refused := err != nil && strings.Contains(err.Error(), " 401 ")
	if wrong := n.step() != 0; refused != wrong || err != nil && !refused {
		p.t.Errorf("%s, whose clock is off by %v, answers a request with the right time: %v", n.name, n.step(), err)
	}
}
