package redis

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// envelope is what a queue remembers about a job beside its ID and payload, as JSON. When the job
// is due stands in the queue, by the server's clock.
type envelope struct {
	EnqueuedAt time.Time `json:"enqueued_at"`
	NotBefore  time.Time `json:"not_before,omitzero"`

	Failures     int       `json:"failures,omitempty"`
	FirstAttempt time.Time `json:"first_attempt,omitzero"` // of the failed ones

	Reason   string    `json:"reason,omitempty"`   // of a dead letter
	FailedAt time.Time `json:"failed_at,omitzero"` // of a dead letter
}

func (e envelope) encode() (string, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return "", fmt.Errorf("encode envelope: %w", err)
	}
	return string(text), nil
}

func decodeEnvelope(text string) (envelope, error) {
	var e envelope
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return envelope{}, fmt.Errorf("decode envelope: %w", err)
	}
	if e.EnqueuedAt.IsZero() || e.Failures < 0 {
		return envelope{}, errors.New("decode envelope: no time, or a negative number")
	}
	return e, nil
}

// job returns the job with the number of the given attempt.
func (e envelope) job(id string, payload []byte, attempt int) fabric.Job {
	return fabric.Job{ID: id, Payload: payload, NotBefore: e.NotBefore, Attempt: attempt, EnqueuedAt: e.EnqueuedAt}
}
