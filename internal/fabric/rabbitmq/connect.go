package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// connectTimeout bounds one attempt to connect to one broker, with TLS and AMQP's handshake.
	connectTimeout = 5 * time.Second
	// heartbeat is asked of the broker, which takes a silent client for dead after two of them.
	// The client library takes a silent broker for dead after one and a half.
	heartbeat = 5 * time.Second
	// firstPause and maxPause are the shortest and the longest time between two rounds of attempts
	// to connect; it doubles from one to the next, and varies by a fifth.
	firstPause = 250 * time.Millisecond
	maxPause   = 5 * time.Second
	// shortLived is a session that a broker or something before it ended at once. After several of
	// them the next is not tried at once.
	shortLived = time.Second
	// closeTimeout bounds the parting from a broker.
	closeTimeout = time.Second
	// refusalsAtStart is in how many rounds all brokers may refuse the credentials or the virtual
	// host, or show a wrong certificate, before Open gives up: a broker that just stops can look
	// like that once.
	refusalsAtStart = 2
)

// broker is one address to connect to. Its URL has a password: it must not be shown.
type broker struct {
	url     string
	address string // host and port
}

// parseBrokers reads the URLs. Its errors do not repeat them.
func parseBrokers(urls []string) ([]broker, error) {
	if len(urls) == 0 {
		return nil, fmt.Errorf("no URL given: %w", fabric.ErrInvalidConfig)
	}
	var brokers []broker
	for i, text := range urls {
		uri, err := amqp.ParseURI(text)
		if err != nil {
			var parse *url.Error
			if errors.As(err, &parse) {
				err = parse.Err
			}
			return nil, fmt.Errorf("URL number %d: %w: %w", i+1, fabric.ErrInvalidConfig, err)
		}
		brokers = append(brokers, broker{
			url: text, address: net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)),
		})
	}
	return brokers, nil
}

// keep replaces the session whenever it is lost, until Close.
func (p *Provider) keep(s *session) {
	defer close(p.kept)
	var wait time.Duration // before the next attempt, when sessions do not last
	for {
		began := time.Now()
		select {
		case <-s.lost:
		case <-p.life.Done():
		}
		p.setSession(nil)
		since := time.Now()
		if p.life.Err() == nil {
			p.options.Logger.Warn("RabbitMQ is away, trying to connect",
				slog.String("server", s.address), slog.Any("error", s.reason()))
		}
		s.close()
		if wait = min(max(2*wait, firstPause), maxPause); since.Sub(began) > shortLived {
			wait = 0
		}
		fabric.Pause(p.life, wait)
		next, err := p.connect(p.life, 0)
		if err != nil {
			return // closed
		}
		p.options.Logger.Info("RabbitMQ is back", slog.String("server", next.address),
			slog.Duration("after", time.Since(since).Round(time.Millisecond)))
		s = next
		p.setSession(s)
	}
}

// setSession tells all who wait for a session that there is one, or none any more.
func (p *Provider) setSession(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session = s
	close(p.changed)
	p.changed = make(chan struct{})
}

// current returns the session, or waits for one until ctx ends or Close.
func (p *Provider) current(ctx context.Context) (*session, error) {
	for {
		p.mu.Lock()
		s, changed := p.session, p.changed
		p.mu.Unlock()
		if s != nil && !s.isLost() {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.life.Done():
			return nil, fabric.ErrClosed
		}
	}
}

// connect tries all brokers, beginning with a random one, again and again until one is there.
// It gives up when ctx ends, and when refusals is over 0, when a broker is too old or all
// refuse in that many rounds.
func (p *Provider) connect(ctx context.Context, refusals int) (*session, error) {
	atStart := refusals > 0
	for wait := firstPause; ; wait = min(2*wait, maxPause) {
		s, refused, err := p.round(ctx)
		if err == nil {
			return s, nil
		}
		if refused {
			refusals--
		}
		if atStart && (refused && refusals == 0 || errors.Is(err, fabric.ErrUnsupported)) {
			return nil, err
		}
		if atStart && wait == firstPause {
			p.options.Logger.Warn("waiting for RabbitMQ", slog.Any("error", err))
		}
		fabric.Pause(ctx, time.Duration(float64(wait)*(0.8+0.4*rand.Float64())))
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w: %w", fabric.ErrUnavailable, ctx.Err(), err)
		}
	}
}

// round tries each broker once, and tells whether all refused.
func (p *Provider) round(ctx context.Context) (s *session, refused bool, err error) {
	refused = true
	first := rand.IntN(len(p.brokers))
	for i := range p.brokers {
		b := p.brokers[(first+i)%len(p.brokers)]
		if s, err = openSession(ctx, b, p.options); err == nil {
			return s, false, nil
		}
		err = fmt.Errorf("broker %s: %w", b.address, err)
		refused = refused && isRefusal(err)
	}
	return nil, refused, err
}

// isRefusal says whether the broker answered that it does not want this client, or this client
// does not trust the broker.
func isRefusal(err error) bool {
	var answer *amqp.Error
	if errors.As(err, &answer) {
		return answer.Code == amqp.AccessRefused || answer.Code == amqp.NotAllowed
	}
	var untrusted *tls.CertificateVerificationError
	return errors.As(err, &untrusted)
}

// dial opens one connection to a broker. The attempt ends with ctx.
func dial(ctx context.Context, b broker, o Options, role string) (*amqp.Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	abandon := func() bool { return true }
	config := amqp.Config{
		Heartbeat: heartbeat,
		Properties: amqp.Table{
			"product": "Parley", "connection_name": strings.TrimSpace(o.Name + " " + role),
		},
		Dial: func(network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// For the handshakes, which know no context. The library lifts it when they are done.
			abandon = context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
			return conn, nil
		},
	}
	if o.TLS != nil {
		config.TLSClientConfig = o.TLS.Clone() // the library writes the server's name into it
	}
	conn, err := amqp.DialConfig(b.url, config)
	if !abandon() && err == nil {
		err = errors.Join(ctx.Err(), conn.CloseDeadline(time.Now().Add(closeTimeout)))
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}
