package importer

import (
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// Where the variables of Reverb and those of Laravel's pusher driver keep their app.
const (
	reverbApp = "reverb_app."
	laravel   = "pusher_app."
)

// reverb is Laravel Reverb, whose variables stand in the application's .env among others.
var reverb = &system{
	name: "reverb", title: "Laravel Reverb",
	rules: together([]rule{
		takes("server.host", "channels.host", bareHost),
		takes("server.port", "channels.port", number),
		takes("server.path", "channels.path_prefix", rooted),
		takes("server.max_request_size", "http.max_body", in("B")),
		takes("scaling", "fabric.driver", when(config.DriverRedis, "", "one node shares its events with nobody")),
		takes("app.activity_timeout", "channels.activity_timeout", in("s")),
		takes("app.max_message_size", "transport.max_frame", in("B")),
		takes("app.max_connections", defaultTo+"max_connections", limited),
		takes("app.accept_client_events_from", defaultTo+"enable_client_messages",
			choice("", map[string]string{"members": "true", "all": "true", "none": "false"})),
	},
		under("scaling", serverRules("redis.")...),
		identity(reverbApp, defaultTo), identity(laravel, "apps[100000001]."),
		lacks("it is what clients and backends are told: set it to where Parley or its load balancer is reached",
			"REVERB_HOST", "REVERB_PORT", "REVERB_SCHEME", "PUSHER_HOST", "PUSHER_PORT", "PUSHER_SCHEME", "PUSHER_*",
			"REVERB_SERVER"),
		hidden(lacks("the page is built with it", "VITE_REVERB_*", "VITE_PUSHER_*", "MIX_PUSHER_*")),
		lacks("it stays as it is: the application speaks the Pusher protocol to Parley",
			"BROADCAST_DRIVER", "BROADCAST_CONNECTION"),
		lacks("Parley has channels of its own in Redis: redis.prefix", "REVERB_SCALING_CHANNEL"),
		lacks("Parley has its own metrics under /metrics", "REVERB_PULSE_INGEST_INTERVAL",
			"REVERB_TELESCOPE_INGEST_INTERVAL"),
		lacks("Parley pings after channels.activity_timeout of silence", "REVERB_APP_PING_INTERVAL"),
		lacks("Parley limits client events by max_client_events_per_second of the app", "REVERB_APP_RATE_*"),
	),
	aliases: map[string]string{
		"REVERB_SERVER_HOST": "server.host", "REVERB_SERVER_PORT": "server.port", "REVERB_SERVER_PATH": "server.path",
		"REVERB_MAX_REQUEST_SIZE": "server.max_request_size", "REVERB_SCALING_ENABLED": "scaling",
		"REVERB_APP_ACTIVITY_TIMEOUT": "app.activity_timeout", "REVERB_APP_MAX_MESSAGE_SIZE": "app.max_message_size",
		"REVERB_APP_MAX_CONNECTIONS":           "app.max_connections",
		"REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM": "app.accept_client_events_from",
		"REVERB_APP_ID":                        reverbApp + "id", "REVERB_APP_KEY": reverbApp + "key", "REVERB_APP_SECRET": reverbApp + "secret",
		"PUSHER_APP_ID": laravel + "id", "PUSHER_APP_KEY": laravel + "key", "PUSHER_APP_SECRET": laravel + "secret",
		"REDIS_URL": "redis_url", "REDIS_HOST": "redis.host", "REDIS_PORT": "redis.port",
		"REDIS_PASSWORD": "redis.password", "REDIS_USERNAME": "redis.username", "REDIS_DB": "redis.db",
		"REVERB_HOST": "REVERB_HOST", "REVERB_PORT": "REVERB_PORT", "REVERB_SCHEME": "REVERB_SCHEME",
		"REVERB_SERVER": "REVERB_SERVER", "PUSHER_HOST": "PUSHER_HOST", "PUSHER_PORT": "PUSHER_PORT",
		"PUSHER_SCHEME": "PUSHER_SCHEME", "BROADCAST_DRIVER": "BROADCAST_DRIVER",
		"BROADCAST_CONNECTION": "BROADCAST_CONNECTION", "REVERB_SCALING_CHANNEL": "REVERB_SCALING_CHANNEL",
		"REVERB_PULSE_INGEST_INTERVAL":     "REVERB_PULSE_INGEST_INTERVAL",
		"REVERB_TELESCOPE_INGEST_INTERVAL": "REVERB_TELESCOPE_INGEST_INTERVAL",
		"REVERB_APP_PING_INTERVAL":         "REVERB_APP_PING_INTERVAL",
	},
	prefixes: []string{"REVERB_"},
	switches: map[string]string{"scaling": "false"},
	derive:   deriveReverb,
	complete: func(r *run) { r.needServers("redis.servers", "redis_url", "redis_servers") },
}

// identity are the rules for an app that has an id, a key and a secret alone.
func identity(from, to string) []rule {
	return []rule{
		takes(from+"id", to+"id", nil), takes(from+"key", to+"key", nil), takes(from+"secret", to+"secret", nil),
	}
}

func deriveReverb(r *run) {
	for name, e := range r.settings {
		if text := strings.ToLower(e.text()); text == "null" || text == "(null)" { // as Laravel reads it
			e.value = ""
			r.settings[name] = e
		}
	}
	r.dropApp(reverbApp, "id", "key", "secret")
	r.dropApp(laravel, "id", "key", "secret")
	for _, key := range []string{"id", "key"} {
		if text := r.get(laravel + key); text != "" && r.resolvedText(laravel+key) == r.resolvedText(reverbApp+key) {
			for _, key := range []string{"id", "key", "secret"} {
				r.omit(laravel+key, "the app is that of REVERB_APP_ID")
			}
		}
	}
	if _, ok := r.settings[reverbApp+"id"]; !ok {
		r.omit("app.max_connections", "there is no REVERB_APP_ID")
		r.omit("app.accept_client_events_from", "there is no REVERB_APP_ID")
	}
	r.tidyRedisURL(config.DriverRedis, "redis_url")
	r.redisServer("redis.", true)
	if r.get("server.port") == "" && r.get(reverbApp+"id") != "" {
		r.missing("channels.port", "Reverb listens on 8080 unless REVERB_SERVER_PORT says otherwise, Parley on 6001")
	}
}
