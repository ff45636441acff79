package redis

import (
	"slices"
	"strings"
	"sync"

	"github.com/parleyio/parley/internal/fabric"
)

// change is what the server must be told of a channel.
type change int

const (
	unchanged change = iota
	subscribe
	unsubscribe
)

// channels is what a bus subscribes to, and who gets what comes. The server knows each channel
// once, however many here want it.
type channels struct {
	bus   *bus
	order order // used by the reader of the connection alone

	mu    sync.RWMutex // guards the following fields
	table map[string]*channel
	// leaving counts the ends of subscriptions that were asked for and not confirmed.
	leaving map[string]int
}

// channel is one of the server, with those who want it. It has one kind of them.
type channel struct {
	name          string // of the signal
	subject       string // that it carries alone; empty when frames tell it
	subscriptions []*subscription
	answers       *signal     // whose answers it carries
	listeners     []*listener // who are told that something came
}

// listener is told of what comes on a channel that is no signal's, and whenever something may
// have been missed: at its beginning and after each loss of the connection, with an empty text.
// Its function must not wait.
type listener struct{ wake func(text string) }

func newChannels(b *bus) *channels {
	return &channels{bus: b, order: order{}, table: map[string]*channel{}, leaving: map[string]int{}}
}

// enter returns the channel of that name, and whether it is new. The caller holds c.mu.
func (c *channels) enter(name string) (*channel, change) {
	if ch := c.table[name]; ch != nil {
		return ch, unchanged
	}
	ch := &channel{}
	c.table[name] = ch
	return ch, subscribe
}

// leave removes a channel when nobody wants it any more. The caller holds c.mu.
func (c *channels) leave(name string, ch *channel) change {
	if len(ch.subscriptions) > 0 || len(ch.listeners) > 0 || ch.answers != nil {
		return unchanged
	}
	delete(c.table, name)
	return unsubscribe
}

// add has a subscription get what comes on its channel.
func (c *channels) add(s *subscription) (string, change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.ended.Load() {
		return "", unchanged
	}
	ch, told := c.enter(s.channel)
	ch.name = s.signal.name
	if fabric.CheckSubject(s.pattern) == nil {
		ch.subject = s.pattern
	}
	ch.subscriptions = append(ch.subscriptions, s)
	return s.channel, told
}

// remove takes it back.
func (c *channels) remove(s *subscription) (string, change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.table[s.channel]
	if ch == nil {
		return "", unchanged
	}
	i := slices.Index(ch.subscriptions, s)
	if i < 0 {
		return "", unchanged
	}
	ch.subscriptions = slices.Delete(ch.subscriptions, i, i+1)
	return s.channel, c.leave(s.channel, ch)
}

// addAnswers has a signal get the answers to its requests.
func (c *channels) addAnswers(name string, s *signal) (string, change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, told := c.enter(name)
	ch.answers = s
	return name, told
}

// listen has a listener woken by what comes on a channel.
func (c *channels) listen(name string, l *listener) (string, change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, told := c.enter(name)
	ch.listeners = append(ch.listeners, l)
	return name, told
}

// unlisten takes it back.
func (c *channels) unlisten(name string, l *listener) (string, change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := c.table[name]
	if ch == nil {
		return "", unchanged
	}
	ch.listeners = slices.DeleteFunc(ch.listeners, func(each *listener) bool { return each == l })
	return name, c.leave(name, ch)
}

// has says whether somebody here wants a channel.
func (c *channels) has(name string) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.table[name] != nil
}

// begin returns all channels for a new connection, on which nothing is being left.
func (c *channels) begin() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.leaving)
	names := make([]string, 0, len(c.table))
	for name := range c.table {
		names = append(names, name)
	}
	return names
}

// asked takes note that the server is told to end a subscription.
func (c *channels) asked(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving[name]++
}

// left takes note that the server ended a subscription, and says whether it had been asked to.
// A cluster ends it unasked when another node takes over the hash slot.
func (c *channels) left(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leaving[name] == 0 {
		return false
	}
	if c.leaving[name]--; c.leaving[name] == 0 {
		delete(c.leaving, name)
	}
	return true
}

// reconnected tells everybody that something may have been missed.
func (c *channels) reconnected() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, ch := range c.table {
		for _, s := range ch.subscriptions {
			s.signal.inbox.put(delivery{to: s, gap: fabric.GapReconnect})
		}
	}
}

// wakeAll wakes all listeners.
func (c *channels) wakeAll() {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, ch := range c.table {
		for _, l := range ch.listeners {
			l.wake("")
		}
	}
}

// receive hands on what came on a channel. It is called by the reader of the connection, and
// never waits.
func (c *channels) receive(name, text string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	ch := c.table[name]
	switch {
	case ch == nil: // left a moment ago
	case len(ch.listeners) > 0:
		for _, l := range ch.listeners {
			l.wake(text)
		}
	default:
		f, ok := decodeFrame(text)
		if !ok {
			return // not written by a signal
		}
		if ch.answers != nil {
			ch.answers.answered(f)
			return
		}
		c.deliver(ch, f)
	}
}

// deliver hands a message to those whom it concerns. A request that concerns nobody is answered
// so. The caller holds c.mu.
func (c *channels) deliver(ch *channel, f frame) {
	sender, inTurn := c.order.accept(f)
	if !inTurn {
		c.bus.provider.options.Dropped(fabric.DropSignalStale, ch.name, 1)
		return
	}
	m := fabric.Message{Subject: ch.subject, Sender: sender}
	if ch.subject == "" {
		m.Subject = strings.Clone(f.subject)
	}
	if f.kind == frameRequest {
		m.ReplyTo = replyTo(sender, f.number)
	}
	reached := false
	for _, s := range ch.subscriptions {
		if s.ended.Load() || s.options.SkipSelf && s.signal.id == sender ||
			ch.subject == "" && !fabric.Matches(s.pattern, m.Subject) {
			continue
		}
		if !reached {
			m.Payload = notNil(f.payload)
			reached = true
		}
		s.signal.inbox.put(delivery{to: s, message: m})
	}
	if !reached && f.kind == frameRequest {
		c.bus.outbox.control(outgoing{
			kind: frameNobody, channel: answersChannel(c.bus.provider, ch.name, sender), number: f.number,
		})
	}
}
