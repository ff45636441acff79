package im

import (
	"cmp"
	"slices"
	"time"

	"github.com/parleyio/parley/internal/im/message"
)

// Audience is the members of a channel who are connected to this node, as delivery remembers them: what
// the original calls a tag.
type Audience struct {
	Channel message.Channel
	Slot    int
	UIDs    []string // sorted
	Since   time.Time
}

// Audience returns the audience of a channel, if it is remembered.
func (s *Server) Audience(c message.Channel) (Audience, bool) {
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	a := s.hub.audiences[c]
	if a == nil {
		return Audience{}, false
	}
	return s.describeAudience(c, a), true
}

// Audiences returns up to limit audiences, the newest first.
func (s *Server) Audiences(limit int) []Audience {
	type known struct {
		channel  message.Channel
		audience *audience
	}
	s.hub.mu.RLock()
	defer s.hub.mu.RUnlock()
	list := make([]known, 0, len(s.hub.audiences))
	for c, a := range s.hub.audiences {
		list = append(list, known{c, a})
	}
	slices.SortFunc(list, func(a, b known) int {
		return cmp.Or(b.audience.since.Compare(a.audience.since), cmp.Compare(a.channel.Key(), b.channel.Key()))
	})
	all := []Audience{}
	for _, one := range list[:min(limit, len(list))] {
		all = append(all, s.describeAudience(one.channel, one.audience))
	}
	return all
}

// describeAudience is what others see of an audience; hub.mu is held.
func (s *Server) describeAudience(c message.Channel, a *audience) Audience {
	described := Audience{Channel: c, Slot: s.journal.Slot(c), UIDs: make([]string, 0, len(a.users)), Since: a.since}
	for u := range a.users {
		described.UIDs = append(described.UIDs, u.uid)
	}
	slices.Sort(described.UIDs)
	return described
}

// ForgetAudience has the audience of a channel found anew.
func (s *Server) ForgetAudience(c message.Channel) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	delete(s.hub.audiences, c)
}
