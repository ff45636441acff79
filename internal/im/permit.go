package im

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
	"github.com/parleyio/parley/internal/im/wire"
)

// maxPermits bounds the answers that are remembered: of as many senders and channels as are active at a
// time, 300 bytes each.
const maxPermits = 1 << 14

// permits remembers whether users may send to channels: to ask the index for it took 39 % of a busy
// node's time.
type permits struct {
	known *lru.Cache[permitKey, permitted]
}

type permitKey struct {
	uid     string
	channel message.Channel
}

type permitted struct {
	rules  uint64 // of the registry when it was asked
	reason wire.Reason
}

func newPermits() *permits {
	known, _ := lru.New[permitKey, permitted](maxPermits) // fails for a negative size alone
	return &permits{known}
}

// permit tells whether a user may send to a channel.
func (s *Server) permit(uid string, c message.Channel) wire.Reason {
	key, rules := permitKey{uid, c}, s.registry.Rules()
	if before, is := s.permits.known.Get(key); is && before.rules == rules {
		return before.reason
	}
	reason := s.mayNow(uid, c)
	if reason != wire.ReasonSystemError {
		s.permits.known.Add(key, permitted{rules, reason})
	}
	return reason
}

// mayNow asks the registry whether a user may send to a channel, in the order of the original.
func (s *Server) mayNow(uid string, c message.Channel) wire.Reason {
	own, _, err := s.registry.Channel(message.Channel{ID: uid, Type: message.Person})
	if err != nil {
		return wire.ReasonSystemError
	}
	if own.SendBan {
		return wire.ReasonSendBanned
	}
	if reason := s.standing(c); reason != wire.ReasonSuccess {
		return reason
	}
	switch c.Type {
	case message.CustomerService, message.Info, message.Visitors, message.Agent:
		return wire.ReasonSuccess
	}
	switch system, err := s.isSystem(uid); {
	case err != nil:
		return wire.ReasonSystemError
	case system:
		return wire.ReasonSuccess
	}
	if c.Type == message.Person {
		return s.permitPerson(uid, c)
	}
	return s.permitMember(uid, c)
}

// standing returns why nobody may do anything in a channel, if so.
func (s *Server) standing(c message.Channel) wire.Reason {
	known, _, err := s.registry.Channel(c)
	switch {
	case err != nil:
		return wire.ReasonSystemError
	case known.Ban:
		return wire.ReasonBanned
	case known.Disband:
		return wire.ReasonDisbanded
	}
	return wire.ReasonSuccess
}

// isSystem tells whether an account may do everything.
func (s *Server) isSystem(uid string) (is bool, err error) {
	if uid == SystemUID || uid == s.options.ManagerUID && uid != "" {
		return true, nil
	}
	_, is, err = s.registry.Has(registry.System, registry.SystemChannel, uid)
	return is, err
}

func (s *Server) permitPerson(uid string, c message.Channel) wire.Reason {
	to := message.Channel{ID: c.SeenBy(uid), Type: message.Person}
	switch system, err := s.isSystem(to.ID); {
	case err != nil:
		return wire.ReasonSystemError
	case system:
		return wire.ReasonSuccess
	}
	if reason := s.listed(registry.Deny, to, uid, wire.ReasonInDenyList, wire.ReasonSuccess); reason != wire.ReasonSuccess {
		return reason
	}
	if !s.options.PersonAllowList {
		return wire.ReasonSuccess
	}
	return s.listed(registry.Allow, to, uid, wire.ReasonSuccess, wire.ReasonNotInAllow)
}

func (s *Server) permitMember(uid string, c message.Channel) wire.Reason {
	if reason := s.listed(registry.Deny, c, uid, wire.ReasonInDenyList, wire.ReasonSuccess); reason != wire.ReasonSuccess {
		return reason
	}
	if open := c.Type == message.Data || c.Type == message.Live || c.Type == message.Temporary; !open {
		reason := s.listed(registry.Members, c, uid, wire.ReasonSuccess, wire.ReasonNotSubscriber)
		if reason != wire.ReasonSuccess {
			return reason
		}
	}
	nobody, err := s.registry.Empty(registry.Allow, c)
	switch {
	case err != nil:
		return wire.ReasonSystemError
	case nobody:
		return wire.ReasonSuccess
	}
	return s.listed(registry.Allow, c, uid, wire.ReasonSuccess, wire.ReasonNotInAllow)
}

// listed returns one reason for a user who is on a list, and another for one who is not.
func (s *Server) listed(kind registry.Kind, c message.Channel, uid string, is, isNot wire.Reason) wire.Reason {
	_, found, err := s.registry.Has(kind, c, uid)
	switch {
	case err != nil:
		return wire.ReasonSystemError
	case found:
		return is
	}
	return isNot
}
