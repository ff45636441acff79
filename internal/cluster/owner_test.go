package cluster

import (
	"fmt"
	"testing"
)

func viewOf(count int) View {
	var members []Member
	for n := range count {
		member := testMember(n+1, RoleStore)
		member.State = StateReady
		members = append(members, member)
	}
	return newView(1, members[0].ID, sortMembers(members))
}

func TestOwnersAreSpreadEvenly(t *testing.T) {
	const keys = 20000
	for _, nodes := range []int{2, 3, 5, 7} {
		view, counts := viewOf(nodes), map[string]int{}
		for i := range keys {
			owner, ok := view.Owner(fmt.Sprintf("presence-room-%d", i), nil)
			if !ok {
				t.Fatal("no owner")
			}
			counts[owner.Name]++
		}
		for name, count := range counts {
			if share := float64(count) * float64(nodes) / keys; share < 0.93 || share > 1.07 {
				t.Errorf("with %d nodes %s owns %.2f of its share", nodes, name, share)
			}
		}
		if len(counts) != nodes {
			t.Errorf("with %d nodes only %d own keys", nodes, len(counts))
		}
	}
}

func TestOnlyTheKeysOfTheOneThatGoesMove(t *testing.T) {
	const keys = 10000
	five, four := viewOf(5), viewOf(4)
	moved := 0
	for i := range keys {
		key := fmt.Sprint("channel-", i)
		before, _ := five.Owner(key, nil)
		after, _ := four.Owner(key, nil)
		if before.Name == "n5" {
			moved++
		} else if before.ID != after.ID {
			t.Fatalf("key %s moved from %s to %s although both live", key, before.Name, after.Name)
		}
	}
	if moved < keys/6 || moved > keys/4 {
		t.Errorf("%d of %d keys moved, want about a fifth", moved, keys)
	}
}

func TestOwnerIsEligible(t *testing.T) {
	view := viewOf(3)
	view.Members[0].State = StateDraining
	for i := range 100 {
		key := fmt.Sprint(i)
		if owner, ok := view.Owner(key, Ready(RoleStore)); !ok || owner.Name == "n1" {
			t.Fatalf("owner is %q, %v", owner.Name, ok)
		}
	}
	if _, ok := view.Owner("key", Ready(RoleManager)); ok {
		t.Error("nobody is a manager, and yet there is an owner")
	}
}

// The hash is part of what nodes of two versions must agree on.
func TestOwnerStaysWhatItIs(t *testing.T) {
	view := viewOf(5)
	for key, want := range map[string]string{
		"": "n5", "a": "n3", "presence-lobby": "n4", "private-user-1": "n5",
	} {
		if owner, _ := view.Owner(key, nil); owner.Name != want {
			t.Errorf("owner of %q is %s, want %s", key, owner.Name, want)
		}
	}
}

func TestOwnerAllocatesNothing(t *testing.T) {
	view, eligible := viewOf(7), Ready(RoleStore)
	if n := testing.AllocsPerRun(100, func() { view.Owner("presence-lobby", eligible) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOwner(b *testing.B) {
	view, eligible := viewOf(5), Ready(RoleStore)
	for b.Loop() {
		view.Owner("presence-lobby", eligible)
	}
}
