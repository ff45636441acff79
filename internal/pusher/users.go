package pusher

import (
	"sync"

	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// users knows which clients are signed in as whom, and who watches whom.
type users struct {
	mu       sync.Mutex
	online   map[string]map[*client]struct{} // by user id
	watchers map[string]map[*client]struct{} // by the id of the watched user
}

func (u *users) init() {
	u.online = make(map[string]map[*client]struct{})
	u.watchers = make(map[string]map[*client]struct{})
}

func insert(index map[string]map[*client]struct{}, id string, c *client) (first bool) {
	set := index[id]
	if set == nil {
		set = make(map[*client]struct{}, 1)
		index[id] = set
	}
	set[c] = struct{}{}
	return len(set) == 1
}

func remove(index map[string]map[*client]struct{}, id string, c *client) (last bool) {
	set := index[id]
	delete(set, c)
	if len(set) > 0 {
		return false
	}
	delete(index, id)
	return true
}

// signin records c's user, tells c who of its watchlist is online, and tells those who
// watch the user.
func (u *users) signin(c *client, user *protocol.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	first := insert(u.online, user.ID, c)
	var online, offline []string
	for _, id := range user.Watchlist {
		insert(u.watchers, id, c)
		if len(u.online[id]) > 0 {
			online = append(online, id)
		} else {
			offline = append(offline, id)
		}
	}
	if len(user.Watchlist) > 0 {
		c.reply(protocol.Watchlist(online, offline))
	}
	if first {
		u.tellWatchers(user.ID, c, protocol.Watchlist([]string{user.ID}, nil))
	}
}

// signout forgets c's user and tells those who watch the user when it was the last client.
func (u *users) signout(c *client, user *protocol.User) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, id := range user.Watchlist {
		remove(u.watchers, id, c)
	}
	if remove(u.online, user.ID, c) {
		u.tellWatchers(user.ID, c, protocol.Watchlist(nil, []string{user.ID}))
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

// clients returns everybody signed in as the user.
func (u *users) clients(id string) []*client {
	u.mu.Lock()
	defer u.mu.Unlock()
	list := make([]*client, 0, len(u.online[id]))
	for c := range u.online[id] {
		list = append(list, c)
	}
	return list
}
