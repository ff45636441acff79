package journal

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// fill appends messages to several channels at once.
func (n *node) fill(channels []message.Channel, each int) {
	n.t.Helper()
	n.fillAnd(channels, each, func() {})
}

// fillTogether has entries have several messages of several channels: nothing is sent before all wait.
func (n *node) fillTogether(channels []message.Channel, each int) {
	n.t.Helper()
	waiting := make(chan struct{})
	for _, s := range n.slots {
		s.holdFor(n.t, waiting)
	}
	n.fillAnd(channels, each, func() { close(waiting) })
}

func (n *node) fillAnd(channels []message.Channel, each int, appended func()) {
	n.t.Helper()
	var stored sync.WaitGroup
	for i := range each {
		for _, c := range channels {
			stored.Add(1)
			m := newMessage(c, "a", fmt.Sprintf("%s-%d", c.ID, i+1))
			m.Payload = []byte("payload of " + m.ClientMsgNo + ".")
			n.Append(m, func(o Outcome) {
				if o.Err != nil {
					n.t.Error(o.Err)
				}
				stored.Done()
			})
		}
	}
	appended()
	stored.Wait()
	n.catchUp()
}

// holdFor has the slot send nothing until a channel is closed.
func (s *slot) holdFor(t *testing.T, closed <-chan struct{}) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		free := !s.syncing
		if free {
			s.hold(func() { <-closed })
		}
		s.mu.Unlock()
		if free {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the slot does not begin to send")
		}
	}
}

// awaitAsked waits until the cleaners have asked once more for what webhooks have.
func (n *node) awaitAsked(before int64) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); n.asked.Load() <= before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatal("the cleaner does not look")
		}
	}
}

// logHas tells whether any entry of the logs has the bytes.
func (n *node) logHas(what string) bool {
	n.t.Helper()
	for _, s := range n.slots {
		for from := uint64(0); ; {
			page, err := s.log.Read(context.Background(), ">", from, fabric.MaxLogPage)
			if err != nil {
				n.t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				if bytes.Contains(e.Payload, []byte(what)) {
					return true
				}
				from = e.Seq + 1
			}
		}
	}
	return false
}

func (n *node) awaitGone(what string) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); n.logHas(what); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			n.t.Fatalf("the log still has %q", what)
		}
	}
}

func (n *node) seqs(c message.Channel) (list []uint64) {
	n.t.Helper()
	for _, m := range n.read(c, Range{Limit: MaxPage}) {
		if want := fmt.Sprintf("payload of %s-%d.", c.ID, m.Seq); string(m.Payload) != want {
			n.t.Errorf("message %d of %s is %q", m.Seq, c.ID, m.Payload)
		}
		list = append(list, m.Seq)
	}
	return list
}

// What is removed goes from the log as well, although entries have messages of several channels, and
// what is left stays, on a node that was there, on one that was away meanwhile, and on one whose index is
// made anew.
func TestRemovedFromLog(t *testing.T) {
	store := memory.New()
	channels := []message.Channel{{ID: "k", Type: message.Group}, {ID: "l", Type: message.Group}, {ID: "m", Type: message.Group}}
	n := start(t, store, t.TempDir(), 0)
	n.Own(all)
	n.fillTogether(channels, 40)
	entries := uint64(0)
	for _, s := range n.slots {
		info, err := s.log.Info(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		entries += info.Entries
	}
	if entries > 60 {
		t.Fatalf("%d entries for 120 messages: nothing is together with others", entries)
	}
	awayDir := t.TempDir()
	away := start(t, store.Join(memory.Options{}), awayDir, 0)
	away.catchUp()
	away.stop()

	n.remove(channels[0], 7, 8)   // one
	n.remove(channels[0], 40, 41) // the newest
	n.remove(channels[1], 0, 31)  // most
	n.remove(channels[2], 0, 41)  // all
	for _, gone := range []string{"k-7.", "k-40.", "l-1.", "l-30.", "m-1.", "m-40."} {
		n.awaitGone(gone)
	}
	var first, last []uint64
	for i := uint64(1); i <= 39; i++ {
		if i != 7 {
			first = append(first, i)
		}
	}
	for i := uint64(31); i <= 40; i++ {
		last = append(last, i)
	}
	check := func(what string, n *node) {
		t.Helper()
		n.catchUp()
		for i, want := range [][]uint64{first, last, nil} {
			if got := n.seqs(channels[i]); !slices.Equal(got, want) {
				t.Errorf("%s, channel %s: %v", what, channels[i].ID, got)
			}
			if head, err := n.Head(channels[i]); err != nil || head.Seq != 40 {
				t.Errorf("%s, channel %s: the newest was %d, %v", what, channels[i].ID, head.Seq, err)
			}
		}
	}
	check("removed", n)
	check("away meanwhile", start(t, store.Join(memory.Options{}), awayDir, 0))
	n.stop()
	anew := start(t, store.Join(memory.Options{}), t.TempDir(), 0)
	check("made anew", anew)
	anew.Own(all)
	for _, c := range channels {
		if o := anew.send(c, "a", "next"); o.Err != nil || o.Seq != 41 {
			t.Errorf("after that: %+v", o)
		}
	}
}

// A message that is removed while its entry is moved does not come back.
func TestRemovedWhileMoved(t *testing.T) {
	store := memory.New()
	n := start(t, store, t.TempDir(), 0)
	n.Own(all)
	n.fill([]message.Channel{group}, 20)
	list := n.read(group, Range{Limit: MaxPage})
	n.remove(group, 7, 8)
	n.remove(group, 0, 5)
	last, err := n.slotOf(group).end(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	n.slotOf(group).rewrite(list, 1) // by a cleaner that looked before they were removed
	n.send(group, "a", "next")       // behind it
	n.catchUp()
	n.awaitGone("payload of g-7.")
	n.awaitGone("payload of g-1.")
	if info, err := n.slotOf(group).log.Info(context.Background()); err != nil || info.LastSeq < last+3 {
		t.Errorf("nothing was moved: the log had %d entries and has %d, %v", last, info.LastSeq, err)
	}
	n.catchUp()
	for _, node := range []*node{n, start(t, store.Join(memory.Options{}), t.TempDir(), 0)} {
		node.catchUp()
		var got []uint64
		for _, m := range node.read(group, Range{Limit: 16}) {
			got = append(got, m.Seq)
		}
		if fmt.Sprint(got) != "[5 6 8 9 10 11 12 13 14 15 16 17 18 19 20 21]" {
			t.Errorf("left: %v", got)
		}
	}
}

// What comes right behind a message that was the newest, and was removed while its entry was moved, counts
// everywhere.
func TestNewestRemovedWhileMoved(t *testing.T) {
	store := memory.New()
	n := start(t, store, t.TempDir(), 0)
	other := start(t, store.Join(memory.Options{}), t.TempDir(), 0)
	n.Own(all)
	n.fill([]message.Channel{group}, 20)
	newest := n.read(group, Range{From: 20, Limit: 1})
	outcomes := make(chan Outcome, 4)
	note := func(o Outcome) { outcomes <- o }
	n.Append(&message.Message{ID: ids.Add(1), Channel: group, Removes: message.Removal{From: 20, Before: 21}}, note)
	n.slotOf(group).rewrite(newest, 1)
	for _, no := range []string{"x", "y", "z"} {
		n.Append(newMessage(group, "a", no), note)
	}
	for range cap(outcomes) {
		if o := <-outcomes; o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	for _, node := range []*node{n, other, start(t, store.Join(memory.Options{}), t.TempDir(), 0)} {
		node.catchUp()
		var got []uint64
		for _, m := range node.read(group, Range{From: 18, Limit: 100}) {
			got = append(got, m.Seq)
		}
		if fmt.Sprint(got) != "[18 19 21 22 23]" {
			t.Errorf("there are %v", got)
		}
	}
}

// A node that was away when the newest messages of a channel went does not give their numbers again.
func TestNumbersAfterAway(t *testing.T) {
	store := memory.New()
	n := start(t, store, t.TempDir(), 0)
	n.Own(all)
	n.fill([]message.Channel{group}, 10)
	dir := t.TempDir()
	away := start(t, store.Join(memory.Options{}), dir, 0)
	away.catchUp()
	away.stop()
	for i := range 10 {
		n.send(group, "a", fmt.Sprint("more", i))
	}
	n.floor.Store(21) // as the registry has it before the order is deleted
	n.remove(group, 0, 21)
	s := n.slotOf(group)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		page, err := s.log.Read(context.Background(), messageSubject, 0, 1)
		if err != nil || time.Now().After(deadline) {
			t.Fatal("the log still has messages", err)
		}
		if len(page) == 0 {
			break
		}
		s.wakeCleaner()
	}
	n.Own(func(int) bool { return false })
	away = start(t, store.Join(memory.Options{}), dir, 0)
	away.floor.Store(21)
	away.catchUp()
	away.Own(all)
	if o := away.send(group, "a", "next"); o.Err != nil || o.Seq != 21 {
		t.Errorf("numbered %+v", o)
	}
	n.catchUp()
	if list := n.read(group, Range{Limit: 100}); len(list) != 1 || list[0].Seq != 21 {
		t.Errorf("the other node has %d messages", len(list))
	}
}

// The newest message of a channel stays in the log when it has expired, for its number; the others go.
func TestExpiredWhileAway(t *testing.T) {
	store := memory.New()
	n := start(t, store, t.TempDir(), 0)
	n.Own(all)
	past := func(no string) {
		m := newMessage(group, "a", no)
		m.Time -= 5000
		m.Expire = 1
		m.Payload = []byte("payload of " + no + ".")
		done := make(chan Outcome, 1)
		n.Append(m, func(o Outcome) { done <- o })
		if o := <-done; o.Err != nil {
			t.Fatal(o.Err)
		}
		n.catchUp()
		if err := n.DropExpired(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	past("e1")
	past("e2")
	n.awaitGone("payload of e1.")
	n.Own(func(int) bool { return false })
	anew := start(t, store.Join(memory.Options{}), t.TempDir(), 0)
	anew.catchUp()
	if list := anew.read(group, Range{Limit: 10}); len(list) != 0 {
		t.Errorf("%d messages are there", len(list))
	}
	anew.Own(all)
	if o := anew.send(group, "a", "next"); o.Err != nil || o.Seq != 3 {
		t.Errorf("numbered %+v", o)
	}
	n.catchUp()
	if list := n.read(group, Range{Limit: 10}); len(list) != 1 || list[0].Seq != 3 {
		t.Errorf("the other node has %d messages", len(list))
	}
}

// What webhooks have not been told yet is not moved; what was removed they do not hear.
func TestNotMovedBeforeTold(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 0)
	n.Own(all)
	n.told.Store(0)
	n.fill([]message.Channel{group}, 40)
	before := n.asked.Load()
	n.remove(group, 7, 8)
	n.awaitAsked(before)
	before = n.asked.Load()
	n.slotOf(group).wakeCleaner()
	n.awaitAsked(before) // it has done what it did the first time
	told := 0
	for from := uint64(1); ; {
		list, last, err := n.Entries(context.Background(), n.Slot(group), from, 100)
		if err != nil {
			t.Fatal(err)
		}
		if last == 0 {
			break
		}
		told += len(list)
		from = last + 1
	}
	if told != 39 {
		t.Errorf("%d of 39 are told", told)
	}
	n.told.Store(math.MaxUint64)
	n.slotOf(group).wakeCleaner()
	n.awaitGone("payload of g-7.")
}

// An order whose floor is not written does not keep the cleaner from what comes behind it.
func TestStuckOrder(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 0)
	n.Own(all)
	n.send(group, "a", "first")
	stored := make(chan Outcome, maxCleaned+5)
	for range cap(stored) {
		n.Append(&message.Message{ID: ids.Add(1), Channel: group, Removes: message.Removal{Before: 2}}, func(o Outcome) { stored <- o })
	}
	for range cap(stored) {
		if o := <-stored; o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	n.fill([]message.Channel{group}, 1)
	last := n.read(group, Range{Newest: true, Limit: 1})[0]
	n.remove(group, last.Seq, last.Seq+1)
	n.awaitGone("payload of g-1.")
}

// What has expired is taken out of the index.
func TestExpired(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 0)
	n.Own(all)
	now := time.Now()
	stored := make(chan Outcome, 3)
	for i, expire := range []uint32{0, 100, 200} {
		m := newMessage(group, "a", fmt.Sprint(i))
		m.Expire = expire
		n.Append(m, func(o Outcome) { stored <- o })
	}
	for range 3 {
		if o := <-stored; o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	n.catchUp()
	for _, v := range []struct {
		after time.Duration
		rows  int
	}{{0, 3}, {150 * time.Second, 2}, {300 * time.Second, 1}} {
		if err := n.DropExpired(now.Add(v.after)); err != nil {
			t.Fatal(err)
		}
		rows := 0
		prefix := index.Prefix(tableMessage, group.Key())
		if err := n.index.Each(prefix, index.End(prefix), false, func(_, _ []byte) bool { rows++; return true }); err != nil {
			t.Fatal(err)
		}
		if rows != v.rows {
			t.Errorf("after %v: %d messages", v.after, rows)
		}
	}
}

func TestEntryEncoding(t *testing.T) {
	long := newMessage(group, "a", "2")
	long.Payload = bytes.Repeat([]byte("x"), 100_000)
	removal := &message.Message{Channel: group, Removes: message.Removal{From: 3, Before: 1 << 40}}
	for _, e := range []entry{
		{kind: kindEpoch, epoch: 1 << 63},
		{kind: kindMessages, epoch: 7, messages: []*message.Message{newMessage(group, "a", "1"), long, newMessage(group, "b", "")}},
		{kind: kindMessages, messages: []*message.Message{removal}},
		{kind: kindMoved, epoch: 9, messages: []*message.Message{long}},
	} {
		data := e.encode()
		got, err := decodeEntry(data)
		if err != nil || got.kind != e.kind || got.epoch != e.epoch || !bytes.Equal(got.encode(), data) || len(got.messages) != len(e.messages) {
			t.Errorf("%+v: %+v, %v", e, got, err)
		}
		for n := range min(len(data), 500) {
			if got, err := decodeEntry(data[:n]); err == nil && len(got.messages) == len(e.messages) && n > 0 && len(e.messages) > 0 {
				t.Fatalf("%d of %d bytes: %+v", n, len(data), got)
			}
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add(entry{kind: kindEpoch, epoch: 5}.encode())
	f.Add(entry{kind: kindMessages, messages: []*message.Message{newMessage(group, "a", "1"), newMessage(group, "a", "2")}}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEntry(data)
		if err != nil {
			return
		}
		again, err := decodeEntry(e.encode())
		if err != nil || len(again.messages) != len(e.messages) || again.epoch != e.epoch {
			t.Errorf("%x: %+v, %v", data, again, err)
		}
	})
}
