// Package engine runs the storage and messaging engine of a node, nats-server with JetStream,
// inside this process: it starts it, alone or as the member of a cluster, watches its health,
// hands out connections to it, copies its streams out and in, and stops it.
//
// It may import nats-server, nats.go and a file lock, and nothing of Parley. Nothing else in
// Parley may import nats-server.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startTimeout bounds Start when its context has no deadline. Reading a large store takes
// a while, the more so after a crash.
const startTimeout = 2 * time.Minute

// reconnectWait is the pause between two attempts of a connection to come back.
const reconnectWait = 250 * time.Millisecond

// drainTimeout is how long Stop gives a connection to hand over what it has received. One with
// a subscription that nobody reads would never be through.
const drainTimeout = 2 * time.Second

// pollInterval is the pause between two looks at something that tells nobody when it is done.
const pollInterval = 25 * time.Millisecond

var (
	// ErrInUse says that another engine has the data directory open.
	ErrInUse = errors.New("data directory is in use")
	// ErrUnhealthy says that the engine runs no more or cannot keep its promises.
	ErrUnhealthy = errors.New("engine is unhealthy")
)

// Engine is a running engine.
type Engine struct {
	options Options
	cluster *Cluster // nil when standalone
	server  *server.Server
	logger  *slog.Logger
	fatal   *fatalError
	log     *logAdapter
	lock    *flock.Flock

	routesMu sync.Mutex // held while routes change
	routes   []string   // those of the options and those added

	mu          sync.Mutex // guards connections and sealed
	connections map[*nats.Conn]chan struct{}
	sealed      bool // hands out no more connections

	beforeUnlock func() error // set before Stop, may be nil
	unlockErr    error        // its error, when stopped is closed

	internalMu sync.Mutex // guards internals
	internals  map[string]*nats.Conn

	background sync.WaitGroup // goroutines of ours
	stopping   chan struct{}  // closed to end them

	started  chan struct{} // closed when the server has done or given up its start
	stopOnce sync.Once
	stopped  chan struct{} // closed when the server is down and the lock released
}

// Start opens the data directory and returns when the engine is ready: standalone, to store;
// in a cluster, when the given routes were tried and, on a node with a store, the cluster has
// the majority that it needs to store. Errors: ErrInUse, ErrStandaloneStore, ErrClusterStore,
// an error about an option, the engine's own, and that of ctx. Without a deadline on ctx it
// gives up after two minutes.
func Start(ctx context.Context, options Options) (*Engine, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Cluster != nil {
		cluster := *options.Cluster
		cluster.Routes = slices.Clone(cluster.Routes)
		options.Cluster = &cluster
	}
	serverOptions, err := options.serverOptions()
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	lock, err := lockDirectory(options.DataDir)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	if err := errors.Join(clearStore(options.DataDir), checkStore(options.DataDir, options.Cluster)); err != nil {
		return nil, fmt.Errorf("start engine: %w", errors.Join(err, lock.Unlock()))
	}
	srv, err := server.NewServer(serverOptions)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", errors.Join(err, lock.Unlock()))
	}
	if gate, ok := serverOptions.CustomClientAuthentication.(*gatekeeper); ok {
		gate.server.Store(srv)
	}
	e := &Engine{
		options:     options,
		cluster:     options.Cluster,
		server:      srv,
		logger:      options.Logger,
		fatal:       &fatalError{},
		lock:        lock,
		connections: map[*nats.Conn]chan struct{}{},
		internals:   map[string]*nats.Conn{},
		stopping:    make(chan struct{}),
		started:     make(chan struct{}),
		stopped:     make(chan struct{}),
	}
	log := newLogAdapter(options.Logger, e.fatal, e.storeAdvice())
	e.log = log
	if e.cluster != nil {
		e.routes = e.cluster.Routes
		log.hide(e.cluster.passwords())
	}
	srv.SetLogger(log, options.Logger.Enabled(ctx, slog.LevelDebug), false)
	ctx, cancel := withDefaultTimeout(ctx, startTimeout)
	defer cancel()
	if err := e.run(ctx); err != nil {
		// Nothing may go on behind a start that failed, whatever became of ctx.
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		return nil, fmt.Errorf("start engine in %q: %w", options.DataDir, errors.Join(err, e.Stop(stopping)))
	}
	return e, nil
}

// run starts the server and waits until it is ready, or has failed, or ctx ends.
func (e *Engine) run(ctx context.Context) error {
	go func() {
		defer close(e.started)
		e.server.Start() // returns, though it listens; does not tell of failure
	}()
	select {
	case <-e.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := e.fatal.get(); err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if !e.server.ReadyForConnections(time.Until(deadline)) {
		return errors.New("not ready for connections")
	}
	if e.cluster == nil {
		return e.Health(ctx)
	}
	if e.cluster.PeersChanged != nil {
		e.background.Add(1)
		go e.watchPeers(e.cluster.PeersChanged)
	}
	if e.cluster.NoStore {
		return e.joined(ctx)
	}
	e.background.Add(1)
	go e.watchMemory()
	if err := e.joined(ctx); err != nil {
		return err
	}
	e.background.Add(1)
	go e.watchOutcast()
	return nil
}

// Connect returns a connection to the engine that does not leave the process and comes back
// whenever it is lost. The name appears in the engine's log. The caller may close it; Stop
// does otherwise.
func (e *Engine) Connect(name string) (*nats.Conn, error) {
	e.mu.Lock()
	sealed := e.sealed
	e.mu.Unlock()
	if sealed {
		return nil, fmt.Errorf("connect %q to the engine: %w", name, ErrUnhealthy)
	}
	return e.connect(name, userClient)
}

// connect returns a connection as the given user, of which a standalone engine has none.
func (e *Engine) connect(name, user string) (*nats.Conn, error) {
	closed := make(chan struct{})
	options := []nats.Option{
		nats.InProcessServer(e.server),
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.DrainTimeout(drainTimeout),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.logger.Warn("engine connection", slog.String("connection", name), slog.Any("error", err))
		}),
		nats.ClosedHandler(func(conn *nats.Conn) {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.connections, conn)
			close(closed)
		}),
	}
	if e.cluster != nil {
		options = append(options, nats.Token(e.cluster.password(user)))
	}
	conn, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("connect %q to the engine: %w", name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.connections[conn] = closed
	return conn, nil
}

// Stop drains the connections that are still open, hands over what this node leads in a
// cluster, shuts the engine down and releases the data directory. If ctx ends first, it
// returns its error, and the shutdown goes on behind. Further calls wait for the first.
// Workers and watchers should have ended before.
func (e *Engine) Stop(ctx context.Context) error {
	e.stopOnce.Do(func() {
		close(e.stopping)
		e.drain(ctx)
		go e.shutdown()
	})
	select {
	case <-e.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop engine: %w", ctx.Err())
	}
}

// drain lets the connections send what they hold and hand over what they received, for
// drainTimeout at most, and closes them then or when ctx ends.
func (e *Engine) drain(ctx context.Context) {
	e.mu.Lock()
	connections := maps.Clone(e.connections)
	e.mu.Unlock()
	for conn := range connections {
		if err := conn.Drain(); err != nil {
			conn.Close()
		}
	}
	for conn, closed := range connections {
		select {
		case <-closed:
		case <-ctx.Done():
			conn.Close()
		}
	}
}

// shutdown ends the server and releases the lock when every file is closed.
func (e *Engine) shutdown() {
	<-e.started // the server bears no shutdown during its start
	if e.cluster != nil {
		// Hands over what this node leads; without it the others would first have to notice
		// that the leader is gone.
		e.server.LameDuckShutdown()
	}
	e.server.Shutdown()
	e.server.WaitForShutdown()
	e.background.Wait()
	e.log.said.close()
	if e.beforeUnlock != nil {
		e.unlockErr = e.beforeUnlock()
	}
	if err := e.lock.Unlock(); err != nil {
		e.logger.Warn("release data directory", slog.Any("error", err))
	}
	close(e.stopped)
}

// withDefaultTimeout bounds ctx by timeout unless it has a deadline of its own.
func withDefaultTimeout(
	ctx context.Context, timeout time.Duration,
) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// poll calls done until it returns true, or ctx ends, whose error it then returns.
func poll(ctx context.Context, interval time.Duration, done func() bool) error {
	for !done() {
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
