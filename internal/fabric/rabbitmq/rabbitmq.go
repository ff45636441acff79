// Package rabbitmq carries the queues of fabric over RabbitMQ, 3.10 and later, and no other
// port.
//
// A queue is a handful of quorum queues: <prefix>.<name> for the jobs that may start, some
// named <prefix>.<name>.wait-<time> for those that may not yet, and <prefix>.<name>.dead for
// those that the broker itself gives up. What AMQP cannot say, which job IDs are known and which
// jobs are dead letters, is kept in a cache and in documents of another driver. DESIGN.md says
// how they work together, and what is lost when.
//
// It may import fabric, amqp091-go and the standard library, and nothing else.
package rabbitmq

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// DefaultPrefix stands before the names of all queues when Options name no other.
const DefaultPrefix = "parley"

// maxPrefixSize keeps the longest name of a queue below the 255 bytes that AMQP allows.
const maxPrefixSize = 64

// operationTimeout bounds an operation whose caller set no bound, and openTimeout the opening
// of a queue, for which the broker may have to found ten consensus groups.
const (
	operationTimeout = 5 * time.Second
	openTimeout      = 30 * time.Second
)

// Options configure a Provider.
type Options struct {
	// URLs are amqp:// or amqps:// addresses of the brokers of one cluster, with user, password
	// and virtual host. The next one is taken when one does not answer.
	URLs []string
	// TLS is for amqps://; nil is what the parameters of the URL ask for (cacertfile, certfile,
	// keyfile, server_name_indication), and without those the system's certificates.
	TLS *tls.Config
	// Name appears in the broker's list of connections.
	Name string
	// Prefix stands before the names of all queues, so that environments can share a virtual
	// host: letters, digits, - and _, at most 64 bytes; empty is DefaultPrefix.
	Prefix string

	// Cache remembers which IDs of jobs are known, and Documents keeps the dead letters. All
	// nodes that share a queue must share them. Close does not close them.
	Cache     fabric.CacheCarrier
	Documents fabric.DocumentsCarrier

	// Dropped is told of what is lost; nil is nobody.
	Dropped fabric.DropFunc
	// Logger takes what goes wrong in the background; nil is slog.Default.
	Logger *slog.Logger
}

// check returns an error that wraps fabric.ErrInvalidConfig and names what cannot be used.
func (o Options) check() error {
	if err := fabric.CheckName(o.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if len(o.Prefix) > maxPrefixSize {
		return fmt.Errorf("prefix %q has more than %d bytes: %w", o.Prefix, maxPrefixSize, fabric.ErrInvalidConfig)
	}
	if o.Cache == nil || o.Documents == nil {
		return fmt.Errorf("a cache and documents are needed: %w", fabric.ErrInvalidConfig)
	}
	return nil
}

// Provider implements fabric.QueueCarrier.
type Provider struct {
	options Options
	brokers []broker
	life    fabric.Life
	kept    chan struct{} // closed when the goroutine that keeps the session has ended

	mu      sync.Mutex        // guards the following fields
	session *session          // nil while there is none
	changed chan struct{}     // closed and replaced when session changes
	tallies map[string]*tally // by name of the queue
}

var (
	_ fabric.QueueCarrier = (*Provider)(nil)
	_ fabric.QueueRemover = (*Provider)(nil)
)

// Open returns a Provider that is connected to one of the brokers. It waits for a broker that
// is not there yet for as long as ctx lets it, and returns at once when a broker is older than
// 3.10 (fabric.ErrUnsupported) or keeps refusing the credentials. A connection that is lost
// later comes back by itself.
func Open(ctx context.Context, options Options) (*Provider, error) {
	if options.Prefix == "" {
		options.Prefix = DefaultPrefix
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Dropped == nil {
		options.Dropped = func(string, string, int) {}
	}
	err := options.check()
	var brokers []broker
	if err == nil {
		brokers, err = parseBrokers(options.URLs)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to RabbitMQ: %w", err)
	}
	p := &Provider{
		options: options,
		brokers: brokers,
		life:    fabric.NewLife(),
		kept:    make(chan struct{}),
		changed: make(chan struct{}),
		tallies: map[string]*tally{},
	}
	first, err := p.connect(ctx, refusalsAtStart)
	if err != nil {
		p.life.End()
		return nil, fmt.Errorf("connect to RabbitMQ: %w", err)
	}
	p.setSession(first)
	go p.keep(first)
	return p, nil
}

// Queue implements fabric.QueueCarrier. Jobs of any RetryPolicy and Concurrency may share a
// queue; MaxJobs and MaxDead hold for those who opened it with them.
func (p *Provider) Queue(ctx context.Context, config fabric.QueueConfig) (fabric.Queue, error) {
	if err := p.life.Ready(ctx); err != nil {
		return nil, fmt.Errorf("open queue %.300q: %w", config.Name, err)
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q, err := openQueue(ctx, p, config)
	if err != nil {
		return nil, fmt.Errorf("open queue %q: %w", config.Name, err)
	}
	return q, nil
}

// RemoveQueue implements fabric.QueueRemover.
func (p *Provider) RemoveQueue(ctx context.Context, name string) error {
	err := p.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckName(name)
	}
	if err == nil {
		err = p.removeQueue(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("remove queue %.300q: %w", name, err)
	}
	return nil
}

// removeQueue removes first what the broker has: letters may be listed until they are gone.
func (p *Provider) removeQueue(ctx context.Context, name string) error {
	limit, cancel := fabric.WithDefaultTimeout(ctx, openTimeout)
	defer cancel()
	names := newTopology(p.options.Prefix, name)
	_, err := onSession(limit, p, func(s *session) (struct{}, error) { return struct{}{}, names.remove(limit, s) })
	if err != nil {
		return p.explain(ctx, err)
	}
	p.mu.Lock()
	delete(p.tallies, name)
	p.mu.Unlock()
	letters, err := p.openLetters(limit, name)
	if err == nil {
		err = letters.removeAll(limit)
	}
	return p.explain(ctx, err)
}

// openLetters opens the dead letters of a queue.
func (p *Provider) openLetters(ctx context.Context, queue string) (*letters, error) {
	heads, err := p.options.Documents.Documents(ctx, p.storeName("dead", queue))
	if err != nil {
		return nil, err
	}
	payloads, err := p.options.Documents.Documents(ctx, p.storeName("payloads", queue))
	if err != nil {
		return nil, err
	}
	return &letters{
		queue: queue, heads: heads, payloads: payloads, dropped: p.options.Dropped, logger: p.options.Logger,
	}, nil
}

// Ping implements fabric.Carrier. It asks the broker for an answer; the cache and the documents
// have Pings of their own.
func (p *Provider) Ping(ctx context.Context) error {
	err := p.life.Ready(ctx)
	if err == nil {
		limit, cancel := fabric.WithDefaultTimeout(ctx, fabric.PingTimeout)
		defer cancel()
		var s *session
		if s, err = p.current(limit); err == nil {
			err = s.ping(limit)
		}
		err = p.explain(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("ping RabbitMQ: %w", err)
	}
	return nil
}

// Close implements fabric.Carrier. Jobs that are worked on go back to the broker.
func (p *Provider) Close() error {
	p.life.End()
	<-p.kept
	return nil
}

// explain adds to the error of an operation that ran within ctx or a bound of its own which
// sentinel of fabric it is: ErrClosed after Close, and ErrUnavailable when the time was over
// before the broker had answered. What the caller cancelled is his own error.
func (p *Provider) explain(ctx context.Context, err error) error {
	switch {
	case err == nil, errors.Is(err, fabric.ErrUnavailable):
		return err
	case p.life.Err() != nil:
		return fmt.Errorf("%w: %w", fabric.ErrClosed, err)
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded), isLost(err):
		return fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)
	}
	return err
}

// tally returns what this process knows of the jobs of a queue, shared by all handles of it.
func (p *Provider) tally(name string) *tally {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tallies[name] == nil {
		p.tallies[name] = &tally{}
	}
	return p.tallies[name]
}

// storeName names the cache or the documents of a queue. It has no more bytes than a name may
// have, whatever prefix and name are.
func (p *Provider) storeName(kind, queue string) string {
	const maxNameSize = 128
	name := p.options.Prefix + "-" + queue
	if len("queue-")+len(kind)+1+len(name) > maxNameSize {
		sum := sha256.Sum256([]byte(name))
		name = hex.EncodeToString(sum[:])
	}
	return "queue-" + kind + "-" + name
}
