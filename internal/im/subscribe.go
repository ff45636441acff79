package im

import (
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
	"github.com/parleyio/parley/internal/im/wire"
)

// maxSubscriptions is how many channels one connection may subscribe to.
const maxSubscriptions = 1000

// subscribe answers a SUB: a connection that subscribes to a data, temporary or live channel gets what
// is sent there from now on, without being a member.
func (c *session) subscribe(p *wire.Sub, request string) {
	answer := &wire.Suback{SubNo: p.SubNo, ChannelID: p.ChannelID, ChannelType: p.ChannelType, Action: p.Action}
	answer.Reason = c.server.hub.subscribe(c, p)
	c.write(c.encode(answer, request))
}

func (h *hub) subscribe(c *session, p *wire.Sub) wire.Reason {
	channel := message.Channel{ID: p.ChannelID, Type: p.ChannelType}
	switch p.ChannelType {
	case message.Data, message.Temporary, message.Live:
	default:
		return wire.ReasonBadChannel
	}
	if !message.CheckID(p.ChannelID) {
		return wire.ReasonBadChannelID
	}
	if p.Action > wire.Unsubscribe {
		return wire.ReasonBadHeader
	}
	if p.Action == wire.Subscribe {
		if reason := h.server.permitSubscribe(c.uid, channel); reason != wire.ReasonSuccess {
			return reason
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.user == nil:
		return wire.ReasonSystemError // it is closed
	case p.Action == wire.Unsubscribe:
		delete(c.subs, channel)
		delete(h.subs[channel], c)
		if len(h.subs[channel]) == 0 {
			delete(h.subs, channel)
		}
	case len(c.subs) >= maxSubscriptions:
		return wire.ReasonRateLimited
	default:
		if c.subs == nil {
			c.subs = map[message.Channel]struct{}{}
		}
		c.subs[channel] = struct{}{}
		if h.subs[channel] == nil {
			h.subs[channel] = map[*session]struct{}{}
		}
		h.subs[channel][c] = struct{}{}
	}
	return wire.ReasonSuccess
}

func (s *Server) permitSubscribe(uid string, c message.Channel) wire.Reason {
	if reason := s.standing(c); reason != wire.ReasonSuccess {
		return reason
	}
	return s.listed(registry.Deny, c, uid, wire.ReasonInDenyList, wire.ReasonSuccess)
}
