package api

import (
	"net/http"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// AllowOrigins lets pages of the given origins call h from a browser: patterns as in
// apps.App.AllowedOrigins, "*" for all, none for no page. It answers preflight requests
// itself.
func AllowOrigins(origins []string, h http.Handler) http.Handler {
	if len(origins) == 0 {
		return h
	}
	allowed := apps.App{AllowedOrigins: origins}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		header := w.Header()
		header.Add("Vary", "Origin") // also of answers to others, which a cache must not give to a page
		if origin != "" && allowed.AllowsOrigin(origin) {
			// With credentials a browser does not take "*", so the origin is echoed.
			header.Set("Access-Control-Allow-Origin", origin)
			header.Set("Access-Control-Allow-Credentials", "true")
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				header.Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
				header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, X-Requested-With, Accept")
				header.Set("Access-Control-Max-Age", "3600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}
