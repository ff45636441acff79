// Package nats keeps the parts of a fabric.Provider in JetStream, over a connection to the
// embedded engine or to a NATS cluster.
//
// A signal is core NATS on subjects below parley.signal.<name>, where parley is the prefix. Every other part is a stream
// or two, few and wide, whatever the number of keys, jobs and workers, because each costs the
// cluster a consensus group: KV_parley-docs-<name>, parley-queue-<name> with one durable
// consumer and parley-dead-<name>, parley-cache-<name>, parley-lock-<name>,
// parley-log-<name>, parley-blob-<name>. DESIGN.md says how each is used.
//
// It may import fabric, nats.go and the standard library, and nothing else: the engine is
// no business of it.
package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// retryPause is how long a Work or Watch call waits before it asks again for something that
// the server just refused.
const retryPause = time.Second

// Options configure a Provider.
type Options struct {
	// Prefix begins the name of every stream and subject, so that those who share a cluster and
	// have different ones see nothing of each other: letters, digits, - and _. Empty is parley.
	Prefix string
	// Replicas is the number of copies of every stream; 0 is 1.
	Replicas int
	// Logger takes what goes wrong in the background; nil is slog.Default.
	Logger *slog.Logger
	// Dropped is told of what is lost; nil is nobody.
	Dropped fabric.DropFunc
}

// Provider implements fabric.Provider.
type Provider struct {
	conn     *natsgo.Conn
	own      bool // whether Close closes conn
	js       jetstream.JetStream
	prefix   string
	replicas int
	logger   *slog.Logger
	dropped  fabric.DropFunc
	dial     natsgo.Options // how conn was connected
	life     fabric.Life
	stores   atomic.Bool // something stored was opened

	mu        sync.Mutex     // guards the following fields
	bus       *bus           // nil until the first signal is opened
	lingering sync.WaitGroup // for the ends of requests for jobs
}

var (
	_ fabric.Provider     = (*Provider)(nil)
	_ fabric.QueueRemover = (*Provider)(nil)
)

// New returns a Provider over conn. The caller keeps conn, and closes it after the Provider
// and after the Work and Watch calls have returned.
func New(conn *natsgo.Conn, options Options) (*Provider, error) {
	prefix := cmp.Or(options.Prefix, "parley")
	if err := fabric.CheckName(prefix); err != nil {
		return nil, fmt.Errorf("prefix of names in NATS: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Dropped == nil {
		options.Dropped = func(string, string, int) {}
	}
	return &Provider{
		conn:     conn,
		js:       keepsReplicas{js},
		prefix:   prefix,
		replicas: max(1, options.Replicas),
		logger:   options.Logger,
		dropped:  options.Dropped,
		dial:     conn.Opts,
		life:     fabric.NewLife(),
	}, nil
}

// stream is the name of the stream of a part.
func (p *Provider) stream(kind, name string) string { return p.prefix + "-" + kind + "-" + name }

// subject is what the subjects of a part begin with.
func (p *Provider) subject(kind, name string) string { return p.prefix + "." + kind + "." + name + "." }

// Documents implements fabric.Provider.
func (p *Provider) Documents(ctx context.Context, name string) (fabric.Documents, error) {
	if err := p.check(ctx, "documents", name); err != nil {
		return nil, err
	}
	d, err := openDocuments(ctx, p, name)
	if err != nil {
		return nil, fmt.Errorf("open documents %q: %w", name, translate(err))
	}
	return d, nil
}

// Queue implements fabric.Provider. Visibility, MaxJobs and MaxDead hold for all who have
// the queue open, as given by the one who opened it last.
func (p *Provider) Queue(ctx context.Context, config fabric.QueueConfig) (fabric.Queue, error) {
	if err := p.check(ctx, kindQueue, config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q, err := openQueue(ctx, p, config)
	if err != nil {
		return nil, fmt.Errorf("open queue %q: %w", config.Name, translate(err))
	}
	return q, nil
}

// RemoveQueue implements fabric.QueueRemover.
func (p *Provider) RemoveQueue(ctx context.Context, name string) error {
	if err := p.check(ctx, kindQueue, name); err != nil {
		return err
	}
	for _, stream := range []string{p.stream("queue", name), p.stream("dead", name)} {
		err := tries(ctx, func(ctx context.Context, _ bool) error { return p.js.DeleteStream(ctx, stream) })
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("remove queue %q: %w", name, translate(err))
		}
	}
	return nil
}

// check does what every opening of a named part does first.
func (p *Provider) check(ctx context.Context, kind, name string) error {
	if err := p.life.Ready(ctx); err != nil {
		return fmt.Errorf("open %s %.300q: %w", kind, name, err)
	}
	if err := fabric.CheckName(name); err != nil {
		return fmt.Errorf("open %s: %w", kind, err)
	}
	if kind == kindSignal {
		return nil
	}
	p.stores.Store(true)
	if err := supports(kind, p.conn.ConnectedServerVersion()); err != nil {
		return fmt.Errorf("open %s: %w", kind, err)
	}
	return nil
}

// Signal implements fabric.Provider. All signals share a connection of their own, which the
// first one opens and Close closes.
func (p *Provider) Signal(ctx context.Context, name string) (fabric.Signal, error) {
	if err := p.check(ctx, kindSignal, name); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil {
		return nil, fmt.Errorf("open signal %q: %w", name, fabric.ErrClosed)
	}
	if p.bus == nil {
		b, err := openBus(p, p.dial)
		if err != nil {
			return nil, fmt.Errorf("open signal %q: %w", name, err)
		}
		p.bus = b
	}
	return openSignal(p, p.bus, name), nil
}

// Cache implements fabric.Provider. MaxBytes holds for all who have the cache open, as given
// by the one who opened it last.
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
	l, err := openLocks(ctx, p, name)
	if err != nil {
		return nil, fmt.Errorf("open locks %q: %w", name, translate(err))
	}
	return l, nil
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

// Blobs implements fabric.Provider.
func (p *Provider) Blobs(ctx context.Context, config fabric.BlobConfig) (fabric.Blobs, error) {
	if err := p.check(ctx, "blobs", config.Name); err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, fmt.Errorf("open blobs: %w", err)
	}
	b, err := openBlobs(ctx, p, config)
	if err != nil {
		return nil, fmt.Errorf("open blobs %q: %w", config.Name, translate(err))
	}
	return b, nil
}

// Ping implements fabric.Carrier. It asks the server for an answer on each connection, and when
// something stored was opened, for what JetStream tells of the account.
func (p *Provider) Ping(ctx context.Context) error {
	if err := p.ping(ctx); err != nil {
		return fmt.Errorf("ping NATS: %w", translate(err))
	}
	return nil
}

func (p *Provider) ping(ctx context.Context) error {
	if err := p.life.Ready(ctx); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, fabric.PingTimeout)
	defer cancel()
	p.mu.Lock()
	bus := p.bus
	p.mu.Unlock()
	err := p.conn.FlushWithContext(limit)
	if err == nil && bus != nil {
		err = bus.conn.FlushWithContext(limit)
	}
	if err == nil && p.stores.Load() {
		_, err = p.js.AccountInfo(limit)
	}
	if err != nil && ctx.Err() == nil && p.life.Err() == nil {
		err = fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)
	}
	return err
}

// Close implements fabric.Provider. A connection given to New stays open.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.life.End()
	if p.bus != nil {
		p.bus.conn.Close()
	}
	if p.own {
		p.conn.Close()
	}
	p.mu.Unlock()
	p.lingering.Wait()
	return nil
}

// pause waits before something is tried again, or until ctx ends.
func pause(ctx context.Context) { fabric.Pause(ctx, retryPause) }

// translate adds the sentinel of fabric that says the same as err, if there is one.
func translate(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("%w: %w", fabric.ErrNotFound, err)
	case isConflict(err):
		return fmt.Errorf("%w: %w", fabric.ErrConflict, err)
	case isFull(err):
		return fmt.Errorf("%w: %w", fabric.ErrFull, err)
	case errors.Is(err, natsgo.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", fabric.ErrClosed, err)
	case isUnavailable(err):
		return fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)
	}
	return err
}

// Codes of the JetStream API that the client library does not name.
const (
	codeWrongLastSequenceReplicated jetstream.ErrorCode = 10164
	codeStoreFailed                 jetstream.ErrorCode = 10077
	codeDuplicateInProcess          jetstream.ErrorCode = 10158
	codeNoLeader                    jetstream.ErrorCode = 10008
	codeTooFewPeers                 jetstream.ErrorCode = 10005 // connected, for the copies that are wanted
)

// isConflict says whether a write was refused because its subject had moved on.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return true
	}
	return hasCode(err, jetstream.JSErrCodeStreamWrongLastSequence) ||
		hasCode(err, codeWrongLastSequenceReplicated)
}

// movedOn says whether a subject had moved on, perhaps by the write itself. It is for those who can tell
// from what is there now.
func movedOn(err error) bool { return isConflict(err) || errors.Is(err, errUnknown) }

func hasCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

// isUnavailable says whether nobody could serve a request at the moment.
func isUnavailable(err error) bool {
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, natsgo.ErrNoResponders) ||
		errors.Is(err, natsgo.ErrDisconnected) || errors.Is(err, natsgo.ErrReconnectBufExceeded) ||
		errors.Is(err, jetstream.ErrStreamNotFound) || hasCode(err, jetstream.JSErrCodeStreamNotFound) ||
		errors.Is(err, jetstream.ErrBucketNotFound) || // created by now, and not known to who was asked
		hasCode(err, codeTooFewPeers) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.Code == 503 && api.ErrorCode != codeStoreFailed
}

// isFull says whether a write was refused because the stream has MaxMsgs messages. The
// server gives every failed store the same code and tells them apart by the text alone.
func isFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed &&
		api.Description == "maximum messages exceeded"
}
