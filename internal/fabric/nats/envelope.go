package nats

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/fabric"
)

// envelopeHeader carries the envelope of a job, as JSON so that no character of an ID or of
// a reason can break the header.
const envelopeHeader = "Parley-Job"

// envelope is what a queue remembers about a job beside its payload. All of it travels in
// the stored message, so that it outlives every process.
type envelope struct {
	ID         string    `json:"id"`
	EnqueuedAt time.Time `json:"enqueued_at"`
	NotBefore  time.Time `json:"not_before,omitzero"`

	Failures     int       `json:"failures,omitempty"`
	FirstAttempt time.Time `json:"first_attempt,omitzero"` // of the failed ones
	RetryAt      time.Time `json:"retry_at,omitzero"`

	Reason   string    `json:"reason,omitempty"`   // of a dead letter
	FailedAt time.Time `json:"failed_at,omitzero"` // of a dead letter
}

// readyAt is when the next attempt may start.
func (e envelope) readyAt() time.Time {
	if e.RetryAt.After(e.NotBefore) {
		return e.RetryAt
	}
	return e.NotBefore
}

// job returns the job with the number of the given attempt.
func (e envelope) job(payload []byte, attempt int) fabric.Job {
	return fabric.Job{
		ID:         e.ID,
		Payload:    payload,
		NotBefore:  e.NotBefore,
		Attempt:    attempt,
		EnqueuedAt: e.EnqueuedAt,
	}
}

// message returns the message that stores a job under the subject prefix.
func (e envelope) message(prefix string, payload []byte) (*natsgo.Msg, error) {
	header, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode envelope: %w", err)
	}
	msg := natsgo.NewMsg(prefix + token(e.ID))
	msg.Header.Set(envelopeHeader, string(header))
	msg.Data = payload
	return msg, nil
}

// decodeEnvelope reads the envelope from the header of a stored message.
func decodeEnvelope(header natsgo.Header) (envelope, error) {
	var e envelope
	if err := json.Unmarshal([]byte(header.Get(envelopeHeader)), &e); err != nil {
		return envelope{}, fmt.Errorf("decode header %s: %w", envelopeHeader, err)
	}
	if e.ID == "" {
		return envelope{}, fmt.Errorf("decode header %s: no id", envelopeHeader)
	}
	return e, nil
}

// token stands for a job's ID in a subject, where few characters are allowed.
func token(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}

// newMsg returns a message to be stored.
func newMsg(subject string, body []byte) *natsgo.Msg {
	msg := natsgo.NewMsg(subject)
	msg.Data = body
	return msg
}
