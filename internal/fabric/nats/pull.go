package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"
)

const (
	// pullExpiry is how long a request for a job lasts. Each is an entry in the log of a replicated
	// consumer, and so is its end.
	pullExpiry = 5 * time.Second
	// pullHeartbeat is how often a consumer says meanwhile that it is there.
	pullHeartbeat = silence / 2
)

// Statuses of what is no job (ADR-37 of NATS).
const (
	statusHeartbeat = "100"
	statusExpired   = "408"
	statusConflict  = "409"
)

// errElected says that the consumer has another leader, which can be asked at once.
var errElected = errors.New("the queue's consumer has another leader")

// puller asks a consumer for jobs, one request at a time.
type puller struct {
	provider *Provider
	answers  *natsgo.Subscription
	subject  string
	request  []byte
	open     bool // a job may still come
}

// newPuller returns a puller of the consumer that the workers of the queue share.
func (q *queue) newPuller() (*puller, error) {
	request, err := json.Marshal(map[string]any{
		"batch": 1, "expires": pullExpiry.Nanoseconds(), "idle_heartbeat": pullHeartbeat.Nanoseconds(),
	})
	if err != nil {
		return nil, fmt.Errorf("encode a request for a job: %w", err)
	}
	conn := q.provider.conn
	answers, err := conn.SubscribeSync(conn.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("subscribe to the answers to requests for jobs: %w", err)
	}
	stream := stored{provider: q.provider, stream: q.provider.stream("queue", q.config.Name)}
	subject := stream.api("CONSUMER.MSG.NEXT") + "." + workers
	return &puller{provider: q.provider, answers: answers, subject: subject, request: request}, nil
}

// pull asks for a job and returns it, or nil when there was none within pullExpiry.
func (p *puller) pull(ctx context.Context) (*natsgo.Msg, error) {
	if err := p.provider.conn.PublishRequest(p.subject, p.answers.Subject, p.request); err != nil {
		return nil, fmt.Errorf("ask for a job: %w", err)
	}
	p.open = true
	for {
		msg, err := p.next(ctx, silence)
		if err != nil {
			return nil, err
		}
		switch status := msg.Header.Get("Status"); {
		case status == "":
			p.open = false
			return msg, nil
		case status == statusExpired:
			p.open = false
			return nil, nil
		case status == statusHeartbeat:
		case status == statusConflict && msg.Header.Get("Description") == "Leadership Change":
			return nil, errElected // perhaps of an earlier request
		default:
			return nil, fmt.Errorf("ask for a job: %w", statusError(msg))
		}
	}
}

// next returns what comes next.
func (p *puller) next(ctx context.Context, within time.Duration) (*natsgo.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	msg, err := p.answers.NextMsgWithContext(waiting)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return nil, errSilent // who was asked is gone
	case err != nil:
		return nil, fmt.Errorf("wait for a job: %w", err)
	}
	return msg, nil
}

// close ends the puller. Nobody can take a request back, and a job that is sent to nobody would be late
// by its lease. Therefore it listens on, in the background, until the last request is over, and returns
// what comes.
func (p *puller) close() {
	p.provider.mu.Lock()
	defer p.provider.mu.Unlock()
	if !p.open || p.provider.life.Err() != nil {
		_ = p.answers.Unsubscribe() // fails when the connection is closed
		return
	}
	p.provider.lingering.Go(p.linger)
}

// linger returns a job that still comes.
func (p *puller) linger() {
	defer func() { _ = p.answers.Unsubscribe() }() // fails when the connection is closed
	ctx, release := p.provider.life.Bind(context.Background())
	defer release()
	ctx, cancel := context.WithTimeout(ctx, pullExpiry+silence)
	defer cancel()
	for {
		msg, err := p.answers.NextMsgWithContext(ctx)
		if err != nil {
			return
		}
		switch msg.Header.Get("Status") {
		case "":
			_ = msg.Nak() // or its lease runs out
			return
		case statusExpired:
			return
		}
	}
}
