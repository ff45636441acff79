package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/fabric"
)

// A cluster that has just formed elects leaders first: opening what is stored takes up to
// several seconds then, and a try may end without an answer.
const (
	openTimeout = time.Minute
	openTry     = 2 * time.Second // a request from before the election is never answered
	openPause   = 100 * time.Millisecond
)

// patiently calls open until it succeeds, ctx ends, or openTimeout has passed. Only failures
// to get an answer are tried again.
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
		if !unanswered(err) || ctx.Err() != nil {
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

// unanswered tells whether an error says that nobody could answer yet, or that leaders are
// being elected.
func unanswered(err error) bool {
	return errors.Is(err, fabric.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) ||
		errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrJetStreamNotEnabled)
}
