package registry

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

var group = message.Channel{ID: "g", Type: message.Group}

// node is one node's replica, with the members that it was told of.
type node struct {
	*Registry
	t *testing.T

	mu   sync.Mutex
	told map[string]bool
}

func start(t *testing.T, p *memory.Provider) *node {
	t.Helper()
	x, err := index.Open(t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, told: map[string]bool{}}
	n.Registry, err = Open(context.Background(), Options{
		Open: p.Log, Index: x, Logger: slog.New(slog.DiscardHandler),
		Changed: func(kind Kind, _ message.Channel, added, removed []string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, uid := range added {
				n.told[string(kind)+" "+uid] = true
			}
			for _, uid := range removed {
				delete(n.told, string(kind)+" "+uid)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = x.Close()
	})
	return n
}

func (n *node) done(seq uint64, err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func uids(from, to int) []Member {
	var list []Member
	for i := from; i < to; i++ {
		list = append(list, Member{UID: fmt.Sprintf("u%05d", i), Joined: uint64(i)})
	}
	return list
}

func names(list []Member) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = m.UID
	}
	return out
}

// want compares a set, also what was told of it and what users are members of.
func (n *node) want(kind Kind, want []Member) {
	n.t.Helper()
	if err := n.CatchUp(context.Background()); err != nil {
		n.t.Fatal(err)
	}
	got := []Member{}
	if err := n.Each(kind, group, func(m Member) bool { got = append(got, m); return true }); err != nil {
		n.t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		n.t.Errorf("%s: %d members, want %d", kind, len(got), len(want))
	}
	deadline := time.Now().Add(time.Minute)
	for n.count(kind) != len(want) && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // it is told behind the index
	}
	if got := n.count(kind); got != len(want) {
		n.t.Errorf("told of %d, want %d", got, len(want))
	}
	for _, m := range []Member{{UID: "u00001"}, {UID: "u00300"}, {UID: "nobody"}} {
		channels, err := n.ChannelsOf(m.UID)
		is := slices.ContainsFunc(want, func(w Member) bool { return w.UID == m.UID })
		if err != nil || kind == Members && (len(channels) == 1) != is {
			n.t.Errorf("%s is a member of %v, %v", m.UID, channels, err)
		}
	}
}

func (n *node) count(kind Kind) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for key := range n.told {
		if len(key) > len(kind) && key[:len(kind)] == string(kind) {
			count++
		}
	}
	return count
}

func TestSets(t *testing.T) {
	store := memory.New()
	a, b := start(t, store), start(t, store.Join(memory.Options{}))
	both := func(kind Kind, want []Member) {
		t.Helper()
		a.want(kind, want)
		b.want(kind, want)
	}
	ctx := context.Background()
	a.done(a.Add(ctx, Members, group, uids(0, 10)))
	both(Members, uids(0, 10))
	a.done(b.Add(ctx, Members, group, []Member{{UID: "u00003", Joined: 99}})) // it is there, and stays as it is
	both(Members, uids(0, 10))
	a.done(b.Remove(ctx, Members, group, []string{"u00009", "nobody"}))
	both(Members, uids(0, 9))
	a.done(a.Add(ctx, Deny, group, uids(3, 4)))
	both(Deny, uids(3, 4))
	a.done(a.Add(ctx, Members, group, uids(9, 2000))) // over the size of one document
	both(Members, uids(0, 2000))
	a.done(b.Remove(ctx, Members, group, names(uids(1000, 2000))))
	both(Members, uids(0, 1000))
	a.done(b.Replace(ctx, Members, group, []Member{{UID: "u00300", Joined: 7}, {UID: "z", Joined: 7}}))
	both(Members, []Member{{"u00300", 300}, {"z", 7}})
	a.done(b.Replace(ctx, Members, group, nil))
	both(Members, []Member{})
	if empty, err := a.Empty(Members, group); err != nil || !empty {
		t.Errorf("empty: %v, %v", empty, err)
	}
	if joined, is, err := a.Has(Deny, group, "u00003"); err != nil || !is || joined != 3 {
		t.Errorf("has: %d, %v, %v", joined, is, err)
	}
	// A node that comes later.
	start(t, store.Join(memory.Options{})).want(Deny, uids(3, 4))
}

// Two nodes add to one set at once, beyond the size at which it is split.
func TestSetsContended(t *testing.T) {
	store := memory.New()
	nodes := []*node{start(t, store), start(t, store.Join(memory.Options{}))}
	var adding sync.WaitGroup
	for i := range 20 {
		n := nodes[i%2]
		adding.Go(func() {
			if _, err := n.Add(context.Background(), Members, group, uids(i*50, i*50+50)); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	for _, n := range nodes {
		n.want(Members, uids(0, 1000))
	}
}

func TestDocuments(t *testing.T) {
	store := memory.New()
	a, b := start(t, store), start(t, store.Join(memory.Options{}))
	ctx := context.Background()
	a.done(a.SetToken(ctx, "u", 1, "secret", LevelMaster))
	a.done(a.SetToken(ctx, "u", 0, "other", LevelSlave))
	a.done(a.ChangeChannel(ctx, group, func(c *Channel) { c.Ban = true }))
	a.done(a.MoveCursor(ctx, "u", group, func(c *Cursor) { c.Read, c.Version = 5, 1 }))
	if seq, err := a.MoveCursor(ctx, "u", group, func(c *Cursor) { c.Version = 2 }); seq != 0 || err != nil {
		t.Errorf("a cursor that was not moved is written: %d, %v", seq, err)
	}
	if err := b.CatchUp(ctx); err != nil {
		t.Fatal(err)
	}
	u, err := b.User("u")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		flag  uint8
		token string
		level uint8
		ok    bool
	}{{1, "secret", LevelMaster, true}, {0, "other", LevelSlave, true}, {1, "other", LevelMaster, false}, {2, "secret", 0, false}} {
		if level, ok := u.Check(v.flag, v.token); ok != v.ok || ok && level != v.level {
			t.Errorf("%+v: %d, %v", v, level, ok)
		}
	}
	if c, exists, err := b.Channel(group); err != nil || !exists || !c.Ban || c.Disband {
		t.Errorf("%+v, %v, %v", c, exists, err)
	}
	if c, err := b.Cursor("u", group); err != nil || c.Read != 5 {
		t.Errorf("%+v, %v", c, err)
	}
	if all, err := b.Cursors("u"); err != nil || all[group.Key()].Read != 5 {
		t.Errorf("%+v, %v", all, err)
	}
	a.done(b.DropTokens(ctx, "u", 0, 1, 2))
	if u, err := b.User("u"); err != nil || len(u.Tokens) != 0 {
		t.Errorf("%+v, %v", u, err)
	}
}

// Channels with a limit of their own are found without looking at all, and no more when it is gone.
func TestKept(t *testing.T) {
	n := start(t, memory.New())
	kept := func() (keys []string) {
		if err := n.EachKept(func(c message.Channel) bool { keys = append(keys, c.Key()); return true }); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	for id, change := range map[string]func(*Channel){
		"age": func(c *Channel) { c.KeepSeconds = 1 }, "count": func(c *Channel) { c.KeepCount = 1 },
		"bytes": func(c *Channel) { c.KeepBytes = 1 }, "none": func(c *Channel) { c.Ban = true },
	} {
		n.done(n.ChangeChannel(t.Context(), message.Channel{ID: id, Type: message.Group}, change))
	}
	if keys := kept(); !slices.Equal(keys, []string{"2:age", "2:bytes", "2:count"}) {
		t.Errorf("kept %v", keys)
	}
	count := message.Channel{ID: "count", Type: message.Group}
	n.done(n.ChangeChannel(t.Context(), count, func(c *Channel) { c.KeepCount = 0 }))
	if keys := kept(); !slices.Equal(keys, []string{"2:age", "2:bytes"}) {
		t.Errorf("kept %v", keys)
	}
}

func FuzzDecodePart(f *testing.F) {
	f.Add(part{kind: Members, channel: "2:g", members: uids(0, 3)}.encode())
	f.Add(part{kind: Deny, channel: "2:g", split: true}.encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePart(data)
		if err != nil || len(data) == 0 {
			return
		}
		again, err := decodePart(p.encode())
		if err != nil || again.split != p.split || !slices.Equal(again.members, p.members) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}
