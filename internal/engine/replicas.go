package engine

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Replication tells how often a stream is kept.
type Replication struct {
	Want int // replicas that it is to have
	Have int // the same without those that are still being made
	// Memory tells that it is kept in memory only: it survives a loss, as others do, but not
	// the restart of so many nodes at once.
	Memory bool
}

// Replicas returns how often each stream is kept, by its name. A replica on a server that is
// away counts. Errors: ErrStandalone, those of the server, and that of ctx.
func (e *Engine) Replicas(ctx context.Context) (map[string]Replication, error) {
	conn, err := e.clusterConn()
	if err != nil {
		return nil, fmt.Errorf("read replicas: %w", err)
	}
	names, err := streamNames(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("read replicas: %w", err)
	}
	replicas := map[string]Replication{}
	for _, name := range names {
		info, err := readStream(ctx, conn, name)
		if hasCode(err, codeStreamNotFound) {
			continue // deleted since
		}
		if err != nil {
			return nil, fmt.Errorf("read replicas: stream %s: %w", name, err)
		}
		kept := Replication{Want: info.Config.Replicas, Have: 1, Memory: info.Config.Storage == "memory"}
		if info.Cluster != nil {
			for _, peer := range info.Cluster.Replicas {
				if !peer.Pending {
					kept.Have++
				}
			}
		}
		kept.Have = min(kept.Have, kept.Want)
		replicas[name] = kept
	}
	return replicas, nil
}

// Raise brings every stream that has fewer to the given number of replicas, 3 or 5, and lowers
// none. It changes one at a time, with its consumers, only in a healthy cluster, and goes on when all
// replicas of it have what the leader had, on their own disks; writing goes on meanwhile. It calls
// begin before it changes a stream. Only one node should do so at a time. If it fails, what was
// changed stays; call it again. Errors: ErrStandalone.
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
