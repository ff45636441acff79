package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/admin"
)

const (
	// forgetTimeout bounds taking a member out: its replicas go to others.
	forgetTimeout = time.Hour
	// forgetWait bounds the wait for another node that changes members or replicas.
	forgetWait = time.Minute
	// backInterval is between two looks whether a member has come back that is being taken out.
	backInterval = 100 * time.Millisecond
)

// forgetter takes members out of the cluster, one at a time.
type forgetter struct {
	mu      sync.Mutex
	now     *admin.Forgetting // the last one; nil for none, or when it is done
	working bool
}

// view returns what is known of the last one, nil for none. One that failed is no news any more
// when the member is no member, or is back.
func (f *forgetter) view(stands func(id string) bool) *admin.Forgetting {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now != nil && !f.working && !stands(f.now.ID) {
		f.now = nil
	}
	if f.now == nil {
		return nil
	}
	shown := *f.now
	return &shown
}

// step takes what is done now, and what that waits for, empty for nothing.
func (f *forgetter) step(what, waits string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Step, f.now.Waits = what, waits
}

// begin makes it busy, or returns the name of the member that it is busy with.
func (f *forgetter) begin(m cluster.Member) (busy string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.working {
		return f.now.Name
	}
	f.now, f.working = &admin.Forgetting{ID: m.ID, Name: m.Name, Step: "beginning"}, true
	return ""
}

// end takes the outcome.
func (f *forgetter) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.working = false
	if err == nil {
		f.now = nil
		return
	}
	f.now.Error = err.Error()
}

// Forget implements admin.Cluster.
func (n *Node) Forget(_ context.Context, name string, force bool) (admin.ClusterMember, error) {
	if n.closing.Load() {
		return admin.ClusterMember{}, admin.ErrStopping
	}
	member, err := find(n.cluster.known(), name)
	if err != nil {
		return admin.ClusterMember{}, err
	}
	if _, err := spare(n.cluster.known(), n.cluster.membership.View(), member, force); err != nil {
		return admin.ClusterMember{}, err
	}
	if busy := n.forgetter.begin(member); busy != "" {
		return admin.ClusterMember{}, fmt.Errorf("%w: %s; see \"parley cluster status\"", admin.ErrBusy, busy)
	}
	n.goes("forgetting", func() error {
		err := n.forget(member, force)
		n.forgetter.end(err)
		if err != nil {
			n.log.Error("the member is not taken out", "part", "cluster", "node", member.Name, "id", member.ID, "error", err)
		}
		return nil
	})
	return memberView(member), nil
}

// find returns the known member with an id or name.
func find(known []cluster.Member, name string) (cluster.Member, error) {
	var found []cluster.Member
	var ids []string
	for _, m := range known {
		if m.ID == name {
			return m, nil
		}
		if m.Name == name {
			found, ids = append(found, m), append(ids, m.ID)
		}
	}
	switch len(found) {
	case 0:
		return cluster.Member{}, fmt.Errorf("%w: %.100q; \"parley cluster members\" lists them", admin.ErrNoMember, name)
	case 1:
		return found[0], nil
	}
	return cluster.Member{}, fmt.Errorf("%w: %d members have the name %q; give the id of one: %s",
		admin.ErrNoMember, len(found), name, strings.Join(ids, ", "))
}

// spare returns how many members with a store are left without one of them, or why that one
// cannot be spared.
func spare(known []cluster.Member, view cluster.View, m cluster.Member, force bool) (left int, err error) {
	left = len(otherStores(known, m.ID))
	_, alive := view.Member(m.ID)
	switch {
	case m.ID == view.Self:
		err = errors.New("it is the node that was asked; drain and stop it, and ask another")
	case alive:
		err = errors.New("it is alive; drain it (\"parley cluster drain\"), stop it, and repeat this")
	case m.Importing:
		err = errors.New("it has not brought what it stored alone yet; start it again")
	case !m.HasRole(cluster.RoleStore):
	case left < 2:
		err = errors.New("a single node with a store would remain, and a cluster needs two; let another join first")
	case left < 3 && !force:
		err = errors.New("two nodes with a store would remain, which survive the loss of neither; let another " +
			"join first, or force it (--force)")
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %s (%s): %w", admin.ErrMemberStays, m.Name, m.ID, err)
	}
	return left, nil
}

// otherStores returns the ids of the members with a store but one.
func otherStores(known []cluster.Member, but string) (ids []string) {
	for _, m := range known {
		if m.ID != but && m.HasRole(cluster.RoleStore) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// forget takes a member out: first of the engine, then of everybody's memory.
func (n *Node) forget(m cluster.Member, force bool) error {
	ctx, cancel := context.WithTimeout(n.life, forgetTimeout)
	defer cancel()
	log := n.log.With("part", "cluster", "node", m.Name, "id", m.ID)
	log.Info("taking a member out of the cluster")
	begin := time.Now()
	var err error
	if m.HasRole(cluster.RoleStore) {
		err = n.forgetStore(ctx, m, force)
	} else {
		n.forgetter.step("telling the other nodes", "")
		err = n.cluster.membership.Forget(ctx, m.ID, false)
	}
	if err != nil {
		return err
	}
	log.Info("the member is taken out; it cannot come back with the data it has",
		"after", time.Since(begin).Round(time.Millisecond))
	return nil
}

// forgetStore takes out a member with a store. Until the engine has let it go it stays if it
// comes back; from then on it is out, and ends if it is there.
func (n *Node) forgetStore(ctx context.Context, m cluster.Member, force bool) error {
	n.forgetter.step("waiting for other changes of the members", "")
	lock, err := n.lockChanges(ctx)
	if err != nil {
		return err
	}
	defer n.release(lock)
	ctx, cancelHeld := whileHeld(ctx, lock)
	defer cancelHeld(nil)
	left, err := n.spareNow(ctx, m, force) // another may have been forgotten meanwhile
	if err != nil {
		return err
	}
	tell := func(step string, waits error) {
		if waits != nil {
			n.forgetter.step(step, waits.Error())
			return
		}
		n.forgetter.step(step, "")
		n.log.Info("taking a member out", "part", "cluster", "node", m.Name, "step", step)
	}
	if err := n.evict(ctx, m, survivable(left), tell); err != nil {
		return err
	}
	n.forgetter.step("telling the other nodes", "")
	telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
	defer cancel()
	if err := n.cluster.membership.Forget(telling, m.ID, true); err != nil {
		return fmt.Errorf("%w; the engine has let it go already; repeat this", err)
	}
	if err := n.engine.AwaitWithout(ctx, m.ID, tell); err != nil {
		n.log.Warn("the member is taken out, but not everything has its replicas without it yet", "part", "cluster",
			"node", m.Name, "error", err)
	}
	return nil
}

// lockChanges waits until no other node changes members or replicas.
func (n *Node) lockChanges(ctx context.Context) (fabric.Lock, error) {
	waiting, cancel := context.WithTimeout(ctx, forgetWait)
	defer cancel()
	lock, err := n.changes.Acquire(waiting, changeLock, changeLease)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil, fmt.Errorf("another node has been changing the members or the replicas for %v, see \"parley cluster "+
			"status\" there; repeat this when it is done: %w", forgetWait, err)
	}
	if err != nil {
		return nil, fmt.Errorf("wait for other changes of the members: %w", err)
	}
	return lock, nil
}

// spareNow is spare with what the engine knows besides: a member that another node has just
// taken out may not be out of this one's memory yet. The lock on changes must be held.
func (n *Node) spareNow(ctx context.Context, m cluster.Member, force bool) (left int, err error) {
	known := n.cluster.known()
	if _, err := find(known, m.ID); err != nil {
		return 0, fmt.Errorf("%w: it was forgotten meanwhile", err)
	}
	n.forgetter.step("counting the members", "")
	others := otherStores(known, m.ID)
	counted, err := n.engine.Counted(ctx, others)
	if err != nil {
		return 0, fmt.Errorf("count the members: %w; repeat this", err)
	}
	if counted < len(others) {
		return 0, fmt.Errorf("%w: of the %d others with a store the engine counts %d: one has just come or gone; repeat this",
			admin.ErrMemberStays, len(others), counted)
	}
	return spare(known, n.cluster.membership.View(), m, force)
}

// evict takes a member out of the engine, unless it comes back.
func (n *Node) evict(ctx context.Context, m cluster.Member, replicas int, tell engine.Tell) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go n.cancelWhenBack(ctx, cancel, m)
	err := n.engine.Evict(ctx, m.ID, replicas, tell)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	switch {
	case errors.Is(err, engine.ErrPeerAlive):
		return fmt.Errorf("%w; stop it, and repeat this", err)
	case errors.Is(err, engine.ErrOnlyCopy):
		return fmt.Errorf("%w; start the member again, or what is there is lost", err)
	case errors.Is(err, engine.ErrNoQuorum):
		return fmt.Errorf("%w; start more of the others first", err)
	}
	return err
}

// cancelWhenBack cancels when a member is there again, until ctx ends.
func (n *Node) cancelWhenBack(ctx context.Context, cancel context.CancelCauseFunc, m cluster.Member) {
	ticker := time.NewTicker(backInterval)
	defer ticker.Stop()
	for {
		if _, alive := n.cluster.membership.View().Member(m.ID); alive {
			cancel(fmt.Errorf("%w: %s is back; to take it out all the same, stop it, and repeat this", admin.ErrMemberStays, m.Name))
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
