package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
)

// SyncAlways has every write on disk before it is acknowledged.
const SyncAlways = "always"

// Options configure an Engine.
type Options struct {
	// DataDir is the directory of the node. The engine locks it and keeps its files in a
	// directory of its own within. Created with mode 0700 when missing.
	DataDir string
	// Sync says when a write reaches the disk: SyncAlways, also when empty, or a duration
	// such as "2m", within which an acknowledged write may be lost to a power failure.
	Sync string
	// ServerName is the name of the node; empty is "parley". It must stay the same, and be
	// the node's own in a cluster: there it is needed. A node whose data was wiped must not
	// come back under the name it had.
	ServerName string
	// Cluster makes the engine a member of a cluster; nil is standalone.
	Cluster *Cluster
	// Logger takes the engine's log; nil is slog.Default.
	Logger *slog.Logger
}

// check refuses what cannot work.
func (o Options) check() error {
	if o.DataDir == "" {
		return errors.New("no data directory given")
	}
	if strings.ContainsAny(o.ServerName, " .*>\t\r\n") {
		return fmt.Errorf("server name %q may not have spaces nor any of . * >", o.ServerName)
	}
	if o.Cluster == nil {
		return nil
	}
	if o.ServerName == "" {
		return errors.New("a member of a cluster needs a server name of its own")
	}
	return o.Cluster.check()
}

// serverOptions translates the options.
func (o Options) serverOptions() (*server.Options, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	so := &server.Options{
		ServerName:             o.ServerName,
		StoreDir:               filepath.Join(o.DataDir, storeDir),
		JetStream:              true,
		DontListen:             true,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	}
	if so.ServerName == "" {
		so.ServerName = "parley"
	}
	if o.Sync == "" || o.Sync == SyncAlways {
		so.SyncAlways = true
	} else {
		interval, err := time.ParseDuration(o.Sync)
		if err != nil || interval <= 0 {
			return nil, fmt.Errorf("sync %q is neither %q nor a positive duration", o.Sync, SyncAlways)
		}
		so.SyncInterval = interval
	}
	if o.Cluster != nil {
		if err := o.Cluster.apply(so); err != nil {
			return nil, err
		}
	}
	return so, nil
}

// lockDirectory creates the directories of the engine and takes the lock, which ends with
// the process at the latest.
func lockDirectory(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(filepath.Join(dir, storeDir), 0o700); err != nil {
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
