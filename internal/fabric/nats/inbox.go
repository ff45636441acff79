package nats

import (
	"strings"
	"sync"
	"sync/atomic"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/fabric"
)

// subscription is one Subscribe call.
type subscription struct {
	signal  *signal
	subject string // with the prefix
	handler func(fabric.Message)
	options fabric.SubscribeOptions
	ended   atomic.Bool
	sub     *natsgo.Subscription // used by the outbox alone
	lost    atomic.Int64         // messages that were counted as lost
}

// Unsubscribe implements fabric.Subscription.
func (s *subscription) Unsubscribe() error {
	if !s.ended.Swap(true) {
		s.signal.outbox.control(func() { s.signal.inbox.remove(s) })
	}
	return nil
}

// inbox calls the handlers of a signal. All its subscriptions share one channel and one
// goroutine: that keeps the order between subjects, and a subscription costs no goroutine.
type inbox struct {
	signal   *signal
	messages chan *natsgo.Msg
	wake     chan struct{} // holds one token while there are gaps to tell
	order    order         // used by run alone

	mu            sync.RWMutex // guards the following fields
	subscriptions map[*natsgo.Subscription]*subscription
	reconnects    bool                   // one to be told
	slowOnes      map[*subscription]bool // to be told
}

func newInbox(s *signal) *inbox {
	return &inbox{
		signal:        s,
		messages:      make(chan *natsgo.Msg, fabric.MaxSignalPending),
		wake:          make(chan struct{}, 1),
		order:         order{},
		subscriptions: map[*natsgo.Subscription]*subscription{},
		slowOnes:      map[*subscription]bool{},
	}
}

// add has the server send what s asks for. Called by the outbox.
func (i *inbox) add(s *subscription) {
	i.mu.Lock() // until it is in the map, so that its first message finds it there
	defer i.mu.Unlock()
	if s.ended.Load() {
		return
	}
	sub, err := i.signal.bus.conn.ChanSubscribe(s.subject, i.messages)
	if err != nil {
		i.signal.outbox.warn("subscribe", err)
		return
	}
	s.sub = sub
	i.subscriptions[sub] = s
}

// remove takes it back. Called by the outbox.
func (i *inbox) remove(s *subscription) {
	if s.sub == nil {
		return
	}
	s.countLost()
	if err := s.sub.Unsubscribe(); err != nil && i.signal.bus.conn.IsConnected() {
		i.signal.outbox.warn("unsubscribe", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.subscriptions, s.sub)
}

// reconnected has a gap told to all subscriptions.
func (i *inbox) reconnected() {
	i.mu.Lock()
	i.reconnects = true
	i.mu.Unlock()
	i.notify()
}

// slow has a gap told to the subscription of sub, if it is one of this inbox.
func (i *inbox) slow(sub *natsgo.Subscription) {
	i.mu.Lock()
	s := i.subscriptions[sub]
	if s != nil {
		i.slowOnes[s] = true
	}
	i.mu.Unlock()
	if s != nil {
		i.notify()
	}
}

func (i *inbox) notify() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// run calls the handlers until the provider is closed.
func (i *inbox) run() {
	life := i.signal.provider.life
	for {
		select {
		case <-life.Done():
			return
		case msg := <-i.messages:
			if life.Err() == nil {
				i.hand(msg)
			}
		case <-i.wake:
			i.tellGaps()
		}
	}
}

func (i *inbox) hand(msg *natsgo.Msg) {
	rest, isRequest := strings.CutPrefix(msg.Reply, i.signal.replies)
	sender, inTurn := "", true
	if isRequest {
		sender, _, _ = strings.Cut(rest, ".")
	} else if sender, inTurn = i.order.accept(msg.Reply); !inTurn {
		i.signal.provider.dropped(fabric.DropSignalStale, i.signal.name, 1)
		return
	}
	i.mu.RLock()
	s := i.subscriptions[msg.Sub]
	i.mu.RUnlock()
	if s == nil || s.ended.Load() {
		return
	}
	m := fabric.Message{
		Subject: msg.Subject[len(i.signal.prefix):],
		Payload: msg.Data,
		Sender:  sender,
	}
	if isRequest {
		m.ReplyTo = msg.Reply
	}
	if s.options.SkipSelf && m.Sender == i.signal.id {
		return
	}
	s.handler(m)
}

// tellGaps calls the gap functions that are due.
func (i *inbox) tellGaps() {
	i.mu.Lock()
	var all []*subscription
	if i.reconnects {
		for _, s := range i.subscriptions {
			all = append(all, s)
		}
	}
	slow := i.slowOnes
	i.reconnects, i.slowOnes = false, map[*subscription]bool{}
	i.mu.Unlock()
	for s := range slow {
		s.countLost()
		s.tell(fabric.GapSlow)
	}
	for _, s := range all {
		s.tell(fabric.GapReconnect)
	}
}

// countLost counts what was dropped since the last time. A row of losses is told of when it
// begins; the rest of it is counted with the next one, or when the subscription ends.
func (s *subscription) countLost() {
	total, err := s.sub.Dropped()
	if err != nil {
		return
	}
	if lost := int64(total) - s.lost.Swap(int64(total)); lost > 0 {
		s.signal.provider.dropped(fabric.DropSignalSlow, s.signal.name, int(lost))
	}
}

func (s *subscription) tell(gap fabric.Gap) {
	if s.options.Gap != nil && !s.ended.Load() {
		s.options.Gap(gap)
	}
}
