package apps

import "strings"

// AllowsOrigin tells whether a page of the given origin may connect. Without a list every
// origin may, and clients without one.
func (a *App) AllowsOrigin(origin string) bool {
	if len(a.AllowedOrigins) == 0 {
		return true
	}
	for _, pattern := range a.AllowedOrigins {
		if pattern == "*" || origin != "" && matchOrigin(strings.ToLower(pattern), strings.ToLower(origin)) {
			return true
		}
	}
	return false
}

// matchOrigin compares an origin with a pattern: one without a scheme is compared with the
// origin behind its scheme, "*.example.com" stands for example.com and what is below it,
// any other single "*" for any text.
func matchOrigin(pattern, origin string) bool {
	if !strings.Contains(pattern, "://") {
		if _, rest, found := strings.Cut(origin, "://"); found {
			origin = rest
		}
		if domain, found := strings.CutPrefix(pattern, "*."); found {
			return origin == domain || strings.HasSuffix(origin, "."+domain)
		}
	}
	prefix, suffix, wildcard := strings.Cut(pattern, "*")
	if !wildcard {
		return origin == pattern
	}
	return len(origin) >= len(prefix)+len(suffix) &&
		strings.HasPrefix(origin, prefix) && strings.HasSuffix(origin, suffix)
}
