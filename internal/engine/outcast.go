package engine

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// A member that the others take out of the cluster hears of it as the last order of the log that
// its members share. Who leads that log stops following it when the order is stored, mostly before
// it has carried it out (nats-server 2.15.2, applyCommit): it then waits for a leader for ever, and
// goes on answering reads from replicas that nobody writes to any more.

// watchOutcast notices that this member was taken out, if the server does not, and switches its
// store off, as the server does.
func (e *Engine) watchOutcast() {
	defer e.background.Done()
	// Longer than a leader whom no majority follows goes on: what such a one ordered may never happen.
	ticker := time.NewTicker(lostQuorumInterval + lostQuorumCheck + leaderTimeout)
	defer ticker.Stop()
	missed := false
	for {
		select {
		case <-ticker.C:
		case <-e.stopping:
			return
		}
		missing := e.outcast(context.Background()) // its requests are bounded
		if missing && missed {
			e.log.removed.Store(true)
			e.logger.Error("the store is switched off", slog.Any("error", e.takenOut()))
			if err := e.server.DisableJetStream(); err != nil {
				e.logger.Warn("switch the store off", slog.Any("error", err))
			}
			return
		}
		missed = missing
	}
}

// outcast tells whether this member has no leader and others have one who does not count it.
func (e *Engine) outcast(ctx context.Context) bool {
	status, err := e.Status()
	if err != nil || status.Leader != "" {
		return false
	}
	meta, err := e.leaderView(ctx)
	if err != nil || meta.Leader == "" || meta.Leader == e.options.ServerName {
		return false
	}
	self := peerID(e.options.ServerName) // names of members that the leader has not heard of yet are missing
	return !slices.ContainsFunc(meta.Replicas, func(peer *server.PeerInfo) bool { return peer.Peer == self })
}
