package node

import (
	"testing"
	"time"

	"github.com/parleyio/parley/internal/cluster"
)

func members(ids ...string) []cluster.Member {
	var list []cluster.Member
	for _, id := range ids {
		list = append(list, cluster.Member{ID: id, Roles: []string{cluster.RoleStore}})
	}
	return list
}

// A node that loses sight of the others one after the other must not believe in the first
// loss until it has heard that the rest is still there.
func TestSettler(t *testing.T) {
	start := time.Now()
	heardAt := start // the last heartbeat of most others
	heard := func(since time.Time) bool { return heardAt.After(since) }
	var s settler
	steps := []struct {
		what      string
		members   []cluster.Member
		at        time.Duration
		heartbeat bool
		accepted  bool
	}{
		{"the first view", members("a"), 0, false, true},
		{"others came", members("a", "b", "c"), 1, false, true},
		{"one is gone", members("a", "b"), 10, false, false},
		{"one is gone, nothing heard", members("a", "b"), 11, false, false},
		{"both are gone", members("a"), 12, false, false},
		{"one is back, not heard yet", members("a", "b"), 20, false, false},
		{"one is back and heard", members("a", "b"), 21, true, true},
		{"all are back", members("a", "b", "c"), 22, false, true},
		{"another is gone, of which only the old is heard", members("a", "c"), 30, false, false},
		{"and the rest is heard", members("a", "c"), 31, true, true},
		{"one that was away between two looks", members("a", "c"), 32, false, true},
	}
	for i, step := range steps {
		now := start.Add(step.at * time.Second)
		if step.heartbeat {
			heardAt = now
		}
		view := cluster.View{Epoch: uint64(i + 1), Self: "a", Members: step.members}
		if got := s.accept(view, now, heard); got != step.accepted {
			t.Errorf("%s: accepted %t", step.what, got)
		}
	}
}

// The majority is one of all that are known to store, dead or alive, and grows with those
// that join.
func TestMajority(t *testing.T) {
	founders := members("a", "b", "c")
	other := cluster.Member{ID: "x", Roles: []string{cluster.RoleGateway}}
	for _, test := range []struct {
		alive []cluster.Member
		want  bool
	}{
		{members("a"), false},
		{members("a", "b"), true},
		{append(members("a"), other), false},
		{members("a", "b", "c"), true},
		{members("a", "d"), false}, // of four that are known
		{members("a", "b", "d"), true},
		{members("a", "d", "e", "f"), true}, // of six
		{members("d", "e", "f"), false},
	} {
		k := &clustered{decision: cluster.Decision{Members: founders}}
		view := cluster.View{Self: "a", Members: test.alive}
		got := k.majority(view, func(id string) bool { _, is := view.Member(id); return is })
		if got != test.want {
			t.Errorf("%d alive: majority %t", len(test.alive), got)
		}
	}
}
