// Package redis keeps the parts of a fabric.Provider in Redis 7: one server, a master behind
// Sentinels, or a Redis Cluster. It has no Blobs.
//
// Every key and channel stands behind the prefix of the options and carries the kind and name of
// its part in braces, {docs:<name>}, {queue:<name>}, {signal:<name>} and so on, so that in a
// cluster all of a part is in one hash slot and scripts can work on it. DESIGN.md says what is
// kept where, and what is weaker than with the embedded engine.
//
// It may import fabric, rueidis and the standard library, and nothing else.
package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

// Provider implements fabric.Provider.
type Provider struct {
	options Options // complete
	client  rueidis.Client
	life    fabric.Life

	mu    sync.Mutex // guards buses
	buses map[string]*bus
}

var (
	_ fabric.Provider     = (*Provider)(nil)
	_ fabric.QueueRemover = (*Provider)(nil)
)

// Documents implements fabric.Provider.
func (p *Provider) Documents(ctx context.Context, name string) (fabric.Documents, error) {
	if err := p.check(ctx, "documents", name); err != nil {
		return nil, err
	}
	return newDocuments(p, name), nil
}

// Queue implements fabric.Provider. Each handle works by its own configuration.
func (p *Provider) Queue(ctx context.Context, config fabric.QueueConfig) (fabric.Queue, error) {
	if err := p.check(ctx, "queue", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return newQueue(p, config), nil
}

// RemoveQueue implements fabric.QueueRemover.
func (p *Provider) RemoveQueue(ctx context.Context, name string) error {
	if err := p.check(ctx, "queue", name); err != nil {
		return err
	}
	keys := newQueue(p, fabric.QueueConfig{Name: name}).keys
	if _, err := p.runDurable(ctx, removeQueueScript, keys, nil); err != nil {
		return fmt.Errorf("remove queue %q: %w", name, translate(err))
	}
	return nil
}

// Signal implements fabric.Provider. In a cluster each name has a connection, otherwise they
// share one.
func (p *Provider) Signal(ctx context.Context, name string) (fabric.Signal, error) {
	if err := p.check(ctx, "signal", name); err != nil {
		return nil, err
	}
	bus, err := p.bus(p.channel("signal", name))
	if err != nil {
		return nil, fmt.Errorf("open signal %q: %w", name, err)
	}
	return newSignal(p, bus, name), nil
}

// Cache implements fabric.Provider. Each handle keeps to its own MaxBytes.
func (p *Provider) Cache(ctx context.Context, config fabric.CacheConfig) (fabric.Cache, error) {
	if err := p.check(ctx, "cache", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	c, err := openCache(ctx, p, config)
	if err != nil {
		return nil, fmt.Errorf("open cache %q: %w", config.Name, translate(err))
	}
	return c, nil
}

// Locks implements fabric.Provider.
func (p *Provider) Locks(ctx context.Context, name string) (fabric.Locks, error) {
	if err := p.check(ctx, "locks", name); err != nil {
		return nil, err
	}
	return newLocks(p, name), nil
}

// Log implements fabric.Provider.
func (p *Provider) Log(ctx context.Context, config fabric.LogConfig) (fabric.Log, error) {
	if err := p.check(ctx, "log", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l, err := openLog(ctx, p, config)
	if err != nil {
		return nil, fmt.Errorf("open log %q: %w", config.Name, translate(err))
	}
	return l, nil
}

// Blobs implements fabric.Provider: there are none. Redis keeps everything in memory, and answers
// nobody else while it moves a large value.
func (p *Provider) Blobs(ctx context.Context, config fabric.BlobConfig) (fabric.Blobs, error) {
	if err := p.check(ctx, "blobs", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open blobs: %w", err)
	}
	return nil, fmt.Errorf("open blobs %q: Redis would keep them in memory: %w", config.Name, fabric.ErrUnsupported)
}

// check does what every opening of a named part does first.
func (p *Provider) check(ctx context.Context, kind, name string) error {
	if err := p.life.Ready(ctx); err != nil {
		return fmt.Errorf("open %s %.300q: %w", kind, name, err)
	}
	if err := fabric.CheckName(name); err != nil {
		return fmt.Errorf("open %s: %w", kind, err)
	}
	return nil
}

// key is what all keys of a part begin with. In a cluster they are in one hash slot.
func (p *Provider) key(kind, name string) string {
	return p.options.Prefix + "{" + kind + ":" + name + "}"
}

// channel is what all channels of a part begin with. They have the hash slot of its keys, and the
// number of the database, which the server does not set channels apart by.
func (p *Provider) channel(kind, name string) string {
	prefix := p.options.Prefix
	if p.options.Database != 0 {
		prefix += strconv.Itoa(p.options.Database) + ":"
	}
	return prefix + "{" + kind + ":" + name + "}"
}

// Ping implements fabric.Carrier. It asks the server, or a cluster whether all its slots are
// served, and looks whether signals are connected.
func (p *Provider) Ping(ctx context.Context) error {
	err := p.life.Ready(ctx)
	if err == nil {
		err = p.ping(ctx)
	}
	if err != nil {
		return fmt.Errorf("ping Redis: %w", translate(err))
	}
	return nil
}

func (p *Provider) ping(ctx context.Context) error {
	limit, cancel := fabric.WithDefaultTimeout(ctx, fabric.PingTimeout)
	defer cancel()
	if err := p.tries(limit, p.serves); err != nil {
		return err
	}
	for !p.busesConnected() {
		fabric.Pause(limit, tryPause)
		if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err()
		}
		if limit.Err() != nil {
			return errOffline
		}
	}
	return nil
}

// busesConnected says whether all connections for signals are there.
func (p *Provider) busesConnected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.buses {
		if !b.isConnected() {
			return false
		}
	}
	return true
}

// errNotServed says that a cluster does not serve all its slots.
var errNotServed = errors.New("the cluster does not serve all hash slots")

// serves asks whether commands are taken.
func (p *Provider) serves(ctx context.Context) error {
	if !p.options.Cluster {
		return p.client.Do(ctx, p.client.B().Ping().Build()).Error()
	}
	info, err := p.client.Do(ctx, p.client.B().ClusterInfo().Build()).ToString()
	if err == nil && infoField(info, "cluster_state") != "ok" {
		err = errNotServed
	}
	return err
}

// Close implements fabric.Provider.
func (p *Provider) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() == nil {
		p.life.End()
		go p.client.Close() // it waits for a server that is silent
	}
	return nil
}

// bus returns the connection for channels that begin with base, and connects it when there is
// none yet: that of the server which has base's hash slot.
func (p *Provider) bus(base string) (*bus, error) {
	if !p.options.Cluster {
		base = "" // there is one server
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil {
		return nil, fabric.ErrClosed
	}
	b := p.buses[base]
	if b == nil {
		b = newBus(p, base)
		p.buses[base] = b
		go b.run()
	}
	return b, nil
}

// notNil returns text as a value, which is never nil.
func notNil(text string) []byte { return append([]byte{}, text...) }
