package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/engine"
)

// A node that ran alone brings what it stored into the cluster that it founds. Nothing is
// touched until the founders have agreed; then the store is copied and set aside, the copy
// restored through the cluster, compared on every replica, and only then is the old store let
// go, which means renamed. Each step leaves on disk what the next start needs to go on. The
// other nodes open nothing of what is stored until the one that brings it says that it is done.

const (
	// importPause is between two tries to restore: the other nodes may not be there yet.
	importPause = 5 * time.Second
	// importNotice is between two lines in the log about a wait.
	importNotice = 10 * time.Second
	// waitPause is between two looks at what tells nobody when it is done.
	waitPause = 100 * time.Millisecond
)

// bringsData tells whether this node has what it stored alone and is to bring it.
func (n *Node) bringsData() bool {
	_, pending := engine.PendingImport(n.config.Node.DataDir)
	return pending || engine.HasStandaloneStore(n.config.Node.DataDir)
}

// leaveStandalone copies the store of a node that ran alone and sets it aside, unless that was
// done by an earlier start.
func (n *Node) leaveStandalone(ctx context.Context, options engine.Options) error {
	if !engine.HasStandaloneStore(options.DataDir) {
		return nil
	}
	log := n.log.With("part", "cluster")
	n.waits("copying what this node stored while it ran alone")
	log.Info("copying what this node stored while it ran alone, to take it into the cluster", "data_dir", options.DataDir)
	begin := time.Now()
	options.Cluster, options.ServerName = nil, ""
	alone, err := engine.Start(ctx, options)
	if err != nil {
		return fmt.Errorf("open what this node stored alone: %w", err)
	}
	if err := alone.LeaveStandalone(ctx); err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.config.Shutdown.Grace)
		defer cancel()
		return errors.Join(fmt.Errorf("copy what this node stored alone: %w", err), alone.Stop(stopping))
	}
	log.Info("copied; the old store is set aside until the copy is verified in the cluster",
		"after", time.Since(begin).Round(time.Millisecond))
	return nil
}

// importData restores the copy into the cluster, lets the old store go and tells the others.
func (n *Node) importData(ctx context.Context) error {
	dir, pending := engine.PendingImport(n.config.Node.DataDir)
	log := n.log.With("part", "cluster")
	if pending {
		manifest, err := engine.ReadManifest(dir)
		if err != nil {
			return fmt.Errorf("read the copy of what this node stored alone: %w; the store itself is beside it, "+
				"untouched: rename engine.standalone to engine and remove engine.export to have it copied again", err)
		}
		begin := time.Now()
		if err := n.restoreCopy(ctx, dir, len(manifest.Streams)); err != nil {
			return err
		}
		log.Info("everything that this node stored alone is in the cluster, verified on every replica",
			"streams", len(manifest.Streams), "replicas", n.cluster.replicas(), "after", time.Since(begin).Round(time.Millisecond))
	}
	kept, size, err := engine.ReleaseStandalone(n.config.Node.DataDir)
	if err != nil {
		return err
	}
	if kept != "" {
		log.Info("the old store is kept and not used any more; remove it when you are content",
			"directory", kept, "bytes", size)
	}
	n.cluster.membership.Imported()
	return nil
}

// restoreCopy tries until it succeeds or must not go on.
func (n *Node) restoreCopy(ctx context.Context, dir string, streams int) error {
	log := n.log.With("part", "cluster")
	doing := fmt.Sprintf("bringing the %d streams that this node stored alone into the cluster", streams)
	n.waits(doing)
	for try := 1; ; try++ {
		log.Info("bringing what this node stored alone into the cluster", "streams", streams, "try", try)
		err := n.engine.Restore(ctx, dir, n.cluster.replicas())
		switch {
		case err == nil:
			return nil
		case errors.Is(err, engine.ErrStreamExists):
			return fmt.Errorf("%w; Parley does not merge data: found a cluster with nodes whose data directories "+
				"are empty. What this node stored alone is untouched in engine.standalone in its data directory", err)
		case errors.Is(err, engine.ErrBadBackup):
			return fmt.Errorf("%w; the store itself is untouched: rename engine.standalone to engine and remove "+
				"engine.export to have it copied again", err)
		}
		log.Warn("not everything is in the cluster yet, trying again", "try", try, "error", err)
		n.waits(fmt.Sprintf("%s; try %d: %v", doing, try, err))
		select {
		case <-time.After(importPause):
		case <-ctx.Done():
			return fmt.Errorf("bring what was stored alone: %w", errors.Join(ctx.Err(), err))
		}
	}
}

// awaitImport waits until no other member has data to bring: what is stored is not to be
// opened before, or empty streams would be in its way.
func (n *Node) awaitImport(ctx context.Context) error {
	noticed := time.Time{}
	for {
		importing := slices.DeleteFunc(n.cluster.known(), func(m cluster.Member) bool {
			return !m.Importing || m.ID == n.cluster.decision.Self.ID
		})
		if len(importing) == 0 {
			return nil
		}
		names := make([]string, len(importing))
		for i, m := range importing {
			names[i] = m.Name
		}
		n.waits("waiting for " + strings.Join(names, ", ") + " to bring what it stored while it ran alone; if it is " +
			"lost for good, stop the nodes that wait, empty their data directories, and start them again")
		if time.Since(noticed) >= importNotice {
			noticed = time.Now()
			n.log.Info("waiting for another node to bring what it stored alone", "part", "cluster", "nodes", strings.Join(names, ", "))
		}
		select {
		case <-time.After(waitPause):
		case <-ctx.Done():
			return fmt.Errorf("wait for what %s brings: %w", strings.Join(names, ", "), ctx.Err())
		}
	}
}
