package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// memoryInterval is between two looks at the streams in memory.
	memoryInterval = time.Second
	// memoryPatience is how long such a stream may have no leader. An election takes 2 s.
	memoryPatience = 6 * time.Second
)

// watchMemory renews streams in memory that have lost their majority, until the engine stops. A
// replica in memory that restarts has an empty log, and a group elects nobody until all of its
// replicas are there when some logs are empty: after a restart of the whole cluster one machine
// that does not come back would hold up the others for ever. What the stream had is lost or
// cannot be told from what is lost. Only the leader of the metadata does it, for the streams
// that it has itself; where there are as many replicas as nodes, or nearly, it has all.
func (e *Engine) watchMemory() {
	defer e.background.Done()
	ticker := time.NewTicker(memoryInterval)
	defer ticker.Stop()
	since := map[string]time.Time{} // without a leader, by stream
	for {
		select {
		case <-ticker.C:
			e.renewMemory(context.Background(), since) // its requests are bounded
		case <-e.stopping:
			return
		}
	}
}

// renewMemory looks once.
func (e *Engine) renewMemory(ctx context.Context, since map[string]time.Time) {
	if !e.server.JetStreamIsLeader() {
		clear(since)
		return
	}
	info, err := e.server.Jsz(&server.JSzOptions{Account: mainAccount, Streams: true, Config: true})
	if err != nil {
		return
	}
	headless := map[string]*server.StreamConfig{}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			if stream.Config != nil && stream.Config.Storage == server.MemoryStorage &&
				stream.Cluster != nil && stream.Cluster.Leader == "" {
				headless[stream.Name] = stream.Config
			}
		}
	}
	for name := range since {
		if headless[name] == nil {
			delete(since, name)
		}
	}
	for name, config := range headless {
		if since[name].IsZero() {
			since[name] = time.Now()
		}
		if time.Since(since[name]) < memoryPatience {
			continue
		}
		delete(since, name)
		if e.led(ctx, name) {
			continue
		}
		if err := e.renew(ctx, *config); err != nil {
			e.logger.Warn("a stream in memory without a leader was not renewed",
				slog.String("stream", name), slog.Any("error", err))
			continue
		}
		e.logger.Warn("a stream in memory had lost the majority of its replicas; it begins empty, with one",
			slog.String("stream", name))
	}
}

// led tells whether the leader of a stream answers. This server may be the only one that does
// not see it.
func (e *Engine) led(ctx context.Context, name string) bool {
	conn, err := e.internal(userClient)
	if err != nil {
		return false
	}
	info, err := readStream(ctx, conn, name)
	return err == nil && info.Cluster != nil && info.Cluster.Leader != ""
}

// renew makes a stream anew, with one replica: there may be no servers for more.
func (e *Engine) renew(ctx context.Context, config server.StreamConfig) error {
	conn, err := e.internal(userClient)
	if err != nil {
		return err
	}
	var answer apiResponse
	err = request(ctx, conn, "$JS.API.STREAM.DELETE."+config.Name, nil, &answer)
	if err != nil && !hasCode(err, codeStreamNotFound) && !errors.Is(err, context.DeadlineExceeded) {
		return err // the server answers only when a leader has gone, and does it all the same
	}
	config.Replicas = 1
	answer = apiResponse{}
	return request(ctx, conn, "$JS.API.STREAM.CREATE."+config.Name, config, &answer)
}
