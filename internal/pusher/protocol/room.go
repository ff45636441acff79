package protocol

import (
	"slices"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// Subscription ties one session to one room.
type Subscription struct {
	Session *Session
	Room    *Room
	Member  *Member // on presence channels, else nil

	position int // in Room.subscriptions
}

// Room is the state of one channel on this node: who is subscribed and who is a member.
// It is not safe for concurrent use; the hub guards each room with a lock.
type Room struct {
	Channel string
	Kind    Kind

	subscriptions []*Subscription
	members       map[string]*presence // by user id, on presence channels
}

// presence is one user of a room with how many sessions it has there.
type presence struct {
	member   *Member
	sessions int
}

// Change says what a subscription or its end changed.
type Change struct {
	Occupied bool    // the room had no subscriber before
	Vacated  bool    // the room has no subscriber any more
	Member   *Member // the user whose first session came or whose last session went
	Count    int     // subscriptions afterwards
}

// NewRoom returns an empty room.
func NewRoom(channel string) *Room {
	return &Room{Channel: channel, Kind: KindOf(channel)}
}

// Len returns how many subscriptions there are.
func (r *Room) Len() int { return len(r.subscriptions) }

// Members returns how many users there are.
func (r *Room) Members() int { return len(r.members) }

// Full tells whether one more user would exceed max. A user who is there may come again.
func (r *Room) Full(m *Member, max int) bool {
	if m == nil || len(r.members) < max {
		return false
	}
	return r.members[m.UserID] == nil
}

// Join adds a subscription.
func (r *Room) Join(s *Subscription) Change {
	s.Room = r
	s.position = len(r.subscriptions)
	r.subscriptions = append(r.subscriptions, s)
	change := Change{Occupied: s.position == 0, Count: len(r.subscriptions)}
	if s.Member == nil {
		return change
	}
	if r.members == nil {
		r.members = make(map[string]*presence)
	}
	if p := r.members[s.Member.UserID]; p != nil {
		p.sessions++
		return change
	}
	r.members[s.Member.UserID] = &presence{member: s.Member, sessions: 1}
	change.Member = s.Member
	return change
}

// Leave removes a subscription that joined and has not left.
func (r *Room) Leave(s *Subscription) Change {
	last := len(r.subscriptions) - 1
	r.subscriptions[s.position] = r.subscriptions[last]
	r.subscriptions[s.position].position = s.position
	r.subscriptions[last] = nil
	r.subscriptions = r.subscriptions[:last]
	change := Change{Vacated: last == 0, Count: last}
	if s.Member == nil {
		return change
	}
	p := r.members[s.Member.UserID]
	if p.sessions--; p.sessions == 0 {
		delete(r.members, s.Member.UserID)
		change.Member = p.member
	}
	return change
}

// MemberList returns the users in the order of their ids.
func (r *Room) MemberList() []Member {
	list := make([]Member, 0, len(r.members))
	for _, p := range r.members {
		list = append(list, *p.member)
	}
	slices.SortFunc(list, func(a, b Member) int {
		if a.UserID < b.UserID {
			return -1
		}
		return 1
	})
	return list
}

// Broadcast queues a frame for every subscriber but except, which may be nil, and returns
// how many took it.
func (r *Room) Broadcast(frame *websocket.Frame, except *Session) int {
	sent := 0
	for _, s := range r.subscriptions {
		if s.Session != except && s.Session.Peer.Send(frame) {
			sent++
		}
	}
	return sent
}
