package fabrictest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
)

func openDocuments(t *testing.T, p fabric.Provider) fabric.Documents {
	t.Helper()
	d, err := p.Documents(patient(t), name(t))
	must(t, "open documents", err)
	return d
}

func testRevisions(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	_, err := d.Get(ctx, "key")
	wantError(t, "get before put", err, fabric.ErrNotFound)
	wantError(t, "delete before put", d.Delete(ctx, "key", 1), fabric.ErrNotFound)
	wantError(t, "delete before put, revision 0", d.Delete(ctx, "key", 0), fabric.ErrNotFound)
	_, err = d.Put(ctx, "key", []byte("x"), 7)
	wantError(t, "put at a revision that never was", err, fabric.ErrConflict)

	first, err := d.Put(ctx, "key", []byte("1"), 0)
	must(t, "create", err)
	_, err = d.Put(ctx, "key", []byte("x"), 0)
	wantError(t, "create again", err, fabric.ErrConflict)
	second, err := d.Put(ctx, "key", []byte("2"), first)
	must(t, "update", err)
	if first == 0 || second <= first {
		t.Errorf("revisions %d and %d do not grow from 1", first, second)
	}
	_, err = d.Put(ctx, "key", []byte("x"), first)
	wantError(t, "update at an old revision", err, fabric.ErrConflict)
	wantError(t, "delete at an old revision", d.Delete(ctx, "key", first), fabric.ErrConflict)
	wantError(t, "delete at revision 0", d.Delete(ctx, "key", 0), fabric.ErrConflict)
	document, err := d.Get(ctx, "key")
	must(t, "get", err)
	if document.Key != "key" || string(document.Value) != "2" || document.Revision != second {
		t.Errorf("got %+v, want value 2 at revision %d", document, second)
	}

	must(t, "delete", d.Delete(ctx, "key", second))
	_, err = d.Get(ctx, "key")
	wantError(t, "get after delete", err, fabric.ErrNotFound)
	wantError(t, "delete again", d.Delete(ctx, "key", second), fabric.ErrNotFound)
	_, err = d.Put(ctx, "key", []byte("x"), second)
	wantError(t, "update after delete", err, fabric.ErrConflict)
	third, err := d.Put(ctx, "key", []byte("3"), 0)
	must(t, "create after delete", err)
	if third <= second {
		t.Errorf("revision %d after delete is not over %d", third, second)
	}
}

func testValues(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	for key, value := range map[string][]byte{
		"nil":     nil,
		"empty":   {},
		"binary":  {0, 1, 0xff, '\r', '\n', 0},
		"largest": bytes.Repeat([]byte{'x'}, fabric.MaxValueSize),
	} {
		given := bytes.Clone(value)
		_, err := d.Put(ctx, key, given, 0)
		must(t, "put "+key, err)
		for i := range given { // the driver must have its own copy
			given[i]++
		}
		document, err := d.Get(ctx, key)
		must(t, "get "+key, err)
		if document.Value == nil || !bytes.Equal(document.Value, value) {
			t.Errorf("%s: got a value of %d bytes, want the %d put", key, len(document.Value), len(value))
		}
		for i := range document.Value { // and give one away
			document.Value[i]++
		}
		again, err := d.Get(ctx, key)
		must(t, "get again "+key, err)
		if !bytes.Equal(again.Value, value) {
			t.Errorf("%s: a reader changed the stored value", key)
		}
	}
	_, err := d.Put(ctx, "large", make([]byte, fabric.MaxValueSize+1), 0)
	wantError(t, "put too much", err, fabric.ErrTooLarge)
}

func testKeys(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	bad := []string{
		"", ".", ".a", "a.", "a..b", "a b", "a*", "a>", "ü", "a\n", "a\x00", "a:b", "a$b",
		strings.Repeat("k", fabric.MaxKeySize+1),
	}
	for _, key := range bad {
		_, err := d.Put(ctx, key, nil, 0)
		wantError(t, fmt.Sprintf("put %q", key), err, fabric.ErrInvalidKey)
		_, err = d.Get(ctx, key)
		wantError(t, fmt.Sprintf("get %q", key), err, fabric.ErrInvalidKey)
		wantError(t, fmt.Sprintf("delete %q", key), d.Delete(ctx, key, 1), fabric.ErrInvalidKey)
	}
	good := []string{"a", "A-Z_0=9/x.y", "/", "-", "a.b.c", strings.Repeat("k", fabric.MaxKeySize)}
	for _, key := range good {
		_, err := d.Put(ctx, key, []byte(key), 0)
		must(t, fmt.Sprintf("put %q", key), err)
		document, err := d.Get(ctx, key)
		must(t, fmt.Sprintf("get %q", key), err)
		if string(document.Value) != key {
			t.Errorf("key %q gave the value of %q", key, document.Value)
		}
	}
}

func testList(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	list, err := d.List(ctx)
	must(t, "list nothing", err)
	if len(list) != 0 {
		t.Errorf("got %d documents from an empty collection", len(list))
	}
	revisions := map[string]uint64{}
	for _, key := range []string{"b", "a/1", "gone", "Z", "a.1", "a-1", "a", "10", "9"} {
		revisions[key], err = d.Put(ctx, key, []byte(key), 0)
		must(t, "put", err)
	}
	revisions["a"], err = d.Put(ctx, "a", []byte("a"), revisions["a"])
	must(t, "update", err)
	must(t, "delete", d.Delete(ctx, "gone", revisions["gone"]))
	list, err = d.List(ctx)
	must(t, "list", err)
	var keys []string
	for _, document := range list {
		keys = append(keys, document.Key)
		if string(document.Value) != document.Key || document.Revision != revisions[document.Key] {
			t.Errorf("got %+v, want revision %d", document, revisions[document.Key])
		}
	}
	want := []string{"10", "9", "Z", "a", "a-1", "a.1", "a/1", "b"}
	if !slices.Equal(keys, want) {
		t.Errorf("got keys %q, want %q", keys, want)
	}
}

// testListWhileBusy writes without a pause to some keys while it lists: none may be missing.
func testListWhileBusy(t *testing.T, p fabric.Provider) {
	d := openDocuments(t, p)
	for i := range 8 {
		_, err := d.Put(context.Background(), strconv.Itoa(i), nil, 0)
		must(t, "put", err)
	}
	stop := background(t, "writer", func(ctx context.Context) error {
		for i := 0; ctx.Err() == nil; i++ {
			if err := increment(context.Background(), d, strconv.Itoa(i%4)); err != nil {
				return err
			}
		}
		return nil
	})
	for range 20 {
		list, err := d.List(context.Background())
		must(t, "list", err)
		if len(list) != 8 {
			t.Fatalf("got %d of 8 documents", len(list))
		}
	}
	stop()
}

// increment adds 1 to the number in a document, however often others are faster.
func increment(ctx context.Context, d fabric.Documents, key string) error {
	for {
		document, err := d.Get(ctx, key)
		if err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return err
		}
		number, _ := strconv.Atoi(string(document.Value))
		_, err = d.Put(ctx, key, []byte(strconv.Itoa(number+1)), document.Revision)
		if !errors.Is(err, fabric.ErrConflict) {
			return err
		}
	}
}

// testIncrementRace has many add to one number. What was added unheard counts or not.
func testIncrementRace(t *testing.T, p fabric.Provider) {
	const writers, each = 8, 10
	ctx := context.Background()
	d := openDocuments(t, p)
	var running sync.WaitGroup
	var added, unknown atomic.Int64
	for range writers {
		running.Go(func() {
			for range each {
				switch err := increment(ctx, d, "counter"); {
				case err == nil:
					added.Add(1)
				case errors.Is(err, fabric.ErrUnavailable):
					unknown.Add(1)
				default:
					t.Errorf("increment: %v", err)
				}
			}
		})
	}
	running.Wait()
	document, err := d.Get(ctx, "counter")
	must(t, "get", err)
	got, err := strconv.ParseInt(string(document.Value), 10, 64)
	must(t, "parse", err)
	if got < added.Load() || got > added.Load()+unknown.Load() || added.Load() < writers*each/2 {
		t.Errorf("counter is %d after %d increments and %d unheard", got, added.Load(), unknown.Load())
	}
}

// testCreateRace has many create one key, first a new one and then a deleted one.
func testCreateRace(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	for round := range 5 {
		var won atomic.Int64
		var revision atomic.Uint64
		var running sync.WaitGroup
		for range 16 {
			running.Go(func() {
				created, err := d.Put(ctx, "key", []byte("x"), 0)
				if err == nil {
					won.Add(1)
					revision.Store(created)
				} else if !errors.Is(err, fabric.ErrConflict) {
					t.Errorf("create: %v", err)
				}
			})
		}
		running.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d creators won", round, won.Load())
		}
		must(t, "delete", d.Delete(ctx, "key", revision.Load()))
	}
}

func testCollections(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	one, err := p.Documents(ctx, name(t))
	must(t, "open", err)
	same, err := p.Documents(ctx, name(t))
	must(t, "open again", err)
	other, err := p.Documents(ctx, name(t)+"-other")
	must(t, "open another", err)
	revision, err := one.Put(ctx, "key", []byte("x"), 0)
	must(t, "put", err)
	document, err := same.Get(ctx, "key")
	must(t, "get from the same", err)
	if document.Revision != revision {
		t.Errorf("got revision %d, want %d", document.Revision, revision)
	}
	_, err = other.Get(ctx, "key")
	wantError(t, "get from another", err, fabric.ErrNotFound)
}
