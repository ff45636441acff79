package nats

import (
	"context"
	"errors"
	"time"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// tryTimeout bounds one write: a request that meets a leader that dies is never answered,
// and the next one goes to the new leader. An election takes 1.5 to 2 s.
const tryTimeout = time.Second

// tries calls write, each time for at most tryTimeout, until it is answered or ctx ends.
// again tells write that an earlier try may have succeeded unheard.
func tries(ctx context.Context, write func(ctx context.Context, again bool) error) error {
	for again := false; ; again = true {
		trying, done := context.WithTimeout(ctx, tryTimeout)
		err := write(trying, again)
		done()
		if err == nil || ctx.Err() != nil || !unanswered(err) {
			return err
		}
		pauseFor(ctx, tryPause)
	}
}

// tryPause keeps tries apart that fail at once.
const tryPause = 50 * time.Millisecond

// unanswered tells whether nobody said whether a write was done.
func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, natsgo.ErrTimeout) ||
		errors.Is(err, natsgo.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
}
