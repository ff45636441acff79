package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// maxCacheParts is into how many parts a cache is divided in a cluster, to be on several of
	// its nodes, and minPartBytes what each may hold at least: some of the largest values.
	maxCacheParts = 16
	minPartBytes  = 4 << 20
	// manyKeys is how many keys of a part GetMany asks for at once.
	manyKeys = 100
)

var (
	setScript    = load("cache_set")
	deleteScript = load("cache_delete")
	swapScript   = load("cache_swap")
	addScript    = load("cache_add")
)

// cache is one handle of a cache. Values are plain keys of Redis, which end by themselves. Scripts
// keep account of how much there is in each part, all of which is in one hash slot.
type cache struct {
	provider *Provider
	name     string
	limit    string // bytes of one part
	parts    uint32
	flights  fabric.Flights

	interruption fabric.Interruption // of GetOrLoad
}

// openCache finds out into how many parts the cache is divided: whoever opens it first decides.
func openCache(ctx context.Context, p *Provider, config fabric.CacheConfig) (*cache, error) {
	parts := int64(1)
	if p.options.Cluster {
		parts = min(max(1, config.MaxBytes/minPartBytes), maxCacheParts)
		key := p.key("cache", config.Name) + "parts"
		err := p.tries(ctx, func(ctx context.Context) error {
			set := p.client.B().Set().Key(key).Value(strconv.FormatInt(parts, 10)).Nx().Get().Build()
			before, err := p.client.Do(ctx, set).AsInt64()
			if rueidis.IsRedisNil(err) {
				return nil
			}
			if err == nil {
				parts = before
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if parts < 1 || parts > maxCacheParts {
			return nil, fmt.Errorf("%w: a cache of %d parts", errAnswer, parts)
		}
	}
	// Of a small cache that was divided as a large one, each part still takes large values.
	limit := max(config.MaxBytes/parts, min(config.MaxBytes, minPartBytes))
	return &cache{provider: p, name: config.Name, limit: strconv.FormatInt(limit, 10), parts: uint32(parts)}, nil
}

// base is what the keys of a part begin with.
func (c *cache) base(part uint32) string {
	if c.parts == 1 {
		return c.provider.key("cache", c.name)
	}
	return c.provider.key("cache", c.name+":"+strconv.FormatUint(uint64(part), 10))
}

func (c *cache) partOf(key string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	return h.Sum32() % c.parts
}

// valueKey is where the value of a key is.
func (c *cache) valueKey(key string) string { return c.base(c.partOf(key)) + "v" + key }

func (c *cache) failed(operation, key string, err error) error {
	return fmt.Errorf("%s %.300q of cache %q: %w", operation, key, c.name, translate(err))
}

// check does what every operation does first, and returns ttl in milliseconds.
func (c *cache) check(ctx context.Context, key string, value []byte, ttl time.Duration) (string, error) {
	if err := c.provider.life.Ready(ctx); err != nil {
		return "", err
	}
	if err := fabric.CheckText(key); err != nil {
		return "", err
	}
	if err := fabric.CheckValue(value); err != nil {
		return "", err
	}
	ttl, err := fabric.RoundTTL(ttl)
	return milliseconds(ttl), err
}

// run runs a script on the part of a key. A further key may be that of the operation.
func (c *cache) run(
	ctx context.Context, s *script, key string, memory bool, args ...string,
) (rueidis.RedisMessage, error) {
	base := c.base(c.partOf(key))
	keys := []string{base + "v" + key, base + "a", base + "e", base + "s", base + "t"}
	if memory {
		keys = append(keys, operation(base))
		args = append(args, milliseconds(memoryTime))
	}
	return c.provider.run(ctx, s, keys, append([]string{base + "v", key, c.limit}, args...))
}

// Get implements fabric.Cache.
func (c *cache) Get(ctx context.Context, key string) ([]byte, error) {
	_, err := c.check(ctx, key, nil, 0)
	var value []byte
	if err == nil {
		value, err = c.get(ctx, key)
	}
	if err != nil {
		return nil, c.failed("get", key, err)
	}
	return value, nil
}

func (c *cache) get(ctx context.Context, key string) ([]byte, error) {
	var value string
	err := c.provider.tries(ctx, func(ctx context.Context) (err error) {
		value, err = c.provider.client.Do(ctx, c.provider.client.B().Get().Key(c.valueKey(key)).Build()).ToString()
		return err
	})
	if rueidis.IsRedisNil(err) {
		return nil, fabric.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return notNil(value), nil
}

// GetMany implements fabric.Cache.
func (c *cache) GetMany(ctx context.Context, keys []string) (map[string][]byte, error) {
	values := make(map[string][]byte, len(keys))
	byPart := make([][]string, c.parts)
	for _, key := range keys {
		if _, err := c.check(ctx, key, nil, 0); err != nil {
			return nil, c.failed("get", key, err)
		}
		part := c.partOf(key)
		byPart[part] = append(byPart[part], key)
	}
	for _, list := range byPart {
		for chunk := range slices.Chunk(list, manyKeys) {
			if err := c.getChunk(ctx, chunk, values); err != nil {
				return nil, c.failed("get", chunk[0], err)
			}
		}
	}
	return values, nil
}

// getChunk adds the values of keys of one part.
func (c *cache) getChunk(ctx context.Context, chunk []string, values map[string][]byte) error {
	stored := make([]string, len(chunk))
	for i, key := range chunk {
		stored[i] = c.valueKey(key)
	}
	return c.provider.tries(ctx, func(ctx context.Context) error {
		found, err := c.provider.client.Do(ctx, c.provider.client.B().Mget().Key(stored...).Build()).ToArray()
		if err != nil {
			return err
		}
		for i := range min(len(found), len(chunk)) {
			if text, err := found[i].ToString(); err == nil {
				values[chunk[i]] = notNil(text)
			}
		}
		return nil
	})
}

// Set implements fabric.Cache.
func (c *cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	end, err := c.check(ctx, key, value, ttl)
	if err == nil {
		_, err = c.run(ctx, setScript, key, false, string(value), end)
	}
	if err != nil {
		return c.failed("set", key, err)
	}
	return nil
}

// Delete implements fabric.Cache.
func (c *cache) Delete(ctx context.Context, key string) error {
	_, err := c.check(ctx, key, nil, 0)
	if err == nil {
		_, err = c.run(ctx, deleteScript, key, false)
	}
	if err != nil {
		return c.failed("delete", key, err)
	}
	return nil
}

// CompareAndSwap implements fabric.Cache.
func (c *cache) CompareAndSwap(ctx context.Context, key string, old, value []byte, ttl time.Duration) error {
	end, err := c.check(ctx, key, value, ttl)
	var answer rueidis.RedisMessage
	if err == nil {
		present := "1"
		if old == nil {
			present = "0"
		}
		answer, err = c.run(ctx, swapScript, key, true, present, string(old), string(value), end)
	}
	if err == nil {
		if swapped, _ := answer.AsInt64(); swapped != 1 {
			err = fabric.ErrConflict
		}
	}
	if err != nil {
		return c.failed("swap", key, err)
	}
	return nil
}

// Add implements fabric.Cache.
func (c *cache) Add(ctx context.Context, key string, delta int64, ttl time.Duration) (int64, error) {
	end, err := c.check(ctx, key, nil, ttl)
	var answer rueidis.RedisMessage
	if err == nil {
		answer, err = c.run(ctx, addScript, key, true, strconv.FormatInt(delta, 10), end)
	}
	var sum int64
	if err == nil {
		text, _ := answer.ToString() // is a text
		if sum, err = strconv.ParseInt(text, 10, 64); err != nil {
			err = fmt.Errorf("%w: the value is no number, or the sum does not fit into 64 bits", fabric.ErrNotCounter)
		}
	}
	if err != nil {
		return 0, c.failed("add to", key, err)
	}
	return sum, nil
}

// GetOrLoad implements fabric.Cache.
func (c *cache) GetOrLoad(
	ctx context.Context, key string, ttl time.Duration, load func(context.Context) ([]byte, error),
) ([]byte, error) {
	_, err := c.check(ctx, key, nil, ttl)
	var value []byte
	if err == nil {
		value, err = c.flights.Do(ctx, key, func(ctx context.Context) ([]byte, error) {
			return c.load(ctx, key, ttl, load)
		})
	}
	if err != nil {
		return nil, c.failed("load", key, err)
	}
	return append([]byte{}, value...), nil
}

func (c *cache) load(
	ctx context.Context, key string, ttl time.Duration, load func(context.Context) ([]byte, error),
) ([]byte, error) {
	// The cache is only a help: it is not waited for as long as elsewhere.
	reading, done := context.WithTimeout(ctx, tryTimeout)
	value, err := c.get(reading, key)
	done()
	if err == nil {
		return value, nil
	}
	away := !errors.Is(err, fabric.ErrNotFound)
	if away {
		c.warn("read failed", err)
	}
	if value, err = load(ctx); err != nil || away {
		return value, err
	}
	storing, done := context.WithTimeout(ctx, tryTimeout)
	defer done()
	if err := c.Set(storing, key, value, ttl); err != nil {
		c.warn("loaded value not stored", err)
	} else {
		c.interruption.Over()
	}
	return value, nil
}

// warn logs a failure, and not every one while the server is away.
func (c *cache) warn(text string, err error) {
	if _, tell := c.interruption.Failed(); tell {
		c.provider.options.Logger.Warn("cache: "+text, slog.String("cache", c.name), slog.Any("error", err))
	}
}
