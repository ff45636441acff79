package apps

import (
	"maps"
	"slices"

	"github.com/parleyio/parley/internal/config"
)

// FromConfig returns the app that an [[apps]] table describes. Numbers that the table leaves
// out are zero, as in Limits.
func FromConfig(c config.App) *App {
	app := &App{
		ID:                       c.ID,
		Name:                     c.Name,
		Key:                      c.Key,
		Secret:                   c.Secret,
		Enabled:                  c.Enabled,
		EnableClientMessages:     c.EnableClientMessages,
		EnableUserAuthentication: c.EnableUserAuthentication,
		EnableWatchlistEvents:    c.EnableWatchlistEvents,
		EnableSubscriptionCount:  c.EnableSubscriptionCount,
		Limits: Limits{
			MaxConnections:            valueOf(c.MaxConnections),
			MaxClientEventsPerSecond:  valueOf(c.MaxClientEventsPerSecond),
			MaxBackendEventsPerSecond: valueOf(c.MaxBackendEventsPerSecond),
			MaxReadRequestsPerSecond:  valueOf(c.MaxReadRequestsPerSecond),
			MaxPresenceMembers:        valueOf(c.MaxPresenceMembers),
			MaxPresenceMemberSize:     valueOf(c.MaxPresenceMemberSize),
			MaxChannelNameLength:      valueOf(c.MaxChannelNameLength),
			MaxEventChannels:          valueOf(c.MaxEventChannels),
			MaxEventNameLength:        valueOf(c.MaxEventNameLength),
			MaxEventPayload:           valueOf(c.MaxEventPayload),
			MaxEventBatch:             valueOf(c.MaxEventBatch),
		},
		AllowedOrigins: slices.Clone(c.AllowedOrigins),
		Static:         true,
	}
	for _, w := range c.Webhooks {
		app.Webhooks = append(app.Webhooks, Webhook{
			URL:        w.URL,
			EventTypes: slices.Clone(w.EventTypes),
			Filter: Filter{
				ChannelPrefix: w.ChannelPrefix,
				ChannelSuffix: w.ChannelSuffix,
				ChannelRegexp: w.ChannelRegexp,
			},
			Headers: maps.Clone(w.Headers),
		})
	}
	return app
}

// valueOf returns what p points to, or zero.
func valueOf[T int | int64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}
