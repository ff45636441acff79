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

// contents is what a collection holds, by key.
func contents(t *testing.T, d fabric.Documents) map[string]string {
	t.Helper()
	list, err := d.List(context.Background())
	must(t, "list", err)
	found := map[string]string{}
	for _, document := range list {
		found[document.Key] = fmt.Sprintf("%s at %d", document.Value, document.Revision)
	}
	return found
}

func testCommit(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	commit := func(what string, writes ...fabric.Write) []uint64 {
		t.Helper()
		revisions, err := d.Commit(ctx, writes)
		must(t, what, err)
		if len(revisions) != len(writes) {
			t.Fatalf("%s: %d revisions for %d writes", what, len(revisions), len(writes))
		}
		for i := range revisions {
			if revisions[i] == 0 || i > 0 && revisions[i] <= revisions[i-1] {
				t.Errorf("%s: revisions %v do not grow", what, revisions)
			}
		}
		return revisions
	}
	commit("nothing")
	first := commit("create", fabric.Write{Key: "a", Value: []byte("1")}, fabric.Write{Key: "b", Value: []byte{}},
		fabric.Write{Key: "c", Value: []byte("1")})
	document, err := d.Get(ctx, "b")
	must(t, "get", err)
	if document.Revision != first[1] || document.Value == nil || len(document.Value) != 0 {
		t.Errorf("got %+v, want an empty value at %d", document, first[1])
	}
	second := commit("create, update and delete", fabric.Write{Key: "d", Value: []byte("1")},
		fabric.Write{Key: "a", Value: []byte("2"), Revision: first[0]}, fabric.Write{Key: "c", Revision: first[2]})
	_, err = d.Get(ctx, "c")
	wantError(t, "get what was deleted", err, fabric.ErrNotFound)

	before := contents(t, d)
	for what, wrong := range map[string]fabric.Write{
		"update at an old revision":  {Key: "a", Value: []byte("x"), Revision: first[0]},
		"create what exists":         {Key: "b", Value: []byte("x")},
		"delete at an old revision":  {Key: "a", Revision: first[0]},
		"delete what is not there":   {Key: "none", Revision: second[2]},
		"delete at revision 0":       {Key: "none"},
		"delete what was deleted":    {Key: "c", Revision: first[2]},
		"update what is not there":   {Key: "none", Value: []byte("x"), Revision: first[0]},
		"update what was deleted":    {Key: "c", Value: []byte("x"), Revision: first[2]},
		"delete again at revision 0": {Key: "c"},
	} {
		_, err := d.Commit(ctx, []fabric.Write{{Key: "new", Value: []byte("x")},
			{Key: "b", Value: []byte("x"), Revision: first[1]}, wrong}[:])
		if wrong.Key == "b" { // it would come twice
			_, err = d.Commit(ctx, []fabric.Write{{Key: "new", Value: []byte("x")}, wrong})
		}
		wantError(t, what, err, fabric.ErrConflict)
		if after := contents(t, d); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Fatalf("%s: a conflict left %v of %v", what, after, before)
		}
	}
	commit("create after a deletion", fabric.Write{Key: "c", Value: []byte("2")}, fabric.Write{Key: "e", Value: []byte("1")})
	revision, err := d.Put(ctx, "d", []byte("2"), second[0])
	must(t, "put after a commit", err)
	must(t, "delete after a commit", d.Delete(ctx, "d", revision))
	commit("create after a single deletion", fabric.Write{Key: "d", Value: []byte("3")})
}

func testCommitLimits(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	var writes []fabric.Write
	for i := range fabric.MaxWrites {
		writes = append(writes, fabric.Write{Key: strconv.Itoa(i), Value: []byte("x")})
	}
	revisions, err := d.Commit(ctx, writes)
	must(t, "as many as may be", err)
	if found := contents(t, d); len(found) != fabric.MaxWrites {
		t.Errorf("%d of %d documents are there", len(found), fabric.MaxWrites)
	}
	for i := range writes {
		writes[i].Revision, writes[i].Value = revisions[i], nil
	}
	_, err = d.Commit(ctx, append(writes, fabric.Write{Key: "more", Value: []byte("x")}))
	wantError(t, "one more", err, fabric.ErrTooLarge)
	_, err = d.Commit(ctx, writes)
	must(t, "delete them all", err)
	if found := contents(t, d); len(found) != 0 {
		t.Errorf("%d documents are left", len(found))
	}
	_, err = d.Commit(ctx, []fabric.Write{{Key: "a", Value: make([]byte, fabric.MaxValueSize+1)}})
	wantError(t, "a large value", err, fabric.ErrTooLarge)
	large := make([]byte, fabric.MaxValueSize)
	_, err = d.Commit(ctx, []fabric.Write{{Key: "a", Value: large}, {Key: "b", Value: large}, {Key: "c", Value: []byte("x")}})
	wantError(t, "large values together", err, fabric.ErrTooLarge)
	_, err = d.Commit(ctx, []fabric.Write{{Key: "a", Value: large}, {Key: "b", Value: large}})
	must(t, "the largest", err)
	_, err = d.Commit(ctx, []fabric.Write{{Key: "x", Value: []byte("x")}, {Key: "x", Value: []byte("y")}})
	wantError(t, "a key twice", err, fabric.ErrInvalidKey)
	_, err = d.Commit(ctx, []fabric.Write{{Key: "ok", Value: []byte("x")}, {Key: "a b", Value: []byte("x")}})
	wantError(t, "a bad key", err, fabric.ErrInvalidKey)
}

// testCommitRace moves units between two counters from many sides: their sum stays. A move whose
// answer got lost counts or not.
func testCommitRace(t *testing.T, p fabric.Provider) {
	const writers, each = 6, 8
	ctx := context.Background()
	d := openDocuments(t, p)
	_, err := d.Commit(ctx, []fabric.Write{{Key: "a", Value: []byte("1000")}, {Key: "b", Value: []byte("0")}})
	must(t, "create", err)
	move := func() error {
		for {
			a, err := d.Get(ctx, "a")
			if err != nil {
				return err
			}
			b, err := d.Get(ctx, "b")
			if err != nil {
				return err
			}
			x, _ := strconv.Atoi(string(a.Value))
			y, _ := strconv.Atoi(string(b.Value))
			_, err = d.Commit(ctx, []fabric.Write{
				{Key: "a", Value: []byte(strconv.Itoa(x - 1)), Revision: a.Revision},
				{Key: "b", Value: []byte(strconv.Itoa(y + 1)), Revision: b.Revision},
			})
			if !errors.Is(err, fabric.ErrConflict) {
				return err
			}
		}
	}
	var running sync.WaitGroup
	var moved, unknown atomic.Int64
	for range writers {
		running.Go(func() {
			for range each {
				switch err := move(); {
				case err == nil:
					moved.Add(1)
				case errors.Is(err, fabric.ErrUnavailable):
					unknown.Add(1)
				default:
					t.Errorf("move: %v", err)
				}
			}
		})
	}
	running.Wait()
	a, err := d.Get(ctx, "a")
	must(t, "get", err)
	b, err := d.Get(ctx, "b")
	must(t, "get", err)
	x, _ := strconv.Atoi(string(a.Value))
	y, _ := strconv.Atoi(string(b.Value))
	least, most := int(moved.Load()), int(moved.Load()+unknown.Load())
	if x+y != 1000 || y < least || y > most || least < writers*each/2 {
		t.Errorf("counters are %d and %d after %d moves, %d of them unknown", x, y, most, most-least)
	}
}

// testCommitWatched demands that a watch reports the writes of a commit in their order.
func testCommitWatched(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	steps := watch(t, d)
	if s := receive(t, "ready", steps); !s.ready {
		t.Fatalf("got %+v, want ready", s)
	}
	revisions, err := d.Commit(ctx, []fabric.Write{{Key: "b", Value: []byte("1")}, {Key: "a", Value: []byte("1")}, {Key: "c", Value: []byte("1")}})
	must(t, "create", err)
	for i, key := range []string{"b", "a", "c"} {
		if c := receive(t, "change", steps).change; c.Key != key || c.Revision != revisions[i] || c.Deleted {
			t.Errorf("got %+v, want %s at %d", c, key, revisions[i])
		}
	}
	more, err := d.Commit(ctx, []fabric.Write{{Key: "c", Revision: revisions[2]}, {Key: "b", Value: []byte("2"), Revision: revisions[0]}})
	must(t, "delete and update", err)
	if c := receive(t, "change", steps).change; c.Key != "c" || !c.Deleted || c.Revision != more[0] {
		t.Errorf("got %+v, want c deleted at %d", c, more[0])
	}
	if c := receive(t, "change", steps).change; c.Key != "b" || string(c.Value) != "2" || c.Revision != more[1] {
		t.Errorf("got %+v, want b=2 at %d", c, more[1])
	}
}
