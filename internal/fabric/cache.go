package fabric

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// MinCacheBytes is the least that a cache may hold.
const MinCacheBytes = 1 << 20

// ErrNotCounter says that Add met a value that is not a number, or that the result does not
// fit into 64 bits.
var ErrNotCounter = errors.New("not a counter")

// Cache keeps values for a while. It is shared by all nodes, and may lose values: the oldest
// when it is full, all when a majority of its nodes is lost or the last one ends. Keys are
// any text of 1 to MaxKeySize bytes, values at most MaxValueSize.
//
// A TTL is rounded up to full seconds; 0 keeps a value until it is pushed out, a negative one
// gives ErrInvalidConfig. A value is gone within about two seconds after its TTL has passed,
// and never before.
//
// A read may be stale by a moment on another node, never on the one that wrote.
type Cache interface {
	// Get returns the value, or ErrNotFound.
	Get(ctx context.Context, key string) ([]byte, error)
	// GetMany returns the values of those keys that have one, in the time of few Gets. It may
	// be stale by a moment on every node.
	GetMany(ctx context.Context, keys []string) (map[string][]byte, error)
	// Set stores value whatever was there before.
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
	// Delete removes the key; there may be none.
	Delete(ctx context.Context, key string) error
	// CompareAndSwap stores value if the current one equals old, where nil stands for no
	// value; otherwise ErrConflict.
	CompareAndSwap(ctx context.Context, key string, old, value []byte, ttl time.Duration) error
	// Add adds delta to a counter and returns the result. A missing counter begins at 0, with
	// the TTL given then; that of a later Add has no effect, so that the counter of a window
	// ends with its window, whoever goes on counting. Get returns a counter as decimal text.
	// ErrNotCounter when the value is something else.
	Add(ctx context.Context, key string, delta int64, ttl time.Duration) (int64, error)
	// GetOrLoad returns the value, or calls load, stores what it returns for ttl and returns
	// that. Callers of this handle who miss the same key at the same time share one call of
	// load, whose context ends when all of them have gone. An error of load is returned to
	// all of them and not stored. A loaded value that cannot be stored is still returned.
	GetOrLoad(
		ctx context.Context, key string, ttl time.Duration,
		load func(context.Context) ([]byte, error),
	) ([]byte, error)
}

// CacheConfig configures a cache; the driver takes it when it opens the cache.
type CacheConfig struct {
	Name     string // letters, digits, - and _
	MaxBytes int64  // what it holds at most, keys and bookkeeping included; the oldest value goes first
}

// Check returns an error that wraps ErrInvalidConfig and names the field that cannot be used.
func (c CacheConfig) Check() error {
	if err := CheckName(c.Name); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	if c.MaxBytes < MinCacheBytes {
		return fmt.Errorf("cache %q: MaxBytes %d is under %d: %w",
			c.Name, c.MaxBytes, MinCacheBytes, ErrInvalidConfig)
	}
	return nil
}

// AddTo returns the counter that value holds, with delta added, for drivers. A nil value is 0.
func AddTo(value []byte, delta int64) (int64, error) {
	if value == nil {
		return delta, nil
	}
	number, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: the value is no number", ErrNotCounter)
	}
	sum := number + delta
	if (sum > number) != (delta > 0) && delta != 0 {
		return 0, fmt.Errorf("%w: %d and %d do not fit into 64 bits", ErrNotCounter, number, delta)
	}
	return sum, nil
}
