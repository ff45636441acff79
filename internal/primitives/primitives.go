// Package primitives serves the fabric to applications beside the node: cache, signals, queues,
// locks and ids as a small HTTP API below PathPrefix, for whoever bears a key. A key belongs to a
// namespace, and nothing of one namespace is seen from another. Any node of a cluster answers any
// request.
//
// It may import fabric, ratelimit, an HTTP and WebSocket library and the Prometheus client. It
// must never import another surface, the configuration, the membership or the composition root.
package primitives

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/ratelimit"
)

// PathPrefix is the path below which the API lives.
const PathPrefix = "/v1/"

// Name is that of what the service opens in the fabric.
const Name = "primitives"

// Options configure a Server. All numbers are positive.
type Options struct {
	Keys              []StaticKey
	MaxQueues         int           // in the cluster
	MaxHeld           int           // jobs on lease and locks that are held through this node
	MaxWaiting        int           // requests that wait, and subscribers, on this node
	CacheBytes        int64         // of all namespaces
	SignalAge         time.Duration // how long signals are kept; 0 for no limit
	SignalBytes       int64         // of all namespaces
	IdempotencyWindow time.Duration // how long the answer to an idempotent request is kept
	RequestsPerSecond int           // of a key that has no limit of its own; 0 for no limit
	Roles             Roles
	// Rates counts the requests of keys; nil for one that counts on this node alone.
	Rates   *ratelimit.Keyed[string]
	Logger  *slog.Logger
	Metrics *Metrics
	// Dropped is told of each loss with its reason.
	Dropped func(reason string)
}

// Roles is what a node does.
type Roles interface {
	// Names returns the roles; none is all.
	Names() []string
	// ServesRequests tells whether the node serves clients.
	ServesRequests() bool
	// Works tells whether the node works on a key of background work.
	Works(key string) bool
}

// Server serves the API on one node.
type Server struct {
	options   Options
	log       *slog.Logger
	fabric    fabric.Provider
	registry  *registry
	signal    fabric.Signal       // between the nodes
	listening fabric.Subscription // to other nodes
	held      *holdings
	doing     sync.Map // ids of the idempotent requests that are being done
	cache     *part[fabric.Cache]
	locks     *part[fabric.Locks]
	signals   *part[*tail]
	counters  *part[fabric.Documents]
	minters   minters
	requests  chan struct{}    // holds a token for each request that is done
	waiting   chan struct{}    // holds a token for each that waits
	now       func() time.Time // the clock of ids
	mux       *http.ServeMux
	document  document

	queuesMu sync.Mutex // guards queues
	queues   map[queueName]*worker

	staying   context.Context // ends with Leave
	leave     context.CancelFunc
	life      context.Context // ends with Stop
	end       context.CancelFunc
	runningMu sync.RWMutex // held for reading while a goroutine is added
	ended     bool         // Stop was called; guarded by runningMu
	running   sync.WaitGroup
}

// maxRequests is how many requests a node does at a time, those that wait aside.
const maxRequests = 256

// NewRates returns what counts the requests of keys: in windows of one second.
func NewRates() *ratelimit.Keyed[string] { return ratelimit.NewKeyed[string](0, time.Second, MaxKeys) }

// New returns a server over the fabric, which lets nobody in before Start.
func New(options Options, provider fabric.Provider) (*Server, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Metrics == nil {
		options.Metrics = NewMetrics("parley_")
	}
	if options.Dropped == nil {
		options.Dropped = func(string) {}
	}
	if options.Rates == nil {
		options.Rates = NewRates()
	}
	s := &Server{
		options: options, log: options.Logger, fabric: provider, held: newHoldings(options.MaxHeld),
		requests: make(chan struct{}, maxRequests), waiting: make(chan struct{}, options.MaxWaiting),
		queues: map[queueName]*worker{}, now: time.Now,
	}
	s.life, s.end = context.WithCancel(context.Background())
	s.staying, s.leave = context.WithCancel(s.life)
	seen := map[tokenHash]string{}
	var keys []*Key
	for _, static := range options.Keys {
		key, err := static.key()
		if err != nil {
			return nil, err
		}
		if other, twice := seen[key.hash]; twice {
			return nil, fmt.Errorf("keys %q and %q: %w: they have the same token", other, key.ID, ErrKeyInvalid)
		}
		seen[key.hash] = key.ID
		keys = append(keys, key)
	}
	s.registry = newRegistry(nil, keys, s.log)
	s.openParts()
	var err error
	if s.document, err = readDocument(); err != nil {
		return nil, err
	}
	s.routes()
	options.Metrics.watch(s)
	return s, nil
}

// openParts says how each part of the fabric is opened when it is first needed.
func (s *Server) openParts() {
	o := s.options
	s.cache = newPart("the cache", func(ctx context.Context) (fabric.Cache, error) {
		return s.fabric.Cache(ctx, fabric.CacheConfig{Name: Name, MaxBytes: o.CacheBytes})
	})
	s.locks = newPart("the locks", func(ctx context.Context) (fabric.Locks, error) {
		return s.fabric.Locks(ctx, Name)
	})
	s.counters = newPart("the counters of ids", func(ctx context.Context) (fabric.Documents, error) {
		return s.fabric.Documents(ctx, Name+"-ids")
	})
	s.signals = newPart("the signals", func(ctx context.Context) (*tail, error) {
		log, err := s.fabric.Log(ctx, fabric.LogConfig{Name: Name, MaxAge: o.SignalAge, MaxBytes: o.SignalBytes})
		if err != nil {
			return nil, err
		}
		return newTail(s, log)
	})
}

// Start loads keys and queues, follows them and begins to hear of other nodes. The documents are
// those of Collection.
func (s *Server) Start(ctx context.Context, documents fabric.Documents) error {
	var err error
	if s.signal, err = s.fabric.Signal(ctx, Name); err != nil {
		return fmt.Errorf("open the signal between nodes: %w", err)
	}
	if err := s.listen(); err != nil {
		return err
	}
	if err := s.signal.Flush(ctx); err != nil {
		return fmt.Errorf("listen to other nodes: %w", err)
	}
	s.registry.documents = documents
	s.registry.changed = s.queuesChanged
	return s.registry.start(s.life, s.goes)
}

// goes runs something until the server stops, and returns false when it has.
func (s *Server) goes(run func()) bool {
	s.runningMu.RLock()
	defer s.runningMu.RUnlock()
	if s.ended {
		return false
	}
	s.running.Go(run)
	return true
}

// Leave ends what may last for ever: subscribers are told to go to another node, and who waits
// for a job or a lock is answered. Other requests are served as before.
func (s *Server) Leave() { s.leave() }

// Stop ends what the server does for clients, and waits for that until ctx ends. Jobs on lease go
// back to their queues; locks stay taken for as long as their holders may rely on them. Nobody
// may send requests any more.
func (s *Server) Stop(ctx context.Context) error {
	s.leave()
	s.runningMu.Lock()
	s.ended = true
	s.runningMu.Unlock()
	s.end()
	if s.listening != nil {
		_ = s.listening.Unsubscribe() // it ends with the fabric in any case
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.running.Wait()
		s.minters.stop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop the primitives: %w", ctx.Err())
	}
}

// Keys returns all keys, without their tokens.
func (s *Server) Keys() []Key {
	var keys []Key
	for _, key := range s.registry.snapshot.Load().all {
		keys = append(keys, *key)
	}
	return keys
}

// CreateKey stores a key and returns it with its token, which nobody can read again. A key
// without an id gets one.
func (s *Server) CreateKey(ctx context.Context, key Key) (Key, string, error) {
	created, token, err := s.registry.createKey(ctx, key)
	if err != nil {
		return Key{}, "", err
	}
	return *created, token, nil
}

// RevokeKey removes a key of the store. From then on no node lets its bearer in, and what its
// bearer follows ends.
func (s *Server) RevokeKey(ctx context.Context, id string) error {
	return s.registry.revokeKey(ctx, id)
}

// workerOf returns what works on a queue, which is created with the default settings when there
// is none and create says so.
func (s *Server) workerOf(ctx context.Context, name queueName, create bool) (*worker, error) {
	record, found := s.registry.queue(name)
	if !found && !create {
		return nil, errQueueNotFound
	}
	if !found {
		var err error
		if record, _, err = s.setQueue(ctx, name, nil); err != nil {
			return nil, err
		}
	}
	s.queuesMu.Lock()
	defer s.queuesMu.Unlock()
	w := s.queues[name]
	if w == nil || w.record != record {
		if w != nil {
			w.retire()
		}
		w = newWorker(s, name, record)
		s.queues[name] = w
	}
	return w, nil
}

// setQueue gives a queue settings, and creates it if there is none; nil are the default ones of a
// queue that is not there. It returns whether it is new.
func (s *Server) setQueue(
	ctx context.Context, name queueName, settings *QueueSettings,
) (record queueRecord, created bool, err error) {
	err = s.registry.changeQueues(ctx, func(all map[queueName]queueRecord) error {
		var found bool
		if record, found = all[name]; record.Removing {
			return errQueueRemoving
		}
		created = !found
		if created && len(all) >= s.options.MaxQueues {
			return errTooManyQueues
		}
		if created {
			record = defaultQueue()
		}
		if settings != nil {
			record.QueueSettings = *settings
		}
		all[name] = record
		return nil
	})
	return record, created, err
}

// removeQueue removes a queue with all that is in it. What was broken off is gone on with.
func (s *Server) removeQueue(ctx context.Context, name queueName) error {
	remover, ok := s.fabric.(fabric.QueueRemover)
	if !ok {
		return fmt.Errorf("remove queue: %w", fabric.ErrUnsupported)
	}
	var record queueRecord
	err := s.registry.changeQueues(ctx, func(all map[queueName]queueRecord) error {
		var found bool
		if record, found = all[name]; !found {
			return errQueueNotFound
		}
		record.Removing = true
		all[name] = record
		return nil
	})
	if err != nil {
		return err
	}
	if err := remover.RemoveQueue(ctx, record.stream(name)); err != nil {
		return err
	}
	return s.registry.changeQueues(ctx, func(all map[queueName]queueRecord) error {
		if all[name].Generation == record.Generation {
			delete(all, name)
		}
		return nil
	})
}

// queuesChanged has what works on a queue begin anew with its new settings.
func (s *Server) queuesChanged(next map[queueName]queueRecord) {
	s.queuesMu.Lock()
	defer s.queuesMu.Unlock()
	for name, w := range s.queues {
		if record, stays := next[name]; !stays || record != w.record {
			delete(s.queues, name)
			w.retire()
		}
	}
}
