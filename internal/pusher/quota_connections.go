package pusher

import (
	"cmp"
	"slices"
	"time"
)

// The quota of connections holds over all nodes: each knows from the directory how many the
// others have. Nodes that let clients in at the same moment do not know of each other's yet, so
// together they may go over the quota. When they hear of it, the newest go again.

// overTime is for how long a client may lose its place to others that came at the same moment:
// much longer than the way of a change to all nodes, also of nodes that have far too much to do. A
// client that was there before the nodes lost sight of each other stays.
const overTime = 3 * time.Second

// tellConnections tells the other nodes how many clients are here. The realm is locked.
func (r *realm) tellConnections(n int) {
	if r.hub.cluster != nil {
		r.hub.cluster.Set(appRow+r.id, "", encodeCount(n))
	}
}

// hurryConnections has the others hear at once of a new client that brings the app near its
// quota: what they let in before they hear of it goes over the quota. The realm is locked.
func (r *realm) hurryConnections(max int) {
	const near, part = 100, 16 // so many connections, and this part of the quota
	if r.hub.cluster != nil && max > 0 && max-len(r.clients)-r.elsewhereSum < near+max/part {
		r.hub.cluster.Flush()
	}
}

// elsewhere is how many clients another node has.
type elsewhere struct {
	now    int
	before int // at the beginning of the last overTime or so: those who stay
	since  time.Time
}

// connectionsChanged takes note of how many clients another node has.
func (r *realm) connectionsChanged(node string, n int) {
	now := r.hub.options.Now()
	r.mu.Lock()
	known := r.elsewhere[node]
	r.elsewhereSum += n - known.now
	if now.Sub(known.since) > overTime {
		known.before, known.since = known.now, now
	}
	known.now, known.before = n, min(known.before, n)
	if r.elsewhere == nil {
		r.elsewhere = make(map[string]elsewhere)
	}
	if r.elsewhere[node] = known; n == 0 {
		delete(r.elsewhere, node)
	}
	over := r.over(now)
	r.mu.Unlock()
	for _, c := range over {
		c.refuse(overQuota)
	}
}

// over returns the clients that have to go, as too many came at once: the newest here. For all
// nodes to agree, those who were there on any of them have the first places, and the others
// follow in the order of the ids of their nodes. The realm is locked.
func (r *realm) over(now time.Time) []*client {
	max := r.app.Load().Limits.MaxConnections
	if max <= 0 || len(r.clients)+r.elsewhereSum <= max {
		return nil
	}
	taken := 0
	for node, n := range r.elsewhere {
		if node < r.hub.cluster.Node {
			taken += n.now
		} else {
			taken += n.before
		}
	}
	var newest []*client
	for _, c := range r.clients {
		if c.opened.After(now.Add(-overTime)) {
			newest = append(newest, c)
		}
	}
	// In one order for clients of the same moment as well: those who were picked before, and have not
	// gone yet, are picked again, and no others beside them.
	slices.SortFunc(newest, func(a, b *client) int {
		return cmp.Or(b.opened.Compare(a.opened), cmp.Compare(a.session.ID, b.session.ID))
	})
	count := min(len(newest), len(r.clients)+taken-max)
	if count < 0 {
		return nil
	}
	return newest[:count]
}
