package pusher

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// eventCache remembers the last event of cache channels.
type eventCache struct {
	ttl time.Duration
	now func() time.Time
	mu  sync.Mutex // makes a read and the mark it leaves one step
	lru *lru.Cache[cacheKey, cachedEvent]
}

type cacheKey struct{ app, channel string }

// cachedEvent is an event, or without payload the mark that a miss was reported.
type cachedEvent struct {
	payload []byte
	data    string
	expires time.Time
}

func newEventCache(size int, ttl time.Duration, now func() time.Time) *eventCache {
	cache, err := lru.New[cacheKey, cachedEvent](max(1, size))
	if err != nil {
		panic(err) // only a size below 1 is refused
	}
	return &eventCache{ttl: ttl, now: now, lru: cache}
}

func (c *eventCache) write(app, channel, data string, payload []byte) {
	c.lru.Add(cacheKey{app, channel}, cachedEvent{payload, data, c.now().Add(c.ttl)})
}

// read returns the frame text of the last event. When there is none, firstMiss tells
// whether this is the first time since the channel had one.
func (c *eventCache) read(app, channel string) (payload []byte, firstMiss bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := cacheKey{app, channel}
	event, known := c.lru.Get(key)
	if known && event.expires.After(c.now()) {
		return event.payload, false
	}
	c.lru.Add(key, cachedEvent{expires: c.now().Add(c.ttl)})
	return nil, true
}

func (c *eventCache) peek(app, channel string) (data string, ttl time.Duration, ok bool) {
	event, _ := c.lru.Peek(cacheKey{app, channel})
	ttl = event.expires.Sub(c.now())
	if event.payload == nil || ttl <= 0 {
		return "", 0, false
	}
	return event.data, ttl, true
}
