package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Sentinel errors. Callers match them with errors.Is.
var (
	ErrNotFound    = errors.New("not found")            // no value, queue or dead letter of that name
	ErrConflict    = errors.New("conflict")             // the current value is another
	ErrLocked      = errors.New("locked")               // another has the lock
	ErrLost        = errors.New("lost")                 // the lease or lock is not held any more
	ErrNotCounter  = errors.New("not a counter")        // the value is no number
	ErrTooLarge    = errors.New("too large")            // a value, job or signal over 512 KiB
	ErrFull        = errors.New("full")                 // the queue, or the node, has as much as it may
	ErrInvalid     = errors.New("invalid")              // a parameter
	ErrForbidden   = errors.New("forbidden")            // the key is unknown or has no scope for it
	ErrUnsupported = errors.New("not supported")        // what the node stores its data in cannot do it
	ErrUnavailable = errors.New("unavailable")          // no node or no store answers; it may have been done
	ErrNoWorker    = errors.New("no worker id is free") // all 32 are leased
)

// Error is a failure that a node told. It matches the sentinel of its code.
type Error struct {
	Status  int    // of the HTTP answer
	Code    string // stable, as in the OpenAPI document
	Message string // for people

	after time.Duration // Retry-After
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s (%d %s)", e.Message, e.Status, e.Code) }

// sentinels are the errors that a code stands for.
var sentinels = map[string]error{
	"not_found": ErrNotFound, "conflict": ErrConflict, "locked": ErrLocked, "lost": ErrLost, "not_counter": ErrNotCounter,
	"too_large": ErrTooLarge, "full": ErrFull, "invalid": ErrInvalid, "forbidden": ErrForbidden, "unauthorized": ErrForbidden,
	"unsupported": ErrUnsupported, "no_worker_free": ErrNoWorker, "unavailable": ErrUnavailable, "starting": ErrUnavailable,
	"internal": ErrUnavailable, "clock_behind": ErrUnavailable, "rate_limited": ErrUnavailable,
}

// Is has an Error match the sentinel of its code.
func (e *Error) Is(target error) bool { return sentinels[e.Code] == target }

// readError reads a failure from an answer. Some answers come from balancers.
func readError(answer *http.Response, text []byte) error {
	var body struct {
		Error struct{ Code, Message string }
	}
	e := &Error{Status: answer.StatusCode, Code: "unavailable", Message: answer.Status}
	if json.Unmarshal(text, &body) == nil && body.Error.Code != "" {
		e.Code, e.Message = body.Error.Code, body.Error.Message
	} else if answer.StatusCode < 500 {
		e.Code = "unknown"
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.after = time.Duration(seconds) * time.Second
	}
	return e
}

// unreachable says that a node gave no answer.
type unreachable struct{ err error }

// Error implements error.
func (u *unreachable) Error() string { return "no answer: " + u.err.Error() }

// Unwrap returns why there was none.
func (u *unreachable) Unwrap() []error { return []error{ErrUnavailable, u.err} }

// advice is what to do about a failure.
type advice struct {
	again     bool          // send the request again
	elsewhere bool          // to another node
	maybeDone bool          // the request may have been done
	after     time.Duration // and not before
}

func advise(err error) advice {
	var told *Error
	var silent *unreachable
	var dialling *net.OpError
	switch {
	case errors.As(err, &dialling) && dialling.Op == "dial":
		return advice{again: true, elsewhere: true}
	case errors.As(err, &silent):
		return advice{again: true, elsewhere: true, maybeDone: true}
	case !errors.As(err, &told):
		return advice{}
	case told.Code == "idempotency_busy", told.Status == http.StatusTooManyRequests:
		return advice{again: true, after: told.after}
	case told.Code == "full", told.Code == "clock_behind":
		return advice{}
	case told.Code == "starting":
		return advice{again: true, elsewhere: true}
	case told.Status >= 500 && told.Status != http.StatusNotImplemented:
		return advice{again: true, elsewhere: true, maybeDone: true}
	}
	return advice{}
}
