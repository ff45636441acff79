package rabbitmq

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// claimsBytes bounds the claims of a queue, of about 300 bytes each. When they are more, the
	// oldest are forgotten.
	claimsBytes = 32 << 20
	// presentFor is how long the claim of a job holds that is in the queue, after its latest
	// change and beyond a delay. A job that waits for longer may be enqueued a second time.
	presentFor = 24 * time.Hour
	// pendingFor is after how long another may store a job that one is about to store. It is
	// shorter than callers wait, and need not be longer than one tries: both store the same state
	// then.
	pendingFor = 3 * time.Second
	// pendingPoll is between two looks at what another is about to store.
	pendingPoll = 50 * time.Millisecond
	// helpTimeout bounds what is done with a claim only to save a repetition.
	helpTimeout = time.Second
)

// States of a claim. One that is not there is free.
const (
	pending = "pending" // somebody is about to store the job
	present = "present" // the job waits or is worked on
	done    = "done"    // it is not any more, and may be remembered for some time
)

// claim says of a job ID whether it is known. It is written before the message of the job is
// stored, and taken back before that is removed.
type claim struct {
	State    string    `json:"state,omitempty"`
	Instance string    `json:"instance,omitempty"` // of the job that the claim is of
	Failures int       `json:"failures,omitempty"` // those that the job is known to have
	Until    time.Time `json:"until"`              // pending: another may go on; else: the end of DedupWindow
	Ready    time.Time `json:"ready,omitzero"`     // of the job; the claim holds for presentFor beyond that

	value []byte // as it stands in the cache; nil when it does not
	again bool   // its job may have been stored by another
}

// claims are those of one queue, in a cache that all nodes share.
type claims struct {
	cache  fabric.Cache
	logger *slog.Logger
	told   seldom
	// empty says whether the queue has no job at all.
	empty func(context.Context) (bool, error)
}

// take claims an ID for a job that is to be stored, and says whether the caller may. If not, a
// job with that ID is in the queue or, unless it is a replay, was enqueued within DedupWindow.
func (c *claims) take(ctx context.Context, id string, replay bool) (claim, bool, error) {
	for {
		found, err := c.read(ctx, id)
		if err != nil {
			return claim{}, false, err
		}
		mine := claim{State: pending, Instance: rand.Text(), Until: time.Now().Add(pendingFor)}
		recent := time.Now().Before(found.Until)
		switch {
		case found.State == pending && recent:
			if fabric.Pause(ctx, pendingPoll); ctx.Err() != nil {
				return claim{}, false, ctx.Err()
			}
			continue
		case found.State == pending && found.Instance != "":
			mine.Instance, mine.again = found.Instance, true
		case found.State == done && recent && !replay:
			return claim{}, false, nil
		case found.State == present:
			holds, err := c.holds(ctx, id, found, recent)
			if errors.Is(err, fabric.ErrConflict) {
				continue
			}
			if holds || err != nil {
				return claim{}, false, err
			}
		}
		err = c.swap(ctx, id, found, &mine, presentFor)
		if !errors.Is(err, fabric.ErrConflict) {
			return mine, err == nil, err
		}
	}
}

// holds says whether the claim of a job that is present holds. ErrConflict when it was changed:
// what a cache reads may be old, what it swaps may not.
func (c *claims) holds(ctx context.Context, id string, found claim, recent bool) (bool, error) {
	if !recent { // somebody who empties the broker's queues leaves claims without jobs
		empty, err := c.empty(ctx)
		if empty || err != nil {
			return false, err
		}
	}
	return true, c.cache.CompareAndSwap(ctx, id, found.value, found.value, found.holdsFor())
}

// read returns the claim of an ID, one with no State when there is none.
func (c *claims) read(ctx context.Context, id string) (claim, error) {
	value, err := c.cache.Get(ctx, id)
	if errors.Is(err, fabric.ErrNotFound) {
		return claim{}, nil
	}
	if err != nil {
		return claim{}, err
	}
	var found claim
	if err := json.Unmarshal(value, &found); err != nil {
		found = claim{} // nobody's
	}
	found.value = value
	return found, nil
}

// swap writes a claim in the place of the one that was found. ErrConflict when that was
// changed.
func (c *claims) swap(ctx context.Context, id string, found claim, next *claim, ttl time.Duration) error {
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	next.value = value
	return c.cache.CompareAndSwap(ctx, id, found.value, value, ttl)
}

// stored notes that the job of a claim is in the queue. When that cannot be written, another
// may store it again after pendingFor.
func (c *claims) stored(ctx context.Context, mine claim, e envelope) {
	next := stateOf(e, present)
	c.help(ctx, "job not noted as stored", func(ctx context.Context) error {
		return c.swap(ctx, e.ID, mine, &next, next.holdsFor())
	})
}

// release gives up a claim without its job, so that another need not wait for pendingFor. The
// job may have been stored when that was tried.
func (c *claims) release(ctx context.Context, id string, mine claim, tried bool) {
	next := claim{State: pending}
	if tried || mine.again {
		next.Instance = mine.Instance
	}
	c.help(ctx, "job ID not released", func(ctx context.Context) error {
		return c.swap(ctx, id, mine, &next, fabric.DedupWindow)
	})
}

// failed notes how many failures the job has that is in the queue now, so that a message of an
// earlier state is known as such.
func (c *claims) failed(ctx context.Context, e envelope) {
	c.help(ctx, "failure of a job not noted", func(ctx context.Context) error {
		next := stateOf(e, present)
		return c.update(ctx, e, next, next.holdsFor())
	})
}

// help makes a change without which nothing is lost.
func (c *claims) help(ctx context.Context, what string, change func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), helpTimeout)
	defer cancel()
	if err := change(ctx); err != nil && !errors.Is(err, fabric.ErrConflict) && c.told.again() {
		c.logger.Warn(what, slog.Any("error", err))
	}
}

// finished notes that a job is leaving the queue.
func (c *claims) finished(ctx context.Context, e envelope) error {
	return c.update(ctx, e, stateOf(e, done), fabric.DedupWindow)
}

// update writes the state of a job into its claim, unless the claim is of another job by now
// or of a later state.
func (c *claims) update(ctx context.Context, e envelope, next claim, ttl time.Duration) error {
	for {
		found, err := c.read(ctx, e.ID)
		if err != nil {
			return err
		}
		if found.State != "" && found.Instance != e.Instance ||
			next.State == present && (found.State == done || found.Failures > e.Failures) {
			return nil
		}
		if err = c.swap(ctx, e.ID, found, &next, ttl); !errors.Is(err, fabric.ErrConflict) {
			return err
		}
	}
}

func stateOf(e envelope, state string) claim {
	return claim{
		State: state, Instance: e.Instance, Failures: e.Failures, Until: e.EnqueuedAt.Add(fabric.DedupWindow),
		Ready: e.readyAt(),
	}
}

// holdsFor is how long the claim of a job in the queue holds.
func (c claim) holdsFor() time.Duration {
	const maxDelay = 365 * 24 * time.Hour
	return presentFor + min(max(0, time.Until(c.Ready)), maxDelay)
}

// isOver says whether a message is of a state that its job has left: it was stored twice, or
// could not be removed.
func (c *claims) isOver(ctx context.Context, e envelope) bool {
	ctx, cancel := context.WithTimeout(ctx, helpTimeout)
	defer cancel()
	found, err := c.read(ctx, e.ID)
	return err == nil && found.Instance == e.Instance &&
		(found.State == done || found.State == present && found.Failures > e.Failures)
}
