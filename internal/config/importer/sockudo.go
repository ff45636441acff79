package importer

import (
	"maps"
	"regexp"
	"strings"
)

// Where Sockudo keeps apps: in the file, and one from the environment.
const (
	fileApps   = "app_manager.array.apps[]."
	defaultEnv = "default_app."
	defaultTo  = "apps[100000000]." // behind all others; apps are numbered anew in the end
)

// sockudo is Sockudo 2 to 5: config.json and environment variables, which win.
var sockudo = &system{
	name: "sockudo", title: "Sockudo",
	rules: together(pusherRules(), pusherWithout(), databaseRules(), sockudoRules(), appRules(fileApps, "apps[]."),
		appRules(defaultEnv, defaultTo), sockudoLater()),
	aliases: sockudoAliases(),
	prefixes: []string{"SOCKUDO_", "ADAPTER_", "DATABASE_", "RATE_LIMITER_", "CLUSTER_HEALTH_", "CLEANUP_",
		"WEBHOOK_", "WEBSOCKET_", "UNIX_SOCKET_", "METRICS_", "SSL_", "CORS_", "NATS_", "INSTANCE_"},
	switches: map[string]string{
		"ssl.enabled": "false", "ssl.redirect_http": "false", "unix_socket.enabled": "false",
		"rate_limiter.enabled": "true", "webhooks.batching.enabled": "true", "database_pooling.enabled": "true",
	},
	normal:   sockudoNormal,
	derive:   deriveSockudo,
	complete: completeBrokers,
}

// sockudoRules are the rules for settings that soketi has not or in another unit.
func sockudoRules() []rule {
	const health = "adapter.cluster_health."
	return together([]rule{
		takes("shutdown_grace_period", "shutdown.grace", in("s")),
		takes("user_authentication_timeout", "channels.user_authentication_timeout", in("s")),
		takes("websocket_max_payload_kb", "transport.max_frame", in("KiB")),
		takes("max_connections", "transport.max_connections", number),
		takes("http_api.usage_enabled", "http.usage_enabled", flag),
		takes(health+"enabled", "cluster.health_enabled", when("true", "", "Parley's nodes always watch each other")),
		takes(health+"heartbeat_interval_ms", "cluster.heartbeat_interval", millis),
		takes(health+"node_timeout_ms", "cluster.node_timeout", millis),
		takes(health+"cleanup_interval_ms", "cluster.cleanup_interval", millis),
		takes("cache.memory.max_capacity", "cache.max_channels", number),
		takes("webhooks.batching.size", "webhooks.batch_size", number),
		takes("webhooks.request_timeout_ms", "webhooks.timeout", millis),
		takes("webhooks.retry.max_elapsed_time_ms", "webhooks.retry_elapsed", millis),
		takes("webhooks.retry.initial_interval_ms", "webhooks.retry_initial", millis),
		takes("webhooks.retry.max_interval_ms", "webhooks.retry_max", millis),
		takes("logging.format", "log.format", choice("text is the default", map[string]string{"json": "json"})),
	},
		under("ssl.redirect_http", takes("ssl.http_port", "tls.redirect_port", number)),
		under("unix_socket.enabled",
			takes("unix_socket.path", "unix_socket.path", nil),
			takes("unix_socket.permission_mode", "unix_socket.mode", mode)),
		under("rate_limiter.enabled",
			takes("rate_limiter.api_rate_limit.max_requests", "rate_limit.api_requests", number),
			takes("rate_limiter.api_rate_limit.window_seconds", "rate_limit.api_window", in("s")),
			takes("rate_limiter.websocket_rate_limit.max_requests", "rate_limit.connects", number),
			takes("rate_limiter.websocket_rate_limit.window_seconds", "rate_limit.connects_window", in("s"))),
		lacks("Parley believes X-Forwarded-For only of http.trusted_proxies: set them, and http.trust_hops if "+
			"their addresses are not known", "rate_limiter.api_rate_limit.trust_hops",
			"rate_limiter.websocket_rate_limit.trust_hops"),
		lacks("Parley's limits have no names to choose", "rate_limiter.api_rate_limit.identifier",
			"rate_limiter.websocket_rate_limit.identifier"),
		lacks("it decides about the settings beside it", "ssl.redirect_http", "unix_socket.enabled", "rate_limiter.enabled",
			"webhooks.retry.enabled"),
		lacks("Parley bounds what waits for each connection (transport.max_queue), not the sends at once",
			"adapter.buffer_multiplier_per_cpu"),
		lacks("Parley's counts are always on and those of the whole cluster", "adapter.enable_socket_counting",
			"adapter.aggregate_counts", "adapter.fast_presence_transitions"),
		lacks("a Parley node serves its clients on while its broker is away", "adapter.fallback_to_local"),
		lacks("Parley's cache has cache.ttl and cache.max_channels alone", "cache.memory.*", "CACHE_TTL_SECONDS"),
		lacks(whyNoCleanup, "cleanup.*"),
		lacks("Parley's log has no colours and no targets", "logging.*"),
		lacks("log.level takes debug, info, warn or error for the whole program",
			"RUST_LOG", "SOCKUDO_LOG_DEBUG", "SOCKUDO_LOG_PROD"),
	)
}

// sockudoLater are the rules for what Sockudo 3 to 5 added.
func sockudoLater() []rule {
	return together(
		lacks("this version of Parley has no history of channels", "history.*", "HISTORY_*", "presence_history.*",
			"PRESENCE_HISTORY_*", "versioned_messages.*", "VERSIONED_MESSAGES_*", "annotations.*", "ANNOTATIONS_*",
			"connection_recovery.*", "CONNECTION_RECOVERY_*", "idempotency.*", "IDEMPOTENCY_*"),
		lacks("this version of Parley has no delta compression and no filters", "delta_compression.*",
			"DELTA_COMPRESSION_*", "tag_filtering.*", "TAG_FILTERING_*", "event_name_filtering.*",
			"EVENT_NAME_FILTERING_*", "echo_control.*", "ECHO_CONTROL_*", "ephemeral.*", "EPHEMERAL_*"),
		hidden(lacks("this version of Parley sends no push notifications", "push.*", "PUSH_*", "FCM_*", "APNS_*",
			"VAPID_*", "HMS_*", "WNS_*")),
		hidden(lacks("Parley has no such driver; "+whyEvents, "adapter.pulsar.*", "PULSAR_*", "adapter.google_pubsub.*",
			"GOOGLE_PUBSUB_*", "PUBSUB_EMULATOR_HOST", "adapter.kafka.*", "KAFKA_*", "adapter.iggy.*", "IGGY_*", "adapter.omq.*",
			"OMQ_*")),
		hidden(lacks("Parley has no such driver for queues; "+whyAllQueues, "queue.pulsar.*", "queue.google_pubsub.*",
			"queue.kafka.*", "queue.iggy.*")),
		hidden(lacks("Parley's driver for RabbitMQ has its own, and carries queues alone (fabric.queue)", "RABBITMQ_*")),
		hidden(lacks(whySQS, "QUEUE_SNS_*")),
		hidden(lacks(whyOtherStore, "DATABASE_SURREALDB_*", "SCYLLADB_*", "AWS_*")),
		lacks("Parley's own limits are transport.max_frame and transport.max_queue", "websocket.*", "WEBSOCKET_*"),
		lacks("a node serves clients and the API alike; node.roles says what else it does", "server_role",
			"SOCKUDO_SERVER_ROLE"),
		lacks("/ready answers from what the node knows, without asking others", "health_check_timeout_ms",
			"HEALTH_CHECK_TIMEOUT_MS"),
		lacks("apps of the file are always declared", "SOCKUDO_SKIP_INLINE_APPS", "APP_MANAGER_REGISTER_INLINE_APPS"),
		lacks("this version of Parley has no such layer", "ai_transport.*", "AI_TRANSPORT_*", "SOCKUDO_ABLY_COMPAT_*"),
		lacks("Parley's metrics are read, not sent", "metrics.tcp_exporter.*", "METRICS_TCP_EXPORTER_*"),
		lacks("webhooks are retried until webhooks.retry_elapsed", "QUEUE_MAX_ATTEMPTS", "QUEUE_RETRY_*",
			"QUEUE_LEASE_*"),
		lacks("a presence member leaves with its last connection", "presence.*", "PRESENCE_*"),
	)
}

var policyGroup = regexp.MustCompile(`\.policy\.((limits|features|channels)\.)?`)

// sockudoNormal finds the one name of a setting: Sockudo 5 groups those of apps, cluster_health may
// stand at the top as well, and one has two spellings.
func sockudoNormal(name string) string {
	name = policyGroup.ReplaceAllString(name, ".")
	switch {
	case strings.HasPrefix(name, "cluster_health."):
		return "adapter." + name
	case name == "database.redis.cluster.useTLS":
		return "database.redis.cluster.use_tls"
	}
	return name
}

func deriveSockudo(r *run) {
	r.dropApp(defaultEnv, "id", "key", "secret")
	deriveBrokers(r, "7000")
	if ttl, ok := r.settings["CACHE_TTL_SECONDS"]; ok && r.appDatabase() != "" && r.get("app_manager.cache.ttl") == "" {
		r.move(ttl.name, "app_manager.cache.ttl", ttl.value)
	}
	r.deriveDatabase(map[string]string{
		"host": "localhost", "username": "root", "database": "sockudo", "table_name": "applications",
	})
	r.fillTogether(map[string]string{
		"adapter.cluster_health.heartbeat_interval_ms": "10000",
		"adapter.cluster_health.node_timeout_ms":       "30000",
		"adapter.cluster_health.cleanup_interval_ms":   "10000",
	})
	if r.get("ssl.http_port") == "" && r.isOn("ssl.redirect_http") && r.isOn("ssl.enabled") {
		on := r.settings["ssl.redirect_http"]
		on.name, on.label, on.value = "ssl.http_port", on.shown(), "80" // Sockudo's default
		on.quiet = true
		r.put(on)
	}
	if !r.isOn("ssl.enabled") {
		r.omit("ssl.http_port", "because TLS is off")
	}
}

// fillTogether gives settings that must fit each other their defaults, if one of them is set:
// those of Parley are others.
func (r *run) fillTogether(defaults map[string]string) {
	var set entry
	for _, name := range sortedPaths(defaults) {
		if e, ok := r.settings[name]; ok && e.text() != "" {
			set = e
		}
	}
	for _, name := range sortedPaths(defaults) {
		if e := set; set.name != "" && r.get(name) == "" {
			e.label, e.name, e.value, e.quiet = set.shown(), name, defaults[name], true
			r.put(e)
		}
	}
}

// sockudoVariables are environment variables that are called otherwise than their settings.
var sockudoVariables = map[string]string{
	"HOST": "host", "PORT": "port", "DEBUG": "debug", "DEBUG_MODE": "debug", "ENVIRONMENT": "mode",
	"ACTIVITY_TIMEOUT": "activity_timeout", "SHUTDOWN_GRACE_PERIOD": "shutdown_grace_period",
	"USER_AUTHENTICATION_TIMEOUT": "user_authentication_timeout",
	"WEBSOCKET_MAX_PAYLOAD_KB":    "websocket_max_payload_kb", "INSTANCE_PROCESS_ID": "instance.process_id",
	"SOCKUDO_MAX_CONNECTIONS": "max_connections", "HTTP_API_USAGE_ENABLED": "http_api.usage_enabled",
	"LOG_OUTPUT_FORMAT": "logging.format", "LOG_COLORS_ENABLED": "logging.colors_enabled",
	"LOG_INCLUDE_TARGET": "logging.include_target",
	"ADAPTER_DRIVER":     "adapter.driver", "CACHE_DRIVER": "cache.driver", "QUEUE_DRIVER": "queue.driver",
	"APP_MANAGER_DRIVER": "app_manager.driver", "RATE_LIMITER_DRIVER": "rate_limiter.driver",
	"METRICS_DRIVER": "metrics.driver", "ADAPTER_BUFFER_MULTIPLIER_PER_CPU": "adapter.buffer_multiplier_per_cpu",
	"REDIS_URL": "redis_url", "REDIS_CLUSTER_NODES": "adapter.cluster.nodes",
	"DATABASE_REDIS_SENTINEL_MASTER":         "database.redis.name",
	"DATABASE_REDIS_CLUSTER_NODES":           "adapter.cluster.nodes",
	"REDIS_CLUSTER_QUEUE_CONCURRENCY":        "queue.redis_cluster.concurrency",
	"REDIS_CLUSTER_QUEUE_PREFIX":             "queue.redis_cluster.prefix",
	"REDIS_CLUSTER_QUEUE_REQUEST_TIMEOUT_MS": "queue.redis_cluster.request_timeout_ms",
	"RABBITMQ_URL":                           "adapter.rabbitmq.url", "RABBITMQ_PREFIX": "adapter.rabbitmq.prefix",
	"QUEUE_REDIS_CONCURRENCY": "queue.redis.concurrency", "QUEUE_REDIS_PREFIX": "queue.redis.prefix",
	"DATABASE_POOLING_ENABLED": "database_pooling.enabled", "DATABASE_POOL_MIN": "database_pooling.min",
	"DATABASE_POOL_MAX":             "database_pooling.max",
	"DATABASE_CONNECTION_POOL_SIZE": "database.connection_pool_size",
	"AWS_ACCESS_KEY_ID":             "database.dynamodb.aws_access_key_id",
	"AWS_SECRET_ACCESS_KEY":         "database.dynamodb.aws_secret_access_key",
	"NATS_SERVERS":                  "adapter.nats.servers", "NATS_USERNAME": "adapter.nats.username",
	"NATS_PASSWORD": "adapter.nats.password", "NATS_TOKEN": "adapter.nats.token",
	"CACHE_CLEANUP_INTERVAL": "cache.memory.cleanup_interval", "CACHE_MAX_CAPACITY": "cache.memory.max_capacity",
	"CACHE_TTL_SECONDS":         "CACHE_TTL_SECONDS",
	"APP_MANAGER_CACHE_ENABLED": "app_manager.cache.enabled", "APP_MANAGER_CACHE_TTL": "app_manager.cache.ttl",
	"RATE_LIMITER_ENABLED": "rate_limiter.enabled", "RATE_LIMITER_REDIS_PREFIX": "rate_limiter.redis.prefix",
	"METRICS_PROMETHEUS_PREFIX": "metrics.prometheus.prefix",
	"CORS_ORIGINS":              "cors.origin", "CORS_METHODS": "cors.methods", "CORS_HEADERS": "cors.allowed_headers",
	"CORS_CREDENTIALS":         "cors.credentials",
	"WEBHOOK_BATCHING_ENABLED": "webhooks.batching.enabled", "WEBHOOK_BATCHING_DURATION": "webhooks.batching.duration",
	"WEBHOOK_BATCHING_SIZE":          "webhooks.batching.size",
	"SOCKUDO_ENABLE_CLIENT_MESSAGES": defaultEnv + "enable_client_messages",
	"RUST_LOG":                       "RUST_LOG", "SOCKUDO_LOG_DEBUG": "SOCKUDO_LOG_DEBUG", "SOCKUDO_LOG_PROD": "SOCKUDO_LOG_PROD",
}

// sockudoAliases are the environment variables of Sockudo.
func sockudoAliases() map[string]string {
	aliases := maps.Clone(sockudoVariables)
	alike(aliases, "DATABASE_REDIS_", "database.redis.", "HOST", "PORT", "USERNAME", "PASSWORD", "DB", "KEY_PREFIX",
		"SENTINELS", "SENTINEL_USERNAME", "SENTINEL_PASSWORD")
	alike(aliases, "DATABASE_REDIS_CLUSTER_", "database.redis.cluster.", "USERNAME", "PASSWORD", "USE_TLS")
	for _, of := range []string{"SENTINEL", "MASTER"} {
		alike(aliases, "DATABASE_REDIS_"+of+"_TLS_", "database.redis."+strings.ToLower(of)+"_tls.", "ENABLED",
			"ACCEPT_INVALID_CERTS", "CA_PATH", "CLIENT_CERT_PATH", "CLIENT_KEY_PATH")
	}
	for _, database := range []string{"MYSQL", "POSTGRES"} {
		alike(aliases, "DATABASE_"+database+"_", "database."+strings.ToLower(database)+".", "HOST", "PORT", "USERNAME",
			"PASSWORD", "DATABASE", "TABLE_NAME", "POOL_MIN", "POOL_MAX")
	}
	alike(aliases, "DATABASE_DYNAMODB_", "database.dynamodb.", "REGION", "TABLE_NAME", "ENDPOINT_URL")
	alike(aliases, "NATS_", "adapter.nats.", "CONNECTION_TIMEOUT_MS", "REQUEST_TIMEOUT_MS", "PREFIX", "NODES_NUMBER",
		"DISCOVERY_MAX_WAIT_MS", "DISCOVERY_IDLE_WAIT_MS", "NO_ECHO", "SUBSCRIPTION_CAPACITY", "CLIENT_CAPACITY",
		"MAX_RECONNECTS", "PRESENCE_SYNC_CHUNK_SIZE")
	alike(aliases, "QUEUE_SQS_", "queue.sqs.", "REGION", "VISIBILITY_TIMEOUT", "MAX_MESSAGES", "WAIT_TIME_SECONDS",
		"CONCURRENCY", "FIFO", "ENDPOINT_URL")
	alike(aliases, "RATE_LIMITER_API_", "rate_limiter.api_rate_limit.", "MAX_REQUESTS", "WINDOW_SECONDS", "TRUST_HOPS")
	alike(aliases, "RATE_LIMITER_WS_", "rate_limiter.websocket_rate_limit.", "MAX_REQUESTS", "WINDOW_SECONDS",
		"TRUST_HOPS")
	alike(aliases, "SSL_", "ssl.", "ENABLED", "CERT_PATH", "KEY_PATH", "REDIRECT_HTTP", "HTTP_PORT")
	alike(aliases, "UNIX_SOCKET_", "unix_socket.", "ENABLED", "PATH", "PERMISSION_MODE")
	alike(aliases, "METRICS_", "metrics.", "ENABLED", "HOST", "PORT")
	alike(aliases, "CLEANUP_", "cleanup.", "ASYNC_ENABLED", "FALLBACK_TO_SYNC", "QUEUE_BUFFER_SIZE", "BATCH_SIZE",
		"BATCH_TIMEOUT_MS", "WORKER_THREADS", "MAX_RETRY_ATTEMPTS")
	alike(aliases, "ADAPTER_", "adapter.", "ENABLE_SOCKET_COUNTING", "AGGREGATE_COUNTS", "FAST_PRESENCE_TRANSITIONS",
		"FALLBACK_TO_LOCAL")
	alike(aliases, "ADAPTER_CLUSTER_HEALTH_", "adapter.cluster_health.", "ENABLED", "HEARTBEAT_INTERVAL_MS",
		"NODE_TIMEOUT_MS", "CLEANUP_INTERVAL_MS")
	for _, key := range []string{"HEARTBEAT_INTERVAL", "NODE_TIMEOUT", "CLEANUP_INTERVAL"} {
		aliases["CLUSTER_HEALTH_"+key] = "adapter.cluster_health." + strings.ToLower(key) + "_ms"
	}
	aliases["CLUSTER_HEALTH_ENABLED"] = "adapter.cluster_health.enabled"
	alike(aliases, "SOCKUDO_DEFAULT_APP_", defaultEnv, "ID", "KEY", "SECRET", "ENABLED", "MAX_CONNECTIONS",
		"MAX_CLIENT_EVENTS_PER_SECOND", "MAX_BACKEND_EVENTS_PER_SECOND", "MAX_READ_REQUESTS_PER_SECOND",
		"MAX_PRESENCE_MEMBERS_PER_CHANNEL", "MAX_PRESENCE_MEMBER_SIZE_IN_KB", "MAX_CHANNEL_NAME_LENGTH",
		"MAX_EVENT_CHANNELS_AT_ONCE", "MAX_EVENT_NAME_LENGTH", "MAX_EVENT_PAYLOAD_IN_KB", "MAX_EVENT_BATCH_SIZE",
		"ENABLE_USER_AUTHENTICATION", "ENABLE_WATCHLIST_EVENTS", "ALLOWED_ORIGINS")
	return aliases
}

// alike adds variables whose settings have the same names in lower case.
func alike(aliases map[string]string, variable, setting string, keys ...string) {
	for _, key := range keys {
		aliases[variable+key] = setting + strings.ToLower(key)
	}
}
