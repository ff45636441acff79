package config

import "fmt"

// Names of the tables that hold apps and their webhooks.
const (
	appsKey     = "apps"
	webhooksKey = "webhooks"
)

// limit is the kind of an app's quota, which may stay unset.
var limit = optional(intKind, atLeast(1))

// limitOrNone is the kind of an app's quota for which 0 means no limit.
var limitOrNone = optional(intKind, atLeast(0))

// sizeLimit is the kind of an app's quota in bytes, which may stay unset.
var sizeLimit = optional(sizeKind, atLeast[int64](1))

// appFields declares every key of an [[apps]] table.
var appFields = []field[App]{
	option("id", "", stringKind,
		"Identifies the app in the HTTP API; letters, digits, - and _.",
		func(a *App) *string { return &a.ID }, isIdentifier),
	option("name", "", stringKind,
		"Name for people.",
		func(a *App) *string { return &a.Name }),
	option("key", "", stringKind,
		"Public key that clients connect with; letters, digits, - and _.",
		func(a *App) *string { return &a.Key }, isIdentifier),
	option("secret", "", stringKind,
		"Secret that requests, subscriptions and webhooks are signed with.",
		func(a *App) *string { return &a.Secret }, notEmpty).secret(),
	option("enabled", "true", boolKind,
		"Whether clients and requests of the app are admitted.",
		func(a *App) *bool { return &a.Enabled }),
	option("max_connections", "", limitOrNone,
		"Connections of the app; unset or 0 for no limit.",
		func(a *App) **int { return &a.MaxConnections }),
	option("enable_client_messages", "false", boolKind,
		"Whether clients may send client events.",
		func(a *App) *bool { return &a.EnableClientMessages }),
	option("enable_user_authentication", "false", boolKind,
		"Whether clients may sign in; channels.user_authentication_timeout makes it a duty.",
		func(a *App) *bool { return &a.EnableUserAuthentication }),
	option("enable_watchlist_events", "false", boolKind,
		"Whether clients learn when users on their watchlist come and go.",
		func(a *App) *bool { return &a.EnableWatchlistEvents }),
	option("enable_subscription_count", "false", boolKind,
		"Whether subscribers learn how many they are.",
		func(a *App) *bool { return &a.EnableSubscriptionCount }),
	option("max_client_events_per_second", "", limit,
		"Client events of one connection; unset for limits.max_client_events_per_second.",
		func(a *App) **int { return &a.MaxClientEventsPerSecond }),
	option("max_backend_events_per_second", "", limitOrNone,
		"Events published through the HTTP API; unset or 0 for no limit.",
		func(a *App) **int { return &a.MaxBackendEventsPerSecond }),
	option("max_read_requests_per_second", "", limitOrNone,
		"Reading requests to the HTTP API; unset or 0 for no limit.",
		func(a *App) **int { return &a.MaxReadRequestsPerSecond }),
	option("max_presence_members_per_channel", "", limit,
		"Members of one presence channel; unset for presence.max_members.",
		func(a *App) **int { return &a.MaxPresenceMembers }),
	option("max_presence_member_size", "", sizeLimit,
		"Largest channel_data of one member; unset for presence.max_member_size.",
		func(a *App) **int64 { return &a.MaxPresenceMemberSize }),
	option("max_channel_name_length", "", limit,
		"Longest name of a channel; unset for limits.max_channel_name_length.",
		func(a *App) **int { return &a.MaxChannelNameLength }),
	option("max_event_channels_at_once", "", limit,
		"Channels that one event may be published to; unset for limits.max_event_channels.",
		func(a *App) **int { return &a.MaxEventChannels }),
	option("max_event_name_length", "", limit,
		"Longest name of an event; unset for limits.max_event_name_length.",
		func(a *App) **int { return &a.MaxEventNameLength }),
	option("max_event_payload", "", sizeLimit,
		"Largest data of one event; unset for limits.max_event_payload.",
		func(a *App) **int64 { return &a.MaxEventPayload }),
	option("max_event_batch_size", "", limit,
		"Events that one batch request may hold; unset for limits.max_event_batch.",
		func(a *App) **int { return &a.MaxEventBatch }),
	option("allowed_origins", "", listKind,
		"Origins that browsers may connect from, with at most one * in each; empty for all.",
		func(a *App) *[]string { return &a.AllowedOrigins }, areOrigins),
}

// webhookFields declares every key of an [[apps.webhooks]] table.
var webhookFields = []field[Webhook]{
	option("url", "", stringKind,
		"The http or https address that events are posted to.",
		func(w *Webhook) *string { return &w.URL }, isWebhookURL).secret(),
	option("event_types", "", listKind,
		"Events that are posted; empty for all.",
		func(w *Webhook) *[]string { return &w.EventTypes }, areEventTypes),
	option("channel_prefix", "", stringKind,
		"Only channels whose name starts so.",
		func(w *Webhook) *string { return &w.ChannelPrefix }),
	option("channel_suffix", "", stringKind,
		"Only channels whose name ends so.",
		func(w *Webhook) *string { return &w.ChannelSuffix }),
	option("channel_pattern", "", stringKind,
		"Only channels whose name matches this regular expression (RE2).",
		func(w *Webhook) *string { return &w.ChannelRegexp }, isPattern),
	option("headers", "", headerKind,
		"Further headers of the request, a table of strings.",
		func(w *Webhook) *map[string]string { return &w.Headers }, areHeaders).secret(),
}

// requiredAppKeys and requiredWebhookKeys have no default.
var (
	requiredAppKeys     = []string{"id", "key", "secret"}
	requiredWebhookKeys = []string{"url"}
)

// apps reads all [[apps]] tables.
func (l *loader) apps(d *document, path string, value any) {
	used := map[string]string{} // key and value to the path of their first use
	l.eachTable(d, path, value, func(at string, table map[string]any) {
		app := preset(appFields)
		tableReader[App]{
			loader: l, document: d, fields: appFields, store: storeIn(l, d, &app),
			nested: map[string]func(string, any){
				webhooksKey: func(path string, value any) {
					app.Webhooks = l.webhooks(d, path, value)
				},
			},
		}.read(scope{path: at}, table)
		l.require(d, at, table, requiredAppKeys)
		l.unique(d, join(at, "id"), "id", app.ID, used)
		l.unique(d, join(at, "key"), "key", app.Key, used)
		l.config.Apps = append(l.config.Apps, app)
	})
}

// webhooks reads the [[apps.webhooks]] tables of one app.
func (l *loader) webhooks(d *document, path string, value any) []Webhook {
	var out []Webhook
	l.eachTable(d, path, value, func(at string, table map[string]any) {
		webhook := preset(webhookFields)
		tableReader[Webhook]{
			loader: l, document: d, fields: webhookFields, store: storeIn(l, d, &webhook),
		}.read(scope{path: at}, table)
		l.require(d, at, table, requiredWebhookKeys)
		out = append(out, webhook)
	})
	return out
}

// require reports the keys that are missing from the table at path.
func (l *loader) require(d *document, path string, table map[string]any, keys []string) {
	for _, key := range keys {
		if _, ok := table[key]; !ok {
			l.failAt(d, join(path, key), errRequired)
		}
	}
}

// unique reports a value that an earlier app has for the same key.
func (l *loader) unique(d *document, path, key, value string, used map[string]string) {
	if value == "" {
		return // reported already
	}
	if first, ok := used[key+"="+value]; ok {
		l.failAt(d, path, fmt.Errorf("is %q, which %s (%s) is already",
			value, first, d.source(first)))
		return
	}
	used[key+"="+value] = path
}
