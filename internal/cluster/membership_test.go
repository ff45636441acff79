package cluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestNodesFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3, 4, 5, 6, 7)
		r.pass(200 * time.Millisecond)
		all := []int{1, 2, 3, 4, 5, 6, 7}
		r.expect("n1 n2 n3 n4 n5 n6 n7", all...)
		r.forgetSaw()
		epoch := r.nodes[1].View().Epoch
		r.pass(2 * time.Minute)
		r.expectSaw("", all...)
		if now := r.nodes[1].View().Epoch; now != epoch {
			t.Errorf("epoch went from %d to %d while nothing happened", epoch, now)
		}
		r.expectEvictions(0, all...)
	})
}

func TestKilledNodeIsDeadAfterTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(10 * time.Second)
		r.forgetSaw()
		r.kill(2)
		r.pass(3900 * time.Millisecond)
		r.expect("n1 n2 n3", 1, 3)
		r.pass(2200 * time.Millisecond)
		r.expect("n1 n3", 1, 3)
		r.expectSaw("-n2", 1, 3)
	})
}

func TestKilledNodeIsDeadAtOnceWhenItsConnectionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		r.nodes[1].PeerLost(r.nodes[2].record.ID) // a connection only: the process lives
		r.pass(time.Second)
		r.expect("n1 n2 n3", 1, 3)
		id := r.nodes[2].record.ID
		r.kill(2)
		r.nodes[1].PeerLost(id)
		r.nodes[3].PeerLost(id)
		r.nodes[3].PeerLost("nobody")
		synctest.Wait()
		r.expect("n1 n3", 1, 3)
	})
}

func TestPausedNodeReturnsWithNewIncarnation(t *testing.T) {
	for _, pause := range []time.Duration{5200 * time.Millisecond, 7 * time.Second, 2 * time.Minute} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoom(t, 1, 2, 3, 4, 5)
				r.pass(10500 * time.Millisecond)
				r.forgetSaw()
				before, _ := r.nodes[1].View().Member(r.nodes[3].record.ID)
				resume := r.pause(3)
				r.pass(pause)
				resume()
				r.pass(2 * time.Second)
				r.expect("n1 n2 n3 n4 n5", 1, 2, 3, 4, 5)
				r.expectSaw("+n3 -n3", 1, 2, 3, 4, 5)
				r.expectEvictions(1, 3)
				r.expectEvictions(0, 1, 2, 4, 5)
				after, _ := r.nodes[1].View().Member(r.nodes[3].record.ID)
				if after.Incarnation != before.Incarnation+1 {
					t.Errorf("incarnation went from %d to %d", before.Incarnation, after.Incarnation)
				}
			})
		})
	}
}

// With two nodes the voices are even; the one that was paused knows by itself.
func TestPausedNodeOfTwoReturns(t *testing.T) {
	for _, paused := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			r := newRoom(t, 1, 2)
			r.pass(10500 * time.Millisecond)
			r.forgetSaw()
			resume := r.pause(paused)
			r.pass(20 * time.Second)
			resume()
			r.pass(2 * time.Second)
			r.expectSaw(fmt.Sprintf("+n%d -n%d", paused, paused), 1, 2)
			r.expectEvictions(1, paused)
			r.expectEvictions(0, 3-paused)
		})
	}
}

func TestShortPauseIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		r.forgetSaw()
		for range 10 {
			resume := r.pause(2)
			r.pass(3 * time.Second)
			resume()
			r.pass(3 * time.Second)
		}
		r.expectSaw("", 1, 2, 3)
	})
}

func TestPartitionHeals(t *testing.T) {
	tests := []struct {
		name         string
		small, large []int
	}{
		{"one of three", []int{3}, []int{1, 2}},
		{"the first of three", []int{1}, []int{2, 3}},
		{"one of five", []int{1}, []int{2, 3, 4, 5}},
		{"two of five", []int{1, 4}, []int{2, 3, 5}},
		{"three of seven", []int{1, 2, 3}, []int{4, 5, 6, 7}},
		{"one of two", []int{2}, []int{1}},
		{"two of four", []int{3, 4}, []int{1, 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := append(append([]int{}, test.small...), test.large...)
				r := newRoom(t, all...)
				r.pass(10 * time.Second)
				whole := r.nodes[1].members()
				r.network.divide(r.ids(test.small...), r.ids(test.large...))
				r.pass(30 * time.Second)
				small, large := r.nodes[test.small[0]].members(), r.nodes[test.large[0]].members()
				if strings.Count(small+" "+large, "n") != len(all) {
					t.Errorf("during the partition the views are %q and %q", small, large)
				}
				r.expect(small, test.small...)
				r.expect(large, test.large...)
				r.expectEvictions(0, all...)
				r.forgetSaw()
				r.network.heal()
				r.pass(3 * time.Second)
				r.expect(whole, all...)
				r.expectEvictions(1, test.small...)
				r.expectEvictions(0, test.large...)
				for _, n := range test.large { // the larger side saw nothing of its own go
					saw := r.nodes[n].saw()
					for _, m := range test.large {
						if name := "n" + string(rune('0'+m)); strings.Contains(saw, name) {
							t.Errorf("n%d saw %q", n, saw)
						}
					}
				}
				r.forgetSaw()
				r.pass(time.Minute)
				r.expectSaw("", all...)
			})
		})
	}
}

func TestNodeThatIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3, 4, 5)
		r.pass(10 * time.Second)
		for _, n := range []int{2, 3, 4, 5} { // it hears everybody
			r.network.lose(r.ids(1)[0], r.ids(n)[0])
		}
		r.forgetSaw()
		r.pass(10 * time.Second)
		r.expect("n2 n3 n4 n5", 2, 3, 4, 5)
		r.expectSaw("-n1", 2, 3, 4, 5)
		r.pass(time.Minute)
		r.expectSaw("", 2, 3, 4, 5)
		r.network.heal()
		r.pass(3 * time.Second)
		r.expect("n1 n2 n3 n4 n5", 1, 2, 3, 4, 5)
		r.expectSaw("+n1", 2, 3, 4, 5)
		r.expectEvictions(1, 1)
		r.expectEvictions(0, 2, 3, 4, 5)
	})
}

func TestOneBrokenLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3, 4, 5)
		r.pass(10 * time.Second)
		r.forgetSaw()
		r.network.lose(r.ids(1)[0], r.ids(2)[0])
		r.pass(time.Minute)
		r.expect("n2 n3 n4 n5", 2)
		r.expect("n1 n2 n3 n4 n5", 1, 3, 4, 5)
		r.network.heal()
		r.pass(3 * time.Second)
		r.expect("n1 n2 n3 n4 n5", 1, 2, 3, 4, 5)
		r.expectSaw("", 1, 3, 4, 5) // only the one that did not hear saw anything
		r.expectSaw("+n1 -n1", 2)
		r.expectEvictions(0, 1, 2, 3, 4, 5)
	})
}

func TestRollingRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3, 4, 5)
		r.pass(time.Second)
		for n := 1; n <= 5; n++ {
			r.forgetSaw()
			node := r.nodes[n]
			node.SetState(StateDraining)
			r.pass(200 * time.Millisecond)
			for other, peer := range r.nodes {
				member, _ := peer.View().Member(node.record.ID)
				if member.State != StateDraining {
					t.Errorf("n%d sees n%d as %s", other, n, member.State)
				}
			}
			if err := node.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			delete(r.nodes, n)
			synctest.Wait()
			for other, peer := range r.nodes {
				if _, ok := peer.View().Member(node.record.ID); ok {
					t.Errorf("n%d still has n%d, which has left", other, n)
				}
			}
			r.pass(time.Second)
			r.start(n, 2)
			r.pass(time.Second)
			r.expect("n1 n2 n3 n4 n5", 1, 2, 3, 4, 5)
			r.expectEvictions(0, 1, 2, 3, 4, 5)
		}
	})
}

func TestQuickRestartIsSeenAsLeaveAndJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		r.forgetSaw()
		r.kill(2)
		r.start(2, 2)
		r.pass(300 * time.Millisecond)
		r.expect("n1 n2 n3", 1, 2, 3)
		r.expectSaw("+n2 -n2", 1, 3)
	})
}

func TestRestoredOldDataDirectoryGetsBackIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2)
		r.kill(2)
		r.start(2, 9)
		r.pass(time.Second)
		r.kill(2)
		r.start(2, 3) // fewer starts than the others have seen
		r.pass(8 * time.Second)
		r.expect("n1 n2", 1, 2)
	})
}

func TestTwoProcessesWithOneIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		r.forgetSaw()
		first := r.nodes[3]
		r.start(3, 1) // a copy of the data directory, started as often
		r.pass(20 * time.Second)
		for name, node := range map[string]*testNode{"first": first, "copy": r.nodes[3], "n1": r.nodes[1]} {
			if _, told := node.drops.Load(DropDuplicate); !told {
				t.Errorf("%s did not notice", name)
			}
		}
		r.expectSaw("", 1, 2) // no flapping between the two
		r.expect("n1 n2 n3", 1, 2)
		member, _ := r.nodes[1].View().Member(first.record.ID)
		if member.Instance != first.record.Instance {
			t.Error("the copy took the place of the first")
		}
		first.Stop()
	})
}

func TestLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2)
		r.pass(time.Second)
		r.forgetSaw()
		r.nodes[1].SetLoad(42)
		r.pass(2 * time.Second)
		member, _ := r.nodes[2].View().Member(r.nodes[1].record.ID)
		if r.nodes[2].Loads()[member.ID] != 42 {
			t.Errorf("n2 sees loads %v", r.nodes[2].Loads())
		}
		r.pass(time.Minute)
		r.expectSaw("", 1) // they are no part of the view
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1, 2, 3)
		r.pass(time.Second)
		id := r.nodes[3].record.ID
		if err := r.nodes[1].Forget(t.Context(), id, false); !errors.Is(err, ErrAlive) {
			t.Errorf("forgetting a live member: %v", err)
		}
		r.kill(3)
		r.pass(7 * time.Second)
		known := func(n int) int {
			disk, err := loadMemory(r.dirs[n], "test")
			if err != nil {
				t.Fatal(err)
			}
			return len(disk.Members)
		}
		if known(1) != 3 || known(2) != 3 {
			t.Errorf("a dead store node is remembered by %d and %d", known(1), known(2))
		}
		if err := r.nodes[1].Forget(t.Context(), id, false); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Second)
		if known(1) != 2 || known(2) != 2 {
			t.Errorf("members remembered are %d and %d, want 2", known(1), known(2))
		}
		// One that is alive hears of it.
		if err := r.nodes[1].Forget(t.Context(), r.nodes[2].record.ID, true); err != nil {
			t.Fatal(err)
		}
		r.pass(time.Second)
		if !r.nodes[2].outcast {
			t.Error("the living does not know that it was forgotten")
		}
	})
}
