package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const (
	// rescaleTimeout bounds the wait for the replicas of one stream.
	rescaleTimeout = 10 * time.Minute
	// placementTimeout bounds the wait for servers to put them on.
	placementTimeout = 15 * time.Second
)

// rescaleStream brings a stream, with its consumers, to a number of replicas, only in a healthy
// cluster, and returns when all of them have what the leader had, on their own disks. Writing goes
// on meanwhile.
func (e *Engine) rescaleStream(ctx context.Context, conn *nats.Conn, name string, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, rescaleTimeout)
	defer cancel()
	config, have, err := readConfig(ctx, conn, name)
	if hasCode(err, codeStreamNotFound) {
		return nil // deleted since
	}
	if err != nil {
		return err
	}
	if have != replicas {
		// What is not whole must not be changed.
		if err := e.awaitReplicas(ctx, conn, name, have); err != nil {
			return fmt.Errorf("before the change: %w", err)
		}
		if err := e.awaitHealth(ctx); err != nil {
			return err
		}
		if config["num_replicas"], err = json.Marshal(replicas); err != nil {
			return err
		}
		changed, err := json.Marshal(config)
		if err != nil {
			return err
		}
		e.logger.Info("rescale stream", slog.String("stream", name),
			slog.Int("from", have), slog.Int("to", replicas))
		if err := e.tryUpdate(ctx, conn, name, changed); err != nil {
			return err
		}
	}
	return e.awaitReplicas(ctx, conn, name, replicas)
}

// tryUpdate changes a stream. The leader may need some seconds to learn that a server which
// has just come is there for it.
func (e *Engine) tryUpdate(ctx context.Context, conn *nats.Conn, name string, config json.RawMessage) error {
	patience, cancel := context.WithTimeout(ctx, placementTimeout)
	defer cancel()
	var last error
	err := poll(patience, 8*pollInterval, func() bool {
		last = updateStream(patience, conn, name, config)
		return !hasCode(last, codeNoPeers)
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return last
}

// readConfig returns a stream's configuration as the server has it, and its replicas.
func readConfig(ctx context.Context, conn *nats.Conn, name string) (map[string]json.RawMessage, int, error) {
	var info struct {
		apiResponse
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := request(ctx, conn, "$JS.API.STREAM.INFO."+name, nil, &info); err != nil {
		return nil, 0, err
	}
	var replicas int
	if err := json.Unmarshal(info.Config["num_replicas"], &replicas); err != nil {
		return nil, 0, fmt.Errorf("understand the configuration: %w", err)
	}
	return info.Config, replicas, nil
}

// awaitHealth waits until this engine is healthy.
func (e *Engine) awaitHealth(ctx context.Context) error {
	var unhealthy error
	err := poll(ctx, 4*pollInterval, func() bool {
		unhealthy = e.Health(ctx)
		return unhealthy == nil
	})
	if err != nil {
		return errors.Join(err, unhealthy)
	}
	return nil
}

// awaitReplicas waits until the stream and its consumers have that many replicas, and each
// has on its own disk at least what the leader had at the first look.
func (e *Engine) awaitReplicas(ctx context.Context, conn *nats.Conn, name string, replicas int) error {
	first, err := readStream(ctx, conn, name)
	if err != nil {
		return err
	}
	current := map[string]map[string]bool{} // by the consumer, "" for the stream: see settling
	var missing error
	err = poll(ctx, 4*pollInterval, func() bool {
		missing = e.reached(ctx, conn, name, replicas, first.State.LastSeq, current)
		return missing == nil
	})
	if err != nil {
		return errors.Join(err, missing)
	}
	return nil
}

func (e *Engine) reached(
	ctx context.Context, conn *nats.Conn, name string, replicas int, sequence uint64,
	current map[string]map[string]bool,
) error {
	settled := func(group string, cluster *server.ClusterInfo, replicas int) error {
		if current[group] == nil {
			current[group] = map[string]bool{}
		}
		return settling(cluster, replicas, current[group])
	}
	info, err := readStream(ctx, conn, name)
	if err != nil {
		return err
	}
	if err := settled("", info.Cluster, replicas); err != nil {
		return err
	}
	found, err := consumers(ctx, conn, name)
	if err != nil {
		return err
	}
	for _, consumer := range found {
		if consumer.Config.Durable == "" {
			continue // lives and dies with one server
		}
		if err := settled(consumer.Name, consumer.Cluster, consumer.Config.replicas(replicas)); err != nil {
			return fmt.Errorf("consumer %s: %w", consumer.Name, err)
		}
	}
	servers := members(info.Cluster, e.server.Name())
	copies, err := e.replicas(ctx, servers)
	if err != nil {
		return err
	}
	for _, server := range servers {
		if last := copies[server][name].State.LastSeq; last < sequence {
			return fmt.Errorf("replica on %s stands at %d, not %d", server, last, sequence)
		}
	}
	return nil
}
