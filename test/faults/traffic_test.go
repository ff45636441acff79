//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Channels of the traffic. Each event goes to both, and to one where only the next node has a
// subscriber.
const (
	plainChannel    = "ticks"
	presenceChannel = "presence-room"
)

// ratePerNode are the publishes a second through each node: 100 through three.
const ratePerNode = 34

// published is one event that a node has acknowledged.
type published struct {
	tick
	channels            []string
	begun, acknowledged time.Time
}

// traffic publishes through every living node and remembers what was acknowledged.
type traffic struct {
	t       *testing.T
	cluster *cluster
	cancel  context.CancelFunc
	running sync.WaitGroup
	first   int // number of the first event of each node
	before  map[*node]count

	mu      sync.Mutex
	acked   map[string][]published // by node
	tried   map[string]int         // publishes begun, by node
	late    int                    // events heard behind later ones, of those that need not come
	refused []string               // by nodes that were up all the time
	longest time.Duration          // of a publish through a node that was up all the time
}

// traffics numbers them, so that the events of two are not mistaken for each other.
var traffics atomic.Int64

// startTraffic publishes until stop is called.
func startTraffic(t *testing.T, c *cluster) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	tr := &traffic{t: t, cluster: c, cancel: cancel, acked: map[string][]published{}, tried: map[string]int{},
		first: int(traffics.Add(1)) * 1_000_000, before: map[*node]count{}}
	for _, n := range c.nodes {
		tr.before[n] = n.counted(t)
	}
	for _, n := range c.nodes {
		tr.running.Go(func() { tr.publishThrough(ctx, n) })
	}
	t.Cleanup(tr.stop)
	return tr
}

// stop returns when nothing is published any more.
func (tr *traffic) stop() {
	tr.cancel()
	tr.running.Wait()
}

// publishThrough numbers its events over all starts of the node.
func (tr *traffic) publishThrough(ctx context.Context, n *node) {
	next := tr.cluster.nodes[(slices.Index(tr.cluster.nodes, n)+1)%nodeCount]
	channels := []string{plainChannel, presenceChannel, lonelyChannel(next)}
	ticker := time.NewTicker(time.Second / ratePerNode)
	defer ticker.Stop()
	for seq := tr.first; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s := n.is(); s != up && s != paused {
			continue
		}
		one := tick{Publisher: n.name, Seq: seq}
		data, err := json.Marshal(one)
		if err != nil {
			panic(err) // a struct of a text and a number
		}
		turn, begun := n.turn(), time.Now()
		tr.begin(n)
		// A publish under way is not given up when the traffic ends: it may have happened.
		err = n.publish(context.WithoutCancel(ctx), mainApp, tickEvent, string(data), channels...)
		tr.note(n, turn, published{one, channels, begun, time.Now()}, err)
		seq++
	}
}

func (tr *traffic) begin(n *node) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.tried[n.name]++
}

func (tr *traffic) note(n *node, turn int, p published, err error) {
	untouched := n.turn() == turn && n.is() == up
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err == nil {
		tr.acked[n.name] = append(tr.acked[n.name], p)
		if untouched {
			tr.longest = max(tr.longest, p.acknowledged.Sub(p.begun))
		}
	} else if untouched {
		tr.refused = append(tr.refused, fmt.Sprintf("%s seq %d: %v", n.name, p.Seq, err))
	}
}

// total is how many publishes were acknowledged.
func (tr *traffic) total() (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, list := range tr.acked {
		n += len(list)
	}
	return n
}

// excuse is a time in which events of a node, or for the clients of a node, may be lost.
type excuse struct {
	node     *node
	from, to time.Time
}

// spread is how long a new subscription may take to be known on all nodes, and slowSpread how long
// on a machine that does other things, too.
const (
	spread     = 2 * time.Second
	slowSpread = 10 * time.Second
)

// lastMoment is how long before its end, or before it was cut off, what a node acknowledged
// may be lost.
const lastMoment = time.Second

// drain is how long the last events may be under way.
const drain = 20 * time.Second

// check demands of every client all events that were acknowledged while it was subscribed,
// each once and in the order of its publisher. A client is released from those that an excuse
// covers.
func (tr *traffic) check(clients []*client, excuses ...excuse) {
	tr.t.Helper()
	tr.stop()
	if len(tr.refused) > 0 {
		tr.t.Errorf("%d publishes were refused by nodes that were up, the first: %s", len(tr.refused), tr.refused[0])
	}
	for _, c := range clients {
		for channel := range c.joined {
			tr.checkChannel(c, channel, excuses)
		}
	}
	for _, n := range tr.cluster.nodes {
		tr.checkInterest(n, clients, excuses)
	}
	if len(excuses) > 0 {
		figure(tr.t, "events that came late, of those that may be lost", tr.late)
	}
}

func (tr *traffic) checkChannel(c *client, channel string, excuses []excuse) {
	tr.t.Helper()
	for publisher, acked := range tr.acked {
		var want []published
		from := c.owedFrom(channel, publisher)
		for _, p := range acked {
			if tr.owed(c, channel, p, from, excuses) {
				want = append(want, p)
			}
		}
		var got []int
		var missing []published
		complete := func() bool {
			got, missing = heardFrom(c, channel, publisher), nil
			slices.Sort(got) // checkOrder looks at the order
			for _, p := range want {
				if _, found := slices.BinarySearch(got, p.Seq); !found {
					missing = append(missing, p)
				}
			}
			return len(missing) == 0
		}
		if !c.wait(drain, complete) {
			tr.t.Errorf("%s at %s lacks %d of %d events of %s on %s; the first is %d, acknowledged %v after the subscription",
				c.name, c.node.name, len(missing), len(want), publisher, channel, missing[0].Seq,
				missing[0].acknowledged.Sub(c.joined[channel]).Round(time.Millisecond))
		}
		tr.checkOrder(c, channel, publisher, want)
	}
}

// checkOrder demands that no event comes twice, and that those owed come in the order of their
// publisher. One that need not come at all may come late: what a connection between nodes
// held when it was lost arrives when the loss ends, unless a new one was made meanwhile.
func (tr *traffic) checkOrder(c *client, channel, publisher string, want []published) {
	tr.t.Helper()
	owed, seen := map[int]bool{}, map[int]bool{}
	for _, p := range want {
		owed[p.Seq] = true
	}
	last := 0
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, seq := range heardFrom(c, channel, publisher) {
		if seen[seq] {
			tr.t.Errorf("%s at %s hears %d of %s on %s twice", c.name, c.node.name, seq, publisher, channel)
			return
		}
		seen[seq] = true
		switch {
		case seq > last:
			last = seq
		case owed[seq]:
			tr.t.Errorf("%s at %s hears %d after %d of %s on %s", c.name, c.node.name, seq, last, publisher, channel)
			return
		default:
			tr.late++
		}
	}
}

// heardFrom are the numbers of a publisher's events in the order of their arrival. c.mu is
// held.
func heardFrom(c *client, channel, publisher string) (list []int) {
	for _, one := range c.ticks[channel] {
		if one.Publisher == publisher {
			list = append(list, one.Seq)
		}
	}
	return list
}

// owedFrom is when a subscription is known to a publisher. Who hears its first event later than that
// is owed from there, unless times are judged or it is too late for any machine.
func (c *client) owedFrom(channel, publisher string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	from, last := c.joined[channel].Add(spread), c.joined[channel].Add(slowSpread)
	if strict {
		return from
	}
	for _, one := range c.ticks[channel] {
		if one.Publisher != publisher {
			continue
		}
		if one.heard.After(last) {
			return last
		}
		if one.heard.After(from) {
			return one.heard
		}
		break
	}
	return from
}

// owed tells whether a client must have heard an event.
func (tr *traffic) owed(c *client, channel string, p published, from time.Time, excuses []excuse) bool {
	if !slices.Contains(p.channels, channel) || p.begun.Before(from) {
		return false
	}
	if !c.closed.IsZero() && p.acknowledged.After(c.closed.Add(-spread)) {
		return false
	}
	return !excused(p, c.node, excuses)
}

// excused tells whether an event may be lost on the way to a node.
func excused(p published, to *node, excuses []excuse) bool {
	return slices.ContainsFunc(excuses, func(e excuse) bool {
		return (e.node.name == p.Publisher || e.node == to) && p.acknowledged.After(e.from) && p.begun.Before(e.to)
	})
}
