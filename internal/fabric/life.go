package fabric

import (
	"context"
	"time"
)

// Life is the time from the opening of a provider to its Close, for drivers: a context that ends
// then.
type Life struct {
	context.Context
	End context.CancelFunc // begins the end; repeating it does nothing
}

// NewLife begins a life.
func NewLife() Life {
	ctx, end := context.WithCancel(context.Background())
	return Life{ctx, end}
}

// Ready returns ErrClosed after the end, and the error of a ctx that has ended.
func (l Life) Ready(ctx context.Context) error {
	if l.Err() != nil {
		return ErrClosed
	}
	return ctx.Err()
}

// Bind returns a context that ends with ctx or with the life, and what releases it.
func (l Life) Bind(ctx context.Context) (context.Context, func()) {
	bound, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l, cancel)
	return bound, func() { stop(); cancel() }
}

// Ended is the result of a call that ran until its bound context ended: nil when the caller ended
// it by ctx, ErrClosed when the life did.
func (l Life) Ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return ErrClosed
	}
	return nil
}

// Pause waits, or until ctx ends. A wait that is over already is none.
func Pause(ctx context.Context, wait time.Duration) {
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
