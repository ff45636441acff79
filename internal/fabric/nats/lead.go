package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// subjectStepDown asks a stream's leader to hand over, to the server that is preferred if that
	// can ("$JS.API.STREAM.LEADER.STEPDOWN" in NATS's reference of the JetStream API).
	subjectStepDown = "STREAM.LEADER.STEPDOWN"
	// leadPause is between two looks at who leads. An election by order takes some 10 ms.
	leadPause = 10 * time.Millisecond
)

// Led implements fabric.PipeLog.
func (l *log) Led(ctx context.Context) (bool, error) {
	led, err := l.led(ctx)
	if err != nil {
		return false, l.failed("ask for the leader of", err)
	}
	return led, nil
}

func (l *log) led(ctx context.Context) (bool, error) {
	if err := l.provider.life.Ready(ctx); err != nil {
		return false, err
	}
	info, err := infoOf(ctx, l.stream)
	if err != nil {
		return false, err
	}
	return !couldLead(info.Cluster, l.provider.conn.ConnectedServerName()), nil
}

// couldLead tells whether a server does not lead and has all that is needed to.
func couldLead(group *jetstream.ClusterInfo, server string) bool {
	if group == nil || group.Leader == "" {
		return false
	}
	for _, replica := range group.Replicas { // without the leader
		if replica.Name == server {
			return replica.Current && !replica.Offline
		}
	}
	return false
}

// Lead implements fabric.PipeLog.
func (l *log) Lead(ctx context.Context) error {
	if err := l.lead(ctx); err != nil {
		return l.failed("lead", err)
	}
	return nil
}

func (l *log) lead(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	request, err := json.Marshal(map[string]any{
		"placement": map[string]string{"preferred": l.provider.conn.ConnectedServerName()},
	})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	for {
		led, err := l.led(ctx)
		if err != nil || led {
			return err
		}
		answer, err := l.provider.conn.RequestWithContext(ctx, l.stored.api(subjectStepDown), request)
		if err != nil {
			return err
		}
		var response struct {
			Error *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(answer.Data, &response); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if response.Error != nil {
			return response.Error
		}
		if err := l.elected(ctx); err != nil {
			return err
		}
	}
}

// elected waits until the log has a leader.
func (l *log) elected(ctx context.Context) error {
	for {
		info, err := infoOf(ctx, l.stream)
		if err != nil || info.Cluster == nil || info.Cluster.Leader != "" {
			return err
		}
		select {
		case <-time.After(leadPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
