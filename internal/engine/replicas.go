package engine

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Replicas returns how many replicas each stream is to have, by its name. Errors:
// ErrStandalone, those of the server, and that of ctx.
func (e *Engine) Replicas(ctx context.Context) (map[string]int, error) {
	conn, err := e.clusterConn()
	if err != nil {
		return nil, fmt.Errorf("read replicas: %w", err)
	}
	replicas, err := replicasOf(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read replicas: %w", err)
	}
	return replicas, nil
}

func replicasOf(ctx context.Context, conn *nats.Conn) (map[string]int, error) {
	names, err := streamNames(ctx, conn)
	if err != nil {
		return nil, err
	}
	replicas := map[string]int{}
	for _, name := range names {
		info, err := readStream(ctx, conn, name)
		if hasCode(err, codeStreamNotFound) {
			continue // deleted since
		}
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		replicas[name] = info.Config.Replicas
	}
	return replicas, nil
}

// Raise brings every stream that has fewer to the given number of replicas, 3 or 5, one after
// the other like Rescale, and lowers none. It calls begin before it changes a stream. Only one
// node should do so at a time. If it fails, what was changed stays; call it again.
func (e *Engine) Raise(ctx context.Context, replicas int, begin func(stream string)) error {
	if replicas != 3 && replicas != 5 {
		return fmt.Errorf("raise to %d replicas: only 3 and 5 make sense", replicas)
	}
	conn, err := e.clusterConn()
	if err != nil {
		return fmt.Errorf("raise replicas: %w", err)
	}
	names, err := streamNames(ctx, conn)
	if err != nil {
		return fmt.Errorf("raise replicas: %w", err)
	}
	for _, name := range names {
		_, have, err := readConfig(ctx, conn, name)
		if hasCode(err, codeStreamNotFound) || err == nil && have >= replicas {
			continue
		}
		if err == nil {
			begin(name)
			err = e.rescaleStream(ctx, conn, name, replicas)
		}
		if err != nil {
			return fmt.Errorf("raise stream %s to %d replicas: %w", name, replicas, err)
		}
	}
	return nil
}

// clusterConn is the engine's own connection as a member of a cluster.
func (e *Engine) clusterConn() (*nats.Conn, error) {
	if e.cluster == nil {
		return nil, ErrStandalone
	}
	return e.internal(userClient)
}
