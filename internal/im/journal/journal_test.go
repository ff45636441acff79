package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

var group = message.Channel{ID: "g", Type: message.Group}

// patience bounds every wait for something that must happen.
const patience = time.Minute

// node is one node's journal over a store that several share.
type node struct {
	*Journal
	t       *testing.T
	index   *index.Index
	stop    func()
	applied atomic.Int64
	floor   atomic.Uint64 // of every channel
	told    atomic.Uint64 // up to where webhooks have the logs
	asked   atomic.Int64  // how often the cleaners asked for that
	sends   atomic.Int64  // tries to store something
}

// faulty has logs fail in the ways of a real one: answers get lost, entries as well.
type faulty struct {
	fabric.PipeLog
	rate  float64
	sends *atomic.Int64
}

var errLost = fmt.Errorf("%w: made by the test", fabric.ErrUnavailable)

func (f faulty) Send(last uint64, entry fabric.NewEntry, done func(error)) error {
	f.sends.Add(1)
	switch p := rand.Float64(); {
	case p < f.rate/2: // the entries are lost
		go done(errLost)
		return nil
	case p < f.rate: // the answer is lost
		return f.PipeLog.Send(last, entry, func(err error) {
			if err == nil {
				err = errLost
			}
			done(err)
		})
	}
	return f.PipeLog.Send(last, entry, done)
}

func start(t *testing.T, p fabric.Provider, dir string, rate float64) *node {
	t.Helper()
	return startOver(t, p, dir, func(n *node, log fabric.PipeLog) fabric.PipeLog { return faulty{log, rate, &n.sends} })
}

// startOver starts a node whose logs are what over makes of them.
func startOver(t *testing.T, p fabric.Provider, dir string, over func(*node, fabric.PipeLog) fabric.PipeLog) *node {
	t.Helper()
	x, err := index.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, index: x}
	n.told.Store(math.MaxUint64)
	n.Journal, err = Open(context.Background(), Options{
		Slots: 2, Index: x, Logger: slog.New(slog.DiscardHandler),
		Open: func(ctx context.Context, config fabric.LogConfig) (fabric.Log, error) {
			l, err := p.Log(ctx, config)
			if err != nil {
				return nil, err
			}
			return over(n, l.(fabric.PipeLog)), nil
		},
		Floor:   func(message.Channel) (uint64, error) { return n.floor.Load(), nil },
		Told:    func(int) uint64 { n.asked.Add(1); return n.told.Load() },
		Applied: func(*message.Message) { n.applied.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		n.Own(func(int) bool { return false })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

func all(int) bool { return true }

var ids atomic.Int64

func newMessage(c message.Channel, from, no string) *message.Message {
	return &message.Message{
		ID: ids.Add(1), Channel: c, From: from, ClientMsgNo: no, Time: time.Now().UnixMilli(), Payload: []byte(no),
	}
}

// send appends and waits. A message whose fate is unknown goes again, as a client's does.
func (n *node) send(c message.Channel, from, no string) Outcome {
	n.t.Helper()
	done := make(chan Outcome, 1)
	for {
		n.Append(newMessage(c, from, no), func(o Outcome) { done <- o })
		o := <-done
		if !errors.Is(o.Err, fabric.ErrUnavailable) && !errors.Is(o.Err, ErrBusy) {
			return o
		}
	}
}

func (n *node) read(c message.Channel, r Range) []*message.Message {
	n.t.Helper()
	list, err := n.Read(c, r)
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

func (n *node) catchUp() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.CatchUp(ctx); err != nil {
		n.t.Fatal(err)
	}
}

// Two nodes that both believe that they own everything, over logs that lose entries and answers:
// every message that was acknowledged is there once, under the number that its sender was told, and
// no number is missing.
func TestTwoOwners(t *testing.T) {
	store := memory.New()
	nodes := []*node{
		start(t, store, t.TempDir(), 0.02), start(t, store.Join(memory.Options{}), t.TempDir(), 0.02),
	}
	for _, n := range nodes {
		n.Own(all)
	}
	channels := []message.Channel{group, {ID: "h", Type: message.Group}, message.PersonChannel("a", "b")}
	type told struct {
		seq uint64
		id  int64
	}
	var mu sync.Mutex
	acknowledged := map[string]told{}
	var sending sync.WaitGroup
	for sender := range 12 {
		n := nodes[sender%2]
		sending.Go(func() {
			for i := range 40 {
				c := channels[(sender+i)%len(channels)]
				no := fmt.Sprintf("%d-%d", sender, i)
				o := n.send(c, "a", no)
				if o.Err != nil {
					t.Errorf("%s: %v", no, o.Err)
					continue
				}
				mu.Lock()
				acknowledged[c.Key()+"/"+no] = told{o.Seq, o.ID}
				mu.Unlock()
			}
		})
	}
	sending.Wait()
	found := 0
	for _, n := range nodes {
		n.catchUp()
		for _, c := range channels {
			for i, m := range n.read(c, Range{Limit: MaxPage}) {
				if m.Seq != uint64(i+1) {
					t.Fatalf("%s: message %d has the number %d", c.Key(), i+1, m.Seq)
				}
				if want := acknowledged[c.Key()+"/"+m.ClientMsgNo]; want != (told{m.Seq, m.ID}) {
					t.Errorf("%s %s: the sender was told %+v, it is %d with ID %d", c.Key(), m.ClientMsgNo, want, m.Seq, m.ID)
				}
				found++
			}
		}
	}
	if found != 2*len(acknowledged) {
		t.Errorf("%d messages were acknowledged, %d are there", len(acknowledged), found/2)
	}
}

// Ownership moves to and fro while messages are sent.
func TestOwnershipMoves(t *testing.T) {
	store := memory.New()
	nodes := []*node{start(t, store, t.TempDir(), 0), start(t, store.Join(memory.Options{}), t.TempDir(), 0)}
	var owner atomic.Int64
	own := func(who int64) {
		owner.Store(who)
		for i, n := range nodes {
			n.Own(func(int) bool { return int64(i) == who })
		}
	}
	own(0)
	moving := make(chan struct{})
	var moved sync.WaitGroup
	moved.Go(func() {
		for who := int64(1); ; who = 1 - who {
			select {
			case <-moving:
				return
			case <-time.After(5 * time.Millisecond):
				own(who)
			}
		}
	})
	for i := range 300 {
		for {
			o := nodes[owner.Load()].send(group, "a", fmt.Sprint(i))
			if errors.Is(o.Err, ErrNotOwner) {
				continue
			}
			if o.Err != nil || o.Seq != uint64(i+1) {
				t.Fatalf("message %d: %+v", i+1, o)
			}
			break
		}
	}
	close(moving)
	moved.Wait()
}

// A log that can be read and refuses everything at once is not asked all the time.
func TestLogTakesNothing(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 2) // all is lost
	n.Own(all)
	done := make(chan Outcome, 1)
	begin := time.Now()
	n.Append(newMessage(group, "a", "1"), func(o Outcome) { done <- o })
	if o := <-done; !errors.Is(o.Err, fabric.ErrUnavailable) {
		t.Errorf("%+v", o)
	}
	took := time.Since(begin)
	// Each time by two slots for a new epoch, and by one of them for the message.
	if most := 3 * int(took/syncPause+2); int(n.sends.Load()) > most {
		t.Errorf("it was asked %d times in %v, want at most %d", n.sends.Load(), took, most)
	}
}

func TestRepeats(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 0)
	n.Own(all)
	first := n.send(group, "a", "1")
	if first.Err != nil || first.Seq != 1 || first.Repeated {
		t.Fatalf("%+v", first)
	}
	n.catchUp()
	again := n.send(group, "a", "1")
	if again.Seq != 1 || again.ID != first.ID || !again.Repeated {
		t.Errorf("again: %+v", again)
	}
	if other := n.send(group, "b", "1"); other.Seq != 2 || other.Repeated {
		t.Errorf("the same number of another sender: %+v", other)
	}
	// Many at once, before the first is stored.
	outcomes := make(chan Outcome, 10)
	for range cap(outcomes) {
		n.Append(newMessage(group, "a", "2"), func(o Outcome) { outcomes <- o })
	}
	id := int64(0)
	for range cap(outcomes) {
		o := <-outcomes
		if id == 0 {
			id = o.ID
		}
		if o.Err != nil || o.Seq != 3 || o.ID != id {
			t.Errorf("%+v", o)
		}
	}
}

func TestNotOwner(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 0)
	if o := n.send(group, "a", "1"); !errors.Is(o.Err, ErrNotOwner) {
		t.Errorf("%+v", o)
	}
}

func TestRanges(t *testing.T) {
	n := start(t, memory.New(), t.TempDir(), 0)
	n.Own(all)
	for i := range 10 {
		n.send(group, "a", fmt.Sprint(i+1))
		n.send(message.Channel{ID: "other", Type: message.Group}, "a", fmt.Sprint(i+1))
	}
	n.catchUp()
	for _, v := range []struct {
		r    Range
		want string
	}{
		{Range{Limit: 3}, "[1 2 3]"},
		{Range{Limit: 3, Newest: true}, "[8 9 10]"},
		{Range{From: 4, To: 8, Limit: 2}, "[4 5]"},
		{Range{From: 4, To: 8, Limit: 2, Newest: true}, "[6 7]"},
		{Range{From: 9, Limit: 100}, "[9 10]"},
		{Range{From: 11, Limit: 100}, "[]"},
		{Range{Limit: 0}, "[]"},
	} {
		var seqs []uint64
		for _, m := range n.read(group, v.r) {
			seqs = append(seqs, m.Seq)
		}
		if fmt.Sprint(seqs) != v.want {
			t.Errorf("%+v: %v, want %s", v.r, seqs, v.want)
		}
	}
	n.remove(group, 5, 6)
	if _, err := n.Get(group, 5); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	n.remove(group, 0, 8)
	if list := n.read(group, Range{Limit: 100}); len(list) != 3 || list[0].Seq != 8 {
		t.Errorf("removed before 8: %d messages", len(list))
	}
	if o := n.send(group, "a", "11"); o.Seq != 11 {
		t.Errorf("after that: %+v", o)
	}
	n.remove(group, 0, 12)
	if list := n.read(group, Range{Limit: 100}); len(list) != 0 {
		t.Errorf("removed: %d messages", len(list))
	}
	if o := n.send(group, "a", "12"); o.Seq != 12 {
		t.Errorf("after all are removed: %+v", o)
	}
}

// remove orders to remove messages and waits until the node has done so.
func (n *node) remove(c message.Channel, from, before uint64) {
	n.t.Helper()
	done := make(chan Outcome, 1)
	what := message.Removal{From: from, Before: before}
	n.Append(&message.Message{ID: ids.Add(1), Channel: c, Removes: what}, func(o Outcome) { done <- o })
	if o := <-done; o.Err != nil {
		n.t.Fatal(o.Err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.AwaitRemoved(ctx, c, what); err != nil {
		n.t.Fatal(err)
	}
}

// The index is kept over a restart, and made anew when it is gone.
func TestIndexAnew(t *testing.T) {
	store, dir := memory.New(), t.TempDir()
	n := start(t, store, dir, 0)
	n.Own(all)
	person := message.PersonChannel("a", "b")
	for i := range 5 {
		n.send(person, "a", fmt.Sprint(i))
	}
	n.catchUp()
	n.stop()
	later := uint64(0) // messages that come after the first five
	for _, at := range []string{dir, t.TempDir()} {
		n := start(t, store, at, 0)
		n.catchUp()
		if at == dir && n.applied.Load() != 0 {
			t.Errorf("%d messages were applied again", n.applied.Load())
		}
		head, err := n.Head(person)
		if err != nil || head.Seq != 5+later {
			t.Errorf("head: %+v, %v", head, err)
		}
		for uid, want := range map[string]uint64{"a": 5, "b": 6 * later} {
			if sent, err := n.Sent(uid); err != nil || len(sent) != 1 || sent[0] != (Sent{person, want}) {
				t.Errorf("sent by %s: %v, %v", uid, sent, err)
			}
		}
		if seqs, err := n.SeqsOfNo(person, "3"); err != nil || fmt.Sprint(seqs) != "[4]" {
			t.Errorf("by number: %v, %v", seqs, err)
		}
		n.Own(all)
		if o := n.send(person, "b", "x"); o.Err != nil || o.Seq != 6 {
			t.Errorf("%+v", o)
		}
		later = 1
		n.stop()
	}
	// A log that was begun anew is noticed.
	x, err := index.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	_, err = Open(context.Background(), Options{Slots: 2, Index: x, Open: memory.New().Log, Logger: slog.Default()})
	if !errors.Is(err, ErrStaleIndex) {
		t.Errorf("another log: %v", err)
	}
}
