package pusher

import (
	"sync"
	"sync/atomic"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// realm is the live state of one app on this node.
type realm struct {
	hub    *Hub
	id     string
	app    atomic.Pointer[apps.App]
	policy atomic.Pointer[protocol.Policy] // follows from app
	rooms  roomTable
	users  users
	cache  *eventCache
	stats  stats

	setting sync.Mutex // held while app and policy are set

	mu           sync.RWMutex
	clients      map[string]*client   // by socket id
	ended        bool                 // the app was deleted
	elsewhere    map[string]elsewhere // connections on other nodes, by node
	elsewhereSum int
}

func newRealm(h *Hub, app *apps.App) *realm {
	r := &realm{hub: h, id: app.ID, clients: make(map[string]*client)}
	r.rooms.init()
	r.users.init(r.tellUser)
	r.cache = newEventCache(h.options.CacheChannels, h.options.CacheTTL, h.options.Now)
	r.setApp(app)
	return r
}

// setApp makes app the record of the realm.
func (r *realm) setApp(app *apps.App) {
	r.setting.Lock()
	defer r.setting.Unlock()
	r.set(app)
}

// adopt makes app the record of the realm, unless another one than last has become it.
func (r *realm) adopt(last, app *apps.App) {
	r.setting.Lock()
	defer r.setting.Unlock()
	if r.app.Load() == last {
		r.set(app)
	}
}

// set is what setApp does. The caller holds r.setting.
func (r *realm) set(app *apps.App) {
	limits := app.Limits.WithDefaults(r.hub.options.Defaults)
	r.app.Store(app)
	r.policy.Store(&protocol.Policy{
		Key:                      app.Key,
		Secret:                   app.Secret,
		ClientEvents:             app.EnableClientMessages,
		UserAuthentication:       app.EnableUserAuthentication,
		Watchlist:                app.EnableWatchlistEvents,
		MaxChannelName:           limits.MaxChannelNameLength,
		MaxSubscriptions:         r.hub.options.MaxSubscriptions,
		MaxEventName:             limits.MaxEventNameLength,
		MaxEventPayload:          int(limits.MaxEventPayload),
		MaxClientEventsPerSecond: limits.MaxClientEventsPerSecond,
		MaxMembers:               limits.MaxPresenceMembers,
		MaxMemberSize:            int(limits.MaxPresenceMemberSize),
	})
}

// Refusals of a client that was let in before the app changed.
var (
	appDeleted  = Refusal{protocol.CodeUnknownApp, "The app was deleted", "unknown_app"}
	appDisabled = Refusal{protocol.CodeAppDisabled, "The app is disabled", "app_disabled"}
	overQuota   = Refusal{protocol.CodeOverQuota, "The app is over its connection quota", "over_quota"}
)

// add counts a client against the app's quota, or tells why it may not stay. A client that is
// added is in list, so whoever ends or disables the app afterwards closes it.
func (r *realm) add(c *client) (why Refusal, added bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	app := r.app.Load()
	switch max := app.Limits.MaxConnections; {
	case r.ended:
		return appDeleted, false
	case !app.Enabled:
		return appDisabled, false
	case max > 0 && len(r.clients)+r.elsewhereSum >= max:
		return overQuota, false
	}
	r.clients[c.session.ID] = c
	r.tellConnections(len(r.clients))
	r.hurryConnections(app.Limits.MaxConnections)
	return Refusal{}, true
}

// end closes the clients of a deleted app; no further ones are added.
func (r *realm) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.closeAll(appDeleted.Code, appDeleted.Reason)
}

func (r *realm) remove(c *client) {
	r.mu.Lock()
	delete(r.clients, c.session.ID)
	r.tellConnections(len(r.clients))
	r.mu.Unlock()
}

func (r *realm) client(socketID string) *client {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.clients[socketID]
}

func (r *realm) connections() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.clients)
}

func (r *realm) list() []*client {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]*client, 0, len(r.clients))
	for _, c := range r.clients {
		list = append(list, c)
	}
	return list
}

func (r *realm) closeAll(code int, reason string) {
	for _, c := range r.list() {
		c.fail(code, reason)
	}
}

// emitChange reports a change of a channel to the app's webhooks. Every node sees it, in its
// own view; the channel's owner reports it.
func (r *realm) emitChange(room *room, event webhook.Event) {
	switch {
	case r.hub.cluster == nil || r.hub.cluster.Owns(ChannelKey(r.id, room.Channel)):
		r.emit(room, event)
	case !room.Kind.Has(protocol.UserOnly):
		r.hub.webhooks.Observe(r.id, event)
	}
}

// emit reports an event to the app's webhooks. What happens on a user's own channel is
// nobody's business but the server's.
func (r *realm) emit(room *room, event webhook.Event) {
	if room.Kind.Has(protocol.UserOnly) {
		return
	}
	r.hub.webhooks.Emit(r.id, event)
}

// broadcast queues a frame for a room's subscribers and counts it. The room is locked.
func (r *realm) broadcast(room *room, frame *websocket.Frame, except *protocol.Session) int {
	sent := room.Broadcast(frame, except)
	r.stats.sent(sent, sent*frame.Size())
	return sent
}
