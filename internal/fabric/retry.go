package fabric

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
)

// Wait returns how long to wait after the failure with that number, counted from 1.
func (p RetryPolicy) Wait(failures int) time.Duration {
	wait := p.Initial
	for i := 1; i < failures && wait < p.Max; i++ {
		if wait > p.Max/2 { // also keeps the doubling from overflowing
			wait = p.Max
			break
		}
		wait *= 2
	}
	wait = min(wait, p.Max)
	spread := (rand.Float64()*2 - 1) * p.Jitter
	return max(0, wait+time.Duration(spread*float64(wait)))
}

// GiveUp says whether a job is given up that was first attempted at first and has failed
// with err at now.
func (p RetryPolicy) GiveUp(first, now time.Time, err error) bool {
	return errors.Is(err, ErrGiveUp) || now.Sub(first) >= p.Elapsed
}

// Reason returns the text of err as a dead letter keeps it: UTF-8, at most MaxReasonSize
// bytes.
func Reason(err error) string {
	text := err.Error()
	if len(text) > MaxReasonSize {
		text = text[:MaxReasonSize]
	}
	return strings.ToValidUTF8(text, "")
}

// WithDefaultTimeout bounds ctx by timeout unless it has a deadline of its own.
func WithDefaultTimeout(
	ctx context.Context, timeout time.Duration,
) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}
