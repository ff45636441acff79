package rabbitmq

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// storePause is between two tries to store a message that the broker did not take.
	storePause = 100 * time.Millisecond
	// maxSameID is how many callers of this process may wait to enqueue jobs of one ID.
	maxSameID = 1024
)

// queue is one handle of a queue.
type queue struct {
	provider *Provider
	config   fabric.QueueConfig
	names    topology
	claims   *claims
	letters  *letters
	tally    *tally
	logger   *slog.Logger
	sameID   fabric.Turns // by job ID
	room     room
	refused  seldom // told that the broker does not store jobs
}

func openQueue(ctx context.Context, p *Provider, config fabric.QueueConfig) (*queue, error) {
	limit, cancel := fabric.WithDefaultTimeout(ctx, openTimeout)
	defer cancel()
	logger := p.options.Logger.With(slog.String("queue", config.Name))
	q := &queue{
		provider: p, config: config, logger: logger,
		names: newTopology(p.options.Prefix, config.Name),
		tally: p.tally(config.Name),
		room:  room{turn: make(chan struct{}, 1)},
	}
	cache, err := p.options.Cache.Cache(limit, fabric.CacheConfig{
		Name: p.storeName("ids", config.Name), MaxBytes: claimsBytes,
	})
	if err != nil {
		return nil, err
	}
	q.claims = &claims{cache: cache, logger: logger, empty: func(ctx context.Context) (bool, error) {
		jobs, err := q.count(ctx)
		return jobs == 0, err
	}}
	if q.letters, err = p.openLetters(limit, config.Name); err != nil {
		return nil, err
	}
	q.letters.limit, q.letters.logger = config.MaxDead, logger
	_, err = onSession(limit, p, func(s *session) (struct{}, error) { return struct{}{}, q.names.declare(limit, s) })
	return q, p.explain(ctx, err)
}

// onSession calls request with the session, and again with the next one when that is lost
// before the broker has answered, until ctx ends.
func onSession[T any](ctx context.Context, p *Provider, request func(*session) (T, error)) (T, error) {
	var last error
	for {
		s, err := p.current(ctx)
		if err != nil {
			var none T
			return none, because(err, last)
		}
		answer, err := request(s)
		if !isLost(err) || ctx.Err() != nil {
			return answer, err
		}
		last = err
		fabric.Pause(ctx, storePause) // when it was only a channel
	}
}

// seldom keeps what happens with every job from being told with every job. The zero value is
// ready.
type seldom struct {
	mu   sync.Mutex
	next time.Time // guarded by mu
}

// again says whether it is time to tell it again.
func (s *seldom) again() bool {
	const interval = 10 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(interval)
	return true
}

// because adds to err the error of an earlier try, if there is one.
func because(err, earlier error) error {
	if err == nil || earlier == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, earlier)
}

func (q *queue) failed(operation string, err error) error {
	return fmt.Errorf("%s queue %q: %w", operation, q.config.Name, err)
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
		job.ID = rand.Text()
	}
	e := envelope{ID: job.ID, EnqueuedAt: time.Now().UTC(), NotBefore: job.NotBefore.UTC()}
	if err := q.admit(ctx, e, job.Payload, false); err != nil {
		return "", q.failed("enqueue to", err)
	}
	return job.ID, nil
}

// admit stores a job unless one with its ID is known, or the queue is full.
func (q *queue) admit(ctx context.Context, e envelope, payload []byte, replay bool) error {
	limit, cancel := fabric.WithDefaultTimeout(ctx, operationTimeout)
	defer cancel()
	bound, release := q.provider.life.Bind(limit)
	defer release()
	end, err := q.sameID.Take(bound, e.ID, maxSameID)
	if err != nil {
		return q.provider.explain(ctx, err)
	}
	defer end()
	mine, isMine, err := q.claims.take(bound, e.ID, replay)
	if err != nil || !isMine {
		return q.provider.explain(ctx, err)
	}
	leave, err := q.room.enter(bound, q.config.MaxJobs, q.count)
	if err != nil {
		q.claims.release(ctx, e.ID, mine, false)
		return q.provider.explain(ctx, err)
	}
	defer leave()
	e.Instance, e.Again = mine.Instance, mine.again
	if err := q.store(bound, e, payload); err != nil {
		q.claims.release(ctx, e.ID, mine, true)
		return q.provider.explain(ctx, err)
	}
	q.claims.stored(ctx, mine, e)
	return nil
}

// store puts a job into the broker's queue where it is to be, and tries until it is there or
// ctx ends. It may be there afterwards in either case.
func (q *queue) store(ctx context.Context, e envelope, payload []byte) error {
	var last error
	for {
		s, err := q.provider.current(ctx)
		if err != nil {
			return because(err, last)
		}
		message, err := e.message(payload)
		if err != nil {
			return err
		}
		publisher, err := s.openPublisher(ctx)
		if err == nil {
			err = publisher.publish(ctx, q.placeOf(e), message)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return because(ctx.Err(), err)
		}
		last = err
		if errors.Is(err, errUnroutable) { // somebody has deleted it
			if err := q.names.declare(ctx, s); err != nil && !isLost(err) {
				return because(err, last)
			}
		} else {
			e.Again = true // the broker may have stored it, and the answer be lost
		}
		if errors.Is(err, errRefused) && q.refused.again() {
			q.logger.Warn("job not stored, trying on", slog.Any("error", err))
		}
		fabric.Pause(ctx, storePause)
	}
}

// placeOf names the broker's queue for a job.
func (q *queue) placeOf(e envelope) string {
	left := time.Until(e.readyAt())
	if left <= 0 {
		return q.names.main
	}
	return q.names.wait[waitFor(left, e.waits())]
}

// count asks the broker for the number of jobs.
func (q *queue) count(ctx context.Context) (int, error) {
	return onSession(ctx, q.provider, func(s *session) (int, error) {
		before := q.tally.before()
		found, err := q.names.inspect(ctx, s)
		if isMissing(err) { // somebody has deleted a queue
			if err = q.names.declare(ctx, s); err == nil {
				found, err = q.names.inspect(ctx, s)
			}
		}
		if err != nil {
			return 0, err
		}
		return q.tally.add(time.Now(), before, found), nil
	})
}

// Len implements fabric.Queue.
func (q *queue) Len(ctx context.Context) (int, error) {
	err := q.provider.life.Ready(ctx)
	jobs := 0
	if err == nil {
		limit, cancel := fabric.WithDefaultTimeout(ctx, operationTimeout)
		defer cancel()
		jobs, err = q.count(limit)
		err = q.provider.explain(ctx, err)
	}
	if err != nil {
		return 0, q.failed("count jobs of", err)
	}
	return jobs, nil
}

// DeadLetters implements fabric.Queue.
func (q *queue) DeadLetters(ctx context.Context, after string, limit int) ([]fabric.DeadLetter, error) {
	err := q.provider.life.Ready(ctx)
	var page []fabric.DeadLetter
	if err == nil {
		page, err = q.letters.page(ctx, after, limit)
	}
	if err != nil {
		return nil, q.failed("list dead letters of", err)
	}
	return page, nil
}

// Replay implements fabric.Queue. The job is stored before its dead letter is removed, so that
// an end between the two leaves both, and a second Replay finds the job there or repeats it.
func (q *queue) Replay(ctx context.Context, id string) error {
	return q.takeDead(ctx, "replay dead letter of", id, func(letter fabric.DeadLetter) error {
		return q.admit(ctx, envelope{ID: letter.ID, EnqueuedAt: letter.EnqueuedAt}, letter.Payload, true)
	})
}

// Discard implements fabric.Queue.
func (q *queue) Discard(ctx context.Context, id string) error {
	return q.takeDead(ctx, "discard dead letter of", id, func(fabric.DeadLetter) error { return nil })
}

// takeDead removes a dead letter once use has accepted it.
func (q *queue) takeDead(
	ctx context.Context, operation, id string, use func(fabric.DeadLetter) error,
) error {
	err := q.provider.life.Ready(ctx)
	var h head
	var letter fabric.DeadLetter
	if err == nil {
		h, letter, err = q.letters.get(ctx, id)
	}
	if err == nil {
		err = use(letter)
	}
	if err == nil {
		_, err = q.letters.remove(ctx, h)
	}
	if err != nil {
		return q.failed(operation, fmt.Errorf("id %.300q: %w", id, err))
	}
	return nil
}
