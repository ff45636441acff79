package bench

import (
	"context"
	"net"
	"time"
)

// eventPublisher publishes client events over a socket of its own, which subscribes to the
// channels it publishes on: all that fall to it when there are more channels than
// publishers, otherwise one that it shares.
type eventPublisher struct {
	load     *load
	dial     *dialer
	index    int
	sockets  receiver
	names    []string
	channels []int
	template template

	conn    *net.TCPConn
	turn    int // next of channels
	payload []byte
	frame   []byte
}

func newEventPublisher(r *runner, l *load, sockets receiver, index int) *eventPublisher {
	p := &eventPublisher{
		load: l, dial: r.dial, index: index, sockets: sockets, names: r.channels,
		template: clientEventTemplate(r.cfg.Payload),
	}
	for c := index % len(r.channels); c < len(r.channels); c += r.cfg.Publishers {
		p.channels = append(p.channels, c)
	}
	return p
}

func (p *eventPublisher) open(ctx context.Context) error {
	l, err := p.dial.open(ctx, p.index)
	if err != nil {
		return err
	}
	for _, c := range p.channels {
		if err := p.dial.subscribe(ctx, l, p.names[c]); err != nil {
			l.conn.Close()
			return err
		}
	}
	p.conn = l.conn
	return l.handOver(p.sockets, p.load.tally)
}

// close also ends the sockets of all other publishers, which close with it.
func (p *eventPublisher) close() { p.sockets.close() }

// publish succeeds when the socket took the event: the protocol has no acknowledgement,
// but the server sends pusher:error for what it refuses.
func (p *eventPublisher) publish(ctx context.Context, _, due int64) (channel int, ok bool) {
	channel = p.channels[p.turn%len(p.channels)]
	p.turn++
	sent := p.load.clock.now()
	if p.load.rate == 0 {
		due = sent
	}
	p.payload = p.template.append(p.payload[:0], p.names[channel], due, sent)
	p.frame = appendMasked(p.frame[:0], opText, p.payload)
	stop := context.AfterFunc(ctx, func() { p.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := p.conn.Write(p.frame); err != nil {
		p.load.failed.add(err)
		p.load.clock.sleepUntil(ctx, p.load.clock.now()+int64(redialPause))
		return channel, false
	}
	return channel, true
}
