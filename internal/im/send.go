package im

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"strconv"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/wire"
)

func reasonText(r wire.Reason) string { return strconv.Itoa(int(r)) }

// send handles a SEND.
func (c *session) send(p *wire.Send, request string) {
	s := c.server
	c.mu.Lock()
	if c.phase != phaseOpen {
		c.mu.Unlock()
		return
	}
	one := &outgoing{session: c, packet: p, request: request, begin: time.Now(), uid: c.uid, cipher: c.cipher}
	full := c.sending >= s.options.MaxPendingSends
	c.sending++
	c.counts.inMessages++
	c.counts.inMessageBytes += int64(len(p.Payload))
	c.mu.Unlock()
	if full {
		s.metrics.dropped(dropFlood)
		one.answer(wire.ReasonRateLimited, 0, 0)
		return
	}
	channel := message.Stored(one.uid, p.ChannelID, p.ChannelType)
	if knownType(p.ChannelType) && CheckChannelID(p.ChannelID, p.ChannelType) && s.source.unknown(channel) {
		if !s.source.load(channel, one.send) {
			one.answer(wire.ReasonRateLimited, 0, 0)
		}
		return
	}
	one.send()
}

// outgoing is a SEND that is being handled.
type outgoing struct {
	session *session
	packet  *wire.Send
	request string // id of the JSON-RPC request
	begin   time.Time
	uid     string
	cipher  *wire.Cipher
}

// answer sends the SENDACK, once.
func (o *outgoing) answer(reason wire.Reason, id int64, seq uint64) {
	c, p := o.session, o.packet
	c.mu.Lock()
	c.sending--
	c.mu.Unlock()
	c.server.metrics.sends.WithLabelValues(reasonText(reason)).Inc()
	c.server.metrics.sendSeconds.Observe(time.Since(o.begin).Seconds())
	c.write(c.encode(&wire.Sendack{
		Flags: p.Flags, MessageID: id, ClientSeq: p.ClientSeq, MessageSeq: seq, Reason: reason, ClientMsgNo: p.ClientMsgNo,
	}, o.request))
}

// send checks a message and gives it to the owner of its channel.
func (o *outgoing) send() {
	s := o.session.server
	if o.cipher != nil && o.cipher.OpenSend(o.packet) != nil {
		o.answer(wire.ReasonBadPayload, 0, 0)
		return
	}
	m, reason := s.messageOf(o.uid, o.packet)
	if reason == wire.ReasonSuccess {
		reason = s.permit(o.uid, m.Channel.Base())
	}
	if reason != wire.ReasonSuccess {
		o.answer(reason, m.ID, 0)
		return
	}
	if m.Flags&wire.NoPersist != 0 {
		o.answer(wire.ReasonSuccess, m.ID, 0)
		s.pass(m, o.session)
		return
	}
	s.hub.origins.Store(m.ID, o.session)
	s.relay.send(m, func(outcome journal.Outcome) {
		if outcome.Err != nil || outcome.Repeated {
			s.hub.origins.Delete(m.ID)
		}
		if outcome.Err == nil {
			o.answer(wire.ReasonSuccess, outcome.ID, outcome.Seq)
			return
		}
		o.answer(reasonOf(outcome.Err), m.ID, 0)
	})
}

// reasonOf is what a client is told of an error.
func reasonOf(err error) wire.Reason {
	switch {
	case err == nil:
		return wire.ReasonSuccess
	case errors.Is(err, journal.ErrBusy):
		return wire.ReasonRateLimited
	case errors.Is(err, fabric.ErrTooLarge):
		return wire.ReasonBadPayload
	}
	return wire.ReasonSystemError
}

// messageOf makes a message of what a client sent.
func (s *Server) messageOf(uid string, p *wire.Send) (*message.Message, wire.Reason) {
	now := time.Now()
	m := &message.Message{
		ID: s.ids.next(now), From: uid, ClientMsgNo: p.ClientMsgNo, Flags: p.Flags &^ wire.Dup, Setting: p.Setting,
		Topic: p.Topic, Expire: p.Expire, Time: now.UnixMilli(), Payload: p.Payload,
	}
	if !knownType(p.ChannelType) {
		return m, wire.ReasonBadChannel
	}
	if !CheckChannelID(p.ChannelID, p.ChannelType) || len(p.ClientMsgNo) > message.MaxID || len(p.Topic) > message.MaxID ||
		!Plain(p.ClientMsgNo) || !Plain(p.Topic) {
		return m, wire.ReasonBadChannelID
	}
	if len(p.Payload) > maxClientPayload {
		return m, wire.ReasonBadPayload
	}
	if m.ClientMsgNo == "" {
		m.ClientMsgNo = newClientMsgNo()
	}
	m.Channel = message.Stored(uid, p.ChannelID, p.ChannelType)
	if m.Flags&wire.SyncOnce != 0 {
		m.Channel = m.Channel.Commands()
	}
	return m, wire.ReasonSuccess
}

// MaxPayload is the largest payload of a message in bytes: more than the original takes, and what one
// entry of a log carries.
const MaxPayload = fabric.MaxValueSize - 8<<10

// maxClientPayload is the largest payload that a client may send: twice what the original takes.
const maxClientPayload = 64 << 10

func knownType(kind uint8) bool { return kind >= message.Person && kind <= message.AgentGroup }

// CheckChannelID tells whether clients may use an id for a channel of that type. Topics and agents have
// the parent's id in theirs, customer services the visitor's.
func CheckChannelID(id string, kind uint8) bool {
	if (message.Channel{ID: id}).IsCommands() {
		return false // the shadow of another channel
	}
	if kind == message.CommunityTopic || kind == message.Agent {
		for i := range len(id) {
			if id[i] == '@' && i > 0 && i < len(id)-1 {
				return message.CheckID(id[:i]) && message.CheckID(id[i+1:])
			}
		}
	}
	return message.CheckID(id)
}

// Plain tells whether a text has no control characters, which separate the parts of keys.
func Plain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' {
			return false
		}
	}
	return true
}

func newClientMsgNo() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	return hex.EncodeToString(random[:])
}

// pass hands a message that is not stored to those who are online now, on all nodes.
func (s *Server) pass(m *message.Message, from *session) {
	if from != nil {
		s.hub.origins.Store(m.ID, from)
	}
	if err := s.options.Signal.Publish(context.Background(), subjectPassing, m.Append(nil)); err != nil {
		s.metrics.dropped(dropTell)
	}
	s.hub.deliver(m)
}

// passed takes such a message from another node.
func (s *Server) passed(raw fabric.Message) {
	m, err := message.Decode(raw.Payload)
	if err != nil {
		s.metrics.dropped(dropMalformed)
		return
	}
	s.hub.deliver(m)
}

// Publish sends a message for the application, without asking for its permission. It returns when the
// message is stored on a majority and can be read here, or handed on when it is not to be stored.
func (s *Server) Publish(ctx context.Context, m *message.Message) (journal.Outcome, error) {
	now := time.Now()
	m.ID, m.Time = s.ids.next(now), now.UnixMilli()
	if m.ClientMsgNo == "" {
		m.ClientMsgNo = newClientMsgNo()
	}
	if m.Flags&wire.SyncOnce != 0 {
		m.Channel = m.Channel.Commands()
	}
	if m.Flags&wire.NoPersist != 0 {
		s.pass(m, nil)
		return journal.Outcome{ID: m.ID}, nil
	}
	o, err := s.store(ctx, m)
	if err != nil {
		return o, err
	}
	awaiting, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	_ = s.journal.Await(awaiting, m.Channel, o.Seq) // stored it is, whether this node has read that or not
	return o, nil
}

// store returns when a message is stored on a majority.
func (s *Server) store(ctx context.Context, m *message.Message) (journal.Outcome, error) {
	done := make(chan journal.Outcome, 1)
	s.relay.send(m, func(o journal.Outcome) { done <- o })
	select {
	case o := <-done:
		return o, o.Err
	case <-ctx.Done():
		return journal.Outcome{ID: m.ID}, ctx.Err()
	}
}
