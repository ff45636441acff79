package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/primitives"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// startPrimitives builds what serves the fabric to other applications.
func (n *Node) startPrimitives(ctx context.Context) error {
	c := n.config.Primitives
	if !c.Enabled {
		return nil
	}
	documents, err := patiently(ctx, n.log, "the keys of primitives", func(ctx context.Context) (fabric.Documents, error) {
		return n.fabric.Documents(ctx, primitives.Collection)
	})
	if err != nil {
		return err
	}
	metrics := primitives.NewMetrics(n.config.Metrics.Prefix)
	server, err := primitives.New(primitives.Options{
		Keys:              staticKeys(c.Keys),
		MaxQueues:         c.MaxQueues,
		MaxHeld:           c.MaxHeld,
		MaxWaiting:        c.MaxWaiting,
		CacheBytes:        c.CacheMaxBytes,
		SignalAge:         c.SignalsMaxAge,
		SignalBytes:       c.SignalsMaxBytes,
		IdempotencyWindow: c.IdempotencyWindow,
		RequestsPerSecond: c.RequestsPerSecond,
		Roles:             roles{n.config.Node},
		Rates:             n.limits.primitives,
		Logger:            n.log.With("part", "primitives"),
		Metrics:           metrics,
		Dropped:           n.metrics.Drop,
	}, n.fabric)
	if err != nil {
		return fmt.Errorf("build the primitives: %w", err)
	}
	n.primitives = server
	n.metrics.Register(metrics)
	if err := server.Start(ctx, documents); err != nil {
		return fmt.Errorf("start the primitives: %w", err)
	}
	return nil
}

func staticKeys(keys []config.PrimitiveKey) []primitives.StaticKey {
	list := make([]primitives.StaticKey, len(keys))
	for i, key := range keys {
		list[i] = primitives.StaticKey(key)
	}
	return list
}

// roles tell applications beside the node what it does.
type roles struct{ config.Node }

// Names implements primitives.Roles.
func (r roles) Names() []string { return r.Roles }

// keyring has the administration API manage the keys of the primitives.
type keyring struct{ *primitives.Server }

// ListKeys implements admin.Keys.
func (k keyring) ListKeys() []admin.KeyView {
	list := []admin.KeyView{}
	for _, key := range k.Keys() {
		list = append(list, viewOf(key))
	}
	return list
}

func viewOf(key primitives.Key) admin.KeyView {
	return admin.KeyView{
		NewKey: admin.NewKey{
			ID: key.ID, Namespace: key.Namespace, Scopes: key.Scopes, RequestsPerSecond: key.RequestsPerSecond,
		},
		Static: key.Static, CreatedAt: key.CreatedAt,
	}
}

// CreateKey implements admin.Keys.
func (k keyring) CreateKey(ctx context.Context, key admin.NewKey) (admin.KeyView, error) {
	created, token, err := k.Server.CreateKey(ctx, primitives.Key{
		ID: key.ID, Namespace: key.Namespace, Scopes: key.Scopes, RequestsPerSecond: key.RequestsPerSecond,
	})
	if err != nil {
		return admin.KeyView{}, keyError(err)
	}
	view := viewOf(created)
	view.Token = token
	return view, nil
}

// RevokeKey implements admin.Keys.
func (k keyring) RevokeKey(ctx context.Context, id string) error {
	return keyError(k.Server.RevokeKey(ctx, id))
}

// keyError adds what the administration API calls an error.
func keyError(err error) error {
	for ours, theirs := range map[error]error{
		primitives.ErrKeyNotFound: admin.ErrNoKey, primitives.ErrKeyExists: admin.ErrKeyExists,
		primitives.ErrTooManyKeys: admin.ErrKeyExists, primitives.ErrKeyStatic: admin.ErrKeyStatic,
		primitives.ErrKeyInvalid: admin.ErrKeyInvalid,
	} {
		if errors.Is(err, ours) {
			return fmt.Errorf("%w: %w", theirs, err)
		}
	}
	return err
}

// leavePrimitives ends what would last for ever, so that the ports can be closed.
func (n *Node) leavePrimitives() {
	if n.primitives != nil {
		n.primitives.Leave()
	}
}

// stopPrimitives gives back what the node holds for clients. What it cannot give back is free when its
// lease is over.
func (n *Node) stopPrimitives(ctx context.Context) {
	if n.primitives == nil {
		return
	}
	if err := n.primitives.Stop(ctx); err != nil {
		n.log.Warn("jobs and locks of clients are left to their leases", "error", err)
	}
}

// workWebhooks is the key of background work by which node.roles can say which nodes send webhooks.
const workWebhooks = "webhooks:send"

// sendsWebhooks tells whether this node is to send webhooks now.
func (n *Node) sendsWebhooks() bool {
	if n.cluster == nil {
		return true
	}
	return sendsAmong(n.config.Node, n.cluster.membership.View().Members)
}

// sendsAmong tells whether a node is to send webhooks: by its roles, or because no node that is
// there has any for that.
func sendsAmong(node config.Node, members []cluster.Member) bool {
	return node.Works(workWebhooks) || !slices.ContainsFunc(members, func(m cluster.Member) bool {
		return m.State != cluster.StateStarting && (m.HasRole(cluster.RoleWorker) || m.HasRole(workWebhooks))
	})
}
