package pusher

import (
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/ratelimit"
)

// Quota counts requests of apps, each against its own limit.
type Quota interface {
	// AllowWithin counts n for an app if that does not exceed the limit.
	AllowWithin(appID string, n, limit int) ratelimit.Result
}

// maxQuotaApps bounds the apps whose requests are counted at a time.
const maxQuotaApps = 1 << 16

// NewQuota returns a Quota of requests a second.
func NewQuota() *ratelimit.Keyed[string] {
	return ratelimit.NewKeyed[string](0, time.Second, maxQuotaApps)
}

// AllowEvents counts n published events against the app's quota.
func (h *Hub) AllowEvents(app *apps.App, n int) (limit int, result ratelimit.Result) {
	limit = app.Limits.MaxBackendEventsPerSecond
	return limit, h.options.BackendEvents.AllowWithin(app.ID, n, limit)
}

// AllowRead counts a read request against the app's quota.
func (h *Hub) AllowRead(app *apps.App) (limit int, result ratelimit.Result) {
	limit = app.Limits.MaxReadRequestsPerSecond
	return limit, h.options.ReadRequests.AllowWithin(app.ID, 1, limit)
}
