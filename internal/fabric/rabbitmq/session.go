package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
)

// errLost says that the session ended before the broker had answered.
var errLost = errors.New("connection to RabbitMQ lost")

// session is what one connection to a broker is for the Provider. There are two of them in
// truth, because a broker that runs short of memory or disk stops reading from those that
// publish: what was worked on must be acknowledged then all the same. They come and go
// together.
type session struct {
	address    string
	logger     *slog.Logger
	working    *amqp.Connection // consumers, acknowledgements and questions
	publishing *amqp.Connection
	questions  lane
	blocked    atomic.Bool // the broker takes no messages for want of memory or disk

	mu        sync.Mutex // guards publisher
	publisher *publisher // the last one that was opened

	once sync.Once
	err  error         // why it was lost; read after lost is closed
	lost chan struct{} // closed when one of the connections is gone
}

func openSession(ctx context.Context, b broker, o Options) (*session, error) {
	working, err := dial(ctx, b, o, "worker")
	if err != nil {
		return nil, err
	}
	if err := checkVersion(working.Properties); err != nil {
		return nil, errors.Join(err, working.CloseDeadline(time.Now().Add(closeTimeout)))
	}
	publishing, err := dial(ctx, b, o, "publisher")
	if err != nil {
		return nil, errors.Join(err, working.CloseDeadline(time.Now().Add(closeTimeout)))
	}
	s := &session{
		address: b.address, logger: o.Logger, working: working, publishing: publishing,
		lost: make(chan struct{}),
	}
	s.questions = lane{session: s, turn: make(chan struct{}, 1)}
	for _, conn := range []*amqp.Connection{working, publishing} {
		closed := conn.NotifyClose(make(chan *amqp.Error, 1))
		go func() { s.fail(reasonOf(<-closed)) }()
	}
	if _, err := s.openPublisher(ctx); err != nil {
		s.close()
		return nil, err
	}
	go s.tellBlocked(publishing.NotifyBlocked(make(chan amqp.Blocking, 8)))
	return s, nil
}

// reasonOf is why a connection or a channel was closed, which the library does not say when
// this side closed it.
func reasonOf(reason *amqp.Error) error {
	if reason == nil {
		return errLost
	}
	return reason
}

// openPublisher returns the publisher, and opens another when that was lost.
func (s *session) openPublisher(ctx context.Context) (*publisher, error) {
	s.mu.Lock()
	current := s.publisher
	s.mu.Unlock()
	if current != nil {
		select {
		case <-current.lost:
		default:
			return current, nil
		}
	}
	next, err := within(ctx, s, func() (*publisher, error) { return openPublisher(s) },
		func(late *publisher) { late.fail(errLost) })
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.publisher != current { // another was faster
		next.fail(errLost)
		return s.publisher, nil
	}
	s.publisher = next
	return next, nil
}

// checkVersion returns an error that wraps fabric.ErrUnsupported when the broker is older than
// 3.10, whose quorum queues keep no time to live.
func checkVersion(server amqp.Table) error {
	version, _ := server["version"].(string)
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return nil // not a broker that says; let it try
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil || major > 3 || major == 3 && minor >= 10 {
		return nil
	}
	return fmt.Errorf("RabbitMQ %s is older than 3.10: %w", version, fabric.ErrUnsupported)
}

// tellBlocked says in the log when the broker takes no messages for want of memory or disk.
func (s *session) tellBlocked(changes <-chan amqp.Blocking) {
	for change := range changes {
		s.blocked.Store(change.Active)
		if change.Active {
			s.logger.Warn("RabbitMQ takes no jobs", slog.String("server", s.address),
				slog.String("reason", change.Reason))
		} else {
			s.logger.Info("RabbitMQ takes jobs again", slog.String("server", s.address))
		}
	}
}

// fail marks the session as lost.
func (s *session) fail(err error) {
	s.once.Do(func() {
		s.err = err
		close(s.lost)
	})
}

// isLost says whether the session is of no use any more.
func (s *session) isLost() bool {
	select {
	case <-s.lost:
		return true
	default:
		return false
	}
}

// reason is why the session was lost, nil if it was not.
func (s *session) reason() error {
	if !s.isLost() {
		return nil
	}
	return s.err
}

// close parts from the broker and returns when both connections are gone.
func (s *session) close() {
	var closing sync.WaitGroup
	for _, conn := range []*amqp.Connection{s.working, s.publishing} {
		closing.Go(func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }) // it may be gone already
	}
	closing.Wait()
	s.fail(errLost)
}

// ping asks the broker for an answer. One that takes no messages is of no use either.
func (s *session) ping(ctx context.Context) error {
	if s.blocked.Load() {
		return fmt.Errorf("the broker takes no jobs: %w", fabric.ErrUnavailable)
	}
	_, err := ask(ctx, &s.questions, func(ch *amqp.Channel) (struct{}, error) {
		return struct{}{}, ch.ExchangeDeclarePassive("amq.direct", amqp.ExchangeDirect, true, false, false, false, nil)
	})
	return err
}

// channel opens a channel for a worker.
func (s *session) channel(ctx context.Context) (*amqp.Channel, error) {
	return within(ctx, s, s.working.Channel, func(late *amqp.Channel) { _ = late.Close() })
}

// isLost says whether err is that of a session, or of a channel, that ended before an answer.
func isLost(err error) bool {
	return errors.Is(err, errLost) || errors.Is(err, amqp.ErrClosed)
}

// within returns what call returns, which may wait for the broker and knows no context. When
// ctx or the session ends first, call is left behind, where it ends with the session at the
// latest; what it still returns without an error is given to late.
func within[T any](ctx context.Context, s *session, call func() (T, error), late func(T)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer)
	left := make(chan struct{})
	defer close(left)
	go func() {
		value, err := call()
		select {
		case answers <- answer{value, err}:
		case <-left:
			if err == nil {
				late(value)
			}
		}
	}()
	var none T
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-s.lost:
		return none, fmt.Errorf("%w: %w", errLost, s.err)
	}
}

// lane is a channel for questions, one at a time. When the broker has closed it, as it does
// after a question that it does not like, the next question opens another.
type lane struct {
	session *session
	turn    chan struct{} // holds a token while a question is asked
	channel *amqp.Channel // nil before the first question; of who has the turn
}

// ask returns what question returns, when it is its turn. One whose caller has left is finished
// behind.
func ask[T any](ctx context.Context, l *lane, question func(*amqp.Channel) (T, error)) (T, error) {
	var none T
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return none, ctx.Err()
	case <-l.session.lost:
		return none, fmt.Errorf("%w: %w", errLost, l.session.err)
	}
	return within(ctx, l.session, func() (T, error) {
		defer func() { <-l.turn }()
		if err := l.open(); err != nil {
			return none, err
		}
		return question(l.channel)
	}, func(T) {})
}

// open sees to it that there is an open channel. The caller has the turn.
func (l *lane) open() error {
	if l.channel != nil && !l.channel.IsClosed() {
		return nil
	}
	ch, err := l.session.working.Channel()
	if err != nil {
		return err
	}
	l.channel = ch
	return nil
}
