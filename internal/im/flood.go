package im

import (
	"golang.org/x/time/rate"

	"github.com/parleyio/parley/internal/im/wire"
)

// Bounds of what one client may have the server do, beside its rates.
const (
	// maxTurn is how many packets of a client are handled before it is others' turn.
	maxTurn = 128
	// maxInboxBytes is how much may wait to be handled.
	maxInboxBytes = 8 << 20
	// maxOwed bounds how many RECVACKs a client may have outstanding.
	maxOwed = 1 << 16
)

// meter bounds how fast a client sends. It belongs to the event loop. Its buckets are made when they are
// needed: most connections are idle, and many.
type meter struct {
	sends   *rate.Limiter
	packets *rate.Limiter
	first   int // packets before there was a bucket for them
}

// flooded counts a packet, and ends the connection when there are too many.
func (c *session) flooded() bool {
	most, m := c.server.options.PacketRate, &c.meter
	if most == 0 {
		return false
	}
	if m.packets == nil {
		if m.first++; m.first <= most {
			return false // as many may come at once
		}
		m.packets = rate.NewLimiter(rate.Limit(most), most)
	}
	if m.packets.Allow() {
		return false
	}
	c.violation(dropPacketRate, "more packets than im.packet_rate")
	return true
}

// fast counts a SEND, and tells whether there are too many.
func (c *session) fast() bool {
	o, m := &c.server.options, &c.meter
	if o.SendRate == 0 {
		return false
	}
	if m.sends == nil {
		m.sends = rate.NewLimiter(rate.Limit(o.SendRate), o.SendBurst)
	}
	return !m.sends.Allow()
}

// refuse answers a SEND that is not handled because there are too many. It never waits.
func (c *session) refuse(p *wire.Send, request, why string) {
	c.server.metrics.dropped(why)
	c.mu.Lock()
	c.counts.inMessages++
	c.counts.inMessageBytes += int64(len(p.Payload))
	c.mu.Unlock()
	c.server.metrics.sends.WithLabelValues(reasonText(wire.ReasonRateLimited)).Inc()
	c.write(c.encode(&wire.Sendack{
		Flags: p.Flags, ClientSeq: p.ClientSeq, Reason: wire.ReasonRateLimited, ClientMsgNo: p.ClientMsgNo,
	}, request))
}
