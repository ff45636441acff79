package rabbitmq

import (
	"context"
	"sync/atomic"

	"github.com/parleyio/parley/internal/fabric"
)

// room keeps a queue from holding more jobs than it may. The broker's own limit does not count
// jobs that are worked on, lets more in at times, and would refuse a failed job its place.
type room struct {
	turn     chan struct{} // holds a token while one enters
	left     int           // jobs that may enter before the broker is asked again; of who has the turn
	entering atomic.Int64  // jobs that have entered and may not be in the broker's count yet
}

// enter takes the place of one job among the limit, and returns what ends the entering. It asks
// for the number of jobs the more often the fuller the queue is, each time for leave to add a
// quarter of what is free, so that several nodes who do the same hardly add up to more.
func (r *room) enter(
	ctx context.Context, limit int, jobs func(context.Context) (int, error),
) (leave func(), err error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if r.left == 0 {
		entering := int(r.entering.Load()) // before the others are counted: some may count twice
		found, err := jobs(ctx)
		if err != nil {
			return nil, err
		}
		free := limit - found - entering
		if free <= 0 {
			return nil, fabric.ErrFull
		}
		r.left = max(1, free/4)
	}
	r.left--
	r.entering.Add(1)
	return func() { r.entering.Add(-1) }, nil
}
