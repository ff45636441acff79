package ratelimit

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Keyed has one Window for each key, all with the same limit. It remembers a bounded number
// of keys: the one that was not asked for longest is forgotten first and starts afresh. It
// is safe for concurrent use.
type Keyed[K comparable] struct {
	limit  int
	window time.Duration

	mu      sync.Mutex // guards windows
	windows *simplelru.LRU[K, *Window]
}

// NewKeyed returns a Keyed that allows limit in each window to each key and remembers up to
// maxKeys keys, at least one. A limit of 0 or less allows everything.
func NewKeyed[K comparable](limit int, window time.Duration, maxKeys int) *Keyed[K] {
	windows, err := simplelru.NewLRU[K, *Window](max(1, maxKeys), nil)
	if err != nil {
		panic(err) // it fails only for a size below 1
	}
	return &Keyed[K]{limit: limit, window: window, windows: windows}
}

// Limit returns how many are allowed in a window, 0 or less for any number.
func (k *Keyed[K]) Limit() int { return k.limit }

// Allow counts n for key if its window then holds no more than the limit, and otherwise
// counts nothing.
func (k *Keyed[K]) Allow(key K, n int) Result {
	return k.allow(time.Now(), key, n)
}

func (k *Keyed[K]) allow(now time.Time, key K, n int) Result {
	if k.limit <= 0 {
		return Result{OK: true}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	window, ok := k.windows.Get(key)
	if !ok {
		window = new(Window)
		k.windows.Add(key, window)
	}
	return window.Allow(now, n, k.limit, k.window)
}
