package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// maxUnconfirmed is how many messages are on their way to the broker.
	maxUnconfirmed = 1024
	// maxUnsent is how many of those wait to be written to the connection.
	maxUnsent = 64
	// confirmTimeout is how long a broker that takes messages may leave one without an answer
	// before another channel is tried.
	confirmTimeout = 30 * time.Second
)

var (
	// errUnroutable says that the queue a message was for is not there.
	errUnroutable = errors.New("the broker has no such queue")
	// errRefused says that the broker did not store a message.
	errRefused = errors.New("the broker did not store the message")
	// errUnconfirmed says that a message was left without an answer.
	errUnconfirmed = fmt.Errorf("no answer to a message for %v", confirmTimeout)
)

// publisher stores messages in queues, all on one channel: the broker confirms many at once,
// and with 64 callers two or four channels were no faster (9,000 messages a second). One
// goroutine writes, because a write may wait for the broker and knows no context.
type publisher struct {
	session *session
	channel *amqp.Channel
	slots   chan struct{} // holds a token for each message that is not confirmed
	unsent  chan *publication

	once sync.Once
	err  error         // why it is of no use any more; read after lost is closed
	lost chan struct{} // closed then

	mu       sync.Mutex          // guards returned
	returns  <-chan amqp.Return  // has room for all that are not confirmed
	returned map[string]struct{} // MessageIds of messages that came back and are not confirmed yet
}

// publication is one message on its way.
type publication struct {
	ctx     context.Context
	queue   string
	message amqp.Publishing
	sent    chan sending // takes one
}

// sending is how the write of a message ended.
type sending struct {
	confirmation *amqp.DeferredConfirmation
	err          error
}

func openPublisher(s *session) (*publisher, error) {
	ch, err := s.publishing.Channel()
	if err != nil {
		return nil, err
	}
	p := &publisher{
		session: s, channel: ch,
		slots:    make(chan struct{}, maxUnconfirmed),
		unsent:   make(chan *publication, maxUnsent),
		lost:     make(chan struct{}),
		returns:  ch.NotifyReturn(make(chan amqp.Return, maxUnconfirmed)),
		returned: map[string]struct{}{},
	}
	closed := ch.NotifyClose(make(chan *amqp.Error, 1))
	go func() { p.fail(reasonOf(<-closed)) }()
	if err := ch.Confirm(false); err != nil {
		return nil, errors.Join(err, ch.Close())
	}
	go p.write()
	return p, nil
}

// fail marks the publisher as lost and closes its channel.
func (p *publisher) fail(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.lost)
		go func() { _ = p.channel.Close() }() // may wait, for as long as the session lasts
	})
}

// end is the error of a message that was on its way when the publisher was lost.
func (p *publisher) end() error { return fmt.Errorf("%w: %w", errLost, p.err) }

// publish returns when the broker has stored the message, on a majority of the nodes that the
// queue has. It may also have been stored when there is another error than errUnroutable.
func (p *publisher) publish(ctx context.Context, queue string, message amqp.Publishing) error {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-p.lost:
		return p.end()
	}
	publication := &publication{ctx: ctx, queue: queue, message: message, sent: make(chan sending, 1)}
	confirmed := make(chan error, 1)
	go func() {
		defer func() { <-p.slots }()
		confirmed <- p.deliver(publication)
	}()
	select {
	case err := <-confirmed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// deliver hands a message to the writer and waits for the broker, whoever still waits for it.
func (p *publisher) deliver(publication *publication) error {
	select {
	case p.unsent <- publication:
	case <-p.lost:
		return p.end()
	}
	var sent sending
	select {
	case sent = <-publication.sent:
	case <-p.lost:
		return p.end()
	}
	if sent.err != nil {
		return sent.err
	}
	if err := p.await(sent.confirmation); err != nil {
		return err
	}
	switch {
	case p.cameBack(publication.message.MessageId):
		return errUnroutable
	case sent.confirmation.Acked():
		return nil
	case p.channel.IsClosed():
		return errLost
	}
	return errRefused
}

// await waits for the broker's answer.
func (p *publisher) await(confirmation *amqp.DeferredConfirmation) error {
	late := time.NewTimer(confirmTimeout)
	defer late.Stop()
	for {
		select {
		case <-confirmation.Done():
			return nil
		case <-p.lost:
			return p.end()
		case <-late.C:
			if !p.session.blocked.Load() {
				p.fail(errUnconfirmed)
			}
			late.Reset(confirmTimeout)
		}
	}
}

// write writes to the connection what is to be sent, until the publisher is lost.
func (p *publisher) write() {
	for {
		select {
		case next := <-p.unsent:
			if err := next.ctx.Err(); err != nil { // nobody waits for it any more
				next.sent <- sending{err: err}
				continue
			}
			confirmation, err := p.channel.PublishWithDeferredConfirm("", next.queue, true, false, next.message)
			if err != nil {
				err = fmt.Errorf("%w: %w", errLost, err)
			}
			next.sent <- sending{confirmation, err}
		case <-p.lost:
			return
		}
	}
}

// cameBack says whether the broker returned the message before it confirmed it.
func (p *publisher) cameBack(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		select {
		case message, ok := <-p.returns:
			if ok {
				p.returned[message.MessageId] = struct{}{}
				continue
			}
		default:
		}
		_, came := p.returned[id]
		delete(p.returned, id)
		return came
	}
}
