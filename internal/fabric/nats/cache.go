package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// expiresHeader says when a counter ends, in milliseconds since 1970 by the clock of the node
// that began it. The engine only knows how long each message is to be kept.
const expiresHeader = "Parley-Expires"

// contenders is how many of this node's CompareAndSwap and Add calls work on one key, or wait
// for that.
const contenders = 4096

// cache is one cache: a stream in memory with one message a key.
type cache struct {
	provider *Provider
	name     string
	prefix   string // of the subject of every key
	stream   jetstream.Stream
	stored   stored
	flights  fabric.Flights
	turns    fabric.Turns // so that a node does not race with itself
}

func openCache(ctx context.Context, p *Provider, config fabric.CacheConfig) (*cache, error) {
	c := &cache{provider: p, name: config.Name, prefix: p.subject("cache", config.Name),
		stored: stored{provider: p, stream: p.stream("cache", config.Name)}}
	var err error
	c.stream, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              p.stream("cache", config.Name),
		Subjects:          []string{c.prefix + "*"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          p.replicas,
		MaxMsgsPerSubject: 1,
		MaxBytes:          config.MaxBytes,
		Discard:           jetstream.DiscardOld,
		AllowMsgTTL:       true,
		Duplicates:        retryWindow,
		AllowDirect:       true, // for GetMany alone, so that nobody misses his own write
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *cache) failed(operation, key string, err error) error {
	return fmt.Errorf("%s %.300q of cache %q: %w", operation, key, c.name, translate(err))
}

// check does what every operation does first, and returns ttl as the engine takes it.
func (c *cache) check(
	ctx context.Context, key string, value []byte, ttl time.Duration,
) (time.Duration, error) {
	if err := c.provider.life.Ready(ctx); err != nil {
		return 0, err
	}
	if err := fabric.CheckText(key); err != nil {
		return 0, err
	}
	if err := fabric.CheckValue(value); err != nil {
		return 0, err
	}
	return fabric.RoundTTL(ttl)
}

// Get implements fabric.Cache.
func (c *cache) Get(ctx context.Context, key string) ([]byte, error) {
	_, err := c.check(ctx, key, nil, 0)
	var v *version
	if err == nil {
		v, err = c.read(ctx, key)
	}
	if err == nil && v.value == nil {
		err = fabric.ErrNotFound
	}
	if err != nil {
		return nil, c.failed("get", key, err)
	}
	return v.value, nil
}

// manyKeys is how many keys GetMany asks for at once; the engine takes 1,024.
const manyKeys = 500

// GetMany implements fabric.Cache. The nearest replica answers; what got lost on the way is read
// from the leader.
func (c *cache) GetMany(ctx context.Context, keys []string) (map[string][]byte, error) {
	values := make(map[string][]byte, len(keys))
	for chunk := range slices.Chunk(keys, manyKeys) {
		request := getRequest{Batch: len(chunk), MaxBytes: pageBytes}
		for _, key := range chunk {
			if _, err := c.check(ctx, key, nil, 0); err != nil {
				return nil, c.failed("get", key, err)
			}
			request.MultiLast = append(request.MultiLast, c.prefix+fabric.Token(key))
		}
		page, pending, err := c.stored.replica(ctx, request)
		if err != nil {
			return nil, c.failed("get", chunk[0], err)
		}
		found := make(map[string][]byte, len(page))
		for _, entry := range page {
			found[entry.Subject] = entry.Payload
		}
		for i, key := range chunk {
			value, ok := found[request.MultiLast[i]]
			if !ok && pending != "0" {
				value, err = c.Get(ctx, key)
				if err != nil && !errors.Is(err, fabric.ErrNotFound) {
					return nil, err
				}
				ok = err == nil
			}
			if ok {
				values[key] = value
			}
		}
	}
	return values, nil
}

// version is the state of a key: what is stored, if anything, and at which revision.
type version struct {
	value    []byte    // nil when there is none
	revision uint64    // 0 when there is none
	expires  time.Time // of a counter; zero is unknown or never
}

func (c *cache) read(ctx context.Context, key string) (*version, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	entry, header, err := c.stored.leaderMessage(ctx, getRequest{LastFor: c.prefix + fabric.Token(key)})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return &version{}, nil
	}
	if err != nil {
		return nil, err
	}
	v := &version{value: entry.Payload, revision: entry.Seq}
	if at, err := strconv.ParseInt(header.Get(expiresHeader), 10, 64); err == nil {
		v.expires = time.UnixMilli(at)
	}
	return v, nil
}

// write stores a value. A revision that is not nil must be the current one.
func (c *cache) write(
	ctx context.Context, key string, value []byte, ttl time.Duration, revision *uint64, expires time.Time,
) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	msg := newMsg(c.prefix+fabric.Token(key), value)
	var options []jetstream.PublishOpt
	if ttl > 0 {
		options = append(options, jetstream.WithMsgTTL(ttl))
	}
	if revision != nil {
		options = append(options, jetstream.WithExpectLastSequencePerSubject(*revision))
	}
	if !expires.IsZero() {
		msg.Header.Set(expiresHeader, strconv.FormatInt(expires.UnixMilli(), 10))
	}
	if revision == nil { // it bears a repetition
		_, err := ask(ctx, func(ctx context.Context) (*jetstream.PubAck, error) {
			return c.provider.js.PublishMsg(ctx, msg, options...)
		})
		return err
	}
	_, err := c.provider.publish(ctx, msg, options...)
	return err
}

// Set implements fabric.Cache.
func (c *cache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	ttl, err := c.check(ctx, key, value, ttl)
	if err == nil {
		err = c.write(ctx, key, value, ttl, nil, time.Time{})
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
		ctx, cancel := bounded(ctx)
		defer cancel()
		err = purge(ctx, c.stream, c.prefix+fabric.Token(key))
	}
	if err != nil {
		return c.failed("delete", key, err)
	}
	return nil
}

// CompareAndSwap implements fabric.Cache.
func (c *cache) CompareAndSwap(
	ctx context.Context, key string, old, value []byte, ttl time.Duration,
) error {
	ttl, err := c.check(ctx, key, value, ttl)
	if err == nil {
		err = c.change(ctx, key, func(v *version) error {
			if (v.value == nil) != (old == nil) || !bytes.Equal(v.value, old) {
				return fabric.ErrConflict
			}
			return c.write(ctx, key, value, ttl, &v.revision, time.Time{})
		})
	}
	if err != nil {
		return c.failed("swap", key, err)
	}
	return nil
}

// change calls try with the current version, again as long as another was faster.
func (c *cache) change(ctx context.Context, key string, try func(*version) error) error {
	end, err := c.turns.Take(ctx, key, contenders)
	if err != nil {
		return err
	}
	defer end()
	for {
		v, err := c.read(ctx, key)
		if err != nil {
			return err
		}
		if err = try(v); !isConflict(err) {
			return err
		}
		if err := c.provider.life.Ready(ctx); err != nil {
			return err
		}
	}
}

// Add implements fabric.Cache.
func (c *cache) Add(ctx context.Context, key string, delta int64, ttl time.Duration) (int64, error) {
	ttl, err := c.check(ctx, key, nil, ttl)
	var sum int64
	if err == nil {
		err = c.change(ctx, key, func(v *version) error {
			var err error
			sum, err = c.add(ctx, key, delta, ttl, v)
			return err
		})
	}
	if err != nil {
		return 0, c.failed("add to", key, err)
	}
	return sum, nil
}

// add writes the sum with what is left of the time of the counter.
func (c *cache) add(
	ctx context.Context, key string, delta int64, ttl time.Duration, v *version,
) (int64, error) {
	now := time.Now()
	if !v.expires.IsZero() && !now.Before(v.expires) { // the engine is about to remove it
		v.value = nil
	}
	expires := v.expires
	switch {
	case v.value == nil && ttl == 0:
		expires = time.Time{}
	case v.value == nil:
		expires = now.Add(ttl)
	case expires.IsZero():
		ttl = 0
	default:
		ttl, _ = fabric.RoundTTL(expires.Sub(now)) // is positive
	}
	sum, err := fabric.AddTo(v.value, delta)
	if err != nil {
		return 0, err
	}
	return sum, c.write(ctx, key, strconv.AppendInt(nil, sum, 10), ttl, &v.revision, expires)
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
	v, err := c.read(ctx, key)
	if err == nil && v.value != nil {
		return v.value, nil
	}
	if err != nil { // the cache is only a help
		c.warn("read failed", err)
	}
	value, err := load(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Set(ctx, key, value, ttl); err != nil {
		c.warn("loaded value not stored", err)
	}
	return value, nil
}

func (c *cache) warn(text string, err error) {
	c.provider.logger.Warn("cache: "+text, slog.String("cache", c.name), slog.Any("error", err))
}
