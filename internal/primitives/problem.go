package primitives

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/parleyio/parley/internal/fabric"
)

// problem is a kind of failure of a request: its status and the code in the answer. Codes do not
// change; the text beside them is for people.
type problem struct {
	status int
	code   string
}

// The failures of requests.
var (
	problemInvalid       = problem{http.StatusBadRequest, "invalid"}                       // a parameter or the body
	problemUnauthorized  = problem{http.StatusUnauthorized, "unauthorized"}                // no key, or one that is unknown
	problemForbidden     = problem{http.StatusForbidden, "forbidden"}                      // the key has no scope for it
	problemNotFound      = problem{http.StatusNotFound, "not_found"}                       // the path, key, queue, dead letter
	problemMethod        = problem{http.StatusMethodNotAllowed, "method_not_allowed"}      //
	problemConflict      = problem{http.StatusConflict, "conflict"}                        // the value is another
	problemLocked        = problem{http.StatusConflict, "locked"}                          // another has the lock
	problemLost          = problem{http.StatusConflict, "lost"}                            // the lease or lock is not held any more
	problemNotCounter    = problem{http.StatusConflict, "not_counter"}                     // the value is no number
	problemTooManyQueues = problem{http.StatusConflict, "too_many_queues"}                 // no queue may be added
	problemNoWorker      = problem{http.StatusConflict, "no_worker_free"}                  // all worker ids are leased
	problemBusy          = problem{http.StatusConflict, "idempotency_busy"}                // the first request is being done
	problemTooLarge      = problem{http.StatusRequestEntityTooLarge, "too_large"}          //
	problemMismatch      = problem{http.StatusUnprocessableEntity, "idempotency_mismatch"} // the first request was another
	problemRate          = problem{http.StatusTooManyRequests, "rate_limited"}             //
	problemInternal      = problem{http.StatusInternalServerError, "internal"}             // the node's log says more
	problemUnsupported   = problem{http.StatusNotImplemented, "unsupported"}               // the carrier cannot do it
	problemUnavailable   = problem{http.StatusServiceUnavailable, "unavailable"}           // it may have been done
	problemStarting      = problem{http.StatusServiceUnavailable, "starting"}              // the node, as the text explains
	problemFull          = problem{http.StatusServiceUnavailable, "full"}                  // a limit of the queue or node
	problemClock         = problem{http.StatusServiceUnavailable, "clock_behind"}          // ids would be of the future
)

// requestError is a failure with the text for the caller.
type requestError struct {
	problem
	text string
}

// Error implements error.
func (e *requestError) Error() string { return e.text }

func fail(p problem, format string, args ...any) error {
	return &requestError{p, fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error { return fail(problemInvalid, format, args...) }

// explain returns the answer to a failed request.
func explain(err error) *requestError {
	var known *requestError
	if errors.As(err, &known) {
		return known
	}
	for _, translation := range []struct {
		sentinel error
		problem  problem
		text     string
	}{
		{errLost, problemLost, errLost.Error()},
		{errQueueNotFound, problemNotFound, errQueueNotFound.Error()},
		{errQueueRemoving, problemConflict, errQueueRemoving.Error()},
		{errTooManyQueues, problemTooManyQueues, errTooManyQueues.Error()},
		{fabric.ErrNotFound, problemNotFound, "there is no such thing"},
		{fabric.ErrConflict, problemConflict, "it is another by now"},
		{fabric.ErrLocked, problemLocked, "another holder has the lock"},
		{fabric.ErrNotCounter, problemNotCounter, "the value is not a whole number, or the sum does not fit into 64 bits"},
		{fabric.ErrTooLarge, problemTooLarge, fmt.Sprintf("a value may have %d bytes", fabric.MaxValueSize)},
		{fabric.ErrFull, problemFull, "it is full"},
		{fabric.ErrUnsupported, problemUnsupported, "what this node stores its data in (fabric.driver) cannot do this"},
		{fabric.ErrInvalidKey, problemInvalid, "the name or id cannot be used"},
		{fabric.ErrInvalidSubject, problemInvalid, "the subject cannot be used"},
		{fabric.ErrInvalidConfig, problemInvalid, "a setting cannot be used"},
		{fabric.ErrClosed, problemUnavailable, "the node stops"},
		{fabric.ErrUnavailable, problemUnavailable, "the store does not answer; it may have been done"},
		{context.DeadlineExceeded, problemUnavailable, "the store does not answer; it may have been done"},
		{context.Canceled, problemUnavailable, "the request was ended"},
	} {
		if errors.Is(err, translation.sentinel) {
			return &requestError{translation.problem, translation.text}
		}
	}
	return &requestError{problemInternal, "internal error"}
}
