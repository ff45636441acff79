package ratelimit

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Keyed has one Window for each key. It remembers a bounded number of keys: the one that was
// not asked for longest is forgotten first and starts afresh. It is safe for concurrent use.
type Keyed[K comparable] struct {
	limit  int
	window time.Duration

	mu      sync.Mutex // guards the following fields
	windows *simplelru.LRU[K, *entry[K]]
	sharing sharing[K]
}

// entry is the window of a key.
type entry[K comparable] struct {
	Window
	key    K
	queued bool // to be told of
}

// NewKeyed returns a Keyed that allows limit in each window to each key and remembers up to
// maxKeys keys, at least one. A limit of 0 or less allows everything.
func NewKeyed[K comparable](limit int, window time.Duration, maxKeys int) *Keyed[K] {
	windows, err := simplelru.NewLRU[K, *entry[K]](max(1, maxKeys), nil)
	if err != nil {
		panic(err) // it fails only for a size below 1
	}
	return &Keyed[K]{limit: limit, window: window, windows: windows}
}

// Limit returns how many are allowed in a window, 0 or less for any number.
func (k *Keyed[K]) Limit() int { return k.limit }

// Allow counts n for key if its window then holds no more than the limit, and otherwise
// counts nothing. It does not allocate for a key that is remembered.
func (k *Keyed[K]) Allow(key K, n int) Result {
	return k.allow(time.Now(), key, n, k.limit)
}

// AllowWithin is Allow for keys that each have a limit of their own.
func (k *Keyed[K]) AllowWithin(key K, n, limit int) Result {
	return k.allow(time.Now(), key, n, limit)
}

func (k *Keyed[K]) allow(now time.Time, key K, n, limit int) Result {
	if limit <= 0 {
		return Result{OK: true}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.entry(key)
	result := e.Allow(now, n, limit, k.window)
	if result.OK {
		k.sharing.used(e, limit)
	}
	return result
}

// entry returns the window of a key. k.mu is held.
func (k *Keyed[K]) entry(key K) *entry[K] {
	e, found := k.windows.Get(key)
	if !found {
		e = &entry[K]{key: key}
		k.windows.Add(key, e)
	}
	return e
}
