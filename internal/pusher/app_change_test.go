package pusher

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A client that was let in before its app was deleted or disabled, and opens after, is closed
// like the others.
func TestClientsThatOpenTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for change, code := range map[string]string{"delete": "4001", `app {"enabled":false}`: "4003"} {
			s := newScript(t)
			s.connect("a") // so that the app has a live state
			c := &fakeConn{name: "late", script: s, heard: time.Now()}
			c.client = s.hub.Connection(s.app, "").(handler).client
			s.command(change)
			c.client.open(c)
			if !c.closed || !strings.Contains(s.soFar(), "late closed "+code) {
				t.Errorf("after %q: %s", change, s.soFar())
			}
			if n := c.client.realm.connections(); n != 1 { // a, which has not gone yet
				t.Errorf("after %q: %d clients are counted", change, n)
			}
		}
	})
}

// What one app's clients ask for cannot push out what another app has cached.
func TestCachesOfAppsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(t)
		victim := *s.app
		victim.ID, victim.Key = "2", "other"
		s.hub.Publish(&victim, Event{Name: "e", Data: "kept", Channel: "cache-x"})
		s.connect("a")
		for i := range 3 * s.hub.options.CacheChannels {
			s.command(fmt.Sprintf(`a > {"event":"pusher:subscribe","data":{"channel":"cache-%d"}}`, i))
			s.command(fmt.Sprintf(`a > {"event":"pusher:unsubscribe","data":{"channel":"cache-%d"}}`, i))
		}
		if got := s.hub.Cached(&victim, "cache-x"); got["cache-x"].Data != "kept" {
			t.Errorf("the other app's event is %v", got)
		}
	})
}

func TestEventCacheIsBounded(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newEventCache(1_000_000, time.Minute, func() time.Time { return now })
	big := make([]byte, 1<<20)
	for i := range 100 {
		c.write(fmt.Sprint(i), "", big)
	}
	if c.bytes > maxCacheBytes || c.events.Len() != maxCacheBytes>>20 {
		t.Errorf("%d bytes in %d events", c.bytes, c.events.Len())
	}
	c.write("99", "data", []byte("payload"))
	if payload, _ := c.read("99"); string(payload) != "payload" {
		t.Errorf("read %q", payload)
	}
	now = now.Add(2 * time.Minute)
	if payload, first := c.read("99"); payload != nil || !first {
		t.Errorf("after its time: %q, %v", payload, first)
	}
	if _, first := c.read("99"); first {
		t.Error("the same miss is reported twice")
	}
	c.write("99", "", []byte("again"))
	now = now.Add(2 * time.Minute)
	if _, first := c.read("99"); !first {
		t.Error("a miss after the channel was filled is not reported")
	}
}
