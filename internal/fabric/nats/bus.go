package nats

import (
	"fmt"
	"log/slog"
	"sync"

	natsgo "github.com/nats-io/nats.go"
)

// bus is the connection that all signals of a Provider share. It is apart from that of the
// stored parts, so that a large value does not stand in the way of a small message, and so
// that its callbacks belong to it alone.
type bus struct {
	provider *Provider
	conn     *natsgo.Conn

	mu      sync.Mutex // guards signals
	signals []*signal
}

// openBus connects in the same way as conn was.
func openBus(p *Provider, options natsgo.Options) (*bus, error) {
	b := &bus{provider: p}
	options.Name += "-signal"
	options.AllowReconnect = true
	options.MaxReconnect = -1
	// What is published while nobody is there is counted as lost. A buffer would hold it back and
	// send it before the others have subscribed again: lost as well, and nobody would know.
	options.ReconnectBufSize = -1
	options.SkipSubjectValidation = true // done before
	options.ClosedCB, options.DisconnectedCB, options.DisconnectedErrCB = nil, nil, nil
	options.ReconnectedCB = func(*natsgo.Conn) { b.reconnected() }
	options.AsyncErrorCB = b.report
	conn, err := options.Connect()
	if err != nil {
		return nil, fmt.Errorf("connect for signals: %w", err)
	}
	b.conn = conn
	return b, nil
}

// add has the bus tell s of gaps.
func (b *bus) add(s *signal) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signals = append(b.signals, s)
}

func (b *bus) reconnected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.signals {
		s.inbox.reconnected()
	}
}

// report takes what went wrong in the background.
func (b *bus) report(_ *natsgo.Conn, sub *natsgo.Subscription, err error) {
	if sub != nil && err == natsgo.ErrSlowConsumer {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, s := range b.signals {
			s.inbox.slow(sub)
		}
		return
	}
	b.provider.logger.Warn("signal connection", slog.Any("error", err))
}
