package nats

import (
	"encoding/json"
	"errors"
	"fmt"

	natsgo "github.com/nats-io/nats.go"
)

// pullExpiry is how long a request for a job lasts. Nobody can take one back: what a worker that
// stops has asked for can still be sent to it, and it waits for that as long.
const pullExpiry = silence / 2

// errElected says that the consumer has another leader, which can be asked at once.
var errElected = errors.New("the queue's consumer has another leader")

// puller asks a consumer for jobs, one request at a time.
type puller struct {
	conn    *natsgo.Conn
	answers *natsgo.Subscription
	subject string
	request []byte
}

// newPuller returns a puller of the consumer that the workers of the queue share.
func (q *queue) newPuller() (*puller, error) {
	request, err := json.Marshal(map[string]any{"batch": 1, "expires": pullExpiry.Nanoseconds()})
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
	return &puller{conn: conn, answers: answers, subject: subject, request: request}, nil
}

// close ends the subscription. Between pulls nothing is on its way to it.
func (p *puller) close() { _ = p.answers.Unsubscribe() } // fails when the connection is closed

// pull asks for a job and returns it, or nil when there was none within pullExpiry. It waits for
// the end of its request whatever happens, silence at most: a job that is sent to nobody would be
// late by its lease.
func (p *puller) pull() (*natsgo.Msg, error) {
	if err := p.conn.PublishRequest(p.subject, p.answers.Subject, p.request); err != nil {
		return nil, fmt.Errorf("ask for a job: %w", err)
	}
	msg, err := p.answers.NextMsg(silence)
	switch {
	case errors.Is(err, natsgo.ErrTimeout):
		return nil, errSilent // who was asked is gone
	case err != nil:
		return nil, fmt.Errorf("wait for a job: %w", err)
	}
	switch status := msg.Header.Get("Status"); {
	case status == "":
		return msg, nil
	case status == "408":
		return nil, nil
	case status == "409" && msg.Header.Get("Description") == "Leadership Change":
		return nil, errElected
	default:
		return nil, fmt.Errorf("ask for a job: %w", statusError(msg))
	}
}
