// Package nats keeps the parts of a fabric.Provider in JetStream, over a connection to the
// embedded engine or to a NATS cluster.
//
// A collection of documents is a key-value bucket, parley-docs-<name>, with one stored
// message a key. A queue is a work-queue stream, parley-queue-<name>, with one durable pull
// consumer, and a stream of dead letters, parley-dead-<name>. Few wide streams, whatever the
// number of keys, jobs and workers: each costs the cluster a consensus group.
//
// It may import fabric, nats.go and the standard library, and nothing else: the engine is
// no business of it.
package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// Replicas is the number of copies of every stream; 0 is 1.
	Replicas int
	// Logger takes what goes wrong in the background; nil is slog.Default.
	Logger *slog.Logger
}

// Provider implements fabric.Provider.
type Provider struct {
	conn     *natsgo.Conn
	js       jetstream.JetStream
	replicas int
	logger   *slog.Logger
	life     context.Context // ends with Close
	end      context.CancelFunc
}

var _ fabric.Provider = (*Provider)(nil)

// New returns a Provider over conn. The caller keeps conn, and closes it after the Provider
// and after the Work and Watch calls have returned.
func New(conn *natsgo.Conn, options Options) (*Provider, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	life, end := context.WithCancel(context.Background())
	return &Provider{
		conn:     conn,
		js:       js,
		replicas: max(1, options.Replicas),
		logger:   options.Logger,
		life:     life,
		end:      end,
	}, nil
}

// Documents implements fabric.Provider.
func (p *Provider) Documents(ctx context.Context, name string) (fabric.Documents, error) {
	if err := p.ready(ctx); err != nil {
		return nil, fmt.Errorf("open documents %.300q: %w", name, err)
	}
	if err := fabric.CheckName(name); err != nil {
		return nil, fmt.Errorf("open documents: %w", err)
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
	if err := p.ready(ctx); err != nil {
		return nil, fmt.Errorf("open queue %.300q: %w", config.Name, err)
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

// Close implements fabric.Provider. The connection stays open.
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

// ended is the result of a call that ran until its bound context ended or the connection
// was closed: nil when the caller ended it, otherwise ErrClosed.
func (p *Provider) ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return fabric.ErrClosed
	}
	return nil
}

// pause waits before something is tried again, or until ctx ends.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryPause):
	}
}

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
	}
	return err
}

// Codes of the JetStream API that the client library does not name.
const (
	codeWrongLastSequenceReplicated jetstream.ErrorCode = 10164
	codeStoreFailed                 jetstream.ErrorCode = 10077
)

// isConflict says whether a write was refused because its subject had moved on.
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == codeWrongLastSequenceReplicated)
}

// isFull says whether a write was refused because the stream has MaxMsgs messages. The
// server gives every failed store the same code and tells them apart by the text alone.
func isFull(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == codeStoreFailed &&
		api.Description == "maximum messages exceeded"
}
