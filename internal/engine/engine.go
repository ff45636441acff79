// Package engine runs the storage and messaging engine of a node, nats-server with JetStream,
// inside this process: it starts it, watches its health, hands out connections to it and
// stops it. Now standalone: one node, reachable from this process only.
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
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// SyncAlways has every write on disk before it is acknowledged.
const SyncAlways = "always"

// startTimeout bounds Start when its context has no deadline. Reading a large store takes
// a while, the more so after a crash.
const startTimeout = 2 * time.Minute

// reconnectWait is the pause between two attempts of a connection to come back.
const reconnectWait = 250 * time.Millisecond

var (
	// ErrInUse says that another engine has the data directory open.
	ErrInUse = errors.New("data directory is in use")
	// ErrUnhealthy says that the engine runs no more or cannot keep its promises.
	ErrUnhealthy = errors.New("engine is unhealthy")
)

// Options configure an Engine.
type Options struct {
	// DataDir is the directory of the node. The engine locks it and keeps its files in a
	// directory of its own within. Created with mode 0700 when missing.
	DataDir string
	// Sync says when a write reaches the disk: SyncAlways, also when empty, or a duration
	// such as "2m", within which an acknowledged write may be lost to a power failure.
	Sync string
	// ServerName is the name of the node; empty is "parley". It must stay the same.
	ServerName string
	// Logger takes the engine's log; nil is slog.Default.
	Logger *slog.Logger
}

// Engine is a running engine.
type Engine struct {
	server *server.Server
	logger *slog.Logger
	fatal  *fatalError
	lock   *flock.Flock

	mu          sync.Mutex // guards connections
	connections map[*nats.Conn]chan struct{}

	started  chan struct{} // closed when the server has done or given up its start
	stopOnce sync.Once
	stopped  chan struct{} // closed when the server is down and the lock released
}

// Start opens the data directory and returns when the engine is ready to store. Errors:
// ErrInUse, an error about an option, the engine's own, and that of ctx. Without a deadline
// on ctx it gives up after two minutes.
func Start(ctx context.Context, options Options) (*Engine, error) {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	serverOptions, err := options.serverOptions()
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	lock, err := lockDirectory(options.DataDir)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	srv, err := server.NewServer(serverOptions)
	if err != nil {
		return nil, fmt.Errorf("start engine: %w", errors.Join(err, lock.Unlock()))
	}
	e := &Engine{
		server:      srv,
		logger:      options.Logger,
		fatal:       &fatalError{},
		lock:        lock,
		connections: map[*nats.Conn]chan struct{}{},
		started:     make(chan struct{}),
		stopped:     make(chan struct{}),
	}
	log := &logAdapter{logger: options.Logger, fatal: e.fatal}
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

// serverOptions translates the options.
func (o Options) serverOptions() (*server.Options, error) {
	if o.DataDir == "" {
		return nil, errors.New("no data directory given")
	}
	if o.ServerName == "" {
		o.ServerName = "parley"
	}
	if strings.ContainsAny(o.ServerName, " .*>\t\r\n") {
		return nil, fmt.Errorf("server name %q may not have spaces nor any of . * >", o.ServerName)
	}
	so := &server.Options{
		ServerName:             o.ServerName,
		StoreDir:               filepath.Join(o.DataDir, "engine"),
		JetStream:              true,
		DontListen:             true,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	}
	if o.Sync == "" || o.Sync == SyncAlways {
		so.SyncAlways = true
		return so, nil
	}
	interval, err := time.ParseDuration(o.Sync)
	if err != nil || interval <= 0 {
		return nil, fmt.Errorf("sync %q is neither %q nor a positive duration", o.Sync, SyncAlways)
	}
	so.SyncInterval = interval
	return so, nil
}

// lockDirectory creates the directories of the engine and takes the lock, which ends with
// the process at the latest.
func lockDirectory(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(filepath.Join(dir, "engine"), 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "engine.lock"), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data directory %q: %w", dir, err)
	}
	if !locked {
		return nil, fmt.Errorf("%w: %q is open in another process; "+
			"stop that one, or give this one a data directory of its own", ErrInUse, dir)
	}
	return lock, nil
}

// run starts the server and waits until it is ready, or has failed, or ctx ends.
func (e *Engine) run(ctx context.Context) error {
	go func() {
		defer close(e.started)
		e.server.Start() // returns, since nothing listens; does not tell of failure
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
	return e.Health(ctx)
}

// Connect returns a connection to the engine that does not leave the process and comes back
// whenever it is lost. The name appears in the engine's log. The caller may close it; Stop
// does otherwise.
func (e *Engine) Connect(name string) (*nats.Conn, error) {
	closed := make(chan struct{})
	conn, err := nats.Connect("",
		nats.InProcessServer(e.server),
		nats.Name(name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.logger.Warn("engine connection", slog.String("connection", name), slog.Any("error", err))
		}),
		nats.ClosedHandler(func(conn *nats.Conn) {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.connections, conn)
			close(closed)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect %q to the engine: %w", name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.connections[conn] = closed
	return conn, nil
}

// Health returns nil when the engine can store, and otherwise an error that wraps
// ErrUnhealthy and says why. It looks at every stream and is made for a probe each second,
// not for each request.
func (e *Engine) Health(ctx context.Context) error {
	if err := e.fatal.get(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnhealthy, err)
	}
	if !e.server.Running() {
		return fmt.Errorf("%w: it was stopped", ErrUnhealthy)
	}
	if !e.server.JetStreamEnabled() {
		return fmt.Errorf("%w: its store is disabled", ErrUnhealthy)
	}
	result := make(chan *server.HealthStatus, 1)
	go func() { result <- e.server.Healthz(&server.HealthzOptions{}) }()
	select {
	case status := <-result:
		if status.Status != "ok" {
			return fmt.Errorf("%w: %s: %s", ErrUnhealthy, status.Status, status.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: no answer: %w", ErrUnhealthy, ctx.Err())
	}
}

// Stop drains the connections that are still open, shuts the engine down and releases the
// data directory. If ctx ends first, it returns its error, and the shutdown goes on behind.
// Further calls wait for the first. Workers and watchers should have ended before.
func (e *Engine) Stop(ctx context.Context) error {
	e.stopOnce.Do(func() {
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

// drain lets the connections send what they hold, and closes them when that is done or ctx
// ends.
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
	e.server.Shutdown()
	e.server.WaitForShutdown()
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
