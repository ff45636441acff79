package rabbitmq

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
)

// envelopeHeader carries the envelope of a job, as JSON: an ID may hold what a header may not.
const envelopeHeader = "parley-job"

// deliveriesHeader is set by a quorum queue: how often it has delivered a message before.
const deliveriesHeader = "x-delivery-count"

// envelope is what a queue remembers about a job beside its payload. All of it travels in the
// message, so that it outlives every process.
type envelope struct {
	ID         string    `json:"id"`
	Instance   string    `json:"instance"` // tells this job from an earlier or later one with its ID
	EnqueuedAt time.Time `json:"enqueued_at"`
	NotBefore  time.Time `json:"not_before,omitzero"`

	Failures     int       `json:"failures,omitempty"`
	FirstAttempt time.Time `json:"first_attempt,omitzero"` // of the failed ones
	FailedAt     time.Time `json:"failed_at,omitzero"`     // the last time
	RetryAt      time.Time `json:"retry_at,omitzero"`

	// Again says that the same state of the job may have been stored before.
	Again bool `json:"again,omitempty"`
}

// readyAt is when the next attempt may start.
func (e envelope) readyAt() time.Time {
	if e.RetryAt.After(e.NotBefore) {
		return e.RetryAt
	}
	return e.NotBefore
}

// waits is how long the job waits for its next attempt altogether.
func (e envelope) waits() time.Duration {
	if e.Failures > 0 {
		return e.readyAt().Sub(e.FailedAt)
	}
	return e.readyAt().Sub(e.EnqueuedAt)
}

// job returns the job with the number of the given attempt.
func (e envelope) job(payload []byte, attempt int) fabric.Job {
	return fabric.Job{
		ID:         e.ID,
		Payload:    notNil(payload),
		NotBefore:  e.NotBefore,
		Attempt:    attempt,
		EnqueuedAt: e.EnqueuedAt,
	}
}

// message returns the message that stores a job.
func (e envelope) message(payload []byte) (amqp.Publishing, error) {
	header, err := json.Marshal(e)
	if err != nil {
		return amqp.Publishing{}, fmt.Errorf("encode envelope: %w", err)
	}
	return amqp.Publishing{
		Headers:      amqp.Table{envelopeHeader: string(header)},
		ContentType:  "application/octet-stream",
		DeliveryMode: amqp.Persistent,
		MessageId:    e.Instance,
		Timestamp:    e.EnqueuedAt,
		AppId:        "parley",
		Body:         payload,
	}, nil
}

// decodeEnvelope reads the envelope from the headers of a message.
func decodeEnvelope(headers amqp.Table) (envelope, error) {
	text, _ := headers[envelopeHeader].(string)
	var e envelope
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return envelope{}, fmt.Errorf("decode header %s: %w", envelopeHeader, err)
	}
	if e.ID == "" || e.Instance == "" {
		return envelope{}, fmt.Errorf("decode header %s: no id", envelopeHeader)
	}
	return e, nil
}

// deliveries returns how often a message was delivered before and came back.
func deliveries(headers amqp.Table) int64 {
	switch n := headers[deliveriesHeader].(type) {
	case int64:
		return n
	case int32:
		return int64(n)
	case int16:
		return int64(n)
	case int8:
		return int64(n)
	case uint8:
		return int64(n)
	}
	return 0
}

// death returns why the broker gave up a message, and when, as the broker wrote it down.
func death(headers amqp.Table) (reason string, at time.Time) {
	var last amqp.Table
	if list, _ := headers["x-death"].([]any); len(list) > 0 {
		last, _ = list[0].(amqp.Table) // the latest comes first
	}
	reason, _ = last["reason"].(string)
	at, _ = last["time"].(time.Time)
	return cmp.Or(reason, "unknown"), at
}

// token stands for a job's ID where few characters or bytes are allowed.
func token(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:16])
}

func notNil(payload []byte) []byte {
	if payload == nil {
		return []byte{}
	}
	return payload
}
