package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// signal is one sender with its subscriptions. What it sends goes through the outbox of the bus,
// and what it receives through an inbox of its own.
//
// The channels of a signal are its base and a letter: e and the subject, p and a first token of
// patterns, r and the ID of one who waits for answers.
type signal struct {
	provider *Provider
	bus      *bus
	name     string
	id       string
	events   string // before subjects
	patterns string // before first tokens
	inbox    *inbox
	backlog  backlog
	sent     uint64 // number of the last message; used by the bus alone

	mu      sync.Mutex // guards the following fields
	hears   bool       // answers
	waiting map[uint64]*call
}

// call is a request that waits for its answer.
type call struct {
	result chan answer // has room for one

	// What follows is guarded by signal.mu.
	number    uint64 // of the request, 0 until it is sent
	gone      bool   // nobody waits any more
	receivers int    // connections that got the request; negative until that is known
	nobody    int    // of them those that said that it concerns nobody there
}

type answer struct {
	payload []byte
	err     error
}

func newSignal(p *Provider, b *bus, name string) *signal {
	base := p.channel("signal", name)
	s := &signal{
		provider: p, bus: b, name: name, id: rand.Text(), events: base + "e", patterns: base + "p",
		waiting: map[uint64]*call{},
	}
	s.inbox = newInbox(s)
	go s.inbox.run()
	return s
}

// answersChannel is where a signal of that name and ID hears answers.
func answersChannel(p *Provider, name, id string) string { return p.channel("signal", name) + "r" + id }

// channelOf is the channel that carries what a pattern covers.
func (s *signal) channelOf(pattern string) string {
	if fabric.CheckSubject(pattern) == nil {
		return s.events + pattern
	}
	first, _, _ := strings.Cut(pattern, ".")
	if first == ">" {
		first = "*"
	}
	return s.patterns + first
}

func (s *signal) failed(operation, subject string, err error) error {
	return fmt.Errorf("%s %.300q of signal %q: %w", operation, subject, s.name, translate(err))
}

// ID implements fabric.Signal.
func (s *signal) ID() string { return s.id }

func (s *signal) check(ctx context.Context, subject string, payload []byte) error {
	if err := s.provider.life.Ready(ctx); err != nil {
		return err
	}
	if err := fabric.CheckSubject(subject); err != nil {
		return err
	}
	return fabric.CheckValue(payload)
}

// Publish implements fabric.Signal.
func (s *signal) Publish(ctx context.Context, subject string, payload []byte) error {
	err := s.check(ctx, subject, payload)
	if err == nil {
		err = s.bus.outbox.put(outgoing{
			kind: frameMessage, from: s, channel: s.events + subject, subject: subject, payload: payload,
		})
	}
	if err != nil {
		return s.failed("publish", subject, err)
	}
	return nil
}

// next returns the number of a message that is about to be sent.
func (s *signal) next(m *outgoing) uint64 {
	s.sent++
	if c := m.call; c != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !c.gone {
			c.number = s.sent
			s.waiting[c.number] = c
		}
	}
	return s.sent
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
		signal: s, pattern: subject, channel: s.channelOf(subject), handler: handler,
		options: fabric.NewSubscribeOptions(options),
	}
	m := outgoing{change: func() (string, change) { return s.bus.channels.add(sub) }}
	if strings.HasPrefix(sub.channel, s.patterns) {
		m.done = func(_ int, err error) {
			if err == nil {
				s.bus.settled.Store(time.Now().Add(interestTime).UnixNano())
			}
		}
	}
	s.bus.outbox.control(m)
	return sub, nil
}

// Request implements fabric.Signal.
func (s *signal) Request(ctx context.Context, subject string, payload []byte) ([]byte, error) {
	err := s.check(ctx, subject, payload)
	var result []byte
	if err == nil {
		result, err = s.request(ctx, subject, payload)
	}
	if err != nil {
		return nil, s.failed("request", subject, err)
	}
	return result, nil
}

func (s *signal) request(ctx context.Context, subject string, payload []byte) ([]byte, error) {
	bound, release := s.provider.life.Bind(ctx)
	defer release()
	bound, cancel := fabric.WithDefaultTimeout(bound, fabric.RequestTimeout)
	defer cancel()
	s.hear()
	c := &call{result: make(chan answer, 1), receivers: -1}
	defer s.forget(c)
	err := s.bus.outbox.put(outgoing{
		kind: frameRequest, from: s, channel: s.events + subject, subject: subject, payload: payload, call: c,
		done: func(receivers int, err error) { s.requested(c, receivers, err) },
	})
	if err != nil {
		return nil, err
	}
	select {
	case a := <-c.result:
		return a.payload, s.orClosed(a.err)
	case <-bound.Done():
		return nil, s.gaveUp(bound.Err())
	}
}

// gaveUp is the error of one who has waited for the bus until his context ended with err.
func (s *signal) gaveUp(err error) error {
	if err != nil && !s.bus.isConnected() {
		err = fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)
	}
	return s.orClosed(err)
}

// orClosed is err, or ErrClosed when there is an error because the provider was closed.
func (s *signal) orClosed(err error) error {
	if err != nil && s.provider.life.Err() != nil {
		return fabric.ErrClosed
	}
	return err
}

// hear has the first request subscribe to answers.
func (s *signal) hear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hears {
		return
	}
	s.hears = true
	s.bus.outbox.control(outgoing{change: func() (string, change) {
		return s.bus.channels.addAnswers(answersChannel(s.provider, s.name, s.id), s)
	}})
}

// requested takes note of how many connections got a request.
func (s *signal) requested(c *call, receivers int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		c.end(answer{err: fmt.Errorf("%w: %w", fabric.ErrUnavailable, err)})
		return
	}
	c.receivers = receivers
	c.look()
}

// answered takes what came on the channel for answers.
func (s *signal) answered(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.waiting[f.number]
	switch {
	case c == nil: // too late, or another was faster
	case f.kind == frameAnswer:
		c.end(answer{payload: notNil(f.payload)})
	case f.kind == frameNobody:
		c.nobody++
		c.look()
	}
}

// look ends a call that concerned nobody. The caller holds signal.mu.
func (c *call) look() {
	if c.receivers >= 0 && c.nobody >= c.receivers {
		c.end(answer{err: fabric.ErrNoResponder})
	}
}

// end gives a call its result; the first one counts.
func (c *call) end(a answer) {
	select {
	case c.result <- a:
	default:
	}
}

// forget has answers to a call count for nothing.
func (s *signal) forget(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.gone = true
	delete(s.waiting, c.number)
}

// replyTo is how a message names the request that it is.
func replyTo(sender string, number uint64) string {
	return sender + "." + strconv.FormatUint(number, 10)
}

// Respond implements fabric.Signal.
func (s *signal) Respond(request fabric.Message, payload []byte) error {
	err := s.provider.life.Ready(context.Background())
	if err == nil {
		err = fabric.CheckValue(payload)
	}
	sender, digits, found := strings.Cut(request.ReplyTo, ".")
	number, parseErr := strconv.ParseUint(digits, 10, 64)
	if err == nil && (!found || parseErr != nil || fabric.CheckSubject(sender) != nil) {
		err = fabric.ErrInvalidSubject
	}
	if err == nil {
		err = s.bus.outbox.put(outgoing{
			kind: frameAnswer, from: s, channel: answersChannel(s.provider, s.name, sender), number: number, payload: payload,
		})
	}
	if err != nil {
		return s.failed("respond to", request.Subject, err)
	}
	return nil
}

// Flush implements fabric.Signal.
func (s *signal) Flush(ctx context.Context) error {
	err := s.provider.life.Ready(ctx)
	if err == nil {
		err = s.flush(ctx)
	}
	if err != nil {
		return s.failed("flush", "", err)
	}
	return nil
}

// flushTimeout bounds a Flush whose context has no deadline. It may have a whole backlog before
// it.
const flushTimeout = 2 * fabric.RequestTimeout

// flush waits until everything before it was sent and answered, and until all publishers know of
// patterns that are subscribed to.
func (s *signal) flush(ctx context.Context) error {
	bound, release := s.provider.life.Bind(ctx)
	defer release()
	bound, cancel := fabric.WithDefaultTimeout(bound, flushTimeout)
	defer cancel()
	reached := make(chan error, 1)
	s.bus.outbox.control(outgoing{done: func(_ int, err error) { reached <- err }})
	select {
	case err := <-reached:
		if err != nil {
			return s.orClosed(fmt.Errorf("%w: %w", fabric.ErrUnavailable, err))
		}
	case <-bound.Done():
		return s.gaveUp(bound.Err())
	}
	fabric.Pause(bound, time.Until(time.Unix(0, s.bus.settled.Load())))
	return s.gaveUp(bound.Err())
}
