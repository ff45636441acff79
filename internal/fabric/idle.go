package fabric

import (
	"context"
	"errors"
	"time"
)

// IdleInterval is between two questions to QueueConfig.Idle while it says no.
const IdleInterval = 250 * time.Millisecond

// IsIdle says whether a worker of the queue may take a job now.
func (c QueueConfig) IsIdle() bool { return c.Idle == nil || c.Idle() }

// AwaitIdle waits until a worker of the queue may take a job, or ctx ends. It is for drivers.
func (c QueueConfig) AwaitIdle(ctx context.Context) {
	for ctx.Err() == nil && !c.IsIdle() {
		select {
		case <-time.After(IdleInterval):
		case <-c.Wake:
		case <-ctx.Done():
		}
	}
}

// IsPutBack says whether a job whose handler returned err is delivered again without counting
// as failed. The context is the worker's.
func IsPutBack(ctx context.Context, err error) bool {
	return errors.Is(err, ErrPutBack) || err != nil && ctx.Err() != nil && !errors.Is(err, ErrGiveUp)
}

// Take tells Taken, if there is one, and returns what is to be called, never nil, if the handler of
// the job is not. It is for drivers.
func (c QueueConfig) Take(job Job) (missed func()) {
	if c.Taken != nil {
		missed = c.Taken(job)
	}
	if missed == nil {
		missed = func() {}
	}
	return missed
}

// Settle tells Settled, if there is one.
func (c QueueConfig) Settle(job Job, err error) {
	if c.Settled != nil {
		c.Settled(job, err)
	}
}
