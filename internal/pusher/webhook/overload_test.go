package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
)

func discard() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestEmitDropsOverTheLimitAndNeverWaits(t *testing.T) {
	options := Options{MaxPending: 10, BatchSize: 4}
	inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		unblock := make(chan struct{})
		b.queue.blocked = unblock
		begin := time.Now()
		for i := range 25 {
			b.Emit("a", CacheMiss(fmt.Sprint(i)))
		}
		synctest.Wait()
		if took := time.Since(begin); took > 0 {
			t.Errorf("Emit waited for %v", took)
		}
		if want := map[string]int{DropPendingFull: 15}; !reflect.DeepEqual(b.counts.droppedNow(), want) {
			t.Errorf("dropped %v, want %v", b.counts.droppedNow(), want)
		}
		if b.Pending() != 10 {
			t.Errorf("%d events pending, want 10", b.Pending())
		}
		close(unblock)
		after(time.Second)
		var want []string
		for i := range 10 {
			want = append(want, miss(fmt.Sprint(i)))
		}
		if got := b.queue.events(t); !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		b.Emit("a", CacheMiss("room again"))
		after(time.Second)
		if got := b.queue.events(t); len(got) != 11 {
			t.Errorf("%d events enqueued after the queue came back, want 11", len(got))
		}
	})
}

func TestEmitDropsOverTheByteLimit(t *testing.T) {
	options := Options{MaxPendingBytes: 100}
	inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		for range 5 {
			b.Emit("a", CacheMiss("0123456789")) // 45 bytes
		}
		if want := map[string]int{DropPendingFull: 3}; !reflect.DeepEqual(b.counts.droppedNow(), want) {
			t.Errorf("dropped %v, want %v", b.counts.droppedNow(), want)
		}
		after(time.Second)
		b.Emit("a", CacheMiss("there is room again"))
		after(time.Second)
		if got := len(b.queue.events(t)); got != 3 {
			t.Errorf("%d events arrived, want 3", got)
		}
	})
}

func TestDrainWaitsForRequestsInFlight(t *testing.T) {
	inBubble(t, Options{}, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		b.queue.jobs = make([]fabric.Job, 2)
		b.sending.Add(1)
		time.AfterFunc(5*time.Second, func() { b.sending.Add(-1) })
		begin := time.Now()
		left, err := b.Drain(t.Context())
		if left != 2 || err != nil {
			t.Errorf("Drain returned %d, %v", left, err)
		}
		if took := time.Since(begin).Round(time.Second); took != 5*time.Second+drainIdle {
			t.Errorf("Drain took %v", took)
		}
		b.sending.Add(1)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin = time.Now()
		_, _ = b.Drain(ctx)
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("Drain outlived its context: %v", took)
		}
	})
}

func TestEnqueueFailure(t *testing.T) {
	tests := []struct {
		name    string
		failure error
		mended  time.Duration // when the queue takes jobs again, 0 for never
		want    map[string]int
		arrives bool
	}{
		{"full for a while", fabric.ErrFull, 10 * time.Second, map[string]int{}, true},
		{"failing for a while", errors.New("no leader"), 10 * time.Second, map[string]int{}, true},
		{"full for long", fabric.ErrFull, 0, map[string]int{DropQueueFull: 1}, false},
		{"failing for long", errors.New("no leader"), 0, map[string]int{DropQueueFailed: 1}, false},
		{"closed", fabric.ErrClosed, time.Second, map[string]int{DropQueueFailed: 1}, false},
		{"too large", fabric.ErrTooLarge, time.Second, map[string]int{DropTooLarge: 1}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, Options{}, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
				b.queue.setFailure(test.failure)
				b.Emit("a", CacheMiss("c"))
				if test.mended > 0 {
					after(test.mended)
					b.queue.setFailure(nil)
				}
				after(time.Minute)
				if got := b.counts.droppedNow(); !reflect.DeepEqual(got, test.want) {
					t.Errorf("dropped %v, want %v", got, test.want)
				}
				if got := len(b.queue.events(t)) == 1; got != test.arrives {
					t.Errorf("arrived: %v, want %v", got, test.arrives)
				}
				if b.Pending() != 0 {
					t.Errorf("%d events pending", b.Pending())
				}
			})
		})
	}
}

func TestStopCountsWhatIsLost(t *testing.T) {
	options := Options{LeaveDebounce: time.Hour, BatchInterval: time.Hour}
	inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		b.Emit("a", CacheMiss("1"))
		b.Emit("a", CacheMiss("2"))
		b.Emit("a", ChannelVacated("c"))
		synctest.Wait()
		b.stop()
		b.Emit("a", CacheMiss("4"))
		b.Emit("a", ChannelVacated("5"))
		if want := map[string]int{DropShutdown: 5}; !reflect.DeepEqual(b.counts.droppedNow(), want) {
			t.Errorf("dropped %v, want %v", b.counts.droppedNow(), want)
		}
		if err := b.Flush(t.Context()); err != nil {
			t.Errorf("Flush after the end: %v", err)
		}
		if b.Pending() != 0 {
			t.Errorf("%d events pending", b.Pending())
		}
	})
}

func TestConcurrentEmitKeepsEachSendersOrder(t *testing.T) {
	const senders, each = 4, 500
	queue := &recorder{}
	e := New(Options{BatchSize: 7, BatchInterval: time.Millisecond},
		newRegistry(t, oneHook("a")), queue, discard(), newCounts())
	start(t, e)
	var group sync.WaitGroup
	for sender := range senders {
		group.Go(func() {
			for i := range each {
				e.Emit("a", SubscriptionCount(fmt.Sprint(sender), i))
			}
		})
	}
	group.Wait()
	if err := e.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := make(map[string]int)
	for _, event := range queue.events(t) {
		var channel string
		var count int
		if _, err := fmt.Sscanf(event, `{"name":"subscription_count","channel":%q,"subscription_count":%d}`,
			&channel, &count); err != nil {
			t.Fatalf("%s: %v", event, err)
		}
		if count != next[channel] {
			t.Fatalf("channel %s: count %d after %d", channel, count, next[channel]-1)
		}
		next[channel]++
	}
	for sender := range senders {
		if got := next[fmt.Sprint(sender)]; got != each {
			t.Errorf("sender %d: %d events, want %d", sender, got, each)
		}
	}
}
