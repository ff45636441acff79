// Package memory keeps the parts of a fabric.Provider in the memory of this process: for
// tests and for a single node that may forget everything when it ends. "Durable" in the
// contracts means here: as long as the process and any Provider of the store live.
//
// It may import fabric and the standard library, and nothing else.
package memory

import (
	"context"
	"fmt"
	"sync"

	"github.com/parleyio/parley/internal/fabric"
)

// Options configure a Provider.
type Options struct {
	// Dropped is told of what is lost; nil is nobody.
	Dropped fabric.DropFunc
}

// Provider implements fabric.Provider.
type Provider struct {
	life    fabric.Life
	store   *store
	dropped fabric.DropFunc
}

var (
	_ fabric.Provider     = (*Provider)(nil)
	_ fabric.QueueRemover = (*Provider)(nil)
)

// store is what the providers of one store share.
type store struct {
	mu        sync.Mutex // guards the following fields
	documents map[string]*collection
	jobs      map[string]*jobs
	buses     map[string]*bus
	caches    map[string]*cacheStore
	locks     map[string]*lockTable
	logs      map[string]*logStore
	blobs     map[string]*blobStore
}

// New returns a Provider with an empty store.
func New() *Provider { return NewWith(Options{}) }

// NewWith returns a Provider with an empty store.
func NewWith(options Options) *Provider {
	return newProvider(options, &store{
		documents: map[string]*collection{},
		jobs:      map[string]*jobs{},
		buses:     map[string]*bus{},
		caches:    map[string]*cacheStore{},
		locks:     map[string]*lockTable{},
		logs:      map[string]*logStore{},
		blobs:     map[string]*blobStore{},
	})
}

func newProvider(options Options, s *store) *Provider {
	if options.Dropped == nil {
		options.Dropped = func(string, string, int) {}
	}
	return &Provider{life: fabric.NewLife(), store: s, dropped: options.Dropped}
}

// Join returns another Provider over the same store: another node, for those who play
// several nodes in one process. Each is closed by itself.
func (p *Provider) Join(options Options) *Provider { return newProvider(options, p.store) }

// opened returns the part of that name from a map of the store, made by create when there is
// none yet.
func opened[T any](s *store, parts map[string]T, name string, create func() T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	part, ok := parts[name]
	if !ok {
		part = create()
		parts[name] = part
	}
	return part
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

// Documents implements fabric.Provider.
func (p *Provider) Documents(ctx context.Context, name string) (fabric.Documents, error) {
	if err := p.check(ctx, "documents", name); err != nil {
		return nil, err
	}
	return &documents{
		provider:   p,
		name:       name,
		collection: opened(p.store, p.store.documents, name, newCollection),
	}, nil
}

// Queue implements fabric.Provider. Of a queue that is opened twice both have the same jobs,
// and each works by its own configuration.
func (p *Provider) Queue(ctx context.Context, config fabric.QueueConfig) (fabric.Queue, error) {
	if err := p.life.Ready(ctx); err != nil {
		return nil, fmt.Errorf("open queue %.300q: %w", config.Name, err)
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return &queue{
		provider: p,
		jobs:     opened(p.store, p.store.jobs, config.Name, newJobs),
		config:   config,
	}, nil
}

// RemoveQueue implements fabric.QueueRemover. Who has the queue open keeps what is in it to
// himself.
func (p *Provider) RemoveQueue(ctx context.Context, name string) error {
	if err := p.check(ctx, "queue", name); err != nil {
		return err
	}
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	delete(p.store.jobs, name)
	return nil
}

// Signal implements fabric.Provider.
func (p *Provider) Signal(ctx context.Context, name string) (fabric.Signal, error) {
	if err := p.check(ctx, "signal", name); err != nil {
		return nil, err
	}
	return newSignal(p, opened(p.store, p.store.buses, name, newBus), name), nil
}

// Cache implements fabric.Provider. Each handle keeps to its own MaxBytes.
func (p *Provider) Cache(ctx context.Context, config fabric.CacheConfig) (fabric.Cache, error) {
	if err := p.check(ctx, "cache", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return &cache{
		provider: p,
		store:    opened(p.store, p.store.caches, config.Name, newCacheStore),
		config:   config,
	}, nil
}

// Locks implements fabric.Provider.
func (p *Provider) Locks(ctx context.Context, name string) (fabric.Locks, error) {
	if err := p.check(ctx, "locks", name); err != nil {
		return nil, err
	}
	return &locks{
		provider: p,
		table:    opened(p.store, p.store.locks, name, newLockTable),
		name:     name,
	}, nil
}

// Log implements fabric.Provider.
func (p *Provider) Log(ctx context.Context, config fabric.LogConfig) (fabric.Log, error) {
	if err := p.check(ctx, "log", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	s := opened(p.store, p.store.logs, config.Name, newLogStore)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config = config
	return &log{provider: p, name: config.Name, store: s}, nil
}

// Blobs implements fabric.Provider.
func (p *Provider) Blobs(ctx context.Context, config fabric.BlobConfig) (fabric.Blobs, error) {
	if err := p.check(ctx, "blobs", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open blobs: %w", err)
	}
	return &blobs{
		provider: p,
		config:   config,
		store:    opened(p.store, p.store.blobs, config.Name, newBlobStore),
	}, nil
}

// Ping implements fabric.Carrier.
func (p *Provider) Ping(ctx context.Context) error { return p.life.Ready(ctx) }

// Close implements fabric.Provider. What was stored is gone with the last Provider of the
// store.
func (p *Provider) Close() error {
	p.life.End()
	return nil
}
