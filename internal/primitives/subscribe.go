package primitives

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// writeTimeout is how long a subscriber may take nothing. It then comes back, and goes on
	// behind the last signal that it got.
	writeTimeout = 10 * time.Second
	// aliveInterval is between two signs of life to a subscriber who gets nothing.
	aliveInterval = 15 * time.Second
)

// dropSubscriberSlow counts subscribers that were cut off since they did not read.
const dropSubscriberSlow = "primitives_subscriber_slow"

// sink takes the events of one subscriber. It waits until they are written, up to writeTimeout.
type sink interface {
	send(events []event) error
	alive() error
}

// errEnd ends a subscription for a reason that the subscriber is told.
type errEnd string

// Error implements error.
func (e errEnd) Error() string { return "subscription ended: " + string(e) }

// follower sends a subscriber what it asked for.
type follower struct {
	server       *Server
	tail         *tail
	subscription subscription
	out          sink
	position     uint64    // up to which everything was sent, or held back
	back         *heldBack // nil without a window
}

// follow serves a subscriber until ctx ends, the node leaves, the key is revoked or the subscriber
// cannot be written to.
func (s *Server) follow(ctx context.Context, sub subscription, t *tail, out sink) {
	s.options.Metrics.subscribers.Inc()
	defer s.options.Metrics.subscribers.Dec()
	t.join()
	defer t.leave()
	f := &follower{server: s, tail: t, subscription: sub, out: out, position: sub.after}
	if sub.coalesce > 0 {
		f.back = newHeldBack(sub.coalesce)
	}
	err := f.begin(ctx)
	for err == nil {
		err = f.step(ctx)
	}
	var end errEnd
	switch {
	case errors.As(err, &end):
		if f.flush() == nil {
			_ = out.send([]event{{Type: eventEnd, Position: f.position, Reason: string(end)}}) // it may be gone
		}
	case errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil:
		s.options.Dropped(dropSubscriberSlow)
	}
}

// begin finds where to begin and says so.
func (f *follower) begin(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	newest, err := f.tail.replay.Position(limit)
	if err != nil {
		return errEnd(endStore)
	}
	first := []event{}
	switch {
	case f.subscription.fromNow:
		f.position = newest
	case f.position > newest: // the log was begun anew
		f.position = 0
		first = append(first, event{Type: eventGap, Reason: string(fabric.GapForgotten)})
	}
	first = append(first, event{Type: eventReady, Position: f.position})
	return f.out.send(first)
}

// step sends what there is, or waits for more.
func (f *follower) step(ctx context.Context) error {
	select {
	case <-f.subscription.key.gone:
		return errEnd(endRevoked)
	case <-f.server.staying.Done():
		return errEnd(endLeaving)
	case <-ctx.Done():
		return ctx.Err()
	case <-f.back.due():
		return f.flush()
	default:
	}
	v := f.tail.behind(f.position, f.subscription.fits)
	switch {
	case !v.covered:
		return f.catchUp(ctx, v)
	case len(v.messages) > 0:
		return f.pass(v.messages, v.next)
	}
	f.position = v.next
	return f.wait(ctx, v.changed)
}

// wait waits until the tail has more, or something else is to be done.
func (f *follower) wait(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(aliveInterval)
	defer timer.Stop()
	select {
	case <-changed:
	case <-f.back.due():
		return f.flush()
	case <-timer.C:
		return f.out.alive()
	case <-f.subscription.key.gone:
	case <-f.server.staying.Done():
	case <-ctx.Done():
	}
	return nil
}

// catchUp reads a page of the log, until the tail has what comes next.
func (f *follower) catchUp(ctx context.Context, v view) error {
	select {
	case f.tail.slots <- struct{}{}:
		defer func() { <-f.tail.slots }()
	case <-ctx.Done():
		return ctx.Err()
	case <-f.server.staying.Done():
		return errEnd(endLeaving)
	}
	limit, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	messages, next, err := f.tail.replay.Read(limit, f.subscription.pattern, f.position, tailPage)
	first := uint64(0)
	if err == nil && f.position > 0 {
		first, err = f.tail.replay.First(limit)
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		f.server.log.Info("signals cannot be read", "error", err)
		return errEnd(endStore)
	}
	if first > f.position+1 { // what was there may have gone before it was read
		if err := f.flush(); err != nil {
			return err
		}
		f.position = first - 1
		if err := f.out.send([]event{{Type: eventGap, Position: f.position, Reason: string(fabric.GapForgotten)}}); err != nil {
			return err
		}
	}
	if next > f.position {
		return f.pass(messages, next)
	}
	// The log has no more, so the tail goes on, if it has begun.
	f.position = max(f.position, v.from)
	if after := f.tail.behind(f.position, f.subscription.fits); !after.covered {
		return f.wait(ctx, after.changed)
	}
	return nil
}

// pass sends signals, of which the last one is at next or before, now or when their window is over.
func (f *follower) pass(messages []fabric.Kept, next uint64) error {
	var events []event
	for _, m := range messages {
		if f.subscription.wants(m) {
			events = append(events, messageEvent(m, f.subscription.key.Namespace))
		}
	}
	f.position = next
	if f.back != nil {
		if f.back.add(events) {
			return f.flush()
		}
		return nil
	}
	if len(events) == 0 {
		return nil
	}
	return f.out.send(events)
}

// flush sends what was held back.
func (f *follower) flush() error {
	if events := f.back.take(); len(events) > 0 {
		return f.out.send(events)
	}
	return nil
}

// heldBack keeps signals for a window from the first on, and of those that are the same the last.
// So their order stays, and who acts on a signal does so after the last one. A nil heldBack is
// empty.
type heldBack struct {
	window time.Duration
	timer  *time.Timer
	events []event
	bytes  int
}

func newHeldBack(window time.Duration) *heldBack {
	timer := time.NewTimer(window)
	timer.Stop()
	return &heldBack{window: window, timer: timer}
}

// due has a value when the window is over.
func (b *heldBack) due() <-chan time.Time {
	if b == nil {
		return nil
	}
	return b.timer.C
}

// add keeps events and tells whether there are too many to wait.
func (b *heldBack) add(events []event) (full bool) {
	if len(b.events) == 0 && len(events) > 0 {
		b.timer.Reset(b.window)
	}
	for _, e := range events {
		b.events = append(b.events, e)
		b.bytes += e.size()
	}
	return len(b.events) > maxHeldBack || b.bytes > maxHeldBytes
}

// size is that of the payload.
func (e event) size() int {
	if e.Payload != nil {
		return len(*e.Payload)
	}
	return len(*e.PayloadBase64)
}

// take returns what was kept, without repetitions.
func (b *heldBack) take() []event {
	if b == nil {
		return nil
	}
	type content struct{ subject, sender, payload string }
	last := map[content]uint64{}
	of := func(e event) content {
		if e.Payload != nil {
			return content{e.Subject, e.Sender, "t" + *e.Payload}
		}
		return content{e.Subject, e.Sender, "b" + string(*e.PayloadBase64)}
	}
	for _, e := range b.events {
		last[of(e)] = e.Position
	}
	var events []event
	for _, e := range b.events {
		if last[of(e)] == e.Position {
			events = append(events, e)
		}
	}
	b.timer.Stop()
	b.events, b.bytes = nil, 0
	return events
}
