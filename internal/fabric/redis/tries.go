package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// tryTimeout bounds the first tries of a request: one that meets a server that stands still
	// is never answered, and the next one may find another master.
	tryTimeout = time.Second
	// tryPause keeps tries apart that fail at once.
	tryPause = 50 * time.Millisecond
	// operationTimeout bounds all tries of a request for a caller who set no bound himself.
	operationTimeout = 5 * time.Second
	// memoryTime is how long an operation is remembered by its ID, for repetitions: longer than
	// anybody tries.
	memoryTime = 30 * time.Second
)

// tries calls request, each time for tryTimeout and later for longer, until it is answered or
// ctx ends or, when that has no deadline, operationTimeout is over. An earlier try may have been
// done unheard: request must bear a repetition.
func (p *Provider) tries(ctx context.Context, request func(ctx context.Context) error) error {
	limit, cancel := fabric.WithDefaultTimeout(ctx, operationTimeout)
	defer cancel()
	begin := time.Now()
	var last error // that says more than that the time was over
	for {
		// Longer when the server is only slow.
		trying, done := context.WithTimeout(limit, max(tryTimeout, time.Since(begin)/2))
		err := request(trying)
		done()
		if err == nil || !unanswered(err) {
			return err
		}
		if p.life.Err() != nil {
			return fabric.ErrClosed
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		fabric.Pause(limit, tryPause)
		if limit.Err() == nil {
			continue
		}
		if cause := ctx.Err(); cause != nil {
			if errors.Is(cause, context.Canceled) {
				return cause
			}
			last = fmt.Errorf("%w: %w", cause, last)
		}
		return fmt.Errorf("%w: %w", fabric.ErrUnavailable, last)
	}
}

// operation returns a key under which scripts remember one operation. In a cluster it is in the
// hash slot of base.
func operation(base string) string { return base + "o:" + rand.Text() }

// Errors of the server that another try may not meet, by their first word: somebody else is
// about to be master, or the data is still being loaded.
var transient = map[string]bool{
	"CLUSTERDOWN": true, "TRYAGAIN": true, "LOADING": true, "MASTERDOWN": true, "READONLY": true,
	"MOVED": true, "ASK": true, "NOREPLICAS": true, "BUSY": true, "UNBLOCKED": true,
}

// Errors of the server that say that it takes no writes at the moment: it is out of memory, or
// cannot write to its disk.
var refused = map[string]bool{"OOM": true, "MISCONF": true}

// word returns the first word of an error of the server, "" for other errors.
func word(err error) string {
	var answer *rueidis.RedisError
	if !errors.As(err, &answer) || answer.IsNil() {
		return ""
	}
	first, _, _ := strings.Cut(answer.Error(), " ")
	return first
}

// unanswered tells whether nobody said whether a request was done, or none does it just now.
func unanswered(err error) bool {
	var answer *rueidis.RedisError
	if errors.As(err, &answer) {
		return transient[word(err)]
	}
	for _, known := range []error{
		fabric.ErrConflict, fabric.ErrNotFound, fabric.ErrClosed, fabric.ErrUnsupported, errAnswer, errMode,
	} {
		if errors.Is(err, known) {
			return false
		}
	}
	return true
}

// errAnswer says that a script answered what it never does.
var errAnswer = errors.New("the server's answer cannot be read")

// errMode says that the server is of another kind than the options say.
var errMode = errors.New("the server is of another kind")

// translate adds the sentinel of fabric that says the same as err, if there is one.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fabric.ErrUnavailable):
		return err
	case refused[word(err)] || transient[word(err)]:
		return fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)
	}
	return err
}
