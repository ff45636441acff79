package im

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// maxAudiences bounds the channels whose local recipients are remembered.
const maxAudiences = 20000

// retryScan is between two looks for RECVs that were not confirmed.
const retryScan = 10 * time.Second

// hub knows who is logged in on this node, and who of them gets what.
type hub struct {
	server *Server

	mu        sync.RWMutex // guards the following fields, and the sessions of users
	users     map[string]*user
	audiences map[message.Channel]*audience
	subs      map[message.Channel]map[*session]struct{} // of channels without stored members

	origins sync.Map // messageID → *session that sent it, until it was delivered here
}

// user is someone with a connection here.
type user struct {
	uid      string
	sessions []*session // mostly one
}

// audience is the users here who are members of a channel.
type audience struct {
	users map[*user]struct{}
	since time.Time // when it was found
}

func newHub(s *Server) *hub {
	return &hub{
		server: s, users: map[string]*user{}, audiences: map[message.Channel]*audience{},
		subs: map[message.Channel]map[*session]struct{}{},
	}
}

// add takes a session that is logged in.
func (h *hub) add(c *session) {
	h.mu.Lock()
	u := h.users[c.uid]
	if u == nil {
		u = &user{uid: c.uid}
		h.users[c.uid] = u
		h.enter(u)
	}
	u.sessions = append(u.sessions, c)
	c.mu.Lock()
	c.user = u
	c.mu.Unlock()
	h.server.metrics.connections.Inc()
	h.server.metrics.users.Set(float64(len(h.users)))
	status := h.status(c, true)
	h.mu.Unlock()
	if p := h.server.options.Presence; p != nil {
		p.Set(c.uid, connText(c.id), []byte{c.flag, c.level})
	}
	h.server.reportOnline(status)
}

// enter puts a user into the audiences that are remembered. h.mu is held.
func (h *hub) enter(u *user) {
	if len(h.audiences) == 0 {
		return
	}
	if a := h.audiences[message.Channel{ID: u.uid, Type: message.Visitors}]; a != nil {
		a.users[u] = struct{}{}
	}
	memberships, err := h.server.registry.ChannelsOf(u.uid)
	if err != nil {
		h.server.options.Logger.Error("read the channels of a user", "error", err)
		clear(h.audiences) // they are found anew
		return
	}
	for _, m := range memberships {
		if a := h.audiences[m.Channel]; a != nil {
			a.users[u] = struct{}{}
		}
	}
}

// remove forgets a session.
func (h *hub) remove(c *session) {
	c.mu.Lock()
	u := c.user
	c.user = nil
	subs := c.subs
	c.subs = nil
	c.mu.Unlock()
	if u == nil {
		return
	}
	h.mu.Lock()
	for channel := range subs {
		delete(h.subs[channel], c)
		if len(h.subs[channel]) == 0 {
			delete(h.subs, channel)
		}
	}
	u.sessions = slices.DeleteFunc(u.sessions, func(other *session) bool { return other == c })
	if len(u.sessions) == 0 {
		delete(h.users, u.uid)
		for _, a := range h.audiences {
			delete(a.users, u)
		}
	}
	h.server.metrics.connections.Dec()
	h.server.metrics.users.Set(float64(len(h.users)))
	status := h.status(c, false)
	h.mu.Unlock()
	if p := h.server.options.Presence; p != nil {
		p.Set(c.uid, connText(c.id), nil)
	}
	h.server.reportOnline(status)
}

// sessionsOf returns the sessions of a user here.
func (h *hub) sessionsOf(uid string) []*session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	u := h.users[uid]
	if u == nil {
		return nil
	}
	return slices.Clone(u.sessions)
}

// all returns every session here.
func (h *hub) all() []*session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]*session, 0, len(h.users))
	for _, u := range h.users {
		list = append(list, u.sessions...)
	}
	return list
}

// setChanged hears from the registry who became a member of what.
func (h *hub) setChanged(kind registry.Kind, c message.Channel, added, removed []string) {
	if kind != registry.Members {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.audiences[c]
	if a == nil {
		return
	}
	for _, uid := range removed {
		if u := h.users[uid]; u != nil {
			delete(a.users, u)
		}
	}
	for _, uid := range added {
		if u := h.users[uid]; u != nil {
			a.users[u] = struct{}{}
		}
	}
}

// recipients returns the sessions here that are to have a message.
func (h *hub) recipients(m *message.Message) []*session {
	var list []*session
	add := func(u *user) {
		if u == nil || u.uid == SystemUID {
			return
		}
		list = append(list, u.sessions...)
	}
	c := m.Channel.Base()
	if uids, all := named(m, c); uids != nil {
		h.mu.RLock()
		defer h.mu.RUnlock()
		for _, uid := range uids {
			add(h.users[uid])
		}
		if !all {
			return list
		}
	}
	h.mu.RLock()
	a := h.audiences[c]
	if a == nil {
		h.mu.RUnlock()
		a = h.audience(c)
		h.mu.RLock()
	}
	defer h.mu.RUnlock()
	for u := range a.users {
		add(u)
	}
	for s := range h.subs[c] {
		if _, twice := a.users[h.users[s.uid]]; !twice {
			list = append(list, s)
		}
	}
	return list
}

// named returns the users that a message or its channel names, and whether the channel has members
// beside them.
func named(m *message.Message, c message.Channel) (uids []string, members bool) {
	if len(m.To) > 0 {
		return m.To, false
	}
	switch c.Type {
	case message.Person:
		if a, b, ok := c.Persons(); ok {
			if a == b {
				return []string{a}, false
			}
			return []string{a, b}, false
		}
	case message.Agent:
		if a, b, ok := (message.Channel{ID: c.ID, Type: message.Person}).Persons(); ok {
			return []string{a, b}, false
		}
	}
	return nil, true
}

// audience finds the members of a channel who are here. A visitor is a member of the own channel.
func (h *hub) audience(c message.Channel) *audience {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.audiences[c]; a != nil {
		return a
	}
	a := &audience{users: map[*user]struct{}{}, since: time.Now()}
	err := h.server.registry.Each(registry.Members, c, func(m registry.Member) bool {
		if u := h.users[m.UID]; u != nil {
			a.users[u] = struct{}{}
		}
		return true
	})
	if err != nil {
		h.server.options.Logger.Error("read the members of a channel", "channel", c.Key(), "error", err)
		return a // not remembered
	}
	if u := h.users[c.ID]; u != nil && c.Type == message.Visitors {
		a.users[u] = struct{}{}
	}
	if len(h.audiences) >= maxAudiences {
		for other := range h.audiences {
			delete(h.audiences, other)
			break
		}
	}
	h.audiences[c] = a
	return a
}

// deliver hands a message to those here who are to have it, but not to the connection it came from.
func (h *hub) deliver(m *message.Message) {
	from, _ := h.origins.LoadAndDelete(m.ID)
	if m.Expired(time.Now().UnixMilli()) {
		return
	}
	d := &delivery{message: m}
	for _, c := range h.recipients(m) {
		if c != from {
			c.recv(d, false)
		}
	}
}

// retryLoop sends RECVs again that clients do not confirm.
func (h *hub) retryLoop(ctx context.Context) {
	ticker := time.NewTicker(min(retryScan, max(h.server.options.RetryInterval/2, 10*time.Millisecond)))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, c := range h.all() {
				c.retry(now)
			}
		}
	}
}
