package cluster

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// View is who is alive, as this node sees it. It is a value: nobody may change its members.
// Views of two nodes may differ for a moment, and epochs of two nodes have nothing to do with
// each other.
type View struct {
	// Epoch grows by one with each view of this node; 1 is the first.
	Epoch uint64
	// Self is the ID of this node, which is always a member.
	Self string
	// Members are sorted by ID.
	Members []Member

	hashes []uint64 // of the members' IDs, for Owner
}

// newView makes a view of members that are sorted by ID.
func newView(epoch uint64, self string, members []Member) View {
	hashes := make([]uint64, len(members))
	for i, member := range members {
		hashes[i] = mix(hash(member.ID))
	}
	return View{Epoch: epoch, Self: self, Members: members, hashes: hashes}
}

// Member returns the member with the ID.
func (v View) Member(id string) (Member, bool) {
	i, found := slices.BinarySearchFunc(v.Members, id,
		func(m Member, id string) int { return strings.Compare(m.ID, id) })
	if !found {
		return Member{}, false
	}
	return v.Members[i], true
}

// Change is the way from one view to a later one. A member that was away in between, or has
// a new incarnation, is both in Left, as it was, and in Joined, as it is: what was known
// from it is to be dropped first and learned again. Changed are those that stayed and have
// another record now. All are sorted by ID.
type Change struct {
	View    View     // the later one
	Joined  []Member // as they are now
	Left    []Member // as they were
	Changed []Member // as they are now
}

// changeBetween compares two views of one node.
func changeBetween(before, after View) Change {
	change := Change{View: after}
	for _, old := range before.Members {
		if now, ok := after.Member(old.ID); !ok || now.Since != old.Since {
			change.Left = append(change.Left, old)
		} else if !now.same(old) {
			change.Changed = append(change.Changed, now)
		}
	}
	for _, now := range after.Members {
		if old, ok := before.Member(now.ID); !ok || now.Since != old.Since {
			change.Joined = append(change.Joined, now)
		}
	}
	return change
}

// Subscription follows the views of a Membership. It keeps no queue: Next compares the latest
// view with the one it returned before, so a slow reader skips views and misses nobody who
// came or went.
type Subscription struct {
	views *views
	last  View
}

// Next waits for a view later than the one it returned last; the first time everybody has
// joined. Errors: ErrStopped, that of ctx. One goroutine may call it at a time.
func (s *Subscription) Next(ctx context.Context) (Change, error) {
	for {
		current, changed := s.views.get()
		if current.Epoch > s.last.Epoch {
			change := changeBetween(s.last, current)
			s.last = current
			return change, nil
		}
		select {
		case <-changed:
		case <-s.views.ended:
			return Change{}, ErrStopped
		case <-ctx.Done():
			return Change{}, ctx.Err()
		}
	}
}

// views holds the latest view and wakes those who wait for the next.
type views struct {
	current atomic.Pointer[View]
	ended   chan struct{}

	mu      sync.Mutex // guards changed, and current against get
	changed chan struct{}
}

func newViews(first View) *views {
	v := &views{ended: make(chan struct{}), changed: make(chan struct{})}
	v.current.Store(&first)
	return v
}

func (v *views) set(view View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.Store(&view)
	close(v.changed)
	v.changed = make(chan struct{})
}

func (v *views) get() (View, <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return *v.current.Load(), v.changed
}
