package pusher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

func TestCachedEventsOutliveTheirNode(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		const channel = "cache-x"
		a.publish(channel, "1")
		a.publish(channel, "2")
		succeeded := string(protocol.SubscriptionSucceeded(channel))
		first := c.connect().subscribe(channel)
		expect(t, "first", first, succeeded, event(channel, "2"))
		expect(t, "second", c.connect().subscribe(channel), succeeded, event(channel, "2"))
		if got := c.cache.gets.Load(); got != 1 {
			t.Errorf("%d looks for two subscribers", got)
		}
		hs.settle()
		hs.kill(a)
		expect(t, "third", b.connect().subscribe(channel), succeeded, event(channel, "2"))
		b.publish(channel, "3")
		synctest.Wait()
		expect(t, "fourth", c.connect().subscribe(channel), succeeded, event(channel, "3"))
		expectWebhooks(t, hs, `{"name":"channel_occupied","channel":"cache-x"}`)
		time.Sleep(2 * time.Minute)
		expect(t, "late", b.connect().subscribe(channel), succeeded, string(protocol.CacheMiss(channel)))
	})
}

// What a node remembers of a channel that nobody followed there may be old.
func TestMemoryIsNotTrustedAfterAPause(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		const channel = "cache-x"
		c.publish(channel, "old")
		e := c.connect().subscribe(channel)
		synctest.Wait()
		e.unsubscribe(channel)
		a.publish(channel, "new")
		c.cache.gate = make(chan struct{})
		succeeded := string(protocol.SubscriptionSucceeded(channel))
		first, second := c.connect().subscribe(channel), c.connect().subscribe(channel)
		gone := c.connect().subscribe(channel)
		gone.unsubscribe(channel)
		expect(t, "first", first, succeeded)
		close(c.cache.gate)
		expect(t, "first", first, event(channel, "new"))
		expect(t, "second", second, succeeded, event(channel, "new"))
		expect(t, "gone", gone, succeeded)
	})
}

func TestLiveEventBeatsASlowLook(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		const channel = "private-cache-x"
		a.publish(channel, "old")
		c.cache.gate = make(chan struct{})
		succeeded := string(protocol.SubscriptionSucceeded(channel))
		e := c.connect().subscribe(channel)
		sender := a.connect().subscribe(channel)
		synctest.Wait()
		sender.client.message([]byte(`{"event":"client-hi","channel":"private-cache-x","data":"x"}`))
		a.publish(channel, "new")
		expect(t, "e", e, succeeded, `{"event":"client-hi","channel":"private-cache-x","data":"x"}`, event(channel, "new"))
		close(c.cache.gate)
		expect(t, "e", e)
		expect(t, "next", c.connect().subscribe(channel), succeeded, event(channel, "new"))

		// A client event alone is no reason to keep the cached one back.
		c.cache.gate = make(chan struct{})
		a.publish("private-cache-y", "old")
		e = c.connect().subscribe("private-cache-y")
		sender.subscribe("private-cache-y")
		synctest.Wait()
		e.heard()
		sender.client.message([]byte(`{"event":"client-hi","channel":"private-cache-y","data":"x"}`))
		synctest.Wait()
		close(c.cache.gate)
		synctest.Wait()
		if got := e.heard(); !strings.HasSuffix(got, event("private-cache-y", "old")) {
			t.Errorf("e heard\n%s", got)
		}
	})
}

func TestAMissIsReportedOnce(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		const channel = "cache-x"
		want := []string{string(protocol.SubscriptionSucceeded(channel)), string(protocol.CacheMiss(channel))}
		for _, n := range []*hubNode{a, a, b, c, c} {
			expect(t, n.name, n.connect().subscribe(channel), want...)
		}
		expectWebhooks(t, hs, `{"name":"channel_occupied","channel":"cache-x"}`, `{"name":"cache_miss","channel":"cache-x"}`)

		// Without the shared cache the node's own memory answers.
		b.publish("cache-y", "1")
		b.cache.fails(errors.New("unavailable"))
		e := b.connect().subscribe("cache-y")
		time.Sleep(lookTimeout + time.Second)
		expect(t, "b", e, string(protocol.SubscriptionSucceeded("cache-y")), event("cache-y", "1"))
		if got := b.Cached(hs.app, "cache-y"); got["cache-y"].Data != "1" {
			t.Errorf("b tells %v", got)
		}
	})
}

func TestLongChannelNamesAreCached(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		hs.app.ID = strings.Repeat("i", 128)
		channel := "cache-" + strings.Repeat("x", 194)
		a.publish(channel, "1")
		expect(t, "b", b.connect().subscribe(channel), string(protocol.SubscriptionSucceeded(channel)), event(channel, "1"))
	})
}

// Look-ups in the shared cache end before the hub does, and none begins afterwards.
func TestWaitForLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHubs(t, "a")
		a := hs.nodes[0]
		a.cache.gate = make(chan struct{})
		a.connect().subscribe("cache-x")
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			a.Wait()
		}()
		synctest.Wait()
		select {
		case <-ended:
			t.Fatal("did not wait for the look")
		default:
		}
		close(a.cache.gate)
		<-ended
		if a.beside(func() { t.Error("a look began after the end") }) {
			t.Error("a look was promised after the end")
		}
	})
}

// An event that a subscriber got from the shared cache does not come once more, live, from a
// publisher that was between the two.
func TestCachedEventComesOnce(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		const channel = "cache-x"
		succeeded := string(protocol.SubscriptionSucceeded(channel))
		publish := func(from *hubNode, data string, between func()) {
			payload := protocol.AppendEvent(nil, "e", channel, data, "")
			r := from.realm(hs.app)
			r.shareCached(channel, 7, payload)
			between()
			synctest.Wait()
			r.sendElsewhere(channel, forCache, append(binary.BigEndian.AppendUint64(nil, 7), 0), payload)
			r.publish(Event{Name: "e", Channel: channel, Data: data}, 7, payload)
			synctest.Wait()
		}
		for _, at := range []*hubNode{a, b} {
			var e *ear
			publish(a, "1", func() { e = at.connect().subscribe(channel) })
			once := string(protocol.AppendEvent(nil, "e", channel, "1", ""))
			expect(t, "e", e, succeeded, once)
			publish(a, "1", func() {}) // the same number again is another event by now
			expect(t, "e", e, once)
			e.unsubscribe(channel)
			synctest.Wait()
		}
	})
}

// Events that the shared cache did not take come there when it takes them, unless a newer one is
// there. Publishers do not wait for it meanwhile, and subscribers for a while.
func TestSharedCacheComesBack(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		a.cache.fails(fabric.ErrUnavailable)
		b.cache.fails(fabric.ErrUnavailable)
		a.publish("cache-x", "old")
		a.publish("cache-x", "1")
		a.publish("cache-y", "old")
		begin := time.Now()
		a.publish("cache-z", "1")
		if waited := time.Since(begin); waited > 0 {
			t.Errorf("a publisher waited for %v", waited)
		}
		time.Sleep(time.Second)
		c.publish("cache-y", "new")
		early := b.connect().subscribe("cache-x")
		time.Sleep(lookTimeout / 2)
		expect(t, "early", early, string(protocol.SubscriptionSucceeded("cache-x")))
		a.cache.fails(nil)
		time.Sleep(2 * sharePause)
		b.cache.fails(nil)
		time.Sleep(2 * lookPause)
		expect(t, "early", early, event("cache-x", "1"))
		for channel, data := range map[string]string{"cache-x": "1", "cache-y": "new", "cache-z": "1"} {
			for _, n := range []*hubNode{b, c} {
				expect(t, n.name, n.connect().subscribe(channel),
					string(protocol.SubscriptionSucceeded(channel)), event(channel, data))
			}
		}
		if a.unshared.waits() || a.unshared.bytes != 0 {
			t.Error("something waits that is there")
		}
	})
}

// What waits for the shared cache is bounded.
func TestUnsharedIsBounded(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		a.cache.fails(fabric.ErrUnavailable)
		u := &a.unshared
		for i := range maxUnshared {
			if !u.put(fmt.Sprint(i), make([]byte, headSize)) {
				t.Fatalf("%d is too much", i)
			}
		}
		if u.put("one more", make([]byte, headSize)) || !u.put("0", make([]byte, headSize+1)) {
			t.Error("the limit of channels does not hold")
		}
		if u.put("0", make([]byte, unsharedSize)) {
			t.Error("the limit of bytes does not hold")
		}
		if want := maxUnshared*headSize + 1; u.bytes != want {
			t.Errorf("%d bytes are counted, want %d", u.bytes, want)
		}
		a.Wait()
	})
}
