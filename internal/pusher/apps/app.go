// Package apps is the registry of Pusher applications: who may connect and publish, with
// which secret and within which limits.
//
// A Registry answers from memory. Behind it is a Store: documents of the fabric, all of them in
// memory; or a Table of a database, whose apps come into memory when they are first asked for.
//
// It may import fabric for its storage and config for the apps of the file. It must never
// import the hub, the HTTP API, the transport or a database's driver: they ask it, it asks
// nobody.
package apps

import (
	"math"
	"regexp"
)

// App is one application. A value handed out by the registry is shared and must not be
// changed; the registry replaces it as a whole. The JSON form is the one of the
// administration API and of the store.
type App struct {
	ID      string `json:"id"`
	Name    string `json:"name,omitempty"`
	Key     string `json:"key"`
	Secret  string `json:"secret"`
	Enabled bool   `json:"enabled"`

	EnableClientMessages     bool `json:"enable_client_messages"`
	EnableUserAuthentication bool `json:"enable_user_authentication"`
	EnableWatchlistEvents    bool `json:"enable_watchlist_events"`
	EnableSubscriptionCount  bool `json:"enable_subscription_count"`

	Limits         Limits    `json:"limits"`
	AllowedOrigins []string  `json:"allowed_origins,omitempty"`
	Webhooks       []Webhook `json:"webhooks,omitempty"`

	// Static is true for an app of the configuration file, which only the file can change.
	Static bool `json:"static,omitempty"`
}

// Limits are an app's quotas. Zero means the node's default, and for MaxConnections,
// MaxBackendEventsPerSecond and MaxReadRequestsPerSecond, which have none, no limit.
type Limits struct {
	MaxConnections            int   `json:"max_connections,omitempty"`
	MaxClientEventsPerSecond  int   `json:"max_client_events_per_second,omitempty"`
	MaxBackendEventsPerSecond int   `json:"max_backend_events_per_second,omitempty"`
	MaxReadRequestsPerSecond  int   `json:"max_read_requests_per_second,omitempty"`
	MaxPresenceMembers        int   `json:"max_presence_members_per_channel,omitempty"`
	MaxPresenceMemberSize     int64 `json:"max_presence_member_size,omitempty"` // bytes
	MaxChannelNameLength      int   `json:"max_channel_name_length,omitempty"`
	MaxEventChannels          int   `json:"max_event_channels_at_once,omitempty"`
	MaxEventNameLength        int   `json:"max_event_name_length,omitempty"`
	MaxEventPayload           int64 `json:"max_event_payload,omitempty"` // bytes
	MaxEventBatch             int   `json:"max_event_batch_size,omitempty"`
}

// Unlimited is a limit that nobody reaches, for where zero means a default.
const Unlimited = math.MaxInt32

// Webhook is one address that an app's events are posted to.
type Webhook struct {
	URL        string            `json:"url"`
	EventTypes []string          `json:"event_types,omitempty"` // empty for all
	Filter     Filter            `json:"filter,omitzero"`
	Headers    map[string]string `json:"headers,omitempty"`
}

// Filter chooses channels by name; every part that is set must match.
type Filter struct {
	ChannelPrefix string `json:"channel_prefix,omitempty"`
	ChannelSuffix string `json:"channel_suffix,omitempty"`
	ChannelRegexp string `json:"channel_pattern,omitempty"`

	compiled *regexp.Regexp
}
