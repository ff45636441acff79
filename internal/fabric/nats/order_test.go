package nats

import (
	"strconv"
	"testing"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/fabric"
)

func TestOrder(t *testing.T) {
	o := order{}
	for i, step := range []struct {
		reply  string
		sender string
		inTurn bool
	}{
		{numbered("a", 1), "a", true},
		{numbered("b", 40), "b", true},
		{numbered("a", 1), "a", true}, // for a second subscription
		{numbered("a", 37), "a", true},
		{numbered("a", 36), "a", false},
		{numbered("b", 2), "b", false},
		{numbered("a", 100), "a", true}, // what is missing was for others, or was lost
		{"a", "a", true},
		{"a.!", "a.!", true},
		{"", "", true},
	} {
		if sender, inTurn := o.accept(step.reply); sender != step.sender || inTurn != step.inTurn {
			t.Errorf("step %d, %q: got %q, %v", i, step.reply, sender, inTurn)
		}
	}
	for i := range 3 * maxSenders {
		o.accept(numbered("sender"+strconv.Itoa(i), 1))
	}
	if len(o) > maxSenders {
		t.Errorf("%d senders are remembered", len(o))
	}
	reply := numbered("sender", 1<<40)
	o.accept(reply)
	if n := testing.AllocsPerRun(100, func() { o.accept(reply) }); n != 0 {
		t.Errorf("a message costs %v allocations", n)
	}
}

// TestStale sends, as an old connection between servers would, what is behind newer messages.
func TestStale(t *testing.T) {
	ctx, p := open(t)
	lost := make(chan string, 10)
	p.dropped = func(reason, _ string, _ int) { lost <- reason }
	s, err := p.Signal(ctx, "stale")
	check(t, err)
	got := make(chan fabric.Message, 10)
	_, err = s.Subscribe("x.*", func(m fabric.Message) { got <- m })
	check(t, err)
	check(t, s.Flush(ctx))
	for i, number := range []uint64{5, 6, 3, 7} {
		check(t, p.conn.PublishMsg(&natsgo.Msg{
			Subject: "parley.signal.stale.x." + strconv.Itoa(i), Reply: numbered("other", number), Data: []byte{byte(number)},
		}))
	}
	for _, want := range []byte{5, 6, 7} {
		select {
		case m := <-got:
			if m.Payload[0] != want || m.Sender != "other" {
				t.Errorf("got %v of %q, want %d", m.Payload, m.Sender, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%d did not come", want)
		}
	}
	if reason := <-lost; reason != fabric.DropSignalStale {
		t.Errorf("lost for %q", reason)
	}
}
