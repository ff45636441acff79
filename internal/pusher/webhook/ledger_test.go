package webhook

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// Everybody takes itself for the owner: each transition is reported once all the same.
func TestLedgerManyOwners(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		nodes := []*mate{tm.join("n1"), tm.join("n2"), tm.join("n3")}
		const facts = 300
		for _, round := range []func(string) Event{ChannelOccupied, ChannelVacated, ChannelOccupied} {
			var emitting sync.WaitGroup
			for i, m := range nodes {
				emitting.Go(func() {
					for n := range facts {
						m.Emit("a", round(fmt.Sprint("c", n)))
						if n%(i+7) == 0 {
							time.Sleep(time.Duration(i+1) * 7 * time.Millisecond)
						}
					}
				})
			}
			emitting.Wait()
			after(10 * second)
			var want []string
			for n := range facts {
				want = append(want, fmt.Sprintf("%s c%d", round("").name, n))
			}
			tm.expect("a round", want...)
		}
		if got := tm.facts(); got != facts {
			t.Errorf("%d facts in the ledger", got)
		}
		conflicts := 0
		for _, m := range nodes {
			conflicts += m.counts.ledger[LedgerConflict]
			if dropped := m.counts.droppedNow(); len(dropped) > 0 {
				t.Errorf("%s dropped %v", m.name, dropped)
			}
		}
		if conflicts == 0 {
			t.Error("no conflict: the test tests nothing")
		}
	})
}

// The queue takes nothing from a node that dies: its successor sends what it had committed,
// and its next life does not send it again.
func TestLedgerOwnerDiesBeforeEnqueue(t *testing.T) {
	for _, successor := range []string{"another node", "itself"} {
		t.Run(successor, func(t *testing.T) {
			onTeam(t, Options{}, func(t *testing.T, tm *team) {
				a := tm.join("n1")
				a.queue.fail(errors.New("unreachable"))
				a.Emit("a", MemberAdded("presence-x", "u"))
				after(second)
				tm.expect("while it lives")
				a.die()
				if successor == "itself" {
					tm.join("n1")
					after(second)
					tm.expect("after its return", "member_added presence-x u")
					return
				}
				b := tm.join("n2")
				b.TakeOver()
				after(second)
				tm.expect("after its death", "member_added presence-x u")
				again := tm.join("n1")
				after(5 * second)
				again.Emit("a", MemberAdded("presence-x", "u"))
				b.TakeOver()
				after(5 * second)
				tm.expect("after its return")
				if got := b.counts.ledger[LedgerRecovered]; got != 1 {
					t.Errorf("%d changes recovered", got)
				}
			})
		})
	}
}

// What a node committed while it was cut off comes when another has taken over: it must
// change nothing, and the node must find back.
func TestLedgerLateCommit(t *testing.T) {
	onTeam(t, Options{EnqueueTimeout: 8 * second}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		b.Emit("a", MemberAdded("presence-x", "u"))
		after(second)
		tm.expect("first", "member_added presence-x u")
		held, late := make(chan struct{}), make(chan struct{})
		a.ledger.set(func(f *faulty) { f.held, f.late = held, late })
		a.Emit("a", MemberRemoved("presence-x", "u")) // it cannot see u's node any more
		after(100 * time.Millisecond)
		a.setOwns(never) // and then no majority
		tm.mu.Lock()
		delete(tm.alive, "n1")
		tm.mu.Unlock()
		b.TakeOver()
		after(second)
		a.ledger.set(func(f *faulty) { f.held = nil })
		close(held)
		<-late
		after(20 * second)
		tm.expect("of the other side")
		if tm.facts() != 1 {
			t.Error("the late commit was made")
		}
		tm.mu.Lock()
		tm.alive["n1"] = true
		tm.mu.Unlock()
		a.setOwns(always)
		a.Compare("a", "presence-x", false, []string{"u"})
		a.Emit("a", MemberAdded("presence-x", "v"))
		after(5 * second)
		tm.expect("after the cut", "member_added presence-x v")
	})
}

// A commit was made, but nobody heard it: it is one all the same.
func TestLedgerAnswerLost(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		a.ledger.set(func(f *faulty) { f.unheard = 1 })
		a.Emit("a", ChannelOccupied("x"))
		a.Emit("a", ChannelOccupied("y"))
		after(5 * second)
		tm.expect("of the lost answer", "channel_occupied x", "channel_occupied y")
		a.Emit("a", ChannelVacated("x"))
		after(5 * second)
		tm.expect("then", "channel_vacated x")
		if a.ledger.commits != 2 {
			t.Errorf("%d commits", a.ledger.commits)
		}
	})
}

// Leaves that a node holds back die with it, and the next one finds them.
func TestLedgerHeldLeaveOfDeadOwner(t *testing.T) {
	onTeam(t, Options{LeaveDebounce: 3 * second}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		b.setOwns(never)
		for _, user := range []string{"u", "v"} {
			a.Emit("a", MemberAdded("presence-x", user))
		}
		a.Emit("a", ChannelOccupied("presence-x"))
		after(second)
		tm.told()
		a.Emit("a", MemberRemoved("presence-x", "u"))
		a.Emit("a", MemberRemoved("presence-x", "v"))
		a.Emit("a", ChannelVacated("presence-x"))
		after(second)
		a.die()
		b.setOwns(always)
		b.TakeOver()
		b.Compare("a", "presence-x", false, nil)
		after(time.Second)
		b.Emit("a", MemberAdded("presence-x", "u")) // came back in time
		b.Emit("a", ChannelOccupied("presence-x"))
		after(3 * second)
		tm.expect("in the end", "member_removed presence-x v")
		b.Compare("a", "presence-x", true, []string{"u"})
		after(10 * second)
		tm.expect("after another comparison")
	})
}

// A node that is no longer the owner holds a leave, and becomes the owner again when the one
// who left has returned.
func TestLedgerReturnWhileAnotherOwns(t *testing.T) {
	onTeam(t, Options{LeaveDebounce: 3 * second}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		a.Emit("a", ChannelOccupied("x"))
		after(second)
		tm.told()
		a.Emit("a", ChannelVacated("x"))
		after(second)
		a.setOwns(never)
		a.Observe("a", ChannelOccupied("x"))
		b.Emit("a", ChannelOccupied("x"))
		after(second)
		a.setOwns(always)
		after(10 * second)
		tm.expect("of a return")
	})
}

// What a node knows of the ledger may be old: the ledger decides, and what was left out
// because of it is found by a comparison.
func TestLedgerWatchLags(t *testing.T) {
	onTeam(t, Options{EnqueueTimeout: 20 * second}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		b.Emit("a", ChannelOccupied("y"))
		after(second)
		tm.told()
		b.Behind()
		lag := make(chan struct{})
		b.ledger.set(func(f *faulty) { f.lag = lag })
		a.Emit("a", ChannelOccupied("x"))
		a.Emit("a", ChannelVacated("y"))
		after(second)
		tm.expect("by a", "channel_occupied x", "channel_vacated y")
		b.Emit("a", ChannelOccupied("x"))
		b.Emit("a", ChannelOccupied("z"))
		after(30 * second)
		tm.expect("by b, which does not know of x", "channel_occupied z")
		if dropped := b.counts.droppedNow(); len(dropped) > 0 {
			t.Errorf("dropped %v", dropped)
		}
		b.Emit("a", ChannelOccupied("y")) // of which b believes that it was told
		after(second)
		tm.expect("by b, which believes that y is known")
		if b.Behind() {
			t.Error("a comparison is wanted before the watch tells")
		}
		b.ledger.set(func(f *faulty) { f.lag = nil })
		close(lag)
		after(second)
		if !b.Behind() {
			t.Fatal("no comparison is wanted")
		}
		b.Compare("a", "y", true, nil)
		after(second)
		tm.expect("after the comparison", "channel_occupied y")
	})
}

// A watch that hangs begins anew before a comparison, which then sees what others did.
func TestLedgerCatchUp(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		a.Emit("a", ChannelOccupied("x"))
		after(second)
		tm.told()
		if begin := time.Now(); !b.CatchUp(t.Context()) || time.Since(begin) > 0 {
			t.Error("a watch that works does not catch up at once")
		}
		lag := make(chan struct{})
		b.ledger.set(func(f *faulty) { f.lag = lag })
		a.Emit("a", ChannelVacated("x"))
		after(second)
		tm.expect("by a", "channel_vacated x")
		b.Compare("a", "x", true, nil)
		after(second)
		tm.expect("by b, which believes that x is known")
		time.AfterFunc(second/2, func() { b.ledger.set(func(f *faulty) { f.lag = nil }) }) // a new one works
		if !b.CatchUp(t.Context()) {
			t.Fatal("did not catch up")
		}
		b.Compare("a", "x", true, nil)
		after(second)
		tm.expect("by b after catching up", "channel_occupied x")
		close(lag)
		b.ledger.set(func(f *faulty) { f.deaf = true })
		if b.CatchUp(t.Context()) {
			t.Error("caught up with a ledger that does not answer")
		}
		b.stop()
		if b.CatchUp(t.Context()) {
			t.Error("caught up after the end")
		}
	})
}

// While changes come faster than a slow ledger takes them, a batch is always due: the outbox of
// a dead node and who catches up do not wait for the end of that.
func TestLedgerSlowUnderSteadyChanges(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		a.queue.fail(errors.New("unreachable"))
		a.Emit("a", ChannelOccupied("x"))
		after(second)
		a.die()
		b.ledger.set(func(f *faulty) { f.slow = 300 * time.Millisecond })
		done := make(chan struct{})
		var emitting sync.WaitGroup
		emitting.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				case <-time.After(10 * time.Millisecond):
					b.Emit("a", ChannelOccupied(fmt.Sprint("c", i)))
				}
			}
		})
		after(second)
		tm.told()
		b.TakeOver()
		ctx, cancel := context.WithTimeout(t.Context(), second)
		defer cancel()
		if !b.CatchUp(ctx) {
			t.Error("did not catch up within a second")
		}
		after(second)
		if !slices.Contains(tm.told(), "channel_occupied x") {
			t.Error("the outbox of the dead node waits")
		}
		close(done)
		emitting.Wait()
	})
}

// What a node wrote itself comes back by the watch and is no reason to compare; what another
// wrote about its channels is.
func TestLedgerOwnWritesAreNoNews(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a, b := tm.join("n1"), tm.join("n2")
		a.Behind()
		b.Behind()
		for i := range 50 {
			a.Emit("a", ChannelOccupied(fmt.Sprint("c", i)))
			after(60 * time.Millisecond)
			a.Emit("a", ChannelVacated(fmt.Sprint("c", i)))
			after(60 * time.Millisecond)
		}
		after(5 * second)
		if a.Behind() {
			t.Error("its own writes make a node compare")
		}
		if !b.Behind() {
			t.Error("the writes of another node do not")
		}
		tm.told()
	})
}

// A node owns some channels of a batch.
func TestLedgerOwnsSome(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		a.setOwns(func(channel string) bool { return channel == "mine" })
		for _, channel := range []string{"other", "mine", "another"} {
			a.Emit("a", ChannelOccupied(channel))
		}
		after(second)
		tm.expect("of a batch", "channel_occupied mine")
	})
}

// Nothing is committed while it is not clear who is cut off.
func TestLedgerWaitsForSettledView(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		a.settling.Store(true)
		a.Emit("a", ChannelOccupied("x"))
		after(10 * second)
		tm.expect("while the view settles")
		a.Emit("a", ChannelOccupied("y"))
		a.setOwns(func(channel string) bool { return channel == "y" })
		a.settling.Store(false)
		after(second)
		tm.expect("then", "channel_occupied y")
	})
}

// What was seen in another view is reported only if it is still so: a node that is cut off loses
// the others one after the other, and may have them back before it is done with what it believed.
func TestLedgerForgetsMistakes(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a := tm.join("a")
		for _, channel := range []string{"c1", "c2"} {
			a.Emit("a", ChannelOccupied(channel))
		}
		after(second)
		tm.expect("before", "channel_occupied c1", "channel_occupied c2")
		a.settling.Store(true)
		for _, channel := range []string{"c1", "c2"} {
			a.Emit("a", ChannelVacated(channel))
		}
		a.view.Add(1)
		a.sees(fact{"a", "c1", ""}, true)
		after(second)
		a.settling.Store(false)
		after(second)
		tm.expect("afterwards", "channel_vacated c2")
		if got := a.counts.ledger[LedgerStale]; got != 1 {
			t.Errorf("%d changes were stale", got)
		}
		a.Emit("a", ChannelVacated("c1")) // in the present view: as it was told
		after(second)
		tm.expect("at the end", "channel_vacated c1")
	})
}

// A node without a majority reports nothing, keeps nothing, and compares afterwards.
func TestLedgerMinority(t *testing.T) {
	onTeam(t, Options{LeaveDebounce: 3 * second}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		a.Emit("a", ChannelOccupied("x"))
		after(second)
		tm.told()
		a.Emit("a", ChannelVacated("x"))
		a.setOwns(never)
		a.ledger.set(func(f *faulty) { f.refuse = true })
		a.Emit("a", ChannelOccupied("y"))
		after(time.Minute)
		tm.expect("in the minority")
		if a.ledger.attempts != 1 || a.Pending() != 0 {
			t.Errorf("%d commits tried, %d pending", a.ledger.attempts, a.Pending())
		}
		if got := a.counts.ledger[LedgerPassed]; got != 2 {
			t.Errorf("%d changes passed", got)
		}
		a.setOwns(always)
		a.ledger.set(func(f *faulty) { f.refuse = false })
		a.Compare("a", "x", true, nil)
		a.Compare("a", "y", true, nil)
		after(10 * second)
		tm.expect("after the heal", "channel_occupied y")
	})
}

// All nodes end at once: the ledger knows what was told, and the next ones go on from there.
func TestLedgerRestartOfAll(t *testing.T) {
	for _, graceful := range []bool{true, false} {
		t.Run(fmt.Sprint("graceful ", graceful), func(t *testing.T) {
			onTeam(t, Options{LeaveDebounce: 3 * second}, func(t *testing.T, tm *team) {
				nodes := []*mate{tm.join("n1"), tm.join("n2")}
				nodes[0].Emit("a", ChannelOccupied("stays"))
				nodes[1].Emit("a", ChannelOccupied("goes"))
				after(second)
				tm.told()
				for _, m := range nodes {
					m.Emit("a", ChannelVacated("stays"))
					m.Emit("a", ChannelVacated("goes"))
					if graceful {
						if err := m.Flush(t.Context()); err != nil {
							t.Error(err)
						}
					}
					m.die()
				}
				tm.expect("at the end")
				after(time.Hour)
				m := tm.join("n1")
				for _, place := range m.Reported() {
					m.Compare(place.AppID, place.Channel, place.Channel == "stays", nil)
				}
				m.Compare("a", "new", true, nil)
				m.TakeOver()
				after(10 * second)
				tm.expect("after the restart", "channel_vacated goes", "channel_occupied new")
			})
		})
	}
}

// A node that stops leaves no outbox behind, one that dies does, until it is taken over.
func TestLedgerOutboxesEnd(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a, b, c := tm.join("n1"), tm.join("n2"), tm.join("n3")
		for _, m := range []*mate{a, b, c} {
			m.Emit("a", ChannelOccupied("of "+m.name))
		}
		after(second)
		a.stop()
		b.die()
		after(second)
		if got := c.Emitter.ledger.others(); !slices.Equal(got, []string{"n2"}) {
			t.Errorf("outboxes of %v are left", got)
		}
		c.TakeOver()
		after(second)
		if got := c.Emitter.ledger.others(); len(got) > 0 {
			t.Errorf("outboxes of %v are left after the take-over", got)
		}
		tm.expect("once", "channel_occupied of n1", "channel_occupied of n2", "channel_occupied of n3")
	})
}

// While the ledger takes nothing, changes wait up to a limit; what is dropped is counted and
// found by a comparison.
func TestLedgerUnavailable(t *testing.T) {
	onTeam(t, Options{EnqueueTimeout: 10 * second, MaxPending: 5}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		a.Behind()
		a.ledger.set(func(f *faulty) { f.refuse = true })
		for i := range 8 {
			a.Emit("a", ChannelOccupied(fmt.Sprint("c", i)))
		}
		after(time.Minute)
		if got := a.counts.droppedNow(); got[DropPendingFull] != 3 || got[DropLedgerFailed] != 5 || a.Pending() != 0 {
			t.Errorf("dropped %v, %d pending", got, a.Pending())
		}
		if !a.Behind() || a.Behind() {
			t.Error("no comparison is wanted, or again and again")
		}
		a.ledger.set(func(f *faulty) { f.refuse = false })
		var want []string
		for i := range 5 { // as many as may wait
			a.Compare("a", fmt.Sprint("c", i), true, nil)
			want = append(want, fmt.Sprint("channel_occupied c", i))
		}
		after(5 * second)
		tm.expect("when it works again", want...)
	})
}

// An outbox whose app nobody can tell of waits for it up to a limit; what is dropped then is
// counted.
func TestLedgerAppUnavailable(t *testing.T) {
	onTeam(t, Options{EnqueueTimeout: 10 * second}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		tm.apps.setAway(true)
		a.Emit("a", ChannelOccupied("waits"))
		after(5 * second)
		tm.expect("while the app is away")
		tm.apps.setAway(false)
		after(2 * second)
		tm.expect("when it is back", "channel_occupied waits")
		tm.apps.setAway(true)
		a.Emit("a", ChannelOccupied("lost"))
		after(12 * second)
		tm.apps.setAway(false)
		after(2 * second)
		tm.expect("after too long")
		if got := a.counts.droppedNow(); got[DropAppUnavailable] != 1 {
			t.Errorf("dropped %v", got)
		}
	})
}

// An app that gets its first hook hears of what is there. Another hook that comes later does
// not. When the last one goes, the ledger forgets with time, without a word.
func TestLedgerFirstHook(t *testing.T) {
	onTeam(t, Options{LeaveDebounce: second}, func(t *testing.T, tm *team) {
		tm.apps.put(t, apps.App{ID: "b", Key: "k", Secret: "s"})
		a := tm.join("n1")
		there := func() { a.Compare("b", "presence-x", true, []string{"u"}) }
		a.Emit("b", ChannelOccupied("presence-x"))
		there()
		after(5 * second)
		tm.expect("without a hook")
		tm.apps.put(t, hookFor("b", NameMemberAdded))
		there()
		after(5 * second)
		tm.expect("with a hook for members", "member_added presence-x u")
		if got := tm.facts(); got != 1 {
			t.Errorf("%d facts, of which one is wanted", got)
		}
		tm.apps.put(t, oneHook("b"))
		there()
		after(5 * second)
		tm.expect("with a hook for everything", "channel_occupied presence-x")
		tm.apps.put(t, apps.App{ID: "b", Key: "k", Secret: "s"})
		there()
		a.Emit("b", MemberRemoved("presence-x", "u"))
		after(5 * second)
		tm.apps.remove("b")
		a.Compare("b", "presence-x", false, nil)
		after(5 * second)
		tm.expect("without a hook again")
		if got := tm.facts(); got != 0 {
			t.Errorf("%d facts of nobody", got)
		}
	})
}

// The watch tells late what this node did: that must not undo what it knows.
func TestFactsInAnyOrder(t *testing.T) {
	f, about := newFacts(), fact{"a", "x", ""}
	key := about.key()
	f.put(key, about, 5)      // committed
	f.drop(key, 7, true)      // and deleted
	if f.put(key, about, 5) { // the watch follows
		t.Error("what was deleted since is news")
	}
	if got := f.revision(about); got != 0 {
		t.Fatalf("revision %d of a deleted fact", got)
	}
	f.drop(key, 7, false)
	if len(f.gone) != 0 {
		t.Error("a deletion is remembered that the watch has told")
	}
	if !f.put(key, about, 9) || f.revision(about) != 9 { // by another node
		t.Error("a new fact is no news")
	}
	if _, isNews := f.drop(key, 8, false); isNews || f.revision(about) != 9 {
		t.Error("an old deletion removed a newer fact")
	}
	if _, isNews := f.drop(key, 11, false); !isNews || len(f.channels)+len(f.byKey) != 0 {
		t.Errorf("left: %v %v", f.channels, f.byKey)
	}
}

// Two changes of one fact are never one commit: the second would not be checked.
func TestLedgerOneChangeOfAFactPerCommit(t *testing.T) {
	onTeam(t, Options{}, func(t *testing.T, tm *team) {
		a := tm.join("n1")
		for range 3 {
			a.Emit("a", ChannelOccupied("x"))
			a.Emit("a", ChannelVacated("x"))
		}
		after(5 * second)
		want := []string{"channel_occupied x", "channel_vacated x", "channel_occupied x",
			"channel_vacated x", "channel_occupied x", "channel_vacated x"}
		if got := tm.told(); !slices.Equal(got, want) {
			t.Errorf("sent %q", got)
		}
		if a.ledger.commits != 6 || tm.facts() != 0 {
			t.Errorf("%d commits, %d facts", a.ledger.commits, tm.facts())
		}
		synctest.Wait()
	})
}

// A request carries at most BatchSize events, and its job's id is the same whoever makes it.
func TestOutboxParts(t *testing.T) {
	e := New(Options{BatchSize: 2}, newRegistry(t, oneHook("a"), oneHook("b")), &recorder{}, discard(), newCounts())
	box := outbox{ID: "box", Changes: []record{
		{"a", NameChannelOccupied, "1", ""}, {"b", NameChannelOccupied, "2", ""}, {"a", NameMemberAdded, "3", "u"},
		{"a", NameChannelVacated, "4", ""}, {"gone", NameChannelVacated, "5", ""},
	}}
	find := func(id string) *apps.App { app, _ := e.apps.ByID(id); return app }
	sizes, ids := []int{}, map[string]bool{}
	for _, p := range e.parts(box, find) {
		sizes = append(sizes, len(p.events))
		ids[p.jobID(box)] = true
	}
	if !slices.Equal(sizes, []int{2, 1, 1}) || len(ids) != 3 {
		t.Errorf("parts of %v events with ids %v", sizes, ids)
	}
	for _, p := range e.parts(box, find) {
		if !ids[p.jobID(box)] {
			t.Errorf("another id at the second time: %s", p.jobID(box))
		}
	}
}

func FuzzLedgerDocuments(f *testing.F) {
	f.Add([]byte(`{"app":"a","channel":"c","user":"u"}`))
	f.Add([]byte(`{"id":"x","time_ms":1,"changes":[{"app":"a","name":"member_added","channel":"c","user":"u"}]}`))
	f.Add([]byte(`{"changes":[{}]}`))
	f.Fuzz(func(t *testing.T, value []byte) {
		if about, err := decodeFact(value); err == nil {
			if again, err := decodeFact(about.encode()); err != nil || again.appID != about.appID {
				t.Errorf("%+v became %+v, %v", about, again, err)
			}
		}
		if box, err := decodeOutbox(value); err == nil {
			if _, err := decodeOutbox(encodeJSON(box)); err != nil {
				t.Errorf("%+v: %v", box, err)
			}
		}
	})
}
