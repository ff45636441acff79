package importer

import (
	"cmp"
	"fmt"
)

// Sockudo took its tree of settings over from soketi. The rules for the names that both have
// stand here, in the notation of Sockudo.

// Reasons that several settings share.
const (
	whyNoRequests = "a Parley node asks no other for counts or members: each knows them"
	whyNoCleanup  = "Parley takes a closed connection out of its channels at once, with no queue between"
	whyLimits     = "Parley counts rate limits on each node"
	whyFabric     = "fabric.driver chooses for signal, cache, queue and lock together"
	whyRedisNodes = "name the servers, sentinels or nodes of Redis in redis.servers"
	whySQS        = "Parley keeps its queue itself; Amazon SQS is not among its drivers"
	whyMemory     = "Parley refuses by queue limits (transport.max_backlog), not by used memory"
	whyCORS       = "Parley answers CORS for http.cors_origins with the methods and headers of its API"
)

// drivers are the names of adapters that have a counterpart among the values of fabric.driver.
var drivers = map[string]string{"redis": "redis", "redis-cluster": "redis-cluster", "nats": "nats"}

// pusherRules are the rules for settings outside apps that Parley has too.
func pusherRules() []rule {
	return together([]rule{
		takes("host", "channels.host", bareHost),
		takes("port", "channels.port", number),
		takes("path_prefix", "channels.path_prefix", rooted),
		takes("debug", "log.level", when("debug", "", "info is the default of log.level")),
		takes("activity_timeout", "channels.activity_timeout", in("s")),
		takes("instance.process_id", "node.name", nil),
		chooses("adapter.driver", "fabric.driver",
			choice("the embedded engine carries events; nothing else has to run", drivers)),
		chooses("adapter.redis.prefix", "redis.prefix", nil),
		takes("database.redis.name", "redis.sentinel_master", nil),
		takes("database.redis_username", "redis.username", nil),
		takes("database.redis_db", "redis.database", number),
		chooses("adapter.nats.servers", "nats.servers", list),
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
		hidden([]rule{
			takes("database.redis_url", "redis.servers", single),
			takes("database.redis_password", "redis.password", nil),
			takes("database.redis_sentinels", "redis.servers", list),
			takes("database.redis.sentinel_password", "redis.sentinel_password", nil),
			takes("database.redis.cluster_nodes", "redis.servers", redisNodes),
			chooses("adapter.nats.username", "nats.username", nil),
			chooses("adapter.nats.password", "nats.password", nil),
			chooses("adapter.nats.token", "nats.token", nil),
		}),
		parts("redis.servers", "database.redis.host", "database.redis.port", "database.redis.db",
			"database.redis.username", "database.redis.password", "database.redis.sentinels[].host",
			"database.redis.sentinels[].port"),
	)
}

// pusherWithout are the rules for settings outside apps that Parley does without.
func pusherWithout() []rule {
	return together(
		lacks("Parley has one mode; log.level and log.format say how much it logs", "mode"),
		lacks(whyFabric, "cache.driver", "queue.driver"),
		lacks(whyLimits, "rate_limiter.driver", "rate_limiter.redis.*"),
		lacks(whyNoRequests, "adapter.redis.requests_timeout", "adapter.cluster.*",
			"adapter.nats.request_timeout_ms", "adapter.nats.requests_timeout", "adapter.nats.nodes_number"),
		lacks("redis.prefix keeps Parley's keys apart", "adapter.nats.prefix", "database.redis.key_prefix",
			"queue.redis.prefix"),
		lacks("Parley connects to Redis by redis.servers alone", "adapter.redis.*", "cache.redis.*", "queue.redis.*",
			"queue.redis_cluster.*"),
		lacks("Parley's driver for NATS has its own", "adapter.nats.*"),
		hidden(lacks(whyRedisNodes, "database.redis.sentinels", "database.redis.sentinel*", "database.redis.master*",
			"database.redis.cluster_nodes[].*")),
		lacks(whySQS, "queue.sqs.*", "queue.sns.*"),
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

// deriveRedis puts the address of Redis together from its parts, unless one is given.
func deriveRedis(r *run) {
	const prefix = "database.redis."
	if e, ok := r.settings[prefix+"sentinels[0].host"]; ok {
		var urls []string
		for i := 0; r.get(fmt.Sprintf("%ssentinels[%d].host", prefix, i)) != ""; i++ {
			host := fmt.Sprintf("%ssentinels[%d].", prefix, i)
			urls = append(urls, connection("redis", r.get(host+"host"), cmp.Or(r.get(host+"port"), "26379"), "", "", ""))
		}
		e.label, e.name, e.value = "database.redis.sentinels", "database.redis_sentinels", urls
		r.put(e)
		r.redisApart("the sentinels know the server")
	} else {
		r.drop(prefix+"name", "there are no sentinels")
	}
	if nodes := r.get(prefix + "cluster_nodes"); nodes != "" && r.get("adapter.driver") == "redis-cluster" {
		r.redisApart("the nodes of the cluster are listed")
	} else {
		r.drop(prefix+"cluster_nodes", "the adapter is not redis-cluster")
	}
	r.composeURL("database.redis_url", "redis", "database.redis.", "host", "6379", "username", "password", "db")
}

// redisApart takes the credentials and the database for themselves, because no single address
// holds them.
func (r *run) redisApart(why string) {
	r.drop("database.redis.host", why)
	r.drop("database.redis.port", why)
	for _, key := range []string{"username", "password", "db"} {
		if e, ok := r.settings["database.redis."+key]; ok {
			delete(r.settings, e.name)
			e.label, e.name = e.shown(), "database.redis_"+key
			r.put(e)
		}
	}
}

// composeURL puts the setting name, an address, together from the settings under prefix,
// unless it is given. A part that refers to an undefined variable becomes the whole value,
// so that the setting is noted for it.
func (r *run) composeURL(name, scheme, prefix, host, defaultPort, user, password, path string) {
	e, ok := r.settings[prefix+host]
	if _, given := r.settings[name]; given || !ok || e.text() == "" {
		return
	}
	value := func(key string) string { return r.resolvedText(prefix + key) }
	port := value("port")
	if port == "" {
		port = defaultPort
	}
	e.label, e.name = e.shown(), name
	e.value = connection(scheme, value(host), port, value(user), value(password), value(path))
	for _, key := range []string{host, "port", user, password, path} {
		if text := value(key); reference.MatchString(text) {
			part := r.settings[prefix+key]
			e.label, e.line, e.value = part.shown(), part.line, text
		}
	}
	r.put(e)
}

// resolvedText is get with references replaced where they can be.
func (r *run) resolvedText(name string) string {
	resolved, _ := r.resolve(r.settings[name].value)
	return textOf(resolved)
}
