package webhook

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// loop is the one goroutine that puts batches into the queue, which is what keeps their
// order. While the queue is slow, open batches grow, so a slow queue gets fewer and fuller
// jobs.
func (e *Emitter) loop(ctx context.Context) {
	defer e.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		next, due, waits := e.next(time.Now())
		if next != nil {
			e.handOver(ctx, next)
			continue
		}
		var expired <-chan time.Time
		if waits {
			timer.Reset(time.Until(due))
			expired = timer.C
		}
		select {
		case <-ctx.Done():
		case <-e.wake:
		case <-expired:
		}
	}
}

// next does what is due and returns the first batch that is ready. If there is none it
// returns the time at which something will be due, and false if nothing will.
func (e *Emitter) next(now time.Time) (ready *batch, due time.Time, waits bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.takeDueLeaves(now)
	due, waits = e.leaves.nextDue()
	if at, more := e.found.nextDue(); more && (!waits || at.Before(due)) {
		due, waits = at, true
	}
	for front := e.openOrder.Front(); front != nil; front = e.openOrder.Front() {
		oldest := front.Value.(*batch)
		if oldest.due.After(now) {
			if !waits || oldest.due.Before(due) {
				due, waits = oldest.due, true
			}
			break
		}
		e.closeBatch(oldest, now)
	}
	if len(e.ready) > 0 {
		ready = e.ready[0]
		e.ready[0] = nil
		e.ready = e.ready[1:]
	}
	return ready, due, waits
}

// handOver puts the batch into the queue, or drops it after EnqueueTimeout.
func (e *Emitter) handOver(ctx context.Context, b *batch) {
	if reason, err := e.enqueue(ctx, b); err != nil {
		e.metrics.Dropped(reason, len(b.events))
		e.log.Error("webhook events dropped", "app_id", b.to.appID, "reason", reason,
			"events", len(b.events), "error", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.release(b)
}

// enqueue tries until the queue takes the batch, and returns the reason when it does not.
func (e *Emitter) enqueue(ctx context.Context, b *batch) (reason string, err error) {
	payload := encodeJSON(payload{
		AppID: b.to.appID, URL: b.to.url, TimeMS: b.timeMS, Events: b.events,
	})
	// The id makes a second try harmless after a first one whose answer was lost.
	return e.enqueueJob(ctx, fabric.Job{ID: rand.Text(), Payload: payload})
}

func (e *Emitter) enqueueJob(parent context.Context, job fabric.Job) (reason string, err error) {
	ctx, cancel := context.WithTimeout(parent, e.options.EnqueueTimeout)
	defer cancel()
	const waitMax = time.Second
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, waitMax) {
		_, failure := e.queue.Enqueue(ctx, job)
		switch {
		case failure == nil:
			return "", nil
		case errors.Is(failure, fabric.ErrTooLarge):
			return DropTooLarge, failure
		case errors.Is(failure, fabric.ErrClosed):
			return DropQueueFailed, failure
		case errors.Is(failure, fabric.ErrFull):
			reason, err = DropQueueFull, failure
		case err == nil || ctx.Err() == nil: // a timeout does not hide what it waited for
			reason, err = DropQueueFailed, failure
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			if parent.Err() != nil {
				return DropShutdown, err
			}
			return reason, err
		}
	}
}

// release forgets a batch that is in the queue or lost.
func (e *Emitter) release(b *batch) {
	e.pending -= len(b.events)
	e.pendingBytes -= b.bytes
	close(b.done)
}

// stop drops what is left in memory and makes Emit drop what still comes.
func (e *Emitter) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.letGo(now)
	e.stopped = true
	for e.openOrder.Len() > 0 {
		e.closeBatch(e.openOrder.Front().Value.(*batch), now)
	}
	lost := 0
	for _, b := range e.ready {
		lost += len(b.events)
		e.release(b)
	}
	e.ready = nil
	if lost > 0 {
		e.metrics.Dropped(DropShutdown, lost)
		e.log.Error("webhook events dropped", "reason", DropShutdown, "events", lost)
	}
}

// payload is the content of a job. The signature is not part of it: it is made when the
// batch is sent, with the secret of that time.
type payload struct {
	AppID  string            `json:"app_id"`
	URL    string            `json:"url"`
	TimeMS int64             `json:"time_ms"`
	Events []json.RawMessage `json:"events"`
}

// body returns the request body, which is the same in each attempt.
func (p payload) body() []byte {
	return encodeJSON(struct {
		TimeMS int64             `json:"time_ms"`
		Events []json.RawMessage `json:"events"`
	}{p.TimeMS, p.Events})
}

// errUnreadable says that a job holds no batch.
var errUnreadable = errors.New("unreadable webhook job")

// decodePayload is the inverse of what enqueue writes. Its error never quotes the payload.
func decodePayload(data []byte) (payload, error) {
	var p payload
	if json.Unmarshal(data, &p) != nil || p.AppID == "" || p.URL == "" || len(p.Events) == 0 {
		return payload{}, errUnreadable
	}
	return p, nil
}
