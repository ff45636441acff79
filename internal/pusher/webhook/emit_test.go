package webhook

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

func TestEventFields(t *testing.T) {
	tests := []struct {
		event Event
		want  string
	}{
		{ChannelOccupied("c"), `{"name":"channel_occupied","channel":"c"}`},
		{ChannelVacated("c"), `{"name":"channel_vacated","channel":"c"}`},
		{MemberAdded("presence-c", "u"), `{"name":"member_added","channel":"presence-c","user_id":"u"}`},
		{MemberRemoved("presence-c", "u"), `{"name":"member_removed","channel":"presence-c","user_id":"u"}`},
		{ClientEvent("private-c", "client-e", `{"a":"<b>"}`, "1.2", ""),
			`{"name":"client_event","channel":"private-c","event":"client-e","data":"{\"a\":\"<b>\"}","socket_id":"1.2"}`},
		{ClientEvent("presence-c", "client-e", "", "1.2", "u"),
			`{"name":"client_event","channel":"presence-c","event":"client-e","data":"","socket_id":"1.2","user_id":"u"}`},
		{CacheMiss("cache-c"), `{"name":"cache_miss","channel":"cache-c"}`},
		{SubscriptionCount("c", 0), `{"name":"subscription_count","channel":"c","subscription_count":0}`},
		{SubscriptionCount("c", 12), `{"name":"subscription_count","channel":"c","subscription_count":12}`},
	}
	for _, test := range tests {
		if got := string(test.event.encode()); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestBatchClosesAtIntervalAndKeepsOrder(t *testing.T) {
	options := Options{BatchSize: 100, BatchInterval: 50 * time.Millisecond}
	inBubble(t, options, []apps.App{oneHook("a"), oneHook("b")}, func(t *testing.T, b *bench) {
		b.Emit("a", CacheMiss("1"))
		b.Emit("b", CacheMiss("2"))
		after(30 * time.Millisecond)
		b.Emit("a", CacheMiss("3"))
		after(19 * time.Millisecond)
		if got := b.queue.batches(t); got != nil {
			t.Fatalf("enqueued %v before the interval was over", got)
		}
		after(time.Millisecond)
		want := []sentBatch{
			{"a", hookURL, []string{miss("1"), miss("3")}},
			{"b", hookURL, []string{miss("2")}},
		}
		if got := b.queue.batches(t); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
		if b.Pending() != 0 {
			t.Errorf("%d events pending after all were enqueued", b.Pending())
		}
	})
}

func miss(channel string) string {
	return `{"name":"cache_miss","channel":"` + channel + `"}`
}

func TestBatchClosesWhenFull(t *testing.T) {
	options := Options{BatchSize: 3, BatchInterval: time.Second}
	inBubble(t, options, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		for i := range 7 {
			b.Emit("a", CacheMiss(fmt.Sprint(i)))
		}
		synctest.Wait()
		want := []sentBatch{
			{"a", hookURL, []string{miss("0"), miss("1"), miss("2")}},
			{"a", hookURL, []string{miss("3"), miss("4"), miss("5")}},
		}
		if got := b.queue.batches(t); !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
		after(time.Second)
		want = append(want, sentBatch{"a", hookURL, []string{miss("6")}})
		if got := b.queue.batches(t); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

func TestBatchClosesBeforeItGrowsTooLarge(t *testing.T) {
	inBubble(t, Options{}, []apps.App{oneHook("a")}, func(t *testing.T, b *bench) {
		data := strings.Repeat("x", 100<<10)
		for range 5 {
			b.Emit("a", ClientEvent("private-c", "client-e", data, "1.2", ""))
		}
		b.Emit("a", ClientEvent("private-c", "client-huge", strings.Repeat("x", 600<<10), "1.2", ""))
		after(time.Second)
		var sizes []int
		for _, batch := range b.queue.batches(t) {
			sizes = append(sizes, len(batch.Events))
		}
		if want := []int{2, 2, 1}; !reflect.DeepEqual(sizes, want) {
			t.Errorf("batches have %v events, want %v", sizes, want)
		}
		if want := map[string]int{DropTooLarge: 1}; !reflect.DeepEqual(b.counts.droppedNow(), want) {
			t.Errorf("dropped %v, want %v", b.counts.droppedNow(), want)
		}
	})
}

func TestEmitChoosesHooks(t *testing.T) {
	app := apps.App{ID: "a", Webhooks: []apps.Webhook{
		{URL: "http://all.test"},
		{URL: "http://cache.test", EventTypes: []string{NameCacheMiss, NameClientEvent}},
		{URL: "http://prefix.test", Filter: apps.Filter{ChannelPrefix: "cache-"}},
		{URL: "http://suffix.test", Filter: apps.Filter{ChannelSuffix: "-eu"}},
		{URL: "http://pattern.test", Filter: apps.Filter{ChannelRegexp: `^x\d+$`}},
		// Two records of one address are one hook.
		{URL: "http://twice.test", EventTypes: []string{NameCacheMiss}},
		{URL: "http://twice.test", EventTypes: []string{NameCacheMiss, NameChannelOccupied}},
	}}
	tests := []struct {
		event Event
		want  []string
	}{
		{CacheMiss("cache-1"), []string{"all", "cache", "prefix", "twice"}},
		{CacheMiss("1-eu"), []string{"all", "cache", "suffix", "twice"}},
		{SubscriptionCount("x12", 3), []string{"all", "pattern"}},
		{SubscriptionCount("x12y", 3), []string{"all"}},
		{ChannelOccupied("c"), []string{"all", "twice"}},
		{ChannelOccupied("#server-to-user-1"), nil},
		{ClientEvent("#server-to-user-1", "client-e", "", "1.2", "1"), nil},
	}
	for _, test := range tests {
		inBubble(t, Options{}, []apps.App{app}, func(t *testing.T, b *bench) {
			b.Emit("a", test.event)
			b.Emit("unknown", test.event)
			after(time.Second)
			var got []string
			for _, batch := range b.queue.batches(t) {
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(batch.URL, "http://"), ".test"))
			}
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("%s on %s went to %v, want %v", test.event.name, test.event.channel, got, test.want)
			}
			if len(b.counts.sentNow())+len(b.counts.droppedNow()) > 0 {
				t.Errorf("counted %v %v", b.counts.sentNow(), b.counts.droppedNow())
			}
		})
	}
}
