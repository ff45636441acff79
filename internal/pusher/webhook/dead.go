package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// ListDeadMax is the largest number of dead letters that ListDead returns.
const ListDeadMax = 1000

// Dead describes a batch that was given up. It has no event data, and no password that the
// hook's address may contain. A batch that cannot be read has no app, address and events.
type Dead struct {
	ID         string    `json:"id"`
	AppID      string    `json:"app_id"`
	URL        string    `json:"url"`
	Events     []string  `json:"events"` // their names, in order
	Attempts   int       `json:"attempts"`
	Reason     string    `json:"reason"` // the last error
	EnqueuedAt time.Time `json:"enqueued_at"`
	FailedAt   time.Time `json:"failed_at"`
}

// ListDead returns up to limit dead letters, oldest first, that come after the one with id
// after ("" for the start). The limit is held between 1 and ListDeadMax.
func (e *Emitter) ListDead(ctx context.Context, after string, limit int) ([]Dead, error) {
	letters, err := e.queue.DeadLetters(ctx, after, min(max(limit, 1), ListDeadMax))
	if err != nil {
		return nil, fmt.Errorf("list dead webhooks: %w", err)
	}
	list := make([]Dead, 0, len(letters))
	for _, letter := range letters {
		list = append(list, Describe(letter))
	}
	return list, nil
}

// Replay puts a dead letter back into the queue as a new first attempt; the error wraps
// fabric.ErrNotFound if there is none with that id.
func (e *Emitter) Replay(ctx context.Context, id string) error {
	if err := e.queue.Replay(ctx, id); err != nil {
		return fmt.Errorf("replay dead webhook %q: %w", id, err)
	}
	return nil
}

// Discard removes a dead letter; the error wraps fabric.ErrNotFound if there is none with
// that id.
func (e *Emitter) Discard(ctx context.Context, id string) error {
	if err := e.queue.Discard(ctx, id); err != nil {
		return fmt.Errorf("discard dead webhook %q: %w", id, err)
	}
	return nil
}

// Host returns the host of the hook's address, the part that a log may show: paths and
// queries of webhooks often carry tokens.
func (d Dead) Host() string { return hostOf(d.URL) }

// Describe returns what may be shown of a dead letter.
func Describe(letter fabric.DeadLetter) Dead {
	dead := Dead{
		ID:         letter.ID,
		Events:     []string{},
		Attempts:   letter.Attempt,
		Reason:     letter.Reason,
		EnqueuedAt: letter.EnqueuedAt,
		FailedAt:   letter.FailedAt,
	}
	batch, err := decodePayload(letter.Payload)
	if err != nil {
		return dead
	}
	dead.AppID = batch.AppID
	if address, err := url.Parse(batch.URL); err == nil {
		dead.URL = address.Redacted()
	}
	for _, event := range batch.Events {
		var named struct {
			Name string `json:"name"`
		}
		_ = json.Unmarshal(event, &named) // an event without a name is listed as ""
		dead.Events = append(dead.Events, named.Name)
	}
	return dead
}
