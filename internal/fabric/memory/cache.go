package memory

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// cacheStore is the state that all handles of one cache share.
type cacheStore struct {
	mu      sync.Mutex // guards the following fields
	entries map[string]*list.Element
	order   *list.List // of *cached, the oldest write first
	bytes   int64
}

type cached struct {
	key     string
	value   []byte
	expires time.Time // zero is never
}

// overhead is what an entry is counted with beside key and value.
const overhead = 64

func newCacheStore() *cacheStore {
	return &cacheStore{entries: map[string]*list.Element{}, order: list.New()}
}

// get returns what is there and has not expired, or nil. The caller holds s.mu.
func (s *cacheStore) get(key string) *cached {
	element := s.entries[key]
	if element == nil {
		return nil
	}
	c := element.Value.(*cached)
	if !c.expires.IsZero() && !time.Now().Before(c.expires) {
		s.remove(element)
		return nil
	}
	return c
}

// remove takes an entry out. The caller holds s.mu.
func (s *cacheStore) remove(element *list.Element) {
	c := s.order.Remove(element).(*cached)
	delete(s.entries, c.key)
	s.bytes -= int64(len(c.key) + len(c.value) + overhead)
}

// put stores an entry as the newest and removes the oldest beyond limit. The caller holds
// s.mu.
func (s *cacheStore) put(c *cached, limit int64) {
	if element := s.entries[c.key]; element != nil {
		s.remove(element)
	}
	s.entries[c.key] = s.order.PushBack(c)
	s.bytes += int64(len(c.key) + len(c.value) + overhead)
	for s.bytes > limit {
		s.remove(s.order.Front())
	}
}

// cache is one handle.
type cache struct {
	provider *Provider
	store    *cacheStore
	config   fabric.CacheConfig
	flights  fabric.Flights
}

func (c *cache) failed(operation, key string, err error) error {
	return fmt.Errorf("%s %.300q of cache %q: %w", operation, key, c.config.Name, err)
}

// check does what every operation does first, and returns when a value with ttl expires.
func (c *cache) check(ctx context.Context, key string, value []byte, ttl time.Duration) (time.Time, error) {
	if err := c.provider.life.Ready(ctx); err != nil {
		return time.Time{}, err
	}
	if err := fabric.CheckText(key); err != nil {
		return time.Time{}, err
	}
	if err := fabric.CheckValue(value); err != nil {
		return time.Time{}, err
	}
	ttl, err := fabric.RoundTTL(ttl)
	if err != nil || ttl == 0 {
		return time.Time{}, err
	}
	return time.Now().Add(ttl), nil
}

// GetMany implements fabric.Cache.
func (c *cache) GetMany(ctx context.Context, keys []string) (map[string][]byte, error) {
	values := map[string][]byte{}
	for _, key := range keys {
		value, err := c.Get(ctx, key)
		if err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return nil, err
		}
		if err == nil {
			values[key] = value
		}
	}
	return values, nil
}

// Get implements fabric.Cache.
func (c *cache) Get(ctx context.Context, key string) ([]byte, error) {
	if _, err := c.check(ctx, key, nil, 0); err != nil {
		return nil, c.failed("get", key, err)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	entry := c.store.get(key)
	if entry == nil {
		return nil, c.failed("get", key, fabric.ErrNotFound)
	}
	return append([]byte{}, entry.value...), nil
}

// Set implements fabric.Cache.
func (c *cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	expires, err := c.check(ctx, key, value, ttl)
	if err != nil {
		return c.failed("set", key, err)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.put(&cached{key, append([]byte{}, value...), expires}, c.config.MaxBytes)
	return nil
}

// Delete implements fabric.Cache.
func (c *cache) Delete(ctx context.Context, key string) error {
	if _, err := c.check(ctx, key, nil, 0); err != nil {
		return c.failed("delete", key, err)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if element := c.store.entries[key]; element != nil {
		c.store.remove(element)
	}
	return nil
}

// CompareAndSwap implements fabric.Cache.
func (c *cache) CompareAndSwap(ctx context.Context, key string, old, value []byte, ttl time.Duration) error {
	expires, err := c.check(ctx, key, value, ttl)
	if err != nil {
		return c.failed("swap", key, err)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	entry := c.store.get(key)
	if (entry == nil) != (old == nil) || entry != nil && !bytes.Equal(entry.value, old) {
		return c.failed("swap", key, fabric.ErrConflict)
	}
	c.store.put(&cached{key, append([]byte{}, value...), expires}, c.config.MaxBytes)
	return nil
}

// Add implements fabric.Cache.
func (c *cache) Add(ctx context.Context, key string, delta int64, ttl time.Duration) (int64, error) {
	expires, err := c.check(ctx, key, nil, ttl)
	if err != nil {
		return 0, c.failed("add to", key, err)
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	var current []byte
	if entry := c.store.get(key); entry != nil {
		current, expires = entry.value, entry.expires
	}
	sum, err := fabric.AddTo(current, delta)
	if err != nil {
		return 0, c.failed("add to", key, err)
	}
	c.store.put(&cached{key, strconv.AppendInt(nil, sum, 10), expires}, c.config.MaxBytes)
	return sum, nil
}

// GetOrLoad implements fabric.Cache.
func (c *cache) GetOrLoad(
	ctx context.Context, key string, ttl time.Duration, load func(context.Context) ([]byte, error),
) ([]byte, error) {
	if _, err := c.check(ctx, key, nil, ttl); err != nil {
		return nil, c.failed("load", key, err)
	}
	value, err := c.flights.Do(ctx, key, func(ctx context.Context) ([]byte, error) {
		value, err := c.Get(ctx, key)
		if err == nil {
			return value, nil
		}
		if value, err = load(ctx); err == nil {
			_ = c.Set(ctx, key, value, ttl) // what cannot be stored is still returned
		}
		return value, err
	})
	if err != nil {
		return nil, c.failed("load", key, err)
	}
	return append([]byte{}, value...), nil
}
