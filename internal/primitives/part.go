package primitives

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// A part is opened when somebody first needs it: what nobody uses costs the cluster nothing.
// While a cluster elects its leaders a try to open may never be answered.
const (
	openTry   = 2 * time.Second
	openPause = 100 * time.Millisecond
)

// part is something of the fabric that is opened when it is first needed.
type part[T any] struct {
	what string
	open func(context.Context) (T, error)
	turn chan struct{} // of size 1: holds a token while somebody opens
	had  atomic.Pointer[T]
}

// newPart returns a part that is not open yet; what names it in errors.
func newPart[T any](what string, open func(context.Context) (T, error)) *part[T] {
	return &part[T]{what: what, open: open, turn: make(chan struct{}, 1)}
}

// get returns the part, which it opens if nobody has. What fails for the moment is tried again
// until ctx ends.
func (p *part[T]) get(ctx context.Context) (none T, err error) {
	if had := p.had.Load(); had != nil {
		return *had, nil
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return none, ctx.Err()
	}
	for {
		if had := p.had.Load(); had != nil {
			return *had, nil
		}
		trying, done := context.WithTimeout(ctx, openTry)
		value, err := p.open(trying)
		done()
		switch {
		case err == nil:
			p.had.Store(&value)
			return value, nil
		case hopeless(err):
			return none, fmt.Errorf("open %s: %w", p.what, err)
		case pause(ctx, openPause) != nil:
			return none, fmt.Errorf("open %s: %w: %w", p.what, fabric.ErrUnavailable, err)
		}
	}
}

// hopeless tells whether another try is of no use.
func hopeless(err error) bool {
	return errors.Is(err, fabric.ErrUnsupported) || errors.Is(err, fabric.ErrInvalidConfig) ||
		errors.Is(err, fabric.ErrClosed)
}

// pause waits, or returns the error of a ctx that ended.
func pause(ctx context.Context, wait time.Duration) error {
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
