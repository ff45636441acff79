package fabrictest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func openCache(t *testing.T, p fabric.Provider) fabric.Cache {
	t.Helper()
	c, err := p.Cache(patient(t), fabric.CacheConfig{Name: shortName(t), MaxBytes: 32 << 20})
	must(t, "open cache", err)
	return c
}

func wantCached(t *testing.T, c fabric.Cache, key, want string) {
	t.Helper()
	value, err := c.Get(context.Background(), key)
	if err != nil || value == nil || string(value) != want {
		t.Errorf("get %q: %.100q, %v, want %.100q", key, value, err, want)
	}
}

func testCacheValues(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	c := openCache(t, p)
	for _, key := range []string{"a", "a b", "users:1", "*", ">", "ü.x", "\x00\xff", strings.Repeat("k", fabric.MaxKeySize)} {
		_, err := c.Get(ctx, key)
		wantError(t, "get before set", err, fabric.ErrNotFound)
		must(t, "set", c.Set(ctx, key, []byte(key), 0))
		must(t, "set again", c.Set(ctx, key, []byte("2"+key), time.Hour))
		wantCached(t, c, key, "2"+key)
	}
	for what, value := range map[string][]byte{"nil": nil, "empty": {}, "largest": bytes.Repeat([]byte{'x'}, fabric.MaxValueSize)} {
		must(t, "set "+what, c.Set(ctx, what, value, 0))
		wantCached(t, c, what, string(value))
	}
	must(t, "delete", c.Delete(ctx, "a"))
	must(t, "delete again", c.Delete(ctx, "a"))
	_, err := c.Get(ctx, "a")
	wantError(t, "get after delete", err, fabric.ErrNotFound)
	wantCached(t, c, "a b", "2a b")

	many, err := c.GetMany(ctx, []string{"a", "a b", "nil", "empty", "*", ">", "*"})
	must(t, "get many", err)
	want := map[string][]byte{"a b": []byte("2a b"), "nil": {}, "empty": {}, "*": []byte("2*"), ">": []byte("2>")}
	if !maps.EqualFunc(many, want, bytes.Equal) || many["nil"] == nil {
		t.Errorf("got many %q, want %q", many, want)
	}
	none, err := c.GetMany(ctx, nil)
	if err != nil || none == nil || len(none) != 0 {
		t.Errorf("get none: %v, %v", none, err)
	}
	_, err = c.GetMany(ctx, []string{"a b", ""})
	wantError(t, "get many", err, fabric.ErrInvalidKey)

	wantError(t, "set too much", c.Set(ctx, "x", make([]byte, fabric.MaxValueSize+1), 0), fabric.ErrTooLarge)
	wantError(t, "negative ttl", c.Set(ctx, "x", nil, -1), fabric.ErrInvalidConfig)
	for _, key := range []string{"", strings.Repeat("k", fabric.MaxKeySize+1)} {
		_, err := c.Get(ctx, key)
		wantError(t, "get", err, fabric.ErrInvalidKey)
		wantError(t, "set", c.Set(ctx, key, nil, 0), fabric.ErrInvalidKey)
		wantError(t, "delete", c.Delete(ctx, key), fabric.ErrInvalidKey)
		_, err = c.Add(ctx, key, 1, 0)
		wantError(t, "add", err, fabric.ErrInvalidKey)
		wantError(t, "swap", c.CompareAndSwap(ctx, key, nil, nil, 0), fabric.ErrInvalidKey)
		_, err = c.GetOrLoad(ctx, key, 0, nil)
		wantError(t, "load", err, fabric.ErrInvalidKey)
	}
}

func testCacheTTL(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	c := openCache(t, p)
	began := time.Now()
	must(t, "set brief", c.Set(ctx, "brief", []byte("x"), 1200*time.Millisecond))
	must(t, "set long", c.Set(ctx, "long", []byte("x"), time.Hour))
	must(t, "set for ever", c.Set(ctx, "ever", []byte("x"), time.Second))
	must(t, "set for ever", c.Set(ctx, "ever", []byte("x"), 0))
	_, err := c.Add(ctx, "counter", 1, 2*time.Second)
	must(t, "add", err)
	value, err := c.Get(ctx, "brief")
	for err == nil && string(value) == "x" && time.Since(began) < patience {
		time.Sleep(20 * time.Millisecond)
		if _, err := c.Add(ctx, "other", 1, 0); err != nil {
			t.Fatalf("add: %v", err)
		}
		value, err = c.Get(ctx, "brief")
	}
	wantError(t, "get after the ttl", err, fabric.ErrNotFound)
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("a ttl of 1.2 s, rounded up to 2 s, took %v", took)
	}
	for { // Add does not prolong: the counter begins anew after its own time
		number, err := c.Add(ctx, "counter", 1, 2*time.Second)
		must(t, "add", err)
		if number == 1 {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("the counter never ended")
		}
		time.Sleep(50 * time.Millisecond)
	}
	wantCached(t, c, "long", "x")
	wantCached(t, c, "ever", "x")
}

func testCacheSwap(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	c := openCache(t, p)
	wantError(t, "swap what is not there", c.CompareAndSwap(ctx, "k", []byte("a"), []byte("b"), 0), fabric.ErrConflict)
	wantError(t, "swap empty for nothing", c.CompareAndSwap(ctx, "k", []byte{}, []byte("b"), 0), fabric.ErrConflict)
	must(t, "create", c.CompareAndSwap(ctx, "k", nil, []byte("a"), 0))
	wantError(t, "create again", c.CompareAndSwap(ctx, "k", nil, []byte("b"), 0), fabric.ErrConflict)
	wantError(t, "swap another", c.CompareAndSwap(ctx, "k", []byte("x"), []byte("b"), 0), fabric.ErrConflict)
	must(t, "swap", c.CompareAndSwap(ctx, "k", []byte("a"), []byte("b"), time.Hour))
	wantCached(t, c, "k", "b")
	must(t, "delete", c.Delete(ctx, "k"))
	var won atomic.Int64
	var running sync.WaitGroup
	for i := range 16 {
		running.Go(func() {
			err := c.CompareAndSwap(ctx, "k", nil, []byte(strconv.Itoa(i)), 0)
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, fabric.ErrConflict) {
				t.Errorf("create: %v", err)
			}
		})
	}
	running.Wait()
	if won.Load() != 1 {
		t.Errorf("%d creators won", won.Load())
	}
}

func testCacheAdd(t *testing.T, p fabric.Provider) {
	const writers, each = 8, 20
	ctx := context.Background()
	c := openCache(t, p)
	add := func(key string, delta, want int64) {
		t.Helper()
		if got, err := c.Add(ctx, key, delta, 0); err != nil || got != want {
			t.Errorf("add %d to %s: %d, %v, want %d", delta, key, got, err, want)
		}
	}
	add("n", 5, 5)
	add("n", -7, -2)
	add("n", 0, -2)
	wantCached(t, c, "n", "-2")
	must(t, "set", c.Set(ctx, "set", []byte("40"), 0))
	add("set", 2, 42)
	add("big", math.MaxInt64, math.MaxInt64)
	for key, value := range map[string]string{"text": "abc", "empty": ""} {
		must(t, "set", c.Set(ctx, key, []byte(value), 0))
		_, err := c.Add(ctx, key, 1, 0)
		wantError(t, "add to "+key, err, fabric.ErrNotCounter)
	}
	_, err := c.Add(ctx, "big", 1, 0)
	wantError(t, "add to the largest", err, fabric.ErrNotCounter)
	results := make(chan int64, writers*each)
	var running sync.WaitGroup
	for range writers {
		running.Go(func() {
			for range each {
				got, err := c.Add(ctx, "race", 1, time.Hour)
				if err != nil {
					t.Errorf("add: %v", err)
				}
				results <- got
			}
		})
	}
	running.Wait()
	close(results)
	seen := map[int64]bool{}
	for result := range results {
		seen[result] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d different results of %d adds", len(seen), writers*each)
	}
	wantCached(t, c, "race", strconv.Itoa(writers*each))
}

func testCacheLoad(t *testing.T, p fabric.Provider) {
	const callers = 20
	ctx := context.Background()
	c := openCache(t, p)
	release, asked := make(chan struct{}), make(chan struct{}, callers)
	var loads atomic.Int64
	load := func(context.Context) ([]byte, error) {
		loads.Add(1)
		asked <- struct{}{}
		<-release
		return []byte("loaded"), nil
	}
	var running sync.WaitGroup
	for range callers {
		running.Go(func() {
			value, err := c.GetOrLoad(ctx, "k", time.Hour, load)
			if err != nil || string(value) != "loaded" {
				t.Errorf("got %q, %v", value, err)
			}
			value[0] = 'x' // is the caller's own
		})
	}
	receive(t, "load", asked)
	gone, leave := context.WithCancel(ctx)
	leave()
	_, err := c.GetOrLoad(gone, "k", time.Hour, load)
	wantError(t, "a caller who leaves", err, context.Canceled)
	close(release)
	running.Wait()
	if loads.Load() != 1 {
		t.Errorf("loaded %d times", loads.Load())
	}
	wantCached(t, c, "k", "loaded")

	broken := errors.New("broken")
	_, err = c.GetOrLoad(ctx, "bad", 0, func(context.Context) ([]byte, error) { return nil, broken })
	wantError(t, "load that fails", err, broken)
	_, err = c.Get(ctx, "bad")
	wantError(t, "get after it", err, fabric.ErrNotFound)
	value, err := c.GetOrLoad(ctx, "bad", 0, func(context.Context) ([]byte, error) { return []byte{}, nil })
	if err != nil || len(value) != 0 {
		t.Errorf("got %q, %v", value, err)
	}
	alone, leave := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := c.GetOrLoad(alone, "abandoned", 0, func(ctx context.Context) ([]byte, error) {
			leave()
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ended <- err
	}()
	wantError(t, "an abandoned load", receive(t, "its end", ended), context.Canceled)
}

// testCacheBounded fills a cache over its size: the newest values stay.
func testCacheBounded(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	for _, bad := range []fabric.CacheConfig{{Name: shortName(t)}, {Name: "a b", MaxBytes: 1 << 20}} {
		_, err := p.Cache(ctx, bad)
		wantError(t, fmt.Sprintf("open %+v", bad), err, fabric.ErrInvalidConfig)
	}
	c, err := p.Cache(patient(t), fabric.CacheConfig{Name: shortName(t), MaxBytes: fabric.MinCacheBytes})
	must(t, "open", err)
	value := make([]byte, 100_000)
	for i := range 30 {
		must(t, "set", c.Set(ctx, strconv.Itoa(i), value, 0))
	}
	_, err = c.Get(ctx, "0")
	wantError(t, "get the oldest", err, fabric.ErrNotFound)
	wantCached(t, c, "29", string(value))
	wantCached(t, c, "25", string(value))
}

func testCacheClose(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	c := openCache(t, p)
	must(t, "close", p.Close())
	_, err := c.Get(ctx, "k")
	wantError(t, "get", err, fabric.ErrClosed)
	wantError(t, "set", c.Set(ctx, "k", nil, 0), fabric.ErrClosed)
	wantError(t, "delete", c.Delete(ctx, "k"), fabric.ErrClosed)
	wantError(t, "swap", c.CompareAndSwap(ctx, "k", nil, nil, 0), fabric.ErrClosed)
	_, err = c.Add(ctx, "k", 1, 0)
	wantError(t, "add", err, fabric.ErrClosed)
	_, err = c.GetOrLoad(ctx, "k", 0, nil)
	wantError(t, "load", err, fabric.ErrClosed)
	_, err = p.Cache(ctx, fabric.CacheConfig{Name: shortName(t), MaxBytes: 1 << 20})
	wantError(t, "open", err, fabric.ErrClosed)
	_, err = p.Blobs(ctx, fabric.BlobConfig{Name: shortName(t), MaxSize: 1})
	wantError(t, "open blobs", err, fabric.ErrClosed)
}

func testCacheBetweenNodes(t *testing.T, open func() fabric.Provider) {
	ctx := context.Background()
	one, two := openCache(t, open()), openCache(t, open())
	must(t, "set", one.Set(ctx, "k", []byte("1"), time.Hour))
	wantCached(t, two, "k", "1")
	must(t, "swap", two.CompareAndSwap(ctx, "k", []byte("1"), []byte("2"), 0))
	wantError(t, "swap", one.CompareAndSwap(ctx, "k", []byte("1"), []byte("3"), 0), fabric.ErrConflict)
	wantCached(t, one, "k", "2")
	var running sync.WaitGroup
	for _, c := range []fabric.Cache{one, two} {
		for range 2 {
			running.Go(func() {
				for range 20 {
					if _, err := c.Add(ctx, "n", 1, 0); err != nil {
						t.Errorf("add: %v", err)
					}
				}
			})
		}
	}
	running.Wait()
	wantCached(t, one, "n", "80")
}
