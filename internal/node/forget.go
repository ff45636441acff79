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
	"github.com/parleyio/parley/internal/pusher/admin"
)

const (
	// forgetTimeout bounds taking a member out: its replicas go to others.
	forgetTimeout = time.Hour
	// forgetWait bounds the wait for another node that changes members or replicas.
	forgetWait = time.Minute
)

// forgetter takes members out of the cluster, one at a time.
type forgetter struct {
	mu      sync.Mutex
	now     *admin.Forgetting // the last one, until it is done; nil for none
	working bool
}

// view returns what is known of the last one, nil for none.
func (f *forgetter) view() *admin.Forgetting {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.now == nil {
		return nil
	}
	shown := *f.now
	return &shown
}

func (f *forgetter) step(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now.Step = what
}

// begin says whether it is free, and makes it busy.
func (f *forgetter) begin(m cluster.Member) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.working {
		return false
	}
	f.now, f.working = &admin.Forgetting{ID: m.ID, Name: m.Name, Step: "beginning"}, true
	return true
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
	left, err := spare(n.cluster.known(), n.cluster.membership.View(), member, force)
	if err != nil {
		return admin.ClusterMember{}, err
	}
	if !n.forgetter.begin(member) {
		return admin.ClusterMember{}, fmt.Errorf("%w: %s; see \"parley cluster status\"", admin.ErrBusy, n.forgetter.view().Name)
	}
	n.goes("forgetting", func() error {
		err := n.forget(member, survivable(left))
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
	left = cluster.Stores(known)
	if m.HasRole(cluster.RoleStore) {
		left--
	}
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

// forget takes a member out: first of the engine, then of everybody's memory.
func (n *Node) forget(m cluster.Member, replicas int) error {
	ctx, cancel := context.WithTimeout(n.life, forgetTimeout)
	defer cancel()
	log := n.log.With("part", "cluster", "node", m.Name, "id", m.ID)
	log.Info("taking a member out of the cluster", "replicas", replicas)
	begin := time.Now()
	if m.HasRole(cluster.RoleStore) {
		if err := n.evict(ctx, m, replicas); err != nil {
			return err
		}
	}
	n.forgetter.step("telling the other nodes")
	if err := n.cluster.membership.Forget(ctx, m.ID); err != nil {
		return err
	}
	log.Info("the member is taken out; it cannot come back with the data it has",
		"after", time.Since(begin).Round(time.Millisecond))
	return nil
}

func (n *Node) evict(ctx context.Context, m cluster.Member, replicas int) error {
	n.forgetter.step("waiting for other changes of the members")
	waiting, cancel := context.WithTimeout(ctx, forgetWait)
	defer cancel()
	lock, err := n.changes.Acquire(waiting, changeLock, changeLease)
	if err != nil {
		return fmt.Errorf("wait for other changes of the members: %w", err)
	}
	defer n.release(lock)
	ctx, cancelHeld := whileHeld(ctx, lock)
	defer cancelHeld(nil)
	err = n.engine.Evict(ctx, m.ID, replicas, func(step string) {
		n.forgetter.step(step)
		n.log.Info("taking a member out", "part", "cluster", "node", m.Name, "step", step)
	})
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
