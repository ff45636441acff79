// Package memory keeps the parts of a fabric.Provider in the memory of this process: for
// tests and for a single node that may forget everything when it ends. "Durable" in the
// contracts means here: as long as the Provider lives.
//
// It may import fabric and the standard library, and nothing else.
package memory

import (
	"context"
	"fmt"
	"sync"

	"github.com/parleyio/parley/internal/fabric"
)

// Provider implements fabric.Provider.
type Provider struct {
	life context.Context // ends with Close
	end  context.CancelFunc

	mu        sync.Mutex // guards the following fields
	documents map[string]*documents
	jobs      map[string]*jobs
}

var _ fabric.Provider = (*Provider)(nil)

// New returns an empty Provider.
func New() *Provider {
	life, end := context.WithCancel(context.Background())
	return &Provider{
		life:      life,
		end:       end,
		documents: map[string]*documents{},
		jobs:      map[string]*jobs{},
	}
}

// Documents implements fabric.Provider.
func (p *Provider) Documents(ctx context.Context, name string) (fabric.Documents, error) {
	if err := p.ready(ctx); err != nil {
		return nil, fmt.Errorf("open documents %.300q: %w", name, err)
	}
	if err := fabric.CheckName(name); err != nil {
		return nil, fmt.Errorf("open documents: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.documents[name] == nil {
		p.documents[name] = newDocuments(p, name)
	}
	return p.documents[name], nil
}

// Queue implements fabric.Provider. Of a queue that is opened twice both have the same jobs,
// and each works by its own configuration.
func (p *Provider) Queue(ctx context.Context, config fabric.QueueConfig) (fabric.Queue, error) {
	if err := p.ready(ctx); err != nil {
		return nil, fmt.Errorf("open queue %.300q: %w", config.Name, err)
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.jobs[config.Name] == nil {
		p.jobs[config.Name] = newJobs()
	}
	return &queue{provider: p, jobs: p.jobs[config.Name], config: config}, nil
}

// Close implements fabric.Provider. What was stored is gone with it.
func (p *Provider) Close() error {
	p.end()
	return nil
}

// ready returns ErrClosed after Close, and the error of a ctx that has ended.
func (p *Provider) ready(ctx context.Context) error {
	if p.life.Err() != nil {
		return fabric.ErrClosed
	}
	return ctx.Err()
}

// bind returns a context that ends with ctx or with Close.
func (p *Provider) bind(ctx context.Context) (context.Context, func()) {
	bound, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.life, cancel)
	return bound, func() { stop(); cancel() }
}

// ended is the result of a call that ran until its bound context ended: nil when the caller
// ended it, ErrClosed when Close did.
func (p *Provider) ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return fabric.ErrClosed
	}
	return nil
}
