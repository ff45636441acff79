package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

var (
	addJobScript    = load("queue_add")
	takeJobScript   = load("queue_take")
	keepJobScript   = load("queue_keep")
	finishJobScript = load("queue_finish")
	retryJobScript  = load("queue_retry")
	buryJobScript   = load("queue_bury")
	deadPageScript  = load("queue_dead")
	reviveScript    = load("queue_revive")

	removeQueueScript = load("queue_remove")
)

// queue is one handle of a queue.
type queue struct {
	provider *Provider
	config   fabric.QueueConfig
	base     string   // of all keys
	keys     []string // as lua/queue.lua has them
	news     string   // the channel on which it is told that a job may be ready
}

func newQueue(p *Provider, config fabric.QueueConfig) *queue {
	base := p.key("queue", config.Name)
	q := &queue{provider: p, config: config, base: base, news: p.channel("queue", config.Name) + "w"}
	for _, suffix := range []string{"j", "p", "s", "z", "dj", "dp", "dz"} {
		q.keys = append(q.keys, base+suffix)
	}
	return q
}

func (q *queue) failed(operation string, err error) error {
	return fmt.Errorf("%s queue %q: %w", operation, q.config.Name, translate(err))
}

// with returns the keys of the queue and one more.
func (q *queue) with(key string) []string { return append(slices.Clone(q.keys), key) }

// microseconds is a duration as scripts take it, rounded up.
func microseconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Microsecond-1)/time.Microsecond), 10)
}

// Enqueue implements fabric.Queue.
func (q *queue) Enqueue(ctx context.Context, job fabric.Job) (string, error) {
	err := q.provider.life.Ready(ctx)
	if err == nil {
		err = fabric.CheckJob(job)
	}
	if err == nil && job.ID == "" {
		job.ID = rand.Text()
	}
	if err == nil {
		err = q.enqueue(ctx, job)
	}
	if err != nil {
		return "", q.failed("enqueue to", err)
	}
	return job.ID, nil
}

func (q *queue) enqueue(ctx context.Context, job fabric.Job) error {
	now := time.Now()
	text, err := envelope{EnqueuedAt: now.UTC(), NotBefore: job.NotBefore.UTC()}.encode()
	if err != nil {
		return err
	}
	delay := time.Duration(0)
	if !job.NotBefore.IsZero() {
		delay = max(0, job.NotBefore.Sub(now))
	}
	answer, err := q.provider.runDurable(ctx, addJobScript, q.with(q.base+"u:"+job.ID), []string{
		q.news, job.ID, text, string(job.Payload), microseconds(delay), strconv.Itoa(q.config.MaxJobs),
		milliseconds(fabric.DedupWindow),
	})
	if err != nil {
		return err
	}
	if result, _ := answer.ToString(); result == "full" {
		return fabric.ErrFull
	}
	return nil
}

// Len implements fabric.Queue.
func (q *queue) Len(ctx context.Context) (int, error) {
	err := q.provider.life.Ready(ctx)
	var count int64
	if err == nil {
		err = q.provider.tries(ctx, func(ctx context.Context) (err error) {
			b := q.provider.client.B()
			count, err = q.provider.client.Do(ctx, b.Hlen().Key(q.keys[0]).Build()).AsInt64()
			return err
		})
	}
	if err != nil {
		return 0, q.failed("count jobs of", err)
	}
	return int(count), nil
}

// DeadLetters implements fabric.Queue.
func (q *queue) DeadLetters(ctx context.Context, after string, limit int) ([]fabric.DeadLetter, error) {
	err := q.provider.life.Ready(ctx)
	letters := []fabric.DeadLetter{}
	limit = min(limit, fabric.MaxDeadLettersPage)
	if err == nil && limit <= 0 && after != "" {
		_, err = q.letters(ctx, after, 1)
	}
	for err == nil && len(letters) < limit {
		var page []fabric.DeadLetter
		if page, err = q.letters(ctx, after, limit-len(letters)); len(page) == 0 {
			break
		}
		letters = append(letters, page...)
		after = page[len(page)-1].ID
	}
	if errors.Is(err, fabric.ErrNotFound) && len(letters) > 0 {
		err = nil // one that was read has been removed meanwhile
	}
	if err != nil {
		return nil, q.failed("list dead letters of", err)
	}
	return letters, nil
}

// letters returns the next dead letters, fewer than limit when they are large.
func (q *queue) letters(ctx context.Context, after string, limit int) ([]fabric.DeadLetter, error) {
	answer, err := q.provider.run(ctx, deadPageScript, q.keys, []string{after, strconv.Itoa(limit), strconv.Itoa(pageBytes)})
	if rueidis.IsRedisNil(err) {
		return nil, fabric.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	parts, err := answer.AsStrSlice()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	var page []fabric.DeadLetter
	for ; len(parts) >= 3; parts = parts[3:] {
		letter := fabric.DeadLetter{Job: fabric.Job{ID: parts[0]}}
		e, err := decodeEnvelope(parts[1])
		if err != nil {
			q.warn("dead letter unreadable", slog.String("id", parts[0]), slog.Any("error", err))
		} else {
			letter.Job = e.job(parts[0], notNil(parts[2]), e.Failures)
			letter.Reason, letter.FailedAt = e.Reason, e.FailedAt
		}
		page = append(page, letter)
	}
	return page, nil
}

// Replay implements fabric.Queue.
func (q *queue) Replay(ctx context.Context, id string) error {
	return q.revive(ctx, "replay dead letter of", id, func(letter envelope) (string, error) {
		return envelope{EnqueuedAt: letter.EnqueuedAt}.encode()
	})
}

// Discard implements fabric.Queue.
func (q *queue) Discard(ctx context.Context, id string) error {
	return q.revive(ctx, "discard dead letter of", id, func(envelope) (string, error) { return "", nil })
}

// revive removes a dead letter, once the job is stored whose envelope follows from the letter's.
func (q *queue) revive(ctx context.Context, operation, id string, follow func(envelope) (string, error)) error {
	err := q.provider.life.Ready(ctx)
	if err == nil {
		err = q.reviveNow(ctx, id, follow)
	}
	if err != nil {
		return q.failed(operation, fmt.Errorf("id %.300q: %w", id, err))
	}
	return nil
}

func (q *queue) reviveNow(ctx context.Context, id string, follow func(envelope) (string, error)) error {
	for {
		var text string
		err := q.provider.tries(ctx, func(ctx context.Context) (err error) {
			b := q.provider.client.B()
			text, err = q.provider.client.Do(ctx, b.Hget().Key(q.keys[4]).Field(id).Build()).ToString()
			return err
		})
		if rueidis.IsRedisNil(err) {
			return fabric.ErrNotFound
		}
		if err != nil {
			return err
		}
		letter, err := decodeEnvelope(text)
		if err != nil {
			letter = envelope{EnqueuedAt: time.Now().UTC()} // the job is there all the same
		}
		next, err := follow(letter)
		if err != nil {
			return err
		}
		answer, err := q.provider.runDurable(ctx, reviveScript, q.with(operation(q.base)), []string{
			q.news, id, text, next, strconv.Itoa(q.config.MaxJobs), milliseconds(memoryTime),
		})
		if err != nil {
			return err
		}
		switch result, _ := answer.ToString(); result {
		case "done":
			return nil
		case "missing":
			return fabric.ErrNotFound
		case "full":
			return fabric.ErrFull
		}
		// It died again meanwhile, and has another letter.
	}
}

func (q *queue) warn(text string, attributes ...any) {
	q.provider.options.Logger.Warn(text, append(attributes, slog.String("queue", q.config.Name))...)
}
