package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// A cluster that has just formed elects leaders first: opening what is stored takes up to
// several seconds then, and a try may end without an answer.
const (
	openTimeout = time.Minute
	openTry     = 2 * time.Second // a request from before the election is never answered
	openPause   = 100 * time.Millisecond
)

// patiently calls open until it succeeds, ctx ends, or openTimeout has passed. What is only too
// early is tried again.
func patiently[T any](ctx context.Context, log *slog.Logger, what string, open func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for try := 1; ; try++ {
		trying, done := context.WithTimeout(ctx, openTry)
		part, err := open(trying)
		done()
		if err == nil {
			return part, nil
		}
		if !early(err) || ctx.Err() != nil {
			return part, fmt.Errorf("open %s: %w", what, err)
		}
		log.Info("waiting for the cluster's storage", "for", what, "try", try, "error", err)
		select {
		case <-time.After(openPause):
		case <-ctx.Done():
			return part, fmt.Errorf("open %s: %w", what, err)
		}
	}
}

// tooFewPeers is the engine's code for stored data that wants more copies than nodes are
// connected, as some founders of a cluster are not for a moment.
const tooFewPeers jetstream.ErrorCode = 10005

// early tells whether an error says that nobody could answer yet, or too few nodes were there.
func early(err error) bool {
	var refusal *jetstream.APIError
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrJetStreamNotEnabled) ||
		errors.Is(err, fabric.ErrUnavailable) || // a leader is being elected
		errors.As(err, &refusal) && refusal.ErrorCode == tooFewPeers
}
