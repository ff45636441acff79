package webhook

import (
	"context"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// Each step waits, then emits; want is what was enqueued by the end, in order.
func TestLeaveDebounce(t *testing.T) {
	const room = "presence-room"
	type step struct {
		wait  time.Duration
		event Event
	}
	tests := []struct {
		name  string
		steps []step
		after time.Duration
		want  []Event
	}{
		{"leave waits",
			[]step{{0, ChannelVacated(room)}}, 2900 * time.Millisecond, nil},
		{"leave is sent in time",
			[]step{{0, ChannelVacated(room)}}, 3100 * time.Millisecond, []Event{ChannelVacated(room)}},
		{"return in time swallows both",
			[]step{{0, ChannelVacated(room)}, {2900 * time.Millisecond, ChannelOccupied(room)}},
			10 * time.Second, nil},
		{"return at the last moment is late",
			[]step{{0, ChannelVacated(room)}, {3 * time.Second, ChannelOccupied(room)}},
			10 * time.Second, []Event{ChannelVacated(room), ChannelOccupied(room)}},
		{"first occupation is sent",
			[]step{{0, ChannelOccupied(room)}}, time.Second, []Event{ChannelOccupied(room)}},
		{"one user returns, the other does not",
			[]step{{0, MemberRemoved(room, "u1")}, {time.Second, MemberRemoved(room, "u2")},
				{time.Second, MemberAdded(room, "u1")}},
			10 * time.Second, []Event{MemberRemoved(room, "u2")}},
		{"another user's arrival swallows nothing",
			[]step{{0, MemberRemoved(room, "u1")}, {0, MemberAdded(room, "u2")}},
			10 * time.Second, []Event{MemberAdded(room, "u2"), MemberRemoved(room, "u1")}},
		{"a member does not undo a vacated channel",
			[]step{{0, ChannelVacated(room)}, {0, MemberAdded(room, "u1")}},
			10 * time.Second, []Event{MemberAdded(room, "u1"), ChannelVacated(room)}},
		{"another channel swallows nothing",
			[]step{{0, ChannelVacated(room)}, {0, ChannelOccupied("other")}},
			10 * time.Second, []Event{ChannelOccupied("other"), ChannelVacated(room)}},
		{"the clock starts again after a return",
			[]step{{0, ChannelVacated(room)}, {2 * time.Second, ChannelOccupied(room)},
				{0, ChannelVacated(room)}},
			2900 * time.Millisecond, nil},
		{"a repeated leave is one",
			[]step{{0, ChannelVacated(room)}, {2 * time.Second, ChannelVacated(room)}},
			10 * time.Second, []Event{ChannelVacated(room)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			options := Options{LeaveDebounce: 3 * time.Second}
			inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
				for _, step := range test.steps {
					time.Sleep(step.wait)
					b.Emit("a", step.event)
				}
				after(test.after)
				checkEvents(t, b, test.want)
				if dropped := b.counts.droppedNow(); len(dropped) > 0 {
					t.Errorf("dropped %v", dropped)
				}
				b.queue.jobs = nil // what the end of the test flushes is of no interest
			})
		})
	}
}

func checkEvents(t *testing.T, b *bench, want []Event) {
	t.Helper()
	var wanted []string
	for _, event := range want {
		wanted = append(wanted, string(event.encode()))
	}
	if got := b.queue.events(t); !slices.Equal(got, wanted) {
		t.Errorf("got  %v\nwant %v", got, wanted)
	}
}

func TestLeaveDebounceWithHookForReturnsOnly(t *testing.T) {
	app := oneHook("a")
	app.Webhooks[0].EventTypes = []string{NameChannelOccupied}
	options := Options{LeaveDebounce: 3 * time.Second}
	inBubble(t, options, []apps.App{app}, func(t *testing.T, b *bench) {
		b.Emit("a", ChannelVacated("c"))
		b.Emit("a", ChannelOccupied("c"))
		after(10 * time.Second)
		checkEvents(t, b, nil)
	})
}

func TestLeaveWithoutDebounceIsSentAtOnce(t *testing.T) {
	inBubble(t, Options{}, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		b.Emit("a", ChannelVacated("c"))
		b.Emit("a", ChannelOccupied("c"))
		after(time.Second)
		checkEvents(t, b, []Event{ChannelVacated("c"), ChannelOccupied("c")})
	})
}

func TestLeavesOverTheLimitAreSentAtOnce(t *testing.T) {
	options := Options{LeaveDebounce: 3 * time.Second, MaxLeaves: 2}
	inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		b.Emit("a", ChannelVacated("1"))
		b.Emit("a", ChannelVacated("2"))
		b.Emit("a", ChannelVacated("3"))
		b.Emit("a", ChannelVacated("1")) // waits already
		after(time.Second)
		checkEvents(t, b, []Event{ChannelVacated("3")})
		b.Emit("a", ChannelOccupied("1")) // makes room
		b.Emit("a", ChannelVacated("4"))
		after(10 * time.Second)
		checkEvents(t, b, []Event{ChannelVacated("3"), ChannelVacated("2"), ChannelVacated("4")})
	})
}

func TestFlushSendsLeavesAndBatchesAtOnce(t *testing.T) {
	options := Options{LeaveDebounce: time.Hour, BatchInterval: time.Hour}
	inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		b.Emit("a", MemberRemoved("presence-c", "u1"))
		b.Emit("a", ChannelVacated("presence-c"))
		b.Emit("a", CacheMiss("cache-c"))
		begin := time.Now()
		if err := b.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("Flush took %v", took)
		}
		checkEvents(t, b, []Event{CacheMiss("cache-c"),
			MemberRemoved("presence-c", "u1"), ChannelVacated("presence-c")})
		if err := b.Flush(t.Context()); err != nil {
			t.Errorf("second Flush: %v", err)
		}
	})
}

func TestFlushGivesUpWithItsContext(t *testing.T) {
	inBubble(t, Options{}, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		b.queue.blocked = make(chan struct{})
		b.Emit("a", CacheMiss("c"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Flush(ctx); err == nil {
			t.Error("Flush succeeded while the queue took nothing")
		}
		b.stop()
		if want := map[string]int{DropShutdown: 1}; !reflect.DeepEqual(b.counts.droppedNow(), want) {
			t.Errorf("dropped %v, want %v", b.counts.droppedNow(), want)
		}
	})
}

func TestLeaveOfDeletedAppIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := newRegistry(t, oneHook("a"))
		queue := &recorder{}
		e := New(Options{LeaveDebounce: time.Second}, list, queue, discard(), newCounts())
		stop := start(t, e)
		defer stop()
		e.Emit("a", ChannelVacated("c"))
		list.remove("a")
		after(time.Minute)
		if got := queue.events(t); len(got) > 0 {
			t.Errorf("enqueued %v", got)
		}
	})
}
