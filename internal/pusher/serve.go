package pusher

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/transport"
)

// Connection returns the handler for a client of app whose page has the given origin.
func (h *Hub) Connection(app *apps.App, origin string) transport.Handler {
	switch {
	case !app.Enabled:
		return h.Refuse(app.ID, appDisabled)
	case !app.AllowsOrigin(origin):
		return h.Refuse(app.ID, Refusal{protocol.CodeUnauthorized, "Origin not allowed", "origin_not_allowed"})
	}
	return handler{&client{realm: h.realm(app)}}
}

// CheckVersion tells how a strict server answers the protocol version that a client names.
func CheckVersion(version string) (Refusal, bool) {
	if version == "" {
		return Refusal{protocol.CodeNoProtocol, "No protocol version supplied", "no_protocol"}, false
	}
	n, err := strconv.Atoi(version)
	if err != nil {
		return Refusal{protocol.CodeInvalidVersion, "Invalid protocol version format", "invalid_version"}, false
	}
	if n < 5 || n > protocol.Version {
		return Refusal{protocol.CodeUnsupportedProtocol, "Unsupported protocol version", "unsupported_protocol"}, false
	}
	return Refusal{}, true
}

// drainStep is the longest pause between two clients that are sent away: a node with few
// clients need not take the whole time.
const drainStep = 10 * time.Millisecond

// Drain tells every client to connect again elsewhere, spread over at most spread so that
// they do not all arrive at once, and waits until they are gone or ctx ends.
func (h *Hub) Drain(ctx context.Context, spread time.Duration) {
	clients := h.clients()
	step := min(drainStep, spread/time.Duration(max(1, len(clients))))
	h.sendAway(ctx, clients, step, "The server is shutting down, connect again")
	h.waitGone(ctx)
}

// Evacuate tells every client to connect again elsewhere, rate of them each second, until
// none is left or ctx ends. Clients that come meanwhile are sent away as well.
func (h *Hub) Evacuate(ctx context.Context, rate int) {
	step := time.Second / time.Duration(max(1, rate))
	for ctx.Err() == nil && h.Connections() > 0 {
		h.sendAway(ctx, h.clients(), step, "The server is being drained, connect again")
		select { // those that have not answered their close frame yet are asked again
		case <-time.After(evacuatePause):
		case <-ctx.Done():
		}
	}
}

// evacuatePause is between two looks for clients that are still there.
const evacuatePause = time.Second

// clients returns everybody who is connected, in no order.
func (h *Hub) clients() []*client {
	var clients []*client
	for _, r := range h.all() {
		clients = append(clients, r.list()...)
	}
	rand.Shuffle(len(clients), func(i, j int) { clients[i], clients[j] = clients[j], clients[i] })
	return clients
}

// sendAway tells clients to connect again, one each step.
func (h *Hub) sendAway(ctx context.Context, clients []*client, step time.Duration, reason string) {
	start := time.Now()
	for i, c := range clients {
		if wait := time.Until(start.Add(time.Duration(i) * step)); wait > time.Millisecond {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
		}
		c.fail(protocol.CodeReconnect, reason)
	}
}

// waitGone waits for the clients to answer their close frames.
func (h *Hub) waitGone(ctx context.Context) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for h.Connections() > 0 {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Refused apps have no record, so their metrics carry no id.
const unknownApp = ""

// RefuseUnknown returns the handler for a client that names no known app key.
func (h *Hub) RefuseUnknown(key string) transport.Handler {
	return h.Refuse(unknownApp, Refusal{
		Code:   protocol.CodeUnknownApp,
		Reason: "App key " + strings.ToValidUTF8(key[:min(len(key), 64)], "?") + " does not exist",
		Metric: "unknown_app",
	})
}
