package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/directory"
	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher"
)

// clustered is what a node of a cluster has beside its other parts.
type clustered struct {
	options    cluster.Options
	decision   cluster.Decision
	membership *cluster.Membership
	directory  *directory.Directory
	cache      fabric.Cache
	reports    reports
	// started is set when membership exists; the engine tells of peers before that.
	started atomic.Pointer[cluster.Membership]
	begun   time.Time
	peers   []string // connected engines, by the ids of their nodes; used by peersChanged only
	// bus carries the signal of nodes that share a broker; nil in a cluster of engines.
	bus *carrier
}

// Timing of the directory.
const (
	directoryBatch  = 20 * time.Millisecond
	directoryDigest = time.Second
)

// cacheBytes bounds the shared cache of cache channels.
const cacheBytes = 64 << 20

// discover finds the other nodes and returns the engine's part of it.
func (n *Node) discover(ctx context.Context) (*engine.Cluster, error) {
	c := n.config.Cluster
	tlsConfig, engineTLS, err := clusterTLS(c)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(n.config.Node.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data directory: %w", err)
	}
	k := &clustered{begun: time.Now(), options: n.clusterOptions()}
	k.options.TLS, k.options.Importing = tlsConfig, n.bringsData()
	k.options.Properties = n.properties(k.options.AdvertisedHost())
	n.waits("looking for the cluster")
	if k.decision, err = cluster.Discover(ctx, k.options); err != nil {
		return nil, fmt.Errorf("find the cluster: %w", err)
	}
	n.cluster = k
	n.found.Store(k)
	n.exportCluster()
	n.adviseSize(cluster.Stores(k.decision.Members))
	k.decision.Hello.ReleaseRoutePort()
	return &engine.Cluster{
		Name:         c.Domain,
		Host:         c.BindHost,
		Port:         k.decision.Hello.RoutePort(),
		Advertise:    k.decision.Self.Addresses[cluster.AddressRoute],
		Routes:       k.decision.Routes(),
		Secret:       c.Secret,
		TLS:          engineTLS,
		NoStore:      !k.decision.Self.HasRole(cluster.RoleStore),
		PeersChanged: k.peersChanged,
	}, nil
}

// clusterOptions returns what the configuration says about the cluster.
func (n *Node) clusterOptions() cluster.Options {
	c := n.config.Cluster
	return cluster.Options{
		DataDir:            n.config.Node.DataDir,
		Secret:             c.Secret,
		Domain:             c.Domain,
		Seeds:              c.Seeds,
		BootstrapExpect:    c.BootstrapExpect,
		BindHost:           c.BindHost,
		BindPort:           n.config.Port(c.BindPort),
		AdvertiseHost:      c.AdvertiseHost,
		AdvertisePort:      c.AdvertisePort,
		AdvertiseRoutePort: c.AdvertiseRoutePort,
		Name:               n.config.Node.Name,
		Roles:              n.config.Node.Roles,
		SubDomain:          n.config.Node.SubDomain,
		Addresses: map[string]string{
			cluster.AddressChannels: n.Address("channels"),
			"metrics":               n.Address("metrics"),
		},
		Version:           Version(),
		Waiting:           func(what string) { n.waits("looking for the cluster: " + what) },
		Forgotten:         func() { n.fail(cluster.ErrForgotten) },
		HeartbeatInterval: c.HeartbeatInterval,
		NodeTimeout:       c.NodeTimeout,
		CleanupInterval:   c.CleanupInterval,
		Logger:            n.log.With("part", "cluster"),
		Dropped:           n.metrics.Drop,
	}
}

// clusterTLS returns what mutual TLS between nodes needs, nil for none.
func clusterTLS(c config.Cluster) (*tls.Config, *engine.TLSOptions, error) {
	if c.CertFile == "" {
		return nil, nil, nil
	}
	options := &engine.TLSOptions{CertFile: c.CertFile, KeyFile: c.KeyFile, CAFile: c.CAFile}
	hello, err := options.Config()
	return hello, options, err
}

// peersChanged hears from the engine which others it is connected to. A lost one is the
// first sign of a dead process.
func (k *clustered) peersChanged(peers []string) {
	lost := slices.DeleteFunc(k.peers, func(id string) bool { return slices.Contains(peers, id) })
	if m := k.started.Load(); m != nil {
		for _, id := range lost {
			m.PeerLost(id)
		}
	}
	k.peers = peers
}

// foundingHead is how much earlier the first node of a new cluster creates what is stored
// than the others: the engine leaves requests unanswered that create the same at once.
const foundingHead = 1500 * time.Millisecond

// yieldToFounder lets the first node of a new cluster go ahead.
func (k *clustered) yieldToFounder(ctx context.Context) {
	stores := slices.DeleteFunc(slices.Clone(k.decision.Members),
		func(m cluster.Member) bool { return !m.HasRole(cluster.RoleStore) })
	if k.decision.Kind != cluster.Form || len(stores) == 0 || stores[0].ID == k.decision.Self.ID {
		return
	}
	select {
	case <-time.After(foundingHead):
	case <-ctx.Done():
	}
}

// startMembership begins to hear of the other nodes and to tell them of this one.
func (n *Node) startMembership(ctx context.Context) error {
	k := n.cluster
	signal, err := n.fabric.Signal(ctx, "cluster")
	if err != nil {
		return fmt.Errorf("open the cluster's signal: %w", err)
	}
	if k.membership, err = cluster.Start(k.options, k.decision, signal); err != nil {
		return err
	}
	k.started.Store(k.membership)
	if k.decision.Self.Importing {
		err = n.importData(ctx)
	} else if _, _, err = engine.ReleaseStandalone(n.config.Node.DataDir); err == nil { // what an earlier start left of it
		err = n.awaitImport(ctx)
	}
	if err != nil {
		return err
	}
	if !k.decision.Self.Importing {
		n.waits("waiting for the node that founds the cluster")
		k.yieldToFounder(ctx)
	}
	n.waits("opening what is stored")
	n.changes, err = patiently(ctx, n.log, "the lock on members and replicas", func(ctx context.Context) (fabric.Locks, error) {
		return n.fabric.Locks(ctx, "cluster")
	})
	if err != nil {
		return err
	}
	return n.openSharedCache(ctx)
}

// joinHub connects the hub with those of the other nodes.
func (n *Node) joinHub(ctx, background context.Context) error {
	k := n.cluster
	rows, err := n.fabric.Signal(ctx, "directory")
	if err != nil {
		return fmt.Errorf("open the directory's signal: %w", err)
	}
	self := k.decision.Self
	k.directory, err = directory.New(directory.Options{
		Node:           self.ID,
		Incarnation:    uint64(time.Now().UnixNano()),
		Signal:         rows,
		BatchInterval:  directoryBatch,
		DigestInterval: directoryDigest,
		Changed:        func(changes []directory.Change) { n.hub.Changed(changes) },
		Dropped:        n.metrics.Drop,
		Logger:         n.log.With("part", "directory"),
	})
	if err != nil {
		return fmt.Errorf("open the directory: %w", err)
	}
	events, err := n.fabric.Signal(ctx, eventsSignal)
	if err != nil {
		return fmt.Errorf("open the channels' signal: %w", err)
	}
	err = n.hub.Join(pusher.Cluster{
		Node:     self.ID,
		Signal:   events,
		Set:      k.directory.Set,
		Flush:    k.directory.Flush,
		Owns:     k.owns,
		Reported: n.webhooks,
		Cache:    k.cache,
		App:      n.apps.ByID,
	})
	if err != nil {
		return err
	}
	n.startReports(background)
	n.goes("directory", func() error { return k.directory.Run(background) })
	n.goes("membership", func() error { return n.followViews(background) })
	n.goes("load", func() error { return n.tellLoad(background) })
	if k.bus == nil {
		n.goes("replicas", func() error { return n.grower.run(background) })
	}
	return nil
}

// A node that starts takes clients when it knows what the others have, at the latest after
// knowTimeout: until then its presence lists would be short.
const (
	knowTimeout = 5 * time.Second
	knowPause   = 20 * time.Millisecond
)

// awaitKnowledge waits until the directory has the rows of every other ready node.
func (k *clustered) awaitKnowledge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, knowTimeout)
	defer cancel()
	ticker := time.NewTicker(knowPause)
	defer ticker.Stop()
	for {
		view := k.membership.View()
		known := !slices.ContainsFunc(view.Members, func(m cluster.Member) bool {
			return m.ID != view.Self && m.State == cluster.StateReady && !k.directory.Knows(m.ID)
		})
		alone := k.decision.Kind == cluster.Form || k.bus != nil && k.hearsAll()
		if known && (len(view.Members) > 1 || alone) {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// followViews drops from the directory what nodes that are gone had there.
func (n *Node) followViews(ctx context.Context) error {
	views := n.cluster.membership.Subscribe()
	for {
		change, err := views.Next(ctx)
		if errors.Is(err, cluster.ErrStopped) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range change.Left {
			n.log.Info("node is gone", "part", "cluster", "node", m.Name, "id", m.ID)
			n.cluster.directory.NodeGone(m.ID)
		}
		for _, m := range change.Joined {
			if m.ID != change.View.Self {
				n.log.Info("node is there", "part", "cluster", "node", m.Name, "id", m.ID)
				n.tellNamesake(change.View, m)
			}
		}
	}
}

// ready tells the others that this node takes its part.
func (k *clustered) ready() { k.membership.SetState(cluster.StateReady) }

// leave tells the others that this node goes.
func (k *clustered) leave(ctx context.Context) error {
	if k.membership == nil {
		return nil
	}
	if err := k.membership.Leave(ctx); err != nil {
		return fmt.Errorf("leave the cluster: %w", err)
	}
	return nil
}

// partingTime bounds giving back what clients hold and telling the others that the node stops.
const partingTime = 2 * time.Second

// storeTime bounds closing the store, also when clients that do not answer have used up the grace: a
// process that ends before has the next start look through it.
const storeTime = 10 * time.Second

// leaveCluster tells the others that the node stops. That they cannot be reached does not keep it from
// stopping as it should: they find out.
func (n *Node) leaveCluster(ctx context.Context) error {
	err := n.cluster.leave(ctx)
	if errors.Is(err, fabric.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("the other nodes are not told that this one stops, and have to find out", "error", err)
		return nil
	}
	return err
}

func (k *clustered) stop() {
	if k.membership != nil {
		k.membership.Stop()
	}
	if k.decision.Hello != nil {
		k.decision.Hello.Close()
	}
}
