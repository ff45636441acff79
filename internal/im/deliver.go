package im

import (
	"slices"
	"time"

	"github.com/parleyio/parley/internal/im/jsonrpc"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/wire"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// recv hands a message to the client.
func (c *session) recv(d *delivery, again bool) {
	m := d.message
	c.mu.Lock()
	if c.phase == phaseLogin && len(c.early) < maxUnacked {
		c.early = append(c.early, m)
	}
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return
	}
	if m.Seq > 0 && !again {
		c.remember(m)
	}
	frame := d.frame(c, again)
	c.owed = min(c.owed+1, maxOwed)
	c.counts.outMessages++
	c.counts.outMessageBytes += int64(len(m.Payload))
	c.counts.outPackets++
	c.counts.outBytes += int64(frame.Size())
	c.mu.Unlock()
	if c.conn.Send(frame) {
		c.server.metrics.receives.Inc()
	}
}

// remember keeps a RECV until it is confirmed; c.mu is held.
func (c *session) remember(m *message.Message) {
	if len(c.unacked) >= maxUnacked {
		c.server.metrics.dropped(dropUnacked) // the client fetches it
		c.unacked = c.unacked[1:]
	}
	c.unacked = append(c.unacked, unacked{message: m, at: time.Now()})
}

// acked takes a client's confirmation. It is mostly that of the oldest message.
func (c *session) acked(p *wire.Recvack) {
	var one *message.Message
	c.mu.Lock()
	for i := range c.unacked {
		if c.unacked[i].message.ID != p.MessageID {
			continue
		}
		one = c.unacked[i].message
		if i == 0 {
			c.unacked[0] = unacked{}
			c.unacked = c.unacked[1:]
		} else {
			c.unacked = slices.Delete(c.unacked, i, i+1)
		}
		break
	}
	if len(c.unacked) == 0 {
		c.unacked = nil
	}
	uid, level := c.uid, c.level
	c.mu.Unlock()
	c.server.metrics.receiveAcks.Inc()
	if one != nil && one.Channel.IsCommands() {
		c.server.commandAcked(uid, level, one)
	}
}

// retry sends RECVs again that were not confirmed in time.
func (c *session) retry(now time.Time) {
	o := c.server.options
	var again []*message.Message
	c.mu.Lock()
	kept := c.unacked[:0]
	for _, one := range c.unacked {
		if now.Sub(one.at) >= o.RetryInterval {
			if one.tries >= o.RetryMax {
				c.server.metrics.dropped(dropUndelivered)
				continue
			}
			one.at = now
			one.tries++
			again = append(again, one.message)
		}
		kept = append(kept, one)
	}
	clear(c.unacked[len(kept):])
	c.unacked = kept
	c.mu.Unlock()
	for _, m := range again {
		c.server.metrics.resends.Inc()
		c.recv(&delivery{message: m}, true)
	}
}

// delivery is a message on its way to several clients. What looks the same to many is encoded once.
type delivery struct {
	message *message.Message
	plain   [wire.VersionMax + 1][2]*websocket.Frame // by version, then WebSocket or stream
}

// frame returns the message as a client reads it; c.mu is held.
func (d *delivery) frame(c *session, again bool) *websocket.Frame {
	m := d.message
	shared := c.cipher == nil && !c.rpc && !again && m.Channel.Type != message.Person && m.From != c.uid
	stream := 0
	if c.stream {
		stream = 1
	}
	if shared && d.plain[c.version][stream] != nil {
		return d.plain[c.version][stream]
	}
	p := recvOf(m, c.uid, c.version)
	if again {
		p.Flags |= wire.Dup
	}
	if c.cipher != nil {
		c.cipher.SealRecv(p)
	}
	var f *websocket.Frame
	switch {
	case c.rpc && c.stream:
		f = websocket.NewBytes(append(jsonrpc.Encode(p, ""), '\n'))
	case c.rpc:
		f = websocket.NewFrame(jsonrpc.Encode(p, ""))
	case c.stream:
		f = websocket.NewBytes(wire.Append(make([]byte, 0, 128+len(p.Payload)), p, c.version))
	default:
		f = websocket.NewBinaryFrame(wire.Append(make([]byte, 0, 128+len(p.Payload)), p, c.version))
	}
	if shared {
		d.plain[c.version][stream] = f
	}
	return f
}

// recvOf is a message as a client of uid gets it.
func recvOf(m *message.Message, uid string, version uint8) *wire.Recv {
	p := &wire.Recv{
		Flags:       m.Flags &^ wire.Dup,
		Setting:     m.Setting,
		FromUID:     m.From,
		ChannelID:   m.Channel.SeenBy(uid),
		ChannelType: m.Channel.Type,
		Expire:      m.Expire,
		ClientMsgNo: m.ClientMsgNo,
		MessageID:   m.ID,
		MessageSeq:  m.Seq,
		Timestamp:   int32(m.Seconds()),
		Topic:       m.Topic,
		Payload:     m.Payload,
	}
	if version < 5 { // its clients expect fields behind the bit
		p.Setting &^= wire.SettingStream | wire.SettingStreamOld
	}
	if m.From == SystemUID {
		p.FromUID = ""
	}
	if m.From == uid {
		p.Flags &^= wire.RedDot
	}
	return p
}
