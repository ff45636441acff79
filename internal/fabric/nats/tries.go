package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

// tryTimeout bounds the first tries of a request: one that meets a leader that dies is never
// answered, and the next one goes to the new leader. An election takes 1 to 2 s.
const tryTimeout = 500 * time.Millisecond

// tryPause keeps tries apart that fail at once.
const tryPause = 50 * time.Millisecond

// operationTimeout bounds all tries of a request for a caller who set no bound himself, and
// for all callers where a function says so with bounded.
const operationTimeout = 5 * time.Second

// bounded returns ctx with operationTimeout.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, operationTimeout)
}

// tries calls request, each time for tryTimeout and later for longer, until it is answered or
// ctx ends or, when that has no deadline, operationTimeout is over. again tells it that an
// earlier try may have been done unheard: it must bear a repetition.
func tries(ctx context.Context, request func(ctx context.Context, again bool) error) error {
	limit, cancel := fabric.WithDefaultTimeout(ctx, operationTimeout)
	defer cancel()
	begin := time.Now()
	for again := false; ; again = true {
		// Longer when the store is only slow.
		trying, done := context.WithTimeout(limit, max(tryTimeout, time.Since(begin)/4))
		err := request(trying, again)
		done()
		if err == nil || !unanswered(err) {
			return err
		}
		fabric.Pause(limit, tryPause)
		if limit.Err() != nil {
			if ctx.Err() == nil {
				err = fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)
			}
			return err
		}
	}
}

// ask is tries for a request with an answer, which repeated does nothing more.
func ask[T any](ctx context.Context, request func(ctx context.Context) (T, error)) (T, error) {
	var answer T
	err := tries(ctx, func(ctx context.Context, _ bool) (err error) {
		answer, err = request(ctx)
		return err
	})
	return answer, err
}

// errUnknown says that a conditional write got no answer, and that others have written the same since:
// nothing tells any more whether they did so before or after it.
var errUnknown = errors.New("no answer came, and others have written the same since")

// publish stores a message, by as many tries as that takes, once: by its ID the engine knows
// the repetition of one that it has. A message without an ID gets one.
func (p *Provider) publish(
	ctx context.Context, msg *natsgo.Msg, options ...jetstream.PublishOpt,
) (*jetstream.PubAck, error) {
	if msg.Header == nil {
		msg.Header = natsgo.Header{}
	}
	if msg.Header.Get(jetstream.MsgIDHeader) == "" {
		msg.Header.Set(jetstream.MsgIDHeader, nuid.Next())
	}
	var ack *jetstream.PubAck
	err := tries(ctx, func(ctx context.Context, again bool) (err error) {
		ack, err = p.js.PublishMsg(ctx, msg, options...)
		if again && isConflict(err) {
			ack, err = p.published(ctx, msg, err)
		}
		return err
	})
	return ack, err
}

// published finds out whether a message is stored whose repetition was a conflict. A replicated stream
// looks for the ID first, so that the conflict is with another writer. One without replicas, as it may
// still be in a cluster that grows, looks at the expectation first, which does not hold any more when
// the message itself was stored.
func (p *Provider) published(ctx context.Context, msg *natsgo.Msg, conflict error) (*jetstream.PubAck, error) {
	const expected = jetstream.ExpectedLastSubjSeqHeader
	name, err := p.js.StreamNameBySubject(ctx, msg.Subject)
	if err != nil {
		return nil, err
	}
	stream, err := p.js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	if stream.CachedInfo().Config.Replicas > 1 {
		return nil, conflict
	}
	last, header, err := stored{provider: p, stream: name}.leaderMessage(ctx, getRequest{LastFor: msg.Subject})
	switch {
	case err != nil && !errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, err
	case err == nil && header.Get(jetstream.MsgIDHeader) == msg.Header.Get(jetstream.MsgIDHeader):
		return &jetstream.PubAck{Stream: name, Sequence: last.Seq, Duplicate: true}, nil
	case err == nil && header.Get(expected) != "" && header.Get(expected) == msg.Header.Get(expected):
		return nil, conflict // another was first
	}
	return nil, fmt.Errorf("%w: %w", fabric.ErrUnavailable, errUnknown)
}

// retryWindow is how long a stream without a DedupWindow of its own remembers the IDs of
// messages: longer than anybody tries.
const retryWindow = 30 * time.Second

// unanswered tells whether nobody said whether a request was done, or it is still being done, or it can
// be done in a moment.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, natsgo.ErrTimeout) ||
		errors.Is(err, natsgo.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse) ||
		hasCode(err, codeNoLeader) || hasCode(err, codeDuplicateInProcess) ||
		hasCode(err, codeTooFewPeers) // as a node that is slow counts as away
}
