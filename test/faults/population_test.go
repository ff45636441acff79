//go:build linux

package faults

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// population is who is connected where. Each node has members of the presence channel of its
// own, one that it shares with the next node, a plain subscriber, the only subscriber of a
// channel, and one who watches the users of all nodes.
type population struct {
	t       *testing.T
	cluster *cluster
	clients []*client // that are or should be connected
	past    []*client // that were
}

// membersPerNode have their sockets on one node only.
const membersPerNode = 3

func lonelyChannel(n *node) string { return "only-" + n.name }

func (n *node) ownUsers() (list []string) {
	for i := range membersPerNode {
		list = append(list, fmt.Sprintf("%s-user%d", n.name, i))
	}
	return list
}

// sharedUser has a socket on the node and one on the next.
func (c *cluster) sharedUser(i int) string {
	return fmt.Sprintf("shared-%d-%d", i, (i+1)%len(c.nodes))
}

// populate connects everybody.
func populate(t *testing.T, c *cluster) *population {
	t.Helper()
	p := &population{t: t, cluster: c}
	for _, n := range c.nodes {
		p.fill(n)
	}
	return p
}

// fill connects the clients of one node.
func (p *population) fill(n *node) {
	p.t.Helper()
	i := slices.Index(p.cluster.nodes, n)
	previous := (i + len(p.cluster.nodes) - 1) % len(p.cluster.nodes)
	users := append(n.ownUsers(), p.cluster.sharedUser(i), p.cluster.sharedUser(previous))
	for _, user := range users {
		p.add(n, "member "+user, user, plainChannel, presenceChannel)
	}
	for _, user := range n.ownUsers() {
		p.signin(p.find(n, "member "+user))
	}
	p.add(n, "plain at "+n.name, "", plainChannel)
	p.add(n, "lonely at "+n.name, "", lonelyChannel(n))
	var watched []string
	for _, other := range p.cluster.nodes {
		watched = append(watched, other.ownUsers()...)
	}
	p.signin(p.add(n, "watcher at "+n.name, "watcher-"+n.name, plainChannel), watched...)
}

func (p *population) add(n *node, name, user string, channels ...string) *client {
	p.t.Helper()
	c := connect(p.t, n, mainApp, name, user)
	if err := c.subscribe(channels...); err != nil {
		p.t.Fatal(err)
	}
	p.clients = append(p.clients, c)
	return c
}

func (p *population) signin(c *client, watchlist ...string) {
	p.t.Helper()
	if err := c.signin(watchlist...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *population) find(n *node, name string) *client {
	for _, c := range p.clients {
		if c.node == n && c.name == name {
			return c
		}
	}
	p.t.Fatalf("no client %q at %s", name, n.name)
	return nil
}

// at are the clients of a node.
func (p *population) at(n *node) (list []*client) {
	for _, c := range p.clients {
		if c.node == n {
			list = append(list, c)
		}
	}
	return list
}

// notAt are the clients of all other nodes.
func (p *population) notAt(n *node) (list []*client) {
	for _, c := range p.clients {
		if c.node != n {
			list = append(list, c)
		}
	}
	return list
}

// lose says that the clients of a node end with it.
func (p *population) lose(n *node) {
	for _, c := range p.at(n) {
		c.expect()
		p.past = append(p.past, c)
	}
	p.clients = p.notAt(n)
}

// lostWith are the users who have no socket left when a node dies.
func (p *population) lostWith(n *node) []string { return n.ownUsers() }

// members of a list are those that are on the presence channel.
func members(clients []*client) (list []*client) {
	for _, c := range clients {
		if strings.HasPrefix(c.name, "member ") {
			list = append(list, c)
		}
	}
	return list
}

func watchers(clients []*client) (list []*client) {
	for _, c := range clients {
		if strings.HasPrefix(c.name, "watcher ") {
			list = append(list, c)
		}
	}
	return list
}

// expected is what every node must tell.
func (p *population) expected() occupancy {
	o := occupancy{map[string]int{}, map[string][]string{}}
	for _, c := range p.clients {
		for channel := range c.joined {
			o.subscriptions[channel]++
			if strings.HasPrefix(channel, "presence-") && !slices.Contains(o.users[channel], c.user) {
				o.users[channel] = append(o.users[channel], c.user)
			}
		}
	}
	for channel := range o.users {
		slices.Sort(o.users[channel])
	}
	return o
}

// settle waits until all nodes given tell exactly what is expected, and returns how long
// that took.
func (p *population) settle(limit time.Duration, nodes ...*node) time.Duration {
	p.t.Helper()
	begin, want := time.Now(), p.expected()
	for _, n := range nodes {
		var seen occupancy
		var err error
		if !eventually(limit, func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			seen, err = n.observe(ctx)
			for channel := range seen.users {
				slices.Sort(seen.users[channel])
			}
			return err == nil && same(seen, want)
		}) {
			p.t.Errorf("%s does not settle within %v:\n got %v %v %v\nwant %v", n.name, limit, seen.subscriptions, seen.users, err, want)
		}
	}
	return time.Since(begin)
}

func same(a, b occupancy) bool {
	return maps.Equal(a.subscriptions, b.subscriptions) && maps.EqualFunc(a.users, b.users, slices.Equal)
}

// connected demands that nobody was disconnected who should not be.
func (p *population) connected() {
	p.t.Helper()
	for _, c := range p.clients {
		c.mu.Lock()
		if !c.closed.IsZero() && !c.expected {
			p.t.Errorf("%s lost its connection to %s: %v", c.name, c.node.name, c.why)
		}
		c.mu.Unlock()
	}
}

// mark remembers how much of a history is known, by client.
type mark map[*client]struct{ moves, online int }

func (p *population) mark() mark {
	m := mark{}
	for _, c := range p.clients {
		c.mu.Lock()
		m[c] = struct{ moves, online int }{len(c.moves), len(c.online)}
		c.mu.Unlock()
	}
	return m
}

// moved demands that every client given hears, behind the mark, that each user came or went,
// once, and nothing else of members. It returns when the last client had heard it all.
func (p *population) moved(since mark, limit time.Duration, clients []*client, users []string, added bool) (last time.Time) {
	p.t.Helper()
	deadline := time.Now().Add(limit)
	for _, c := range members(clients) {
		c.wait(time.Until(deadline), func() bool { return len(c.moves)-since[c].moves >= len(users) })
	}
	for _, c := range members(clients) {
		c.mu.Lock()
		heard := slices.Clone(c.moves[since[c].moves:])
		c.mu.Unlock()
		var got []string
		for _, m := range heard {
			if m.added != added || m.channel != presenceChannel {
				p.t.Errorf("%s at %s hears of %s: added %v on %s", c.name, c.node.name, m.user, m.added, m.channel)
			}
			got = append(got, m.user)
			if m.at.After(last) {
				last = m.at
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, slices.Sorted(slices.Values(users))) {
			p.t.Errorf("%s at %s hears that these moved (added %v): %v, not %v", c.name, c.node.name, added, got, users)
		}
	}
	return last
}

// watched demands the same of the watchlist events.
func (p *population) watched(since mark, limit time.Duration, clients []*client, users []string, online bool) {
	p.t.Helper()
	for _, c := range watchers(clients) {
		c.wait(limit, func() bool { return len(c.online)-since[c].online >= len(users) })
		c.mu.Lock()
		var got []string
		for _, event := range c.online[since[c].online:] {
			got = append(got, fmt.Sprint(event.user, " ", event.online))
		}
		c.mu.Unlock()
		var want []string
		for _, user := range users {
			want = append(want, fmt.Sprint(user, " ", online))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			p.t.Errorf("%s hears from its watchlist: %v, not %v", c.name, got, want)
		}
	}
}
