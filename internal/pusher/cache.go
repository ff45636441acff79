package pusher

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// eventCache remembers the last event of one app's cache channels. Each app has its own, so
// that none can push out another's events.
type eventCache struct {
	ttl time.Duration
	now func() time.Time

	mu     sync.Mutex // guards the following fields
	events *lru.Cache[string, cachedEvent]
	bytes  int                          // of the events
	misses *lru.Cache[string, struct{}] // channels whose miss was reported and not filled since
}

type cachedEvent struct {
	payload []byte
	data    string
	expires time.Time
	number  uint64 // of one that came from the shared cache
}

func (e cachedEvent) size() int { return len(e.payload) + len(e.data) }

// Limits of one app's cache beside its number of channels.
const (
	maxCacheBytes = 64 << 20
	maxMisses     = 1000
)

func newEventCache(channels int, ttl time.Duration, now func() time.Time) *eventCache {
	c := &eventCache{ttl: ttl, now: now}
	var err error
	if c.events, err = lru.NewWithEvict(max(1, channels), func(_ string, e cachedEvent) { c.bytes -= e.size() }); err != nil {
		panic(err) // only a size below 1 is refused
	}
	if c.misses, err = lru.New[string, struct{}](maxMisses); err != nil {
		panic(err)
	}
	return c
}

func (c *eventCache) write(channel, data string, payload []byte) {
	c.add(channel, cachedEvent{payload: payload, data: data, expires: c.now().Add(c.ttl)})
}

func (c *eventCache) add(channel string, event cachedEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events.Remove(channel)
	if event.payload == nil {
		c.misses.Add(channel, struct{}{})
		return
	}
	c.misses.Remove(channel)
	c.bytes += event.size()
	c.events.Add(channel, event)
	for c.bytes > maxCacheBytes {
		c.events.RemoveOldest()
	}
}

// read returns the frame text of the last event. When there is none, firstMiss tells
// whether this is the first time since the channel had one.
func (c *eventCache) read(channel string) (payload []byte, firstMiss bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	event, known := c.events.Get(channel)
	if known && event.expires.After(c.now()) {
		return event.payload, false
	}
	if known {
		c.events.Remove(channel)
	}
	reported, _ := c.misses.ContainsOrAdd(channel, struct{}{})
	return nil, !reported
}

func (c *eventCache) peek(channel string) (data string, ttl time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	event, known := c.events.Peek(channel)
	ttl = event.expires.Sub(c.now())
	if !known || ttl <= 0 {
		return "", 0, false
	}
	return event.data, ttl, true
}
