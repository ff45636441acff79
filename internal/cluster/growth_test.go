package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Who is known follows those who join, on every node and on disk, and a store stays known
// when it is dead.
func TestKnownFollowsJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		for n := range 3 {
			if got := Stores(r.nodes[n+1].Known()); got != 3 {
				t.Errorf("n%d knows %d stores", n+1, got)
			}
		}
		r.start(4, 1)
		r.start(5, 1)
		r.pass(time.Second)
		r.kill(4)
		r.pass(10 * time.Second)
		for _, n := range []int{1, 2, 3, 5} {
			disk, err := loadMemory(r.dirs[n], "test")
			if known := r.nodes[n].Known(); err != nil || len(known) != 5 || len(disk.Members) != 5 {
				t.Errorf("n%d knows %d members and remembers %d, %v", n, len(known), len(disk.Members), err)
			}
		}
	})
}

// A node that was forgotten while it was cut off is not taken in again, and learns why.
func TestForgottenIsNotTakenInAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		id := r.nodes[3].record.ID
		r.network.divide(r.ids(1, 2), r.ids(3))
		r.pass(7 * time.Second)
		if err := r.nodes[1].Forget(t.Context(), id, false); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Second)
		if told := r.nodes[3].outcasts.Load(); told != 0 {
			t.Fatalf("it was told %d times behind the cut", told)
		}
		r.network.heal()
		r.pass(5 * time.Second)
		r.expect("n1 n2", 1, 2)
		if told := r.nodes[3].outcasts.Load(); told != 1 {
			t.Errorf("it was told %d times", told)
		}
		for _, n := range []int{1, 2} {
			if known := r.nodes[n].Known(); len(known) != 2 {
				t.Errorf("n%d knows %d members", n, len(known))
			}
			if _, dropped := r.nodes[n].drops.Load(DropForgotten); !dropped {
				t.Errorf("n%d counts no drop", n)
			}
		}
		r.kill(3)
		r.start(3, 2) // with its identity, and without asking first
		r.pass(5 * time.Second)
		r.expect("n1 n2", 1, 2)
		if told := r.nodes[3].outcasts.Load(); told != 1 {
			t.Errorf("it was told %d times after its restart", told)
		}
	})
}

// Who was away when a node was forgotten hears of it from those who were not.
func TestForgottenIsToldToThoseWhoWereAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3, 4)
		r.pass(time.Second)
		id := r.nodes[4].record.ID
		r.kill(4)
		r.network.divide(r.ids(1, 2), r.ids(3))
		r.pass(10 * time.Second)
		if err := r.nodes[1].Forget(t.Context(), id, false); err != nil {
			t.Fatal(err)
		}
		r.network.heal()
		r.pass(10 * time.Second)
		for _, n := range []int{1, 2, 3} {
			disk, err := loadMemory(r.dirs[n], "test")
			if err != nil || len(disk.Members) != 3 || !slices.Equal(disk.Forgotten, []string{id}) {
				t.Errorf("n%d remembers %d members and %v, %v", n, len(disk.Members), disk.Forgotten, err)
			}
		}
	})
}

func TestForgottenIsRefusedByTheSeeker(t *testing.T) {
	w := newWorld(t, 3, 1, 2, 3)
	w.rounds(10)
	for n := range 3 {
		if w.formed[n+1] == nil {
			t.Fatalf("n%d has not formed", n+1)
		}
	}
	forgotten := w.seekers[3].self.ID
	w.seekers[1].disk.Forgotten = []string{forgotten}
	returned := newSeeker(testMember(3), 3, w.seekers[3].disk)
	_, err := returned.step([]statement{w.statement(1)}, func(string) bool { return true })
	if !errors.Is(err, ErrForgotten) || !strings.Contains(err.Error(), "node.data_dir") {
		t.Errorf("it gets %v", err)
	}
	// The others restart; one of them does not know yet.
	disk1, disk2 := w.seekers[1].disk, w.seekers[2].disk
	w = newWorld(t, 3)
	w.add(newSeeker(testMember(1), 3, disk1), 1)
	w.add(newSeeker(testMember(2), 3, disk2), 2)
	w.rounds(5)
	for n := range 2 {
		decision := w.formed[n+1]
		if decision == nil || len(decision.Members) != 2 || !slices.Equal(decision.Forgotten, []string{forgotten}) {
			t.Errorf("n%d decides %+v", n+1, decision)
		}
	}
	if len(w.seekers[2].disk.Members) != 2 {
		t.Errorf("n2 remembers %d members", len(w.seekers[2].disk.Members))
	}
}

// importing makes the seeker of a node that brings what it stored alone.
func importing(n, expect int) *seeker {
	member := testMember(n)
	member.Importing = true
	return newSeeker(member, expect, remembered{})
}

// One node may bring what it stored alone, if it founds the cluster.
func TestOneNodeBringsItsData(t *testing.T) {
	w := newWorld(t, 3, 2, 3)
	w.add(importing(1, 3), 1)
	w.rounds(10)
	for n := range 3 {
		if w.formed[n+1] == nil || !w.formed[n+1].Members[0].Importing {
			t.Fatalf("n%d decides %+v", n+1, w.formed[n+1])
		}
	}
	// It died on the way; the cluster it founded is still its own.
	disk := w.seekers[1].disk
	again := importing(1, 3)
	again.disk = disk
	result, err := again.step([]statement{w.statement(2)}, func(string) bool { return true })
	if err != nil || result.decision == nil || result.decision.Kind != Join {
		t.Errorf("after a restart: %+v, %v", result.decision, err)
	}
	// Another one comes too late, and nothing is written down.
	late := importing(4, 3)
	result, err = late.step([]statement{w.statement(2)}, func(string) bool { return true })
	if !errors.Is(err, ErrBringsData) || result.save || late.disk.Cluster != "" {
		t.Errorf("a second one: %+v, %v", result, err)
	}
}

// Two nodes with data wait until a person has decided; the one that stays founds.
func TestTwoNodesBringData(t *testing.T) {
	for _, others := range [][]int{{3}, {3, 4}} {
		t.Run(fmt.Sprint(len(others)), func(t *testing.T) {
			w := newWorld(t, 3, others...)
			w.add(importing(1, 3), 1)
			w.add(importing(2, 3), 2)
			w.rounds(20)
			for n, decision := range w.formed {
				if decision != nil {
					t.Errorf("n%d decides %+v", n, decision)
				}
			}
			for _, n := range []int{1, 2} {
				s := w.seekers[n]
				if !strings.Contains(s.waiting, "whose data") || len(s.problems) != 1 || !strings.Contains(s.problems[0].text, "empty data directory") {
					t.Errorf("n%d waits for %q, %v", n, s.waiting, s.problems)
				}
			}
			w.seekers[2] = newSeeker(testMember(5), 3, remembered{}) // emptied, and started again
			w.told[2] = nil
			w.rounds(20)
			if w.formed[1] == nil {
				t.Error("the one that is left does not found")
			}
		})
	}
}

func TestMergeBelievesThatAnImportIsDone(t *testing.T) {
	before, after := testMember(1), testMember(1)
	before.Importing = true
	for _, order := range [][]Member{{before, after}, {after, before}} {
		members := map[string]Member{}
		merge(members, order)
		if members[before.ID].Importing {
			t.Errorf("%v: still importing", order)
		}
	}
}
