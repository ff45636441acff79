package pusher

import (
	"sync"

	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// users knows who is online and who on this node watches whom.
type users struct {
	mu       sync.Mutex
	online   map[string]*onlineUser          // by user id
	watchers map[string]map[*client]struct{} // by the id of the watched user
	// tell is told when a user has its first client on this node and when it has none any
	// more. It is called under mu, so that the last word is true.
	tell func(id string, online bool)
}

// onlineUser is a user with the clients signed in here and the other nodes where some are.
type onlineUser struct {
	clients map[*client]struct{}
	nodes   map[string]struct{}
}

func (u *users) init(tell func(id string, online bool)) {
	u.tell = tell
	u.online = make(map[string]*onlineUser)
	u.watchers = make(map[string]map[*client]struct{})
}

// user returns the entry of a user, making it when there is none; came tells so.
func (u *users) user(id string) (entry *onlineUser, came bool) {
	if entry = u.online[id]; entry != nil {
		return entry, false
	}
	entry = &onlineUser{clients: make(map[*client]struct{}, 1)}
	u.online[id] = entry
	return entry, true
}

// forget drops the entry of a user who is online nowhere; went tells so.
func (u *users) forget(id string, entry *onlineUser) (went bool) {
	if len(entry.clients) > 0 || len(entry.nodes) > 0 {
		return false
	}
	delete(u.online, id)
	return true
}

// signin records c's user, tells c who of its watchlist is online, and tells those who
// watch the user.
func (u *users) signin(c *client, user *protocol.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	entry, came := u.user(user.ID)
	entry.clients[c] = struct{}{}
	if len(entry.clients) == 1 {
		u.tell(user.ID, true)
	}
	var online, offline []string
	for _, id := range user.Watchlist {
		u.watch(id, c)
		if u.online[id] != nil {
			online = append(online, id)
		} else {
			offline = append(offline, id)
		}
	}
	if len(user.Watchlist) > 0 {
		c.reply(protocol.Watchlist(online, offline))
	}
	if came {
		u.tellWatchers(user.ID, c, protocol.Watchlist([]string{user.ID}, nil))
	}
}

func (u *users) watch(id string, c *client) {
	set := u.watchers[id]
	if set == nil {
		set = make(map[*client]struct{}, 1)
		u.watchers[id] = set
	}
	set[c] = struct{}{}
}

func (u *users) unwatch(id string, c *client) {
	delete(u.watchers[id], c)
	if len(u.watchers[id]) == 0 {
		delete(u.watchers, id)
	}
}

// signout forgets c's user and tells those who watch the user when it was the last client
// anywhere.
func (u *users) signout(c *client, user *protocol.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range user.Watchlist {
		u.unwatch(id, c)
	}
	entry := u.online[user.ID]
	delete(entry.clients, c)
	if len(entry.clients) == 0 {
		u.tell(user.ID, false)
	}
	if u.forget(user.ID, entry) {
		u.tellWatchers(user.ID, c, protocol.Watchlist(nil, []string{user.ID}))
	}
}

// setElsewhere records whether another node has clients of the user.
func (u *users) setElsewhere(node, id string, there bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if there {
		entry, came := u.user(id)
		if entry.nodes == nil {
			entry.nodes = make(map[string]struct{}, 1)
		}
		entry.nodes[node] = struct{}{}
		if came {
			u.tellWatchers(id, nil, protocol.Watchlist([]string{id}, nil))
		}
		return
	}
	entry := u.online[id]
	if entry == nil {
		return
	}
	delete(entry.nodes, node)
	if u.forget(id, entry) {
		u.tellWatchers(id, nil, protocol.Watchlist(nil, []string{id}))
	}
}

func (u *users) tellWatchers(id string, except *client, payload []byte) {
	if len(u.watchers[id]) == 0 {
		return
	}
	frame := websocket.NewFrame(payload)
	for watcher := range u.watchers[id] {
		if watcher != except {
			watcher.send(frame)
		}
	}
}

// clients returns everybody on this node who is signed in as the user.
func (u *users) clients(id string) []*client {
	u.mu.Lock()
	defer u.mu.Unlock()
	entry := u.online[id]
	if entry == nil {
		return nil
	}
	list := make([]*client, 0, len(entry.clients))
	for c := range entry.clients {
		list = append(list, c)
	}
	return list
}
