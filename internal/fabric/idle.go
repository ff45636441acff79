package fabric

import (
	"context"
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
		case <-ctx.Done():
		}
	}
}
