package redis

import (
	"sync"
	"sync/atomic"

	"github.com/parleyio/parley/internal/fabric"
)

// outgoing is one thing to send: a frame, a change of what is subscribed to, or nothing but the
// question whether all before it has been sent.
type outgoing struct {
	kind    byte    // of the frame, 0 for none
	from    *signal // who sends a message, a request or an answer
	channel string  // of the frame
	subject string  // of a message or request
	number  uint64  // of the request that is answered
	call    *call   // that waits for the answer to a request
	payload []byte

	change func() (string, change)
	// done is called when it was sent and the server has answered; otherwise, when the
	// connection was lost, with an error. It may be nil, and must not wait.
	done func(receivers int, err error)

	// What became of it, by the exchange that sent it.
	receivers int
	err       error
}

// outbox holds what a bus has still to send, so that nobody who publishes waits for the server.
// All signals of a bus share one, so that one's message does not overtake another's
// subscription.
type outbox struct {
	wake chan struct{} // holds one token while something waits

	mu    sync.Mutex // guards queue
	queue []outgoing
}

// backlog is what of one signal waits to be sent.
type backlog struct{ messages, bytes atomic.Int64 }

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// put adds a frame of a signal, or returns ErrFull.
func (o *outbox) put(m outgoing) error {
	o.mu.Lock()
	waiting := &m.from.backlog
	if waiting.messages.Load() >= fabric.MaxSignalBacklogMessages ||
		waiting.bytes.Load()+int64(len(m.payload)) > fabric.MaxSignalBacklogBytes {
		o.mu.Unlock()
		m.from.provider.options.Dropped(fabric.DropSignalBacklog, m.from.name, 1)
		return fabric.ErrFull
	}
	waiting.messages.Add(1)
	waiting.bytes.Add(int64(len(m.payload)))
	o.queue = append(o.queue, m)
	o.mu.Unlock()
	o.notify()
	return nil
}

// control adds what counts for no backlog: there are as many changes as callers hold
// subscriptions. A frame, which only spares another node a wait, is left out when much waits.
func (o *outbox) control(m outgoing) {
	o.mu.Lock()
	if m.kind == 0 || len(o.queue) < fabric.MaxSignalBacklogMessages {
		o.queue = append(o.queue, m)
	}
	o.mu.Unlock()
	o.notify()
}

func (o *outbox) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take returns what waits; the slice given takes what comes.
func (o *outbox) take(spare []outgoing) []outgoing {
	o.mu.Lock()
	defer o.mu.Unlock()
	queue := o.queue
	o.queue = spare[:0]
	return queue
}

// gone takes a frame out of the backlog of its signal.
func (m *outgoing) gone() {
	if m.from != nil {
		m.from.backlog.messages.Add(-1)
		m.from.backlog.bytes.Add(-int64(len(m.payload)))
	}
}

// lose ends what cannot be sent. Whether it was sent may be unknown.
func (m *outgoing) lose(p *Provider, err error) {
	if m.from != nil && p.life.Err() == nil {
		p.options.Dropped(fabric.DropSignalOffline, m.from.name, 1)
	}
	if m.done != nil {
		m.done(0, err)
	}
}

// abandon does what is done without a connection: a change is noted for the next one.
func (m *outgoing) abandon(p *Provider, err error) {
	m.gone()
	if m.change != nil {
		m.change()
		return
	}
	m.lose(p, err)
}

// settle ends what was sent. Broken is the error of the connection, if there was one.
func (m *outgoing) settle(p *Provider, broken error) {
	switch {
	case m.kind == 0 && m.change == nil: // a Flush: what was before it in the queue may be lost
		m.done(0, broken)
	case m.err != nil && m.change == nil:
		m.lose(p, m.err)
	case m.done != nil:
		m.done(m.receivers, m.err)
	}
}
