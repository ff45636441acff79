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
	var number uint64
	if r.hub.cluster != nil {
		number = r.publishElsewhere(e, payload)
	}
	sent, kind := r.publish(e, number, payload)
	h.metrics.published(app.ID, kind, sent, h.options.Now().Sub(start))
	return sent
}

func (r *realm) publish(e Event, number uint64, payload []byte) (sent int, kind protocol.Kind) {
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
	room.cached()
	if room.got(number) {
		return 0, kind
	}
	return r.broadcast(room, websocket.NewFrame(payload), r.session(e.SocketID)), kind
}

// session returns the session of a socket on this node, or nil.
func (r *realm) session(socketID string) *protocol.Session {
	if socketID == "" {
		return nil
	}
	if c := r.client(socketID); c != nil {
		return &c.session
	}
	return nil
}

// Terminate closes every connection signed in as the user, on all nodes.
func (h *Hub) Terminate(app *apps.App, userID string) {
	if h.cluster != nil {
		h.terminateElsewhere(app.ID, userID)
	}
	h.terminate(app.ID, userID)
}

func (h *Hub) terminate(appID, userID string) {
	r := h.find(appID)
	if r == nil {
		return
	}
	for _, c := range r.users.clients(userID) {
		c.fail(protocol.CodeUnauthorized, "You got disconnected by the app.")
	}
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
			info.Subscriptions, info.Users = room.Count(), room.Members()
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
		if room.Count() > 0 && strings.HasPrefix(room.Channel, prefix) && !room.Kind.Has(protocol.UserOnly) {
			list = append(list, ChannelInfo{room.Channel, room.Count(), room.Members()})
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

// CachedEvent is the last event of a cache channel.
type CachedEvent struct {
	Data string
	TTL  time.Duration // how long it is still kept
}

// Cached returns the last events of those of the channels that are cache channels and have
// one. It may wait for the cache that the nodes share.
func (h *Hub) Cached(app *apps.App, channels ...string) map[string]CachedEvent {
	found := map[string]CachedEvent{}
	here := func(channel string) {
		if r := h.find(app.ID); r != nil {
			if data, ttl, ok := r.cache.peek(channel); ok {
				found[channel] = CachedEvent{data, ttl}
			}
		}
	}
	var elsewhere []string
	for _, channel := range channels {
		switch {
		case !protocol.KindOf(channel).Has(protocol.Cached):
		case h.cluster == nil || h.fresh(app.ID, channel):
			here(channel)
		default:
			elsewhere = append(elsewhere, channel)
		}
	}
	if len(elsewhere) == 0 {
		return found
	}
	events, err := h.realm(app).lookCached(elsewhere...)
	if err != nil {
		for _, channel := range elsewhere {
			here(channel) // better than nothing
		}
		return found
	}
	now := h.options.Now()
	for channel, event := range events {
		if event.payload != nil {
			found[channel] = CachedEvent{event.data, event.expires.Sub(now)}
		}
	}
	return found
}

// fresh tells whether this node has a channel's last event itself.
func (h *Hub) fresh(appID, channel string) bool {
	r := h.find(appID)
	if r == nil {
		return false
	}
	room := r.rooms.find(channel)
	if room == nil {
		return false
	}
	defer r.rooms.release(room)
	return room.fresh
}

// Connections returns how many clients are connected to this node.
func (h *Hub) Connections() int {
	n := 0
	for _, r := range h.all() {
		n += r.connections()
	}
	return n
}
