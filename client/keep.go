package client

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// keep extends something that is held until a moment, again and again, until stop is called or
// ctx ends. The context that it returns ends then too, or when it is not held any more, with a
// cause that wraps ErrLost. Stop waits until nothing is being extended, and returns that cause.
//
// It begins when a third of the time is over, so that a node that dies, or a store that elects a
// leader, leaves time to try again.
func keep(
	ctx context.Context, until time.Time, extend func(context.Context) (time.Time, error),
) (held context.Context, stop func() error) {
	held, cancel := context.WithCancelCause(ctx)
	keeping, end := context.WithCancel(held)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := extendAgain(keeping, until, extend); err != nil {
			cancel(err)
		}
	}()
	return held, func() error {
		end()
		<-done
		cause := context.Cause(held)
		cancel(nil)
		if errors.Is(cause, ErrLost) {
			return cause
		}
		return nil
	}
}

// extendAgain returns ErrLost when the time is over, or a node says that it is, and nil when ctx
// has ended.
func extendAgain(ctx context.Context, until time.Time, extend func(context.Context) (time.Time, error)) error {
	pause := time.Until(until) / 3
	for {
		if sleep(ctx, pause) != nil {
			return nil
		}
		trying, stop := context.WithDeadline(ctx, until)
		next, err := extend(trying)
		stop()
		switch {
		case err == nil:
			until = next
			pause = time.Until(until) / 3
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrLost):
			return err
		case !time.Now().Before(until):
			return fmt.Errorf("%w: it could not be extended in time: %w", ErrLost, err)
		default:
			pause = min(retryMax, time.Until(until)/4)
		}
	}
}
