//go:build linux

package faults

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// longTime is how long the long form runs unless PARLEY_FAULTS_TIME says otherwise.
const longTime = 10 * time.Minute

// TestLong inflicts faults in random order for a given time. The seed repeats the order.
func TestLong(t *testing.T) {
	if os.Getenv("PARLEY_FAULTS") != "long" {
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
	random := rand.New(rand.NewPCG(seed, 0))
	hooks := newReceiver(t, "127.0.0.1")
	c := newCluster(t, options{webhooks: hooks.server.URL, node: quickFlags})
	c.startAll()
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	for end := time.Now().Add(length); time.Now().Before(end) && !t.Failed(); {
		n := c.nodes[random.IntN(len(c.nodes))]
		tr := startTraffic(t, c)
		time.Sleep(time.Duration(random.Int64N(int64(time.Second)))) // any moment may be the wrong one
		switch random.IntN(4) {
		case 0:
			t.Logf("short pause of %s", n.name)
			p.shortPause(n, time.Duration(random.Int64N(int64(quickTimeout*3/4))), hooks)
			tr.check(p.clients)
		case 1:
			t.Logf("long pause of %s", n.name)
			tr.check(p.clients, p.longPause(n, quickTimeout+3*quickBeat+time.Duration(random.Int64N(int64(2*quickTimeout))), hooks))
		default:
			t.Logf("kill of %s", n.name)
			excused := p.crash(n, hooks)
			p.comeBack(n, hooks)
			tr.check(append(p.clients, p.past...), excused)
		}
		p.forget()
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
