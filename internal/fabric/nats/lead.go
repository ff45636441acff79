package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// subjectStepDown asks a stream's leader to hand over, to the server that is preferred if that
	// can ("$JS.API.STREAM.LEADER.STEPDOWN" in NATS's reference of the JetStream API).
	subjectStepDown = "STREAM.LEADER.STEPDOWN"
	// leadPause is between two looks at who leads. An election by order takes some 10 ms.
	leadPause = 10 * time.Millisecond
	// leadTries is how many of them there are, as some go another way.
	leadTries = 3
)

// errOtherElected says that the elections by order went another way.
var errOtherElected = fmt.Errorf("%w: another server was elected", fabric.ErrUnavailable)

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
	if err := l.provider.life.Ready(ctx); err != nil {
		return err
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	server := l.provider.conn.ConnectedServerName()
	if server == "" {
		return natsgo.ErrDisconnected
	}
	for tries := 0; ; fabric.Pause(ctx, leadPause) {
		info, err := infoOf(ctx, l.stream)
		group := (*jetstream.ClusterInfo)(nil)
		if err == nil {
			group = info.Cluster
		}
		switch {
		case err != nil:
			return err
		case group == nil || group.Leader == server:
			return nil
		case group.Leader == "": // being elected
		case couldLead(group, server):
			if tries++; tries > leadTries {
				return errOtherElected
			}
			if err := l.stepDown(ctx, server); err != nil {
				return err
			}
		case tries == 0:
			return nil
		} // else the new leader has not heard of this server yet
	}
}

// stepDown has the leader hand over to a server.
func (l *log) stepDown(ctx context.Context, server string) error {
	request, err := json.Marshal(map[string]any{"placement": map[string]string{"preferred": server}})
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
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
	return nil
}
