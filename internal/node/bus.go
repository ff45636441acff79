package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/fabric"
)

// Nodes that share a broker are one server without a cluster of engines: they hear each other's
// heartbeats on the signal, and nothing is stored by them. Who can reach the broker belongs.

// busDirectory is below the data directory, with the identity of a node that shares a broker.
const busDirectory = "bus"

// meet makes this node one of those that share the broker of the signal.
func (n *Node) meet(ctx context.Context) error {
	options := n.clusterOptions()
	options.OverBus, options.Secret = true, ""
	options.DataDir = filepath.Join(n.config.Node.DataDir, busDirectory)
	if len(options.Roles) == 0 {
		options.Roles = cluster.Roles()
	}
	options.Roles = slices.DeleteFunc(slices.Clone(options.Roles), func(role string) bool { return role == cluster.RoleStore })
	if err := n.lockBus(options.DataDir); err != nil {
		return err
	}
	options.Properties = n.properties(options.AdvertisedHost())
	decision, err := cluster.Meet(options)
	if err != nil {
		return fmt.Errorf("meet the other nodes: %w", err)
	}
	k := &clustered{begun: time.Now(), options: options, decision: decision, bus: n.carriers.byPart["signal"]}
	n.cluster = k
	n.found.Store(k)
	n.exportCluster()
	signal, err := n.fabric.Signal(ctx, "cluster")
	if err != nil {
		return fmt.Errorf("open the cluster's signal: %w", err)
	}
	if k.membership, err = cluster.Start(k.options, k.decision, signal); err != nil {
		return err
	}
	k.started.Store(k.membership)
	return n.openSharedCache(ctx)
}

// lockBus keeps another process from using the same identity.
func (n *Node) lockBus(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the directory of the node's identity: %w", err)
	}
	n.busLock = flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	locked, err := n.busLock.TryLock()
	if err != nil {
		return fmt.Errorf("lock the directory of the node's identity: %w", err)
	}
	if !locked {
		return fmt.Errorf("another node runs with the data directory %s; give each a node.data_dir of its own", n.config.Node.DataDir)
	}
	return nil
}

// openSharedCache opens the cache of the last events of cache channels.
func (n *Node) openSharedCache(ctx context.Context) (err error) {
	n.cluster.cache, err = patiently(ctx, n.log, "the shared cache", func(ctx context.Context) (fabric.Cache, error) {
		return n.fabric.Cache(ctx, fabric.CacheConfig{Name: "channels", MaxBytes: cacheBytes})
	})
	return err
}

// certainAfter is how many heartbeats a node must have been in touch with the broker without a
// break until it believes what it sees of others: by then everybody who lives was heard.
const certainAfter = 2

// hearsAll tells whether this node, which shares a broker with the others, must have heard each of
// them that lives.
func (k *clustered) hearsAll() bool {
	return k.bus.inTouch() >= certainAfter*k.options.HeartbeatInterval
}
