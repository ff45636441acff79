package pusher

import (
	"sync"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/ratelimit"
)

// rate is one of an app's quotas of requests a second.
type rate struct {
	mu     sync.Mutex
	window ratelimit.Window
}

func (q *rate) allow(now time.Time, n, limit int) ratelimit.Result {
	if limit <= 0 {
		return ratelimit.Result{OK: true}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.window.Allow(now, n, limit, time.Second)
}

// AllowEvents counts n published events against the app's quota.
func (h *Hub) AllowEvents(app *apps.App, n int) (limit int, result ratelimit.Result) {
	limit = app.Limits.MaxBackendEventsPerSecond
	return limit, h.realm(app).backendEvents.allow(h.options.Now(), n, limit)
}

// AllowRead counts a read request against the app's quota.
func (h *Hub) AllowRead(app *apps.App) (limit int, result ratelimit.Result) {
	limit = app.Limits.MaxReadRequestsPerSecond
	return limit, h.realm(app).readRequests.allow(h.options.Now(), 1, limit)
}
