//go:build linux

package faults

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// count is what a node says of the main app's events that it handed over to other nodes and
// received from them, since a start.
type count struct {
	turn           int
	sent, received int
}

// counted reads a node's metrics. A node that does not answer has none.
func (n *node) counted(t *testing.T) count {
	t.Helper()
	c := count{turn: n.turn()}
	if n.is() != up {
		return c
	}
	for _, line := range n.metricLines(t, "parley_horizontal_broadcast_") {
		for name, value := range map[string]*int{"published": &c.sent, "received": &c.received} {
			if strings.HasPrefix(line, "parley_horizontal_broadcast_"+name+"_total{") &&
				strings.Contains(line, fmt.Sprintf("app_id=%q", mainApp)) {
				*value = number(t, line)
			}
		}
	}
	return c
}

// metricLines are those of a node's metrics that begin with a prefix.
func (n *node) metricLines(t *testing.T, prefix string) (list []string) {
	t.Helper()
	answer, err := httpClient.Get("http://" + n.metricsAddress() + "/metrics") // asks the engine, too
	if err != nil {
		t.Errorf("metrics of %s: %v", n.name, err)
		return nil
	}
	defer func() { _ = answer.Body.Close() }() // read to its end
	if answer.StatusCode != http.StatusOK {
		t.Errorf("metrics of %s: %s", n.name, answer.Status)
	}
	lines := bufio.NewScanner(answer.Body)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), prefix) {
			list = append(list, lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		t.Errorf("metrics of %s: %v", n.name, err)
	}
	return list
}

// number is the value of a metric's line.
func number(t *testing.T, line string) int {
	t.Helper()
	value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
	if err != nil {
		t.Errorf("metric %q: %v", line, err)
	}
	return int(value)
}

// checkInterest demands that a node which was not touched has received, from every other
// node, each event once for each channel that it has subscribers of, and no other. Where
// publishes failed or are excused it is a range, and what did not come of earlier traffic may
// come now.
func (tr *traffic) checkInterest(n *node, clients []*client, excuses []excuse) {
	tr.t.Helper()
	before := tr.before[n]
	if n.is() != up || n.turn() != before.turn {
		return
	}
	least, most := 0, 0
	for publisher, acked := range tr.acked {
		if publisher == n.name || len(acked) == 0 {
			continue
		}
		for _, channel := range acked[0].channels {
			owed, subscribed := owedAt(n, channel, publisher, clients)
			if !subscribed {
				continue
			}
			most += tr.tried[publisher]
			for _, p := range acked {
				if !excused(p, n, excuses) && !p.begun.Before(owed) {
					least++
				}
			}
		}
	}
	var got int
	eventually(drain, func() bool {
		got = n.counted(tr.t).received - before.received
		return got >= least
	})
	most += tr.cluster.missing[n]
	if got < least || got > most {
		tr.t.Errorf("%s has received %d events of the traffic from other nodes, not %d to %d", n.name, got, least, most)
	}
	figure(tr.t, n.name+", events received from other nodes, and due", fmt.Sprintf("%d of %d to %d", got, least, most))
	tr.cluster.missing[n] = most - got
}

// owedAt tells from when on the clients of a node are owed what a publisher sends to a channel, and
// whether there are any.
func owedAt(n *node, channel, publisher string, clients []*client) (from time.Time, subscribed bool) {
	for _, c := range clients {
		if c.node != n || c.joined[channel].IsZero() {
			continue
		}
		if at := c.owedFrom(channel, publisher); !subscribed || at.Before(from) {
			from, subscribed = at, true
		}
	}
	return from, subscribed
}

// Size and number of the events that show who receives them.
const (
	largeSize  = 8 << 10
	largeCount = 200
)

// onlyInterested publishes events for one node and looks at what comes to each.
func (p *population) onlyInterested(w network) {
	p.t.Helper()
	publisher, interested, other := 0, 1, 2
	c := connect(p.t, p.cluster.nodes[interested], probeApp, "interested", "")
	defer c.close()
	if err := c.subscribe("large"); err != nil {
		p.t.Fatal(err)
	}
	p.spreads("large", []*client{c}, p.cluster.nodes[publisher])
	data := strings.Repeat("x", largeSize)
	before := [nodeCount]int64{}
	for i := range before {
		before[i] = w.carried(i)
	}
	for range largeCount {
		p.publish(p.cluster.nodes[publisher], "large", data, "large")
	}
	large := 0
	if !c.wait(drain, func() bool {
		large = 0
		for _, f := range c.events {
			if f.Event == "large" {
				large++
			}
		}
		return large >= largeCount
	}) {
		p.t.Errorf("the only subscriber lacks events: %d of %d", large, largeCount)
	}
	const sum = largeSize * largeCount
	if got := w.carried(interested) - before[interested]; got < sum {
		p.t.Errorf("%d bytes of events came to the only subscriber's node with %d bytes: this test sees nothing", sum, got)
	}
	got := w.carried(other) - before[other]
	figure(p.t, fmt.Sprintf("bytes that came to a node without subscribers while others exchanged %d", sum), got)
	if got > sum/4 {
		p.t.Errorf("%d bytes came to a node without subscribers, of %d", got, sum)
	}
}
