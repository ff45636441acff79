package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// silence is how long one who waits for messages of a stream hears nothing, not even that
	// there is nothing, until he takes the server that was to tell him for gone.
	silence = 1200 * time.Millisecond
	// followAge is how long the engine keeps the consumer of a follower that is gone.
	followAge = 5 * time.Second
)

// Reasons for which a follower begins anew at once.
var (
	errSilent = errors.New("the engine is silent")
	errGap    = errors.New("messages were lost on the way")
)

// Headers of a heartbeat that the client library does not name: the number of the last message
// that was sent, and where to answer when the engine waits for that.
const (
	lastConsumerHeader = "Nats-Last-Consumer"
	stalledHeader      = "Nats-Consumer-Stalled"
)

// follower hears what is written to a stream under a subject, in order and each message once,
// whichever server dies. A consumer without a memory tells it, on one of the servers that have
// the stream; the follower makes another, from the message on that it waits for, as soon as
// there is a gap or a silence. The consumer's numbers and heartbeats also show the loss of
// the last message. What a slow handler has not taken yet waits in the process: as much as
// the engine sends ahead, 32 MiB at most.
type follower struct {
	provider *Provider
	stream   string
	filter   string    // the subject, which may have wildcards
	told     slog.Attr // what is followed, for the log
}

// run calls handle for each message from the sequence number next on, until ctx ends or the
// connection is closed.
func (f follower) run(ctx context.Context, next uint64, handle func(*natsgo.Msg, *natsgo.MsgMetadata)) {
	logger := f.provider.logger
	var since time.Time // there has been no consumer; zero when there was one just now
	for ctx.Err() == nil && !f.provider.conn.IsClosed() {
		patience := tryTimeout
		if !since.IsZero() { // longer when the cluster is only slow
			patience = min(max(patience, time.Since(since)/2), operationTimeout)
		}
		begun, err := f.hear(ctx, patience, &next, handle)
		if ctx.Err() != nil || f.provider.conn.IsClosed() {
			return
		}
		level := slog.LevelWarn
		if begun {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		} else {
			level = slog.LevelDebug // it was told
		}
		logger.Log(ctx, level, "following interrupted", f.told, slog.Any("error", err))
		switch {
		case errors.Is(err, errSilent), errors.Is(err, errGap):
		case unanswered(err):
			fabric.Pause(ctx, tryPause)
		default:
			pause(ctx)
		}
	}
}

// hear makes a consumer and hands over what it tells, until it fails. It moves next on with
// each message, and returns whether there was a consumer.
func (f follower) hear(
	ctx context.Context, patience time.Duration, next *uint64, handle func(*natsgo.Msg, *natsgo.MsgMetadata),
) (begun bool, err error) {
	conn := f.provider.conn
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return false, err
	}
	// Both fail when the connection is closed.
	defer func() { _ = sub.Unsubscribe() }()
	defer context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() })()
	if err := sub.SetPendingLimits(-1, -1); err != nil { // the engine knows the limit
		return false, err
	}
	creating, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = f.provider.js.CreateOrUpdatePushConsumer(creating, f.stream, jetstream.ConsumerConfig{
		Name:              "follower-" + nuid.Next(),
		DeliverSubject:    inbox,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       *next,
		FilterSubject:     f.filter,
		AckPolicy:         jetstream.AckNonePolicy,
		FlowControl:       true,
		IdleHeartbeat:     silence / 3,
		InactiveThreshold: followAge,
		Replicas:          1,
		MemoryStorage:     true,
	})
	if err != nil {
		return false, err
	}
	for delivered := uint64(0); ; {
		msg, err := sub.NextMsg(silence)
		if errors.Is(err, natsgo.ErrTimeout) {
			err = errSilent
		}
		if err != nil {
			return true, err
		}
		if status := msg.Header.Get("Status"); status != "" {
			if err := f.control(msg, status, delivered); err != nil {
				return true, err
			}
			continue
		}
		meta, err := msg.Metadata()
		if err != nil {
			return true, err
		}
		if delivered++; meta.Sequence.Consumer != delivered {
			return true, errGap
		}
		if meta.Sequence.Stream >= *next {
			*next = meta.Sequence.Stream + 1
			handle(msg, meta)
		}
	}
}

// control answers a message of the engine about the delivery, of which so many messages came.
func (f follower) control(msg *natsgo.Msg, status string, delivered uint64) error {
	if status != "100" {
		return fmt.Errorf("%w: status %s %s", errGap, status, msg.Header.Get("Description"))
	}
	if msg.Reply != "" { // flow control: it sends more when this is answered
		return msg.Respond(nil)
	}
	if stalled := msg.Header.Get(stalledHeader); stalled != "" { // as above, lost
		if err := f.provider.conn.Publish(stalled, nil); err != nil {
			return err
		}
	}
	if msg.Header.Get(lastConsumerHeader) != strconv.FormatUint(delivered, 10) {
		return errGap
	}
	return nil
}
