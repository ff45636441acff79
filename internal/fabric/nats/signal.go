package nats

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/parleyio/parley/internal/fabric"
)

// signal is one sender with its subscriptions. What it sends goes through an outbox, and
// what it receives through an inbox, each with one goroutine, which ends with the Provider.
//
// The sender travels in the reply field of a message, where it costs no header: a published
// message replies to <id>.<number>, a request to <inbox prefix>.<id>.<number>.
type signal struct {
	provider *Provider
	bus      *bus
	name     string
	id       string
	prefix   string // of all subjects
	answers  string // prefix of the subjects on which answers arrive
	replies  string // prefix of those of all nodes
	inbox    *inbox
	outbox   *outbox

	mu      sync.Mutex // guards the following fields
	number  uint64     // of the last request
	waiting map[string]chan *natsgo.Msg
}

func openSignal(p *Provider, b *bus, name string) *signal {
	s := &signal{
		provider: p,
		bus:      b,
		name:     name,
		id:       nuid.Next(),
		prefix:   p.subject("signal", name),
		waiting:  map[string]chan *natsgo.Msg{},
	}
	inboxPrefix := b.conn.Opts.InboxPrefix
	if inboxPrefix == "" {
		inboxPrefix = strings.TrimSuffix(natsgo.InboxPrefix, ".")
	}
	s.replies = inboxPrefix + "."
	s.answers = s.replies + s.id + "."
	s.inbox = newInbox(s)
	s.outbox = newOutbox(s)
	b.add(s)
	go s.inbox.run()
	go s.outbox.run()
	return s
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
		err = s.outbox.put(outgoing{subject: s.prefix + subject, payload: payload})
	}
	if err != nil {
		return s.failed("publish", subject, err)
	}
	return nil
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
		signal:  s,
		subject: s.prefix + subject,
		handler: handler,
		options: fabric.NewSubscribeOptions(options),
	}
	s.outbox.control(func() { s.inbox.add(sub) })
	return sub, nil
}

// Request implements fabric.Signal.
func (s *signal) Request(ctx context.Context, subject string, payload []byte) ([]byte, error) {
	err := s.check(ctx, subject, payload)
	var answer []byte
	if err == nil {
		answer, err = s.request(ctx, subject, payload)
	}
	if err != nil {
		return nil, s.failed("request", subject, err)
	}
	return answer, nil
}

func (s *signal) request(ctx context.Context, subject string, payload []byte) ([]byte, error) {
	bound, release := s.provider.life.Bind(ctx)
	defer release()
	bound, cancel := fabric.WithDefaultTimeout(bound, fabric.RequestTimeout)
	defer cancel()
	number, answer := s.expectAnswer()
	defer s.forgetAnswer(number)
	err := s.outbox.put(outgoing{subject: s.prefix + subject, reply: s.answers + number, payload: payload})
	if err != nil {
		return nil, err
	}
	select {
	case msg := <-answer:
		if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
			return nil, fabric.ErrNoResponder
		}
		return notNil(msg.Data), nil
	case <-bound.Done():
		if s.provider.life.Err() != nil {
			return nil, fabric.ErrClosed
		}
		return nil, bound.Err()
	}
}

// expectAnswer returns the number of a new request and where its answer arrives. The first
// one subscribes to the answers.
func (s *signal) expectAnswer() (string, <-chan *natsgo.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == 0 {
		s.outbox.control(func() {
			// Not through the inbox: a handler there may take its time.
			if _, err := s.bus.conn.Subscribe(s.answers+"*", s.answered); err != nil {
				s.outbox.warn("subscribe to answers", err)
			}
		})
	}
	s.number++
	number := strconv.FormatUint(s.number, 10)
	answer := make(chan *natsgo.Msg, 1)
	s.waiting[number] = answer
	return number, answer
}

func (s *signal) forgetAnswer(number string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, number)
}

func (s *signal) answered(msg *natsgo.Msg) {
	number := msg.Subject[len(s.answers):]
	s.mu.Lock()
	answer := s.waiting[number]
	delete(s.waiting, number)
	s.mu.Unlock()
	if answer != nil {
		answer <- msg // has room, and only one is put into it
	}
}

// Respond implements fabric.Signal.
func (s *signal) Respond(request fabric.Message, payload []byte) error {
	err := s.provider.life.Ready(context.Background())
	if err == nil {
		err = fabric.CheckValue(payload)
	}
	if err == nil && !strings.HasPrefix(request.ReplyTo, s.replies) {
		err = fabric.ErrInvalidSubject
	}
	if err == nil {
		err = s.outbox.put(outgoing{subject: request.ReplyTo, reply: s.id, payload: payload})
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

func (s *signal) flush(ctx context.Context) error {
	bound, release := s.provider.life.Bind(ctx)
	defer release()
	bound, cancel := fabric.WithDefaultTimeout(bound, fabric.RequestTimeout)
	defer cancel()
	reached := make(chan struct{})
	s.outbox.control(func() { close(reached) })
	select {
	case <-reached:
	case <-bound.Done():
		return bound.Err()
	}
	err := s.bus.conn.FlushWithContext(bound)
	if err != nil && s.provider.life.Err() != nil {
		return fabric.ErrClosed
	}
	return err
}
