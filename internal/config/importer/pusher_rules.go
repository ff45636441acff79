package importer

// Sockudo took its tree of settings over from soketi. The rules for the names that both have
// stand here, in the notation of Sockudo.

// Reasons that several settings share.
const (
	whyNoRequests = "a Parley node asks no other for counts or members: each knows them"
	whyNoCleanup  = "Parley takes a closed connection out of its channels at once, with no queue between"
	whyMemory     = "Parley refuses by queue limits (transport.max_backlog), not by used memory"
	whyCORS       = "Parley answers CORS for http.cors_origins with the methods and headers of its API"
)

// pusherRules are the rules for settings outside apps that Parley has too.
func pusherRules() []rule {
	return together([]rule{
		takes("host", "channels.host", bareHost),
		takes("port", "channels.port", number),
		takes("path_prefix", "channels.path_prefix", rooted),
		takes("debug", "log.level", when("debug", "", "info is the default of log.level")),
		takes("activity_timeout", "channels.activity_timeout", in("s")),
		takes("instance.process_id", "node.name", nil),
		takes("channel_limits.max_name_length", "limits.max_channel_name_length", number),
		takes("channel_limits.cache_ttl", "cache.ttl", in("s")),
		takes("event_limits.max_channels_at_once", "limits.max_event_channels", number),
		takes("event_limits.max_name_length", "limits.max_event_name_length", number),
		takes("event_limits.max_payload_in_kb", "limits.max_event_payload", in("KiB")),
		takes("event_limits.max_batch_size", "limits.max_event_batch", number),
		takes("presence.max_members_per_channel", "presence.max_members", number),
		takes("presence.max_member_size_in_kb", "presence.max_member_size", in("KiB")),
		takes("http_api.request_limit_in_mb", "http.max_body", in("MiB")),
		takes("cors.origin", "http.cors_origins", list),
		takes("metrics.enabled", "metrics.enabled", flag),
		takes("metrics.host", "metrics.host", bareHost),
		takes("metrics.port", "metrics.port", number),
		takes("metrics.prometheus.prefix", "metrics.prefix", nil),
		takes("webhooks.batching.enabled", "webhooks.batch_interval",
			when("", "0s", "batching is the default")),
	},
		under("ssl.enabled",
			takes("ssl.cert_path", "tls.cert_file", nil),
			takes("ssl.key_path", "tls.key_file", nil)),
		under("webhooks.batching.enabled",
			takes("webhooks.batching.duration", "webhooks.batch_interval", millis)),
		driverRules(), brokerRules(), redisRules(),
	)
}

// pusherWithout are the rules for settings outside apps that Parley does without.
func pusherWithout() []rule {
	return together(
		lacks("Parley has one mode; log.level and log.format say how much it logs", "mode"),
		lacks(whyMemory, "http_api.accept_traffic.*"),
		lacks(whyCORS, "cors.credentials", "cors.methods", "cors.allowed_headers"),
		lacks("Parley's metrics are those of Prometheus", "metrics.driver"),
		lacks("Parley reads keys without a passphrase", "ssl.passphrase"),
		lacks("clients prove nothing by a certificate", "ssl.ca_path"),
		lacks("it decides about the settings beside it", "ssl.enabled"),
	)
}

// appRules are the rules for an app whose settings lie under from; to is its table.
func appRules(from, to string) []rule {
	rules := []rule{
		takes("id", "id", nil), takes("name", "name", nil), takes("key", "key", nil),
		takes("secret", "secret", nil),
		takes("enabled", "enabled", flag),
		takes("max_connections", "max_connections", limited),
		takes("enable_client_messages", "enable_client_messages", flag),
		takes("enable_user_authentication", "enable_user_authentication", flag),
		takes("enable_watchlist_events", "enable_watchlist_events", flag),
		takes("enable_subscription_count", "enable_subscription_count", flag),
		takes("max_client_events_per_second", "max_client_events_per_second", limited),
		takes("max_backend_events_per_second", "max_backend_events_per_second", limited),
		takes("max_read_requests_per_second", "max_read_requests_per_second", limited),
		takes("max_presence_members_per_channel", "max_presence_members_per_channel", limited),
		takes("max_presence_member_size_in_kb", "max_presence_member_size", limitedIn("KiB")),
		takes("max_channel_name_length", "max_channel_name_length", limited),
		takes("max_event_channels_at_once", "max_event_channels_at_once", limited),
		takes("max_event_name_length", "max_event_name_length", limited),
		takes("max_event_payload_in_kb", "max_event_payload", limitedIn("KiB")),
		takes("max_event_batch_size", "max_event_batch_size", limited),
		takes("allowed_origins", "allowed_origins", list),
		takes("webhooks[].url", "webhooks[].url", nil),
		chooses("webhooks[].event_types", "webhooks[].event_types", list),
		takes("webhooks[].filter.channel_name_starts_with", "webhooks[].channel_prefix", nil),
		takes("webhooks[].filter.channel_name_ends_with", "webhooks[].channel_suffix", nil),
		takes("webhooks[].filter.channel_name_pattern", "webhooks[].channel_pattern", nil),
		takes("webhooks[].filter.channel_prefix", "webhooks[].channel_prefix", nil),
		takes("webhooks[].filter.channel_suffix", "webhooks[].channel_suffix", nil),
		takes("webhooks[].filter.channel_pattern", "webhooks[].channel_pattern", nil),
		takes("webhooks[].headers.*", "webhooks[].headers.*", nil),
	}
	rules = append(rules, lacks("Parley posts webhooks to addresses, it calls no function",
		"webhooks[].lambda_function", "webhooks[].lambda.*")...)
	rules = append(rules, lacks("there is none", "webhooks")...) // an empty list
	for i := range rules {
		rules[i].name = from + rules[i].name
		if rules[i].to != "" {
			rules[i].to = to + rules[i].to
		}
	}
	return rules
}
