package nats

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

// queue is one queue: the stream of its jobs and that of its dead letters. Each job has a
// subject of its own, and a stream keeps one message a subject. So the state of a job is
// the last message on its subject, and a failure replaces it in one conditional write:
// there is no moment at which the job is stored twice or not at all.
type queue struct {
	provider *Provider
	config   fabric.QueueConfig
	jobs     jetstream.Stream
	dead     jetstream.Stream
	headroom int // by how much the stream may exceed MaxJobs; 0 when it enforces that itself

	mu   sync.Mutex // guards room
	room int        // jobs that can be enqueued before the stream is asked again
}

// clusterHeadroom is for the failed jobs of all workers at one instant. A replicated stream
// that is full refuses a message even when it would replace another, and a full queue must be
// able to note a failure, or its jobs would never be given up.
const clusterHeadroom = 1024

func (q *queue) jobsPrefix() string { return q.provider.subject("queue", q.config.Name) }
func (q *queue) deadPrefix() string { return q.provider.subject("dead", q.config.Name) }

func openQueue(ctx context.Context, p *Provider, config fabric.QueueConfig) (*queue, error) {
	q := &queue{provider: p, config: config}
	if p.replicas > 1 {
		q.headroom = clusterHeadroom
	}
	var err error
	q.jobs, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              p.stream("queue", config.Name),
		Subjects:          []string{q.jobsPrefix() + "*"},
		Storage:           jetstream.FileStorage,
		Replicas:          p.replicas,
		Retention:         jetstream.WorkQueuePolicy,
		MaxMsgs:           int64(config.MaxJobs + q.headroom),
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew,
		Duplicates:        fabric.DedupWindow,
	})
	if err != nil {
		return nil, err
	}
	q.dead, err = p.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              p.stream("dead", config.Name),
		Subjects:          []string{q.deadPrefix() + "*"},
		Storage:           jetstream.FileStorage,
		Replicas:          p.replicas,
		MaxMsgs:           int64(config.MaxDead),
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardOld,
	})
	if err != nil {
		return nil, err
	}
	if err := q.makeConsumer(ctx); err != nil {
		return nil, err
	}
	return q, nil
}

// workers is the name of the consumer that all workers of a queue share.
const workers = "workers"

// makeConsumer makes that consumer unless it is there.
func (q *queue) makeConsumer(ctx context.Context) error {
	return tries(ctx, func(ctx context.Context, _ bool) error {
		_, err := q.jobs.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable:       workers,
			AckPolicy:     jetstream.AckExplicitPolicy,
			AckWait:       q.config.Visibility,
			MaxDeliver:    -1,
			MaxAckPending: q.config.MaxJobs + q.headroom, // delayed jobs count as delivered and must not block
		})
		return err
	})
}

func (q *queue) failed(operation string, err error) error {
	return fmt.Errorf("%s queue %q: %w", operation, q.config.Name, translate(err))
}

// Enqueue implements fabric.Queue.
func (q *queue) Enqueue(ctx context.Context, job fabric.Job) (string, error) {
	err := q.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckJob(job)
	}
	if err != nil {
		return "", q.failed("enqueue to", err)
	}
	if job.ID == "" {
		job.ID = nuid.Next()
	}
	e := envelope{ID: job.ID, EnqueuedAt: time.Now().UTC(), NotBefore: job.NotBefore.UTC()}
	if err := q.store(ctx, e, job.Payload, job.ID); err != nil {
		return "", q.failed("enqueue to", err)
	}
	return job.ID, nil
}

// store writes a job unless one with its ID is there, or dedupID was used within the window.
func (q *queue) store(ctx context.Context, e envelope, payload []byte, dedupID string) error {
	msg, err := e.message(q.jobsPrefix(), payload)
	if err != nil {
		return err
	}
	msg.Header.Set(jetstream.MsgIDHeader, token(dedupID)) // the ID may hold what a header cannot
	if err = q.admit(ctx); err == nil {
		_, err = q.provider.publish(ctx, msg, jetstream.WithExpectLastSequencePerSubject(0))
	}
	if !movedOn(err) && !errors.Is(err, fabric.ErrFull) {
		return err
	}
	// Refused because the job is there; or, replicated, because another writer was about to
	// store it, who may have failed. Only the first is success.
	if _, getErr := lastOf(ctx, q.jobs, msg.Subject); getErr != nil {
		return errors.Join(err, getErr)
	}
	return nil
}

// admit returns ErrFull when the queue has MaxJobs jobs and its stream would take more. It
// asks the stream the more often the fuller the queue is, each time for a quarter of what is
// free, so that several nodes who do the same do not add up to more.
func (q *queue) admit(ctx context.Context) error {
	if q.headroom == 0 {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room > 0 {
		q.room--
		return nil
	}
	info, err := infoOf(ctx, q.jobs)
	if err != nil {
		return err
	}
	free := q.config.MaxJobs - int(info.State.Msgs)
	if free <= 0 {
		return fabric.ErrFull
	}
	q.room = max(0, free/4-1)
	return nil
}

// Len implements fabric.Queue.
func (q *queue) Len(ctx context.Context) (int, error) {
	if err := q.provider.life.Ready(ctx); err != nil {
		return 0, q.failed("count jobs of", err)
	}
	info, err := infoOf(ctx, q.jobs)
	if err != nil {
		return 0, q.failed("count jobs of", err)
	}
	return int(info.State.Msgs), nil
}

// DeadLetters implements fabric.Queue.
func (q *queue) DeadLetters(ctx context.Context, after string, limit int) ([]fabric.DeadLetter, error) {
	if err := q.provider.life.Ready(ctx); err != nil {
		return nil, q.failed("list dead letters of", err)
	}
	next := uint64(1)
	if after != "" {
		msg, err := lastOf(ctx, q.dead, q.deadPrefix()+token(after))
		if err != nil {
			return nil, q.failed("list dead letters of", err)
		}
		next = msg.Sequence + 1
	}
	letters := []fabric.DeadLetter{}
	for limit = min(limit, fabric.MaxDeadLettersPage); len(letters) < limit; {
		msg, err := nextOf(ctx, q.dead, q.deadPrefix()+"*", next)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, q.failed("list dead letters of", err)
		}
		next = msg.Sequence + 1
		e, err := decodeEnvelope(msg.Header)
		if err != nil {
			q.warn("dead letter unreadable", slog.Uint64("sequence", msg.Sequence), slog.Any("error", err))
			continue
		}
		letters = append(letters, fabric.DeadLetter{
			Job:      e.job(notNil(msg.Data), e.Failures),
			Reason:   e.Reason,
			FailedAt: e.FailedAt,
		})
	}
	return letters, nil
}

// Replay implements fabric.Queue. The job is stored before its dead letter is removed, so
// that an end between the two leaves both, and a second Replay finds the job there.
func (q *queue) Replay(ctx context.Context, id string) error {
	return q.takeDead(ctx, "replay dead letter of", id, func(msg *jetstream.RawStreamMsg) error {
		e, err := decodeEnvelope(msg.Header)
		if err != nil {
			return err
		}
		fresh := envelope{ID: e.ID, EnqueuedAt: e.EnqueuedAt}
		// A dedup ID of its own: that of Enqueue may still be remembered.
		return q.store(ctx, fresh, msg.Data, e.ID+"\x00replay "+strconv.FormatUint(msg.Sequence, 10))
	})
}

// Discard implements fabric.Queue.
func (q *queue) Discard(ctx context.Context, id string) error {
	return q.takeDead(ctx, "discard dead letter of", id, func(*jetstream.RawStreamMsg) error { return nil })
}

// takeDead removes a dead letter once use has accepted it.
func (q *queue) takeDead(
	ctx context.Context, operation, id string, use func(*jetstream.RawStreamMsg) error,
) error {
	err := q.provider.life.Ready(ctx)
	var msg *jetstream.RawStreamMsg
	if err == nil {
		msg, err = lastOf(ctx, q.dead, q.deadPrefix()+token(id))
	}
	if err == nil {
		err = use(msg)
	}
	if err == nil {
		err = remove(ctx, q.dead, msg.Sequence, q.dead.DeleteMsg)
	}
	if err != nil {
		return q.failed(operation, fmt.Errorf("id %.300q: %w", id, err))
	}
	return nil
}

func (q *queue) warn(text string, attributes ...any) {
	q.provider.logger.Warn(text, append(attributes, slog.String("queue", q.config.Name))...)
}

func notNil(payload []byte) []byte {
	if payload == nil {
		return []byte{}
	}
	return payload
}
