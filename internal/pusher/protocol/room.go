package protocol

import (
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// Subscription ties one session to one room.
type Subscription struct {
	Session *Session
	Room    *Room
	Member  *Member // on presence channels, else nil

	position int // in Room.subscriptions
}

// Room is the state of one channel as this node sees it: who is subscribed here, how many
// are on each other node, and who is a member anywhere. It is not safe for concurrent use;
// the hub guards each room with a lock.
type Room struct {
	Channel string
	Kind    Kind

	subscriptions []*Subscription
	remote        map[string]int       // subscriptions on other nodes, by node
	remoteCount   int                  // their sum
	members       map[string]*presence // by user id, on presence channels
}

// presence is one user of a room: how many sessions it has here, and on which other nodes
// it has some.
type presence struct {
	member   *Member
	sessions int
	nodes    map[string]struct{}
}

// Change says what a subscription, its end, or news of another node changed.
type Change struct {
	Occupied bool    // the room had no subscriber anywhere before
	Vacated  bool    // the room has no subscriber anywhere any more
	Member   *Member // the user who came to, or went from, the room as a whole
	Here     *Member // the user whose first session on this node came, or whose last went
	Count    int     // subscriptions everywhere afterwards
}

// NewRoom returns an empty room.
func NewRoom(channel string) *Room {
	return &Room{Channel: channel, Kind: KindOf(channel)}
}

// Len returns how many subscriptions there are on this node.
func (r *Room) Len() int { return len(r.subscriptions) }

// Count returns how many subscriptions there are on all nodes.
func (r *Room) Count() int { return len(r.subscriptions) + r.remoteCount }

// Members returns how many users there are on all nodes.
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
	change := Change{Occupied: r.Count() == 1, Count: r.Count()}
	if s.Member == nil {
		return change
	}
	p, known := r.presence(s.Member)
	if !known {
		change.Member = s.Member
	}
	if p.sessions++; p.sessions == 1 {
		change.Here = s.Member
	}
	return change
}

// presence returns the entry of a user, making it when there is none.
func (r *Room) presence(m *Member) (p *presence, known bool) {
	if p = r.members[m.UserID]; p != nil {
		return p, true
	}
	if r.members == nil {
		r.members = make(map[string]*presence)
	}
	p = &presence{member: m}
	r.members[m.UserID] = p
	return p, false
}

// Leave removes a subscription that joined and has not left.
func (r *Room) Leave(s *Subscription) Change {
	last := len(r.subscriptions) - 1
	r.subscriptions[s.position] = r.subscriptions[last]
	r.subscriptions[s.position].position = s.position
	r.subscriptions[last] = nil
	r.subscriptions = r.subscriptions[:last]
	change := Change{Vacated: r.Count() == 0, Count: r.Count()}
	if s.Member == nil {
		return change
	}
	p := r.members[s.Member.UserID]
	if p.sessions--; p.sessions == 0 {
		change.Here = p.member
		change.Member = r.forget(p)
	}
	return change
}

// forget removes a user who has no session anywhere and returns it, else nil.
func (r *Room) forget(p *presence) *Member {
	if p.sessions > 0 || len(p.nodes) > 0 {
		return nil
	}
	delete(r.members, p.member.UserID)
	return p.member
}

// SetRemoteCount records how many subscriptions another node has.
func (r *Room) SetRemoteCount(node string, count int) Change {
	before := r.Count()
	r.remoteCount += count - r.remote[node]
	if count == 0 {
		delete(r.remote, node)
	} else {
		if r.remote == nil {
			r.remote = make(map[string]int, 1)
		}
		r.remote[node] = count
	}
	after := r.Count()
	return Change{Occupied: before == 0 && after > 0, Vacated: before > 0 && after == 0, Count: after}
}

// AddRemoteMember records that a user has sessions on another node. Once more changes
// nothing.
func (r *Room) AddRemoteMember(node string, m *Member) Change {
	p, known := r.presence(m)
	if p.nodes == nil {
		p.nodes = make(map[string]struct{}, 1)
	}
	p.nodes[node] = struct{}{}
	change := Change{Count: r.Count()}
	if !known {
		change.Member = m
	}
	return change
}

// RemoveRemoteMember records that a user has no session on another node any more.
func (r *Room) RemoveRemoteMember(node, userID string) Change {
	change := Change{Count: r.Count()}
	p := r.members[userID]
	if p == nil {
		return change
	}
	delete(p.nodes, node)
	change.Member = r.forget(p)
	return change
}

// Has tells whether a user has a session on this node.
func (r *Room) Has(userID string) bool {
	p := r.members[userID]
	return p != nil && p.sessions > 0
}

// HasAnywhere tells whether a user is a member, on whichever node.
func (r *Room) HasAnywhere(userID string) bool { return r.members[userID] != nil }

// Empty tells whether nothing is known of the room on any node.
func (r *Room) Empty() bool { return r.Count() == 0 && len(r.members) == 0 }

// MemberList returns the users on all nodes in the order of their ids.
func (r *Room) MemberList() []Member {
	list := make([]Member, 0, len(r.members))
	for _, p := range r.members {
		list = append(list, *p.member)
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.UserID, b.UserID) })
	return list
}

// Broadcast queues a frame for every subscriber on this node but except, which may be nil,
// and returns how many took it.
func (r *Room) Broadcast(frame *websocket.Frame, except *Session) int {
	sent := 0
	for _, s := range r.subscriptions {
		if s.Session != except && s.Session.Peer.Send(frame) {
			sent++
		}
	}
	return sent
}
