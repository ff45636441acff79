package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// LockOptions say how a lock is to be taken.
type LockOptions struct {
	// TTL is after what time the lock is free should this process die; 0 is 30 s, at most 40
	// minutes. It is renewed while the lock is held.
	TTL time.Duration
	// Wait is how long to wait for it; 0 is not at all, negative as long as the context lets.
	Wait time.Duration
}

// Lock is a lock that is held. It is renewed by itself until Release.
type Lock struct {
	client *Client
	name   string
	id     string
	token  uint64
	held   context.Context
	stop   func() error
}

// lockText is a held lock in JSON.
type lockText struct {
	ID    string `json:"lock_id"`
	Token uint64 `json:"token"`
	TTL   int64  `json:"ttl_ms"`
}

// defaultTTL is that of locks and worker ids.
const defaultTTL = 30 * time.Second

// maxLockWait is how long one request waits.
const maxLockWait = 30 * time.Second

func lockPath(name string) string { return "/locks/" + url.PathEscape(name) }

// Lock takes a lock, for all who have a key of its namespace; ErrLocked when another has it still
// after the wait. The lock lasts until Release, or until it is lost: then its Context ends.
func (c *Client) Lock(ctx context.Context, name string, o LockOptions) (*Lock, error) {
	if o.TTL == 0 {
		o.TTL = defaultTTL
	}
	asked := time.Now()
	for {
		wait := max(0, min(maxLockWait, o.Wait-time.Since(asked)))
		if o.Wait < 0 {
			wait = maxLockWait
		}
		var answer lockText
		begin := time.Now()
		err := c.do(ctx, request{
			method: http.MethodPost, path: lockPath(name), answer: &answer, wait: wait, once: true,
			body: map[string]int64{"ttl_ms": milliseconds(o.TTL), "wait_ms": milliseconds(wait)},
		})
		if err == nil {
			return c.hold(ctx, name, o.TTL, answer, begin.Add(duration(answer.TTL))), nil
		}
		if !errors.Is(err, ErrLocked) || o.Wait >= 0 && time.Since(asked) >= o.Wait || ctx.Err() != nil {
			return nil, err
		}
	}
}

// hold renews a lock from now on.
func (c *Client) hold(ctx context.Context, name string, ttl time.Duration, answer lockText, until time.Time) *Lock {
	l := &Lock{client: c, name: name, id: answer.ID, token: answer.Token}
	l.held, l.stop = keep(ctx, until, func(ctx context.Context) (time.Time, error) {
		var extended struct {
			TTL int64 `json:"ttl_ms"`
		}
		begin := time.Now()
		err := c.do(ctx, request{
			method: http.MethodPost, path: lockPath(name) + "/extend", answer: &extended,
			body: map[string]any{"lock_id": l.id, "ttl_ms": milliseconds(ttl)},
		})
		return begin.Add(duration(extended.TTL)), err
	})
	return l
}

// Token grows with each holder of the name. What the lock protects should remember the highest
// that it has met and refuse lower ones: a process that was stopped for longer than the TTL may
// go on before it learns that the lock is lost.
func (l *Lock) Token() uint64 { return l.token }

// Context ends when the lock is not certainly held any more, with a cause that wraps ErrLost, and
// with the context given to Client.Lock. From then on the lock is not renewed.
func (l *Lock) Context() context.Context { return l.held }

// Release gives the lock back; ErrLost when it was lost before. When it fails otherwise, the lock is
// free after its TTL.
func (l *Lock) Release(ctx context.Context) error {
	if err := l.stop(); err != nil {
		return err
	}
	return l.client.do(ctx, request{
		method: http.MethodPost, path: lockPath(l.name) + "/release", body: map[string]string{"lock_id": l.id},
	})
}

// WithLock runs a function while a lock is held. Its context ends when the lock is lost, and its
// token is that of the lock. When the lock was lost the error wraps ErrLost.
func (c *Client) WithLock(
	ctx context.Context, name string, o LockOptions, run func(ctx context.Context, token uint64) error,
) error {
	lock, err := c.Lock(ctx, name, o)
	if err != nil {
		return err
	}
	err = run(lock.Context(), lock.Token())
	releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	return errors.Join(err, lock.Release(releasing))
}
