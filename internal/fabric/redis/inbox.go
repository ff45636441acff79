package redis

import (
	"sync"
	"sync/atomic"

	"github.com/parleyio/parley/internal/fabric"
)

// subscription is one Subscribe call.
type subscription struct {
	signal  *signal
	pattern string
	channel string // that carries what it covers
	handler func(fabric.Message)
	options fabric.SubscribeOptions
	ended   atomic.Bool
}

// Unsubscribe implements fabric.Subscription.
func (s *subscription) Unsubscribe() error {
	if !s.ended.Swap(true) {
		s.signal.bus.outbox.control(outgoing{change: func() (string, change) {
			return s.signal.bus.channels.remove(s)
		}})
	}
	return nil
}

// tell calls the gap function.
func (s *subscription) tell(gap fabric.Gap) {
	if s.options.Gap != nil && !s.ended.Load() {
		s.options.Gap(gap)
	}
}

// delivery is a message on its way to a handler, or a gap when there is one.
type delivery struct {
	to      *subscription
	message fabric.Message
	gap     fabric.Gap
}

// inbox calls the handlers of a signal, from one goroutine.
type inbox struct {
	signal  *signal
	wake    chan struct{} // holds one token while something waits
	pending atomic.Int64  // messages that were put in and not handed over

	mu    sync.Mutex // guards the following fields
	queue []delivery
	slow  map[*subscription]int // messages lost since the last gap; nil for none
}

func newInbox(s *signal) *inbox { return &inbox{signal: s, wake: make(chan struct{}, 1)} }

// put adds a delivery. It never waits: what is too much is lost, and told as a gap. A gap itself
// is never too much, as there is one for each loss of the connection.
func (i *inbox) put(d delivery) {
	i.mu.Lock()
	switch {
	case d.gap != "":
		i.queue = append(i.queue, d)
	case i.pending.Load() < fabric.MaxSignalPending:
		i.pending.Add(1)
		i.queue = append(i.queue, d)
	default:
		if i.slow == nil {
			i.slow = map[*subscription]int{}
		}
		i.slow[d.to]++
	}
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// run calls the handlers until the provider is closed.
func (i *inbox) run() {
	p := i.signal.provider
	var spare []delivery // two slices take turns
	for {
		select {
		case <-p.life.Done():
			return
		case <-i.wake:
		}
		i.mu.Lock()
		queue, slow := i.queue, i.slow
		i.queue, i.slow = spare[:0], nil
		i.mu.Unlock()
		for n := range queue {
			if p.life.Err() != nil {
				return
			}
			i.hand(queue[n])
			queue[n] = delivery{} // lets go of the payload
		}
		for s, lost := range slow {
			p.options.Dropped(fabric.DropSignalSlow, s.signal.name, lost)
			s.tell(fabric.GapSlow)
		}
		spare = queue
		if cap(spare) > maxSpare {
			spare = nil
		}
	}
}

// maxSpare is the capacity up to which an emptied queue is kept for the next round.
const maxSpare = 1 << 14

func (i *inbox) hand(d delivery) {
	if d.gap != "" {
		d.to.tell(d.gap)
		return
	}
	if !d.to.ended.Load() {
		d.to.handler(d.message)
	}
	i.pending.Add(-1)
}
