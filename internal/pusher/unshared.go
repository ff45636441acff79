package pusher

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Limits of what waits for the shared cache.
const (
	maxUnshared  = 10_000                 // channels
	unsharedSize = 64 << 20               // bytes
	sharePause   = 500 * time.Millisecond // between two tries
)

// unshared has the last events of cache channels that the shared cache did not take, as when it
// had just lost its leader, and brings them there as soon as it takes them. While it has some,
// publishers do not wait for the cache. They are lost with the node.
type unshared struct {
	hub *Hub

	mu     sync.Mutex        // guards the following fields
	values map[string][]byte // as in the shared cache, by key
	bytes  int
	runs   bool // a goroutine tries to empty it
}

// waits says whether the shared cache has not taken something yet.
func (u *unshared) waits() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.values) > 0
}

// put keeps a value in the place of an older one of its key. It returns false when there is no
// room.
func (u *unshared) put(key string, value []byte) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	old, known := u.values[key]
	size := u.bytes + len(value) - len(old)
	if size > unsharedSize || !known && len(u.values) >= maxUnshared {
		return false
	}
	if !u.runs {
		u.runs = u.hub.beside(u.run)
	}
	if !u.runs {
		return false
	}
	if u.values == nil {
		u.values = map[string][]byte{}
	}
	u.values[key], u.bytes = value, size
	return true
}

// take takes the value of a key out, unless a newer one has come.
func (u *unshared) take(key string, value []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now, known := u.values[key]; known && &now[0] == &value[0] {
		delete(u.values, key)
		u.bytes -= len(value)
	}
}

// list returns what waits. When that is nothing, or the hub ends, the goroutine that asks ends.
func (u *unshared) list() map[string][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.values) == 0 || u.hub.ends() {
		u.runs = false
		return nil
	}
	list := make(map[string][]byte, len(u.values))
	for key, value := range u.values {
		list[key] = value
	}
	return list
}

// run tries until nothing waits.
func (u *unshared) run() {
	for list := u.list(); list != nil; list = u.list() {
		for key, value := range list {
			if err := u.share(key, value); err != nil {
				break
			}
			u.take(key, value)
		}
		u.hub.pause(sharePause)
	}
}

// share stores a value unless the cache has a newer one.
func (u *unshared) share(key string, value []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), cacheTimeout)
	defer cancel()
	cache := u.hub.cluster.Cache
	old, err := cache.Get(ctx, key)
	if err != nil && !errors.Is(err, fabric.ErrNotFound) {
		return err
	}
	left := expiryOf(value).Sub(u.hub.options.Now())
	if left <= 0 || err == nil && expiryOf(old).After(expiryOf(value)) {
		return nil
	}
	return cache.CompareAndSwap(ctx, key, old, value, left)
}

// expiryOf returns when a value of the shared cache expires, by the clock of the node that wrote
// it. The mark of a miss is older than any event.
func expiryOf(value []byte) time.Time {
	if len(value) < expirySize {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(value)))
}
