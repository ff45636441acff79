package pusher

import (
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// Event is one event that a backend publishes.
type Event struct {
	Name     string
	Data     string
	Channel  string
	SocketID string // not delivered to this connection; empty for none
}

// Publish delivers an event to the subscribers of its channel and returns how many got it
// queued.
func (h *Hub) Publish(app *apps.App, e Event) int {
	start := h.options.Now()
	r := h.realm(app)
	payload := protocol.AppendEvent(nil, e.Name, e.Channel, e.Data, "")
	sent, kind := r.publish(e, payload)
	h.metrics.published(app.ID, kind, sent, h.options.Now().Sub(start))
	return sent
}

func (r *realm) publish(e Event, payload []byte) (sent int, kind protocol.Kind) {
	kind = protocol.KindOf(e.Channel)
	var room *room
	if kind.Has(protocol.Cached) {
		// Under the room's lock even when it is empty: a client that subscribes meanwhile
		// gets the event either live or from the cache.
		room = r.rooms.acquire(e.Channel)
		r.cache.write(e.Channel, e.Data, payload)
	} else if room = r.rooms.find(e.Channel); room == nil {
		return 0, kind
	}
	defer r.rooms.release(room)
	var except *protocol.Session
	if e.SocketID != "" {
		if c := r.client(e.SocketID); c != nil {
			except = &c.session
		}
	}
	return r.broadcast(room, websocket.NewFrame(payload), except), kind
}

// Terminate closes every connection signed in as the user and returns how many there were.
func (h *Hub) Terminate(app *apps.App, userID string) int {
	r := h.find(app.ID)
	if r == nil {
		return 0
	}
	clients := r.users.clients(userID)
	for _, c := range clients {
		c.fail(protocol.CodeUnauthorized, "You got disconnected by the app.")
	}
	return len(clients)
}

// ChannelInfo describes an occupied channel, or with zero numbers one that is not.
type ChannelInfo struct {
	Channel       string
	Subscriptions int
	Users         int // on presence channels
}

// Channel describes one channel.
func (h *Hub) Channel(app *apps.App, channel string) ChannelInfo {
	info := ChannelInfo{Channel: channel}
	if r := h.find(app.ID); r != nil {
		if room := r.rooms.find(channel); room != nil {
			info.Subscriptions, info.Users = room.Len(), room.Members()
			r.rooms.release(room)
		}
	}
	return info
}

// Channels describes the occupied channels whose names begin with prefix, by name. Users'
// own channels are left out.
func (h *Hub) Channels(app *apps.App, prefix string) []ChannelInfo {
	var list []ChannelInfo
	r := h.find(app.ID)
	if r == nil {
		return list
	}
	r.rooms.each(func(room *room) {
		if strings.HasPrefix(room.Channel, prefix) && !room.Kind.Has(protocol.UserOnly) {
			list = append(list, ChannelInfo{room.Channel, room.Len(), room.Members()})
		}
	})
	slices.SortFunc(list, func(a, b ChannelInfo) int { return strings.Compare(a.Channel, b.Channel) })
	return list
}

// Members returns the users of a presence channel, by id.
func (h *Hub) Members(app *apps.App, channel string) []protocol.Member {
	r := h.find(app.ID)
	if r == nil {
		return nil
	}
	room := r.rooms.find(channel)
	if room == nil {
		return nil
	}
	defer r.rooms.release(room)
	return room.MemberList()
}

// Cached returns the data of a cache channel's last event and how long it is kept.
func (h *Hub) Cached(app *apps.App, channel string) (data string, ttl time.Duration, ok bool) {
	if r := h.find(app.ID); r != nil {
		return r.cache.peek(channel)
	}
	return "", 0, false
}

// Connections returns how many clients are connected to this node.
func (h *Hub) Connections() int {
	n := 0
	for _, r := range h.all() {
		n += r.connections()
	}
	return n
}
