package nats

import (
	"log/slog"
	"sync"

	"github.com/parleyio/parley/internal/fabric"
)

// outgoing is one message to send, or something to do in its turn.
type outgoing struct {
	subject string
	reply   string // empty: the sender and the number of the message
	payload []byte
	do      func()
}

// outbox holds what a signal has still to send, so that nobody who publishes waits for the
// connection, which takes nothing while the server is busy.
type outbox struct {
	signal *signal
	wake   chan struct{} // holds one token while something waits

	mu    sync.Mutex // guards the following fields
	queue []outgoing
	bytes int
}

func newOutbox(s *signal) *outbox {
	return &outbox{signal: s, wake: make(chan struct{}, 1)}
}

// put adds a message, or returns ErrFull.
func (o *outbox) put(m outgoing) error {
	o.mu.Lock()
	if len(o.queue) >= fabric.MaxSignalBacklogMessages ||
		o.bytes+len(m.payload) > fabric.MaxSignalBacklogBytes {
		o.mu.Unlock()
		o.signal.provider.dropped(fabric.DropSignalBacklog, o.signal.name, 1)
		return fabric.ErrFull
	}
	o.bytes += len(m.payload)
	first := len(o.queue) == 0
	o.queue = append(o.queue, m)
	o.mu.Unlock()
	if first {
		o.wake <- struct{}{} // has room: only the first of a queue puts a token
	}
	return nil
}

// control has do called after what was put before. It is not bounded: as many subscriptions
// wait as the caller holds.
func (o *outbox) control(do func()) {
	o.mu.Lock()
	first := len(o.queue) == 0
	o.queue = append(o.queue, outgoing{do: do})
	o.mu.Unlock()
	if first {
		o.wake <- struct{}{}
	}
}

// run sends until the provider is closed.
func (o *outbox) run() {
	conn, life := o.signal.bus.conn, o.signal.provider.life
	var number uint64    // of the last message
	var spare []outgoing // two slices take turns
	for {
		select {
		case <-life.Done():
			return
		case <-o.wake:
		}
		o.mu.Lock()
		queue := o.queue
		o.queue, o.bytes = spare[:0], 0
		o.mu.Unlock()
		for i := range queue {
			m := &queue[i]
			if m.do == nil && m.reply == "" {
				number++
				m.reply = numbered(o.signal.id, number)
			}
			if m.do != nil {
				m.do()
			} else if err := conn.PublishRequest(m.subject, m.reply, m.payload); err != nil && life.Err() == nil {
				o.signal.provider.dropped(fabric.DropSignalOffline, o.signal.name, 1)
			}
			*m = outgoing{} // lets go of the payload
		}
		spare = queue
		if cap(spare) > maxSpare {
			spare = nil
		}
	}
}

// maxSpare is the capacity up to which an emptied queue is kept for the next round.
const maxSpare = 4096

func (o *outbox) warn(operation string, err error) {
	if o.signal.provider.life.Err() == nil {
		o.signal.provider.logger.Warn("signal", slog.String("operation", operation),
			slog.String("signal", o.signal.name), slog.Any("error", err))
	}
}
