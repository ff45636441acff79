package nats

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
)

// keepsReplicas is JetStream without two surprises. Opening a stream that exists does not change
// how many replicas it has: nodes that started when the cluster had another size would move them
// back and forth; who grows or shrinks a cluster changes them, one stream at a time. And a request
// that meets an election, which nobody answers, is made again.
type keepsReplicas struct{ jetstream.JetStream }

// CreateOrUpdateStream implements jetstream.StreamManager.
func (k keepsReplicas) CreateOrUpdateStream(
	ctx context.Context, config jetstream.StreamConfig,
) (jetstream.Stream, error) {
	return ask(ctx, func(ctx context.Context) (jetstream.Stream, error) {
		stream, err := k.Stream(ctx, config.Name)
		switch {
		case err == nil:
			config.Replicas = stream.CachedInfo().Config.Replicas
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, err
		}
		return k.JetStream.CreateOrUpdateStream(ctx, config)
	})
}
