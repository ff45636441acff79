package node

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// drainDelay is how long a node that is drained serves on after it has left the rotation,
// where shutdown.delay does not say: load balancers probe every few seconds, and a client
// that is sent away before they have noticed may come straight back.
const drainDelay = 5 * time.Second

// lateInterval is between two looks for clients at a node that is drained.
const lateInterval = time.Second

// drainer sends a node's clients away while the node stays.
type drainer struct {
	// refusing tells that new clients are not taken: the node is out of the rotation for
	// long enough that none should come.
	refusing atomic.Bool

	mu       sync.Mutex
	stopping bool               // a stop is under way, which nothing turns back
	cancel   context.CancelFunc // of the drain under way; nil for none
	done     chan struct{}      // closed when it has ended
}

// refusesClients tells whether new clients are sent elsewhere at once.
func (n *Node) refusesClients() bool { return n.closing.Load() || n.drainer.refusing.Load() }

// Drain implements admin.Cluster.
func (n *Node) Drain(rate int, delay time.Duration) (admin.Drained, error) {
	if delay == admin.NoDelay {
		delay = n.config.Shutdown.Delay
		if delay == 0 {
			delay = drainDelay
		}
	}
	d := &n.drainer
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return admin.Drained{}, admin.ErrStopping
	}
	was := d.end()
	if was && d.refusing.Load() {
		delay = 0 // only the pace changes
	}
	n.health.Drain()
	n.cluster.membership.SetState(cluster.StateDraining)
	n.log.Info("draining", "part", "cluster", "rate", rate, "delay", delay, "clients", n.hub.Connections())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	d.cancel, d.done = cancel, done
	go func() {
		defer close(done)
		n.sendAway(ctx, rate, delay)
	}()
	return n.drained(was), nil
}

// sendAway waits until load balancers have noticed, then takes nobody new and sends away
// who is there.
func (n *Node) sendAway(ctx context.Context, rate int, delay time.Duration) {
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return
	}
	n.drainer.refusing.Store(true)
	n.hub.Evacuate(ctx, rate)
	if ctx.Err() == nil {
		n.log.Info("drained, no client is left", "part", "cluster")
	}
	for ctx.Err() == nil { // who was on the way in when the refusing began
		select {
		case <-time.After(lateInterval):
			n.hub.Evacuate(ctx, rate)
		case <-ctx.Done():
		}
	}
}

// Undrain implements admin.Cluster.
func (n *Node) Undrain() (admin.Drained, error) {
	d := &n.drainer
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return admin.Drained{}, admin.ErrStopping
	}
	if !d.end() {
		return n.drained(false), nil
	}
	d.refusing.Store(false)
	n.cluster.membership.SetState(cluster.StateReady)
	n.health.Resume()
	n.log.Info("no longer draining", "part", "cluster")
	return n.drained(true), nil
}

// drained tells which node this is, and whether it was draining.
func (n *Node) drained(was bool) admin.Drained {
	state := cluster.StateReady
	if was {
		state = cluster.StateDraining
	}
	self := n.cluster.decision.Self
	return admin.Drained{ID: self.ID, Name: self.Name, Was: string(state)}
}

// stop ends a drain for good; what follows is the end of the node.
func (d *drainer) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
	d.end()
}

// end ends a drain and tells whether there was one. The drainer is locked.
func (d *drainer) end() bool {
	if d.cancel == nil {
		return false
	}
	d.cancel()
	<-d.done
	d.cancel = nil
	return true
}

// tellLoad keeps the other nodes informed of how many clients this one serves.
func (n *Node) tellLoad(ctx context.Context) error {
	ticker := time.NewTicker(n.config.Cluster.HeartbeatInterval)
	defer ticker.Stop()
	for {
		n.cluster.membership.SetLoad(n.hub.Connections())
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
