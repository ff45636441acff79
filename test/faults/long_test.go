//go:build linux

package faults

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// longTime is how long the long form runs unless PARLEY_FAULTS_TIME says otherwise.
const longTime = 10 * time.Minute

// longRun inflicts faults in random order.
type longRun struct {
	*population
	random *rand.Rand
	hooks  *receiver
	net    *namespaces // nil for none
	chat   *chat
	faults []fault
}

// fault is something that a long run inflicts on a node. It returns what may be lost.
type fault struct {
	name    string
	inflict func(n *node) []excuse
}

// TestLong inflicts faults in random order for a given time. The seed repeats the order.
func TestLong(t *testing.T) {
	if !long() {
		t.Skip("the long form runs with PARLEY_FAULTS=long")
	}
	length, seed := longTime, uint64(time.Now().UnixNano())
	var err error
	if text := os.Getenv("PARLEY_FAULTS_TIME"); text != "" {
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("PARLEY_FAULTS_TIME: %v", err)
		}
	}
	if text := os.Getenv("PARLEY_FAULTS_SEED"); text != "" {
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("PARLEY_FAULTS_SEED: %v", err)
		}
	}
	t.Logf("seed: PARLEY_FAULTS_SEED=%d", seed)
	l := newLongRun(t, rand.New(rand.NewPCG(seed, 0)))
	inflicted := map[string]int{}
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); {
		f, n := l.faults[l.random.IntN(len(l.faults))], l.cluster.nodes[l.random.IntN(nodeCount)]
		t.Logf("%s: %s", n.name, f.name)
		inflicted[f.name]++
		tr, end := startTraffic(t, l.cluster), l.chat.begin()
		time.Sleep(l.upTo(time.Second)) // any moment may be the wrong one
		begin := time.Now()
		excuses := f.inflict(n)
		end()
		tr.check(slices.Concat(l.clients, l.past), excuses...)
		l.chat.check(f.name)
		l.chat.forget()
		figure(t, "fault: "+f.name, time.Since(begin))
		l.forget()
	}
	for _, f := range slices.CompactFunc(l.faults, func(a, b fault) bool { return a.name == b.name }) {
		fmt.Printf("%4d times %s\n", inflicted[f.name], f.name)
	}
	if t.Failed() {
		fmt.Printf("failed; the same order again: make faults FAULTS_SEED=%d\n", seed)
	}
}

func long() bool { return os.Getenv("PARLEY_FAULTS") == "long" }

// upTo is a random time.
func (l *longRun) upTo(most time.Duration) time.Duration {
	return time.Duration(l.random.Int64N(int64(most)))
}

// newLongRun starts a cluster that everything can be done to which is allowed here.
func newLongRun(t *testing.T, random *rand.Rand) *longRun {
	t.Helper()
	l := &longRun{random: random}
	o, host := options{messaging: true, node: func(i int) []string { return append(quickFlags(i), cacheFlag) }}, "127.0.0.1"
	var err error
	if l.net, err = newNamespaces(t); err != nil {
		t.Logf("no loss between nodes in this run: %v", err)
	} else {
		host = l.net.host()
	}
	if o.dirs, err = smallDisks(t); err != nil {
		t.Logf("no full disks in this run: %v", err)
	}
	l.hooks = newReceiver(t, host)
	o.webhooks = l.hooks.server.URL
	c := newCluster(t, o)
	if l.net != nil {
		l.net.attach(c)
	}
	program, err := steppedBinary()
	if err != nil {
		t.Fatal(err)
	}
	c.clocks(program)
	l.choose(o.dirs != nil)
	c.startAll()
	l.population, l.chat = populate(t, c), newChat(t, c)
	l.settle(settleLimit, c.nodes...)
	l.hooks.everybodyCame(l.population)
	return l
}

// choose lists the faults. Those that end processes are there twice.
func (l *longRun) choose(disks bool) {
	kill := fault{"kill -9", func(n *node) []excuse {
		excused := l.crash(n, l.hooks)
		l.comeBack(n, l.hooks)
		return []excuse{excused}
	}}
	l.faults = []fault{kill, kill,
		{"restart", func(n *node) []excuse {
			l.stop(n, l.hooks)
			l.comeBack(n, l.hooks)
			return nil
		}},
		{"pause for less than the node timeout", func(n *node) []excuse {
			l.shortPause(n, l.upTo(quickTimeout*3/4), l.hooks)
			return nil
		}},
		{"pause for more than the node timeout", func(n *node) []excuse {
			return []excuse{l.longPause(n, quickTimeout+3*quickBeat+l.upTo(2*quickTimeout), l.hooks)}
		}},
		{"clock put off and right again", func(n *node) []excuse {
			off := l.upTo(48*time.Hour).Truncate(time.Second) - 24*time.Hour
			if off.Abs() < time.Hour {
				off += 2 * time.Hour // far beyond what the protocol allows
			}
			l.clockSteps(n, l.hooks, off, 0)
			return nil
		}},
	}
	if disks {
		l.faults = append(l.faults, fault{"full disk", func(n *node) []excuse {
			l.fullDisk(n, l.hooks)
			return nil
		}})
	}
	for _, kind := range lossKinds {
		if l.net == nil {
			break
		}
		l.faults = append(l.faults, fault{kind.name, func(n *node) []excuse {
			return []excuse{l.loss(l.net, kind, slices.Index(l.cluster.nodes, n), l.hooks)}
		}})
	}
}

// forget drops the traffic heard so far, and the clients that are gone.
func (p *population) forget() {
	p.past = nil
	for _, c := range p.clients {
		c.mu.Lock()
		clear(c.ticks)
		c.mu.Unlock()
	}
}
