package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// storesAnswer returns nil while something can be stored, and otherwise why not, for people.
// The view is asked first: a leader that loses its followers goes on for some seconds.
func (n *Node) storesAnswer(ctx context.Context) error {
	k := n.cluster
	if k.bus != nil {
		return n.brokerAnswer()
	}
	view, known := k.membership.View(), k.known()
	if err := noMajority(view, known, false); err != nil {
		return err
	}
	if errors.Is(n.engine.Health(ctx), engine.ErrNoQuorum) {
		return noMajority(view, known, true)
	}
	return nil
}

// brokerAnswer returns nil while the broker that keeps documents is there.
func (n *Node) brokerAnswer() error {
	c := n.carriers.byPart["documents"]
	if err := c.probe(context.Background()); err != nil {
		return fmt.Errorf("%w: %s does not answer; see then whether this was done", admin.ErrNoStore, c.driver)
	}
	return nil
}

// noMajority returns an error if too few nodes with a store are alive to store anything, or if
// there is no leader, whoever is alive.
func noMajority(view cluster.View, known []cluster.Member, leaderless bool) error {
	stores, away := cluster.Stores(known), storesAway(view, known)
	switch {
	case 2*(stores-len(away)) > stores && !leaderless:
		return nil
	case len(away) == 0:
		return fmt.Errorf("%w: all are there, but without a leader; see \"parley cluster status\"", admin.ErrNoMajority)
	}
	return fmt.Errorf("%w: %d of %d missing: %s; start them, and see then whether this was done",
		admin.ErrNoMajority, len(away), stores, strings.Join(away, ", "))
}
