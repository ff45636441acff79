package fabrictest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
)

// step is one call that a watch made.
type step struct {
	ready  bool
	change fabric.Change
}

// watch starts a watch, whose calls must not overlap, and returns what it calls.
func watch(t *testing.T, d fabric.Documents) <-chan step {
	t.Helper()
	steps := make(chan step, 10_000)
	var busy atomic.Bool
	call := func(s step) {
		if !busy.CompareAndSwap(false, true) {
			t.Error("two calls of a watch at once")
		}
		steps <- s
		busy.Store(false)
	}
	background(t, "watch", func(ctx context.Context) error {
		return d.Watch(ctx,
			func(change fabric.Change) { call(step{change: change}) },
			func() { call(step{ready: true}) })
	})
	return steps
}

func testWatch(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	put := func(key, value string, revision uint64) uint64 {
		t.Helper()
		revision, err := d.Put(ctx, key, []byte(value), revision)
		must(t, "put "+key, err)
		return revision
	}
	a := put("a", "old", 0)
	gone := put("gone", "x", 0)
	b := put("b", "", 0)
	a = put("a", "1", a)
	must(t, "delete", d.Delete(ctx, "gone", gone))
	steps := watch(t, d)
	expect := func(key, value string, revision uint64, deleted bool) {
		t.Helper()
		s := receive(t, "change of "+key, steps)
		c := s.change
		if s.ready || c.Key != key || string(c.Value) != value || c.Deleted != deleted ||
			(c.Value == nil) != deleted || (revision != 0 && c.Revision != revision) {
			t.Errorf("got %+v, want %s=%q at %d, deleted %v", s, key, value, revision, deleted)
		}
	}
	expect("b", "", b, false)
	expect("a", "1", a, false)
	if s := receive(t, "ready", steps); !s.ready {
		t.Errorf("got %+v, want ready", s)
	}
	expect("c", "1", put("c", "1", 0), false)
	a = put("a", "2", a)
	expect("a", "2", a, false)
	must(t, "delete", d.Delete(ctx, "b", b))
	expect("b", "", 0, true)
	expect("b", "3", put("b", "3", 0), false)

	empty, err := p.Documents(ctx, name(t)+"-empty")
	must(t, "open", err)
	if s := receive(t, "ready of an empty collection", watch(t, empty)); !s.ready {
		t.Errorf("got %+v, want ready", s)
	}
}

// testWatchWhileBusy starts watches in the midst of many changes. Each must see the keys
// that exist before it is ready, the changes of a key in order, and the last state.
func testWatchWhileBusy(t *testing.T, p fabric.Provider) {
	const keys, writes = 4, 60
	ctx := context.Background()
	d := openDocuments(t, p)
	for i := range keys {
		must(t, "put", increment(ctx, d, "steady-"+strconv.Itoa(i)))
	}
	var running sync.WaitGroup
	for i := range keys {
		running.Go(func() {
			for n := range writes {
				if err := churn(ctx, d, i, n); err != nil {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	var watches []<-chan step
	for range 3 {
		watches = append(watches, watch(t, d))
	}
	running.Wait()
	_, err := d.Put(ctx, "end", nil, 0)
	must(t, "put", err)
	list, err := d.List(ctx)
	must(t, "list", err)
	want := map[string]uint64{}
	for _, document := range list {
		want[document.Key] = document.Revision
	}
	for _, steps := range watches {
		got := followToEnd(t, steps, keys)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("watch ended with %v, the list has %v", got, want)
		}
	}
}

// churn does the nth write of writer i: it updates a key that stays, and creates and deletes
// one that does not.
func churn(ctx context.Context, d fabric.Documents, i, n int) error {
	if n%3 != 0 {
		return increment(ctx, d, "steady-"+strconv.Itoa(i))
	}
	key := "brief-" + strconv.Itoa(i)
	document, err := d.Get(ctx, key)
	if errors.Is(err, fabric.ErrNotFound) {
		_, err = d.Put(ctx, key, nil, 0)
		return err
	}
	if err != nil {
		return err
	}
	return d.Delete(ctx, key, document.Revision)
}

// followToEnd reads a watch until the key "end" and returns the state that it told, as the
// revision of each key.
func followToEnd(t *testing.T, steps <-chan step, steady int) map[string]uint64 {
	t.Helper()
	state, last, ready := map[string]uint64{}, map[string]uint64{}, false
	for {
		s := receive(t, "change", steps)
		if s.ready {
			if ready {
				t.Error("ready twice")
			}
			ready = true
			for i := range steady {
				if state["steady-"+strconv.Itoa(i)] == 0 {
					t.Errorf("ready before the existing key steady-%d", i)
				}
			}
			continue
		}
		c := s.change
		if c.Revision <= last[c.Key] {
			t.Errorf("%s at revision %d came after %d", c.Key, c.Revision, last[c.Key])
		}
		last[c.Key] = c.Revision
		if c.Deleted {
			delete(state, c.Key)
		} else {
			state[c.Key] = c.Revision
		}
		if c.Key == "end" && ready {
			return state
		}
		if c.Key == "end" { // existed when the watch began
			if s := receive(t, "ready", steps); !s.ready {
				t.Errorf("got %+v, want ready", s)
			}
			return state
		}
	}
}
