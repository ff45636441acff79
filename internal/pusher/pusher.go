// Package pusher is the channels surface: it keeps who is connected to which app and
// subscribed to which channel, applies the effects of the protocol core and delivers
// events. The protocol itself is in package protocol, the HTTP API in package api.
//
// It may import its own sub-packages, the transport, the directory, the fabric and ratelimit.
// It must never import another surface or the composition root.
package pusher

import (
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// Options configure a Hub.
type Options struct {
	ActivityTimeout           time.Duration // without traffic, the client is asked whether it is there
	PongTimeout               time.Duration // how long it may take to answer
	UserAuthenticationTimeout time.Duration // for connections of apps with user authentication
	MaxConnections            int           // of this node, 0 for no limit
	CacheTTL                  time.Duration // of the last event of a cache channel
	CacheChannels             int           // last events remembered of an app, the least recently used goes first
	Defaults                  apps.Limits   // for apps that set none
	MaxSubscriptions          int           // of one connection
	BackendEvents             Quota         // against MaxBackendEventsPerSecond; nil for this node's own count
	ReadRequests              Quota         // against MaxReadRequestsPerSecond; nil for this node's own count
	Logger                    *slog.Logger
	Metrics                   *Metrics
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// Webhooks is where the hub reports what happens on channels.
type Webhooks interface {
	// Emit takes an event without waiting.
	Emit(appID string, event webhook.Event)
	// Observe takes note of a change of a channel that another node reports.
	Observe(appID string, event webhook.Event)
}

// Conn is what the hub needs of a client's connection; *transport.Conn has it.
type Conn interface {
	Send(frame *websocket.Frame) bool
	Close(code int, reason string)
	SetTimer(d time.Duration)
	Idle() time.Duration
}

var _ Conn = (*transport.Conn)(nil)

// Hub holds the live state of every app on this node.
type Hub struct {
	options  Options
	webhooks Webhooks
	metrics  *Metrics

	looks    chan struct{} // held by what runs beside the event loops; all, by Wait
	ending   chan struct{} // closed by Wait
	cluster  *Cluster      // set by Join before anything else happens; nil on a node of its own
	unshared unshared

	mu     sync.RWMutex
	realms map[string]*realm // by app id
}

// NewHub returns an empty hub.
func NewHub(options Options, webhooks Webhooks) *Hub {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Metrics == nil {
		options.Metrics = NewMetrics("parley_", "0")
	}
	if options.BackendEvents == nil {
		options.BackendEvents = NewQuota()
	}
	if options.ReadRequests == nil {
		options.ReadRequests = NewQuota()
	}
	h := &Hub{
		options:  options,
		webhooks: webhooks,
		metrics:  options.Metrics,
		realms:   make(map[string]*realm),
		looks:    make(chan struct{}, maxLooks),
		ending:   make(chan struct{}),
	}
	h.unshared.hub = h
	options.Metrics.attach(h)
	return h
}

// realm returns the live state of an app, making it on first use.
func (h *Hub) realm(app *apps.App) *realm {
	h.mu.RLock()
	r := h.realms[app.ID]
	h.mu.RUnlock()
	if r != nil {
		return r
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if r = h.realms[app.ID]; r == nil {
		r = newRealm(h, app)
		h.realms[app.ID] = r
	}
	return r
}

// find returns the live state of an app that has some, or nil.
func (h *Hub) find(appID string) *realm {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.realms[appID]
}

func (h *Hub) all() []*realm {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list := make([]*realm, 0, len(h.realms))
	for _, r := range h.realms {
		list = append(list, r)
	}
	return list
}

// Knows tells whether there is live state of an app on this node: connections were here or, as far
// as others told, elsewhere.
func (h *Hub) Knows(appID string) bool { return h.find(appID) != nil }

// Uses tells whether an app has connections, on this node or on another one.
func (h *Hub) Uses(appID string) bool {
	r := h.find(appID)
	if r == nil {
		return false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.clients)+r.elsewhereSum > 0
}

// AppChanged applies a changed app to its connections. After a deletion, new is nil.
func (h *Hub) AppChanged(old, new *apps.App) {
	if new == nil {
		if r := h.find(old.ID); r != nil {
			h.mu.Lock()
			delete(h.realms, old.ID)
			h.mu.Unlock()
			r.end()
		}
		h.metrics.forget(old.ID)
		return
	}
	r := h.find(new.ID)
	if r == nil {
		return
	}
	r.setApp(new)
	if !new.Enabled {
		r.closeAll(appDisabled.Code, appDisabled.Reason)
	}
}

// maxSocketNumber bounds each half of a socket id.
const maxSocketNumber = 10_000_000_000

// newSocketID returns an id that is unique in a cluster by chance alone: 66 random bits.
func newSocketID() string {
	id := strconv.AppendUint(make([]byte, 0, 21), 1+rand.Uint64N(maxSocketNumber-1), 10)
	id = append(id, '.')
	return string(strconv.AppendUint(id, 1+rand.Uint64N(maxSocketNumber-1), 10))
}
