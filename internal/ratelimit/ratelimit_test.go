package ratelimit

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestWindow(t *testing.T) {
	type step struct {
		at   time.Duration // since start
		n    int
		want Result
	}
	const window = time.Minute
	tests := []struct {
		name  string
		limit int
		steps []step
	}{
		{"no limit", 0, []step{
			{0, 1_000_000, Result{OK: true}},
			{0, 1_000_000, Result{OK: true}},
		}},
		{"negative limit", -1, []step{{0, 5, Result{OK: true}}}},
		{"up to the limit", 3, []step{
			{0, 1, Result{true, 2, window}},
			{time.Second, 2, Result{true, 0, window - time.Second}},
			{2 * time.Second, 1, Result{false, 0, window - 2*time.Second}},
		}},
		{"refused ones do not count", 3, []step{
			{0, 2, Result{true, 1, window}},
			{0, 2, Result{false, 1, window}},
			{0, 1, Result{true, 0, window}},
		}},
		{"more than the limit at once", 3, []step{
			{0, 4, Result{false, 3, window}},
			{0, 3, Result{true, 0, window}},
		}},
		{"next window", 1, []step{
			{0, 1, Result{true, 0, window}},
			{window - 1, 1, Result{false, 0, 1}},
			{window, 1, Result{true, 0, window}},
			{window + time.Second, 1, Result{false, 0, window - time.Second}},
		}},
		{"window begins with the first after a rest", 1, []step{
			{0, 1, Result{true, 0, window}},
			{10*window + time.Second, 1, Result{true, 0, window}},
			{10*window + 2*time.Second, 1, Result{false, 0, window - time.Second}},
		}},
		{"time taken early, asked late", 2, []step{
			{time.Second, 1, Result{true, 1, window}},
			{0, 1, Result{true, 0, window}},
			{0, 1, Result{false, 0, window}},
		}},
		{"clock set back", 1, []step{
			{0, 1, Result{true, 0, window}},
			{-time.Hour, 1, Result{true, 0, window}},
		}},
		{"no room for overflow", 3, []step{
			{0, 1, Result{true, 2, window}},
			{0, int(^uint(0) >> 1), Result{false, 2, window}},
		}},
		{"a negative n gives nothing back", 1, []step{
			{0, 1, Result{true, 0, window}},
			{0, -1, Result{true, 0, window}},
			{0, 1, Result{false, 0, window}},
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var w Window
			for i, s := range test.steps {
				if got := w.Allow(start.Add(s.at), s.n, test.limit, window); got != s.want {
					t.Errorf("step %d: got %+v, want %+v", i, got, s.want)
				}
			}
		})
	}
}

func TestWindowSmallerLimit(t *testing.T) {
	var w Window
	w.Allow(start, 5, 10, time.Second)
	if got, want := w.Allow(start, 1, 3, time.Second), (Result{false, 0, time.Second}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWindowDoesNotAllocate(t *testing.T) {
	var w Window
	now := start
	if n := testing.AllocsPerRun(100, func() {
		now = now.Add(time.Millisecond)
		w.Allow(now, 1, 10, time.Second)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestKeyed(t *testing.T) {
	k := NewKeyed[netip.Addr](2, time.Second, 2)
	a, b, c := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")
	check := func(key netip.Addr, want bool) {
		t.Helper()
		if got := k.allow(start, key, 1, k.limit).OK; got != want {
			t.Errorf("%v: got %v, want %v", key, got, want)
		}
	}
	check(a, true)
	check(a, true)
	check(a, false)
	check(b, true) // has a window of its own
	check(a, false)
	check(c, true) // forgets b, the least recently seen
	check(a, false)
	check(b, true) // forgets c
	check(b, true)
	check(b, false)
}

func TestKeyedWithoutLimitRemembersNobody(t *testing.T) {
	k := NewKeyed[int](0, time.Second, 0)
	for i := range 10 {
		if got := k.Allow(i, 100); got != (Result{OK: true}) {
			t.Errorf("got %+v", got)
		}
	}
	if n := k.windows.Len(); n != 0 {
		t.Errorf("remembers %d keys, want none", n)
	}
}

func TestKeyedConcurrent(t *testing.T) {
	const limit = 100
	k := NewKeyed[string](limit, time.Hour, 10)
	var allowed atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range limit {
				if k.Allow("key", 1).OK {
					allowed.Add(1)
				}
			}
		})
	}
	group.Wait()
	if got := allowed.Load(); got != limit {
		t.Errorf("%d allowed, want %d", got, limit)
	}
}
