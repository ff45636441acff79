package memory

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/parleyio/parley/internal/fabric"
)

// bus is what the signals of one name share.
type bus struct {
	mu       sync.RWMutex // guards the following fields
	exact    map[string]map[*subscription]struct{}
	patterns map[*subscription]struct{}
	requests map[string]chan []byte // by the ReplyTo of those that wait for an answer
	number   uint64                 // of the last request
}

func newBus() *bus {
	return &bus{
		exact:    map[string]map[*subscription]struct{}{},
		patterns: map[*subscription]struct{}{},
		requests: map[string]chan []byte{},
	}
}

// set returns the set of subscriptions that s belongs to. The caller holds b.mu.
func (b *bus) set(s *subscription) map[*subscription]struct{} {
	if fabric.CheckSubject(s.pattern) != nil { // has wildcards
		return b.patterns
	}
	if b.exact[s.pattern] == nil {
		b.exact[s.pattern] = map[*subscription]struct{}{}
	}
	return b.exact[s.pattern]
}

func (b *bus) add(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(s)[s] = struct{}{}
}

func (b *bus) remove(s *subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.set(s), s)
	if len(b.exact[s.pattern]) == 0 {
		delete(b.exact, s.pattern)
	}
}

// deliver hands a message to all fitting subscriptions and returns how many there are.
func (b *bus) deliver(m fabric.Message) int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	count := 0
	for s := range b.exact[m.Subject] {
		s.signal.inbox.put(delivery{s, m})
		count++
	}
	for s := range b.patterns {
		if fabric.Matches(s.pattern, m.Subject) {
			s.signal.inbox.put(delivery{s, m})
			count++
		}
	}
	return count
}

// signal is one sender on a bus, with its subscriptions.
type signal struct {
	provider *Provider
	bus      *bus
	name     string
	id       string
	inbox    *inbox
	start    sync.Once
}

func newSignal(p *Provider, b *bus, name string) *signal {
	s := &signal{provider: p, bus: b, name: name, id: rand.Text()}
	s.inbox = &inbox{wake: make(chan struct{}, 1)}
	return s
}

type subscription struct {
	signal  *signal
	pattern string
	handler func(fabric.Message)
	options fabric.SubscribeOptions
	ended   atomic.Bool
}

func (s *signal) failed(operation, subject string, err error) error {
	return fmt.Errorf("%s %.300q of signal %q: %w", operation, subject, s.name, err)
}

// ID implements fabric.Signal.
func (s *signal) ID() string { return s.id }

// Publish implements fabric.Signal.
func (s *signal) Publish(ctx context.Context, subject string, payload []byte) error {
	if err := s.check(ctx, subject, payload); err != nil {
		return s.failed("publish", subject, err)
	}
	s.bus.deliver(fabric.Message{Subject: subject, Payload: payload, Sender: s.id})
	return nil
}

func (s *signal) check(ctx context.Context, subject string, payload []byte) error {
	if err := s.provider.life.Ready(ctx); err != nil {
		return err
	}
	if err := fabric.CheckSubject(subject); err != nil {
		return err
	}
	return fabric.CheckValue(payload)
}

// Subscribe implements fabric.Signal.
func (s *signal) Subscribe(
	subject string, handler func(fabric.Message), options ...fabric.SubscribeOption,
) (fabric.Subscription, error) {
	err := s.provider.life.Ready(context.Background())
	if err == nil {
		err = fabric.CheckPattern(subject)
	}
	if err != nil {
		return nil, s.failed("subscribe to", subject, err)
	}
	sub := &subscription{
		signal: s, pattern: subject, handler: handler, options: fabric.NewSubscribeOptions(options),
	}
	s.start.Do(func() { go s.inbox.dispatch(s.provider) })
	s.bus.add(sub)
	return sub, nil
}

// Unsubscribe implements fabric.Subscription.
func (s *subscription) Unsubscribe() error {
	s.ended.Store(true)
	s.signal.bus.remove(s)
	return nil
}

// Request implements fabric.Signal.
func (s *signal) Request(ctx context.Context, subject string, payload []byte) ([]byte, error) {
	if err := s.check(ctx, subject, payload); err != nil {
		return nil, s.failed("request", subject, err)
	}
	bound, release := s.provider.life.Bind(ctx)
	defer release()
	bound, cancel := fabric.WithDefaultTimeout(bound, fabric.RequestTimeout)
	defer cancel()
	answer := make(chan []byte, 1)
	s.bus.mu.Lock()
	s.bus.number++
	replyTo := strconv.FormatUint(s.bus.number, 10)
	s.bus.requests[replyTo] = answer
	s.bus.mu.Unlock()
	defer func() {
		s.bus.mu.Lock()
		defer s.bus.mu.Unlock()
		delete(s.bus.requests, replyTo)
	}()
	if s.bus.deliver(fabric.Message{Subject: subject, Payload: payload, Sender: s.id, ReplyTo: replyTo}) == 0 {
		return nil, s.failed("request", subject, fabric.ErrNoResponder)
	}
	select {
	case payload := <-answer:
		return payload, nil
	case <-bound.Done():
		if s.provider.life.Err() != nil {
			return nil, s.failed("request", subject, fabric.ErrClosed)
		}
		return nil, s.failed("request", subject, bound.Err())
	}
}

// Respond implements fabric.Signal.
func (s *signal) Respond(request fabric.Message, payload []byte) error {
	err := s.provider.life.Ready(context.Background())
	if err == nil {
		err = fabric.CheckValue(payload)
	}
	if err == nil && request.ReplyTo == "" {
		err = fabric.ErrInvalidSubject
	}
	if err != nil {
		return s.failed("respond to", request.Subject, err)
	}
	s.bus.mu.RLock()
	defer s.bus.mu.RUnlock()
	select {
	case s.bus.requests[request.ReplyTo] <- payload:
	default: // nobody waits any more, or another was faster
	}
	return nil
}

// Flush implements fabric.Signal.
func (s *signal) Flush(ctx context.Context) error {
	if err := s.provider.life.Ready(ctx); err != nil {
		return s.failed("flush", "", err)
	}
	return nil
}

// delivery is a message on its way to a handler.
type delivery struct {
	subscription *subscription
	message      fabric.Message
}

// inbox holds what waits for the handlers of one signal.
type inbox struct {
	wake    chan struct{} // holds one token while something waits
	pending atomic.Int64  // messages that are queued, or taken from the queue and not handed over

	mu    sync.Mutex // guards the following fields
	queue []delivery
	slow  map[*subscription]int // messages lost since their last Gap; nil for none
}

func (i *inbox) put(d delivery) {
	i.mu.Lock()
	if i.pending.Load() < fabric.MaxSignalPending {
		i.pending.Add(1)
		i.queue = append(i.queue, d)
	} else {
		if i.slow == nil {
			i.slow = map[*subscription]int{}
		}
		i.slow[d.subscription]++
	}
	i.mu.Unlock()
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// dispatch calls the handlers until the provider is closed.
func (i *inbox) dispatch(p *Provider) {
	for {
		select {
		case <-p.life.Done():
			return
		case <-i.wake:
		}
		i.mu.Lock()
		queue, slow := i.queue, i.slow
		i.queue, i.slow = nil, nil // from here on they are this goroutine's alone
		i.mu.Unlock()
		for _, d := range queue {
			if p.life.Err() != nil {
				return
			}
			d.hand()
			i.pending.Add(-1)
		}
		for s, lost := range slow {
			p.dropped(fabric.DropSignalSlow, s.signal.name, lost)
			if gap := s.options.Gap; gap != nil && !s.ended.Load() {
				gap(fabric.GapSlow)
			}
		}
	}
}

func (d delivery) hand() {
	s := d.subscription
	if s.ended.Load() || s.options.SkipSelf && d.message.Sender == s.signal.id {
		return
	}
	s.handler(d.message)
}
