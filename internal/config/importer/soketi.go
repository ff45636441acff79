package importer

import (
	"regexp"
	"strings"
)

// soketiApp is where the environment sets soketi's first app.
const soketiApp = "app_manager.array.apps[0]."

// soketi is soketi 1: a JSON file with names in camel case, and SOKETI_ variables, which win.
var soketi = &system{
	name: "soketi", title: "soketi",
	rules:    together(pusherRules(), pusherWithout(), databaseRules(), soketiRules(), appRules(fileApps, "apps[].")),
	aliases:  soketiAliases(),
	prefixes: []string{"SOKETI_"},
	switches: map[string]string{
		"ssl.enabled": "false", "webhooks.batching.enabled": "false", "database_pooling.enabled": "false",
	},
	normal:   snake,
	derive:   deriveSoketi,
	complete: completeBrokers,
}

func soketiRules() []rule {
	return together([]rule{
		takes("shutdown_grace_period", "shutdown.grace", millis),
		takes("user_authentication_timeout", "channels.user_authentication_timeout", millis),
		takes("cluster.hello_interval", "cluster.heartbeat_interval", millis),
		takes("cluster.node_timeout", "cluster.node_timeout", millis),
		takes("cluster.check_interval", "cluster.cleanup_interval", millis),
		takes("cluster.unicast", "cluster.seeds", list),
	},
		lacks("Parley's nodes find each other over TCP by cluster.seeds, on port 11110", "cluster.port",
			"cluster.hostname", "cluster.broadcast", "cluster.multicast*", "cluster.prefix"),
		lacks("Parley has no master among its nodes", "cluster.master_timeout", "cluster.ignore_process"),
		lacks("Parley's driver has no such switch", "cache.*", "rate_limiter.*", "instance.*"),
	)
}

var camel = regexp.MustCompile(`[A-Z]`)

// snake returns the name in the notation of Sockudo. Webhooks are in that notation already;
// another name that holds an underscore is none of soketi's.
func snake(name string) string {
	head, webhook, found := strings.Cut(name, ".webhooks[")
	if strings.Contains(head, "_") {
		return ""
	}
	head = camel.ReplaceAllStringFunc(head, func(s string) string { return "_" + strings.ToLower(s) })
	if found {
		head += ".webhooks[" + webhook
	}
	return head
}

func deriveSoketi(r *run) {
	if cert, ok := r.settings["ssl.cert_path"]; ok && cert.text() != "" {
		cert.name, cert.label, cert.value, cert.quiet = "ssl.enabled", cert.shown(), "true", true
		r.put(cert)
	}
	deriveBrokers(r, redisPort)
	r.deriveDatabase(map[string]string{
		"host": "127.0.0.1", "username": "root", "password": "password", "database": "main", "table": "apps",
	})
	r.soketiCluster()
	if name := soketiApp + "webhooks"; r.get(name) != "" {
		r.expand(name)
	}
	r.fillSoketiApp()
}

// soketiCluster drops the settings of the cluster where the adapter is another one: seeds
// would make the node one of a cluster.
func (r *run) soketiCluster() {
	if driverName(r.resolvedText("adapter.driver")) == "cluster" {
		r.fillTogether(map[string]string{
			"cluster.hello_interval": "500", "cluster.node_timeout": "2000", "cluster.check_interval": "500",
		})
		return
	}
	r.dropUnder("the adapter is not cluster", "cluster.")
}

// fillSoketiApp adds what soketi's first app has by default, if the environment sets a part
// of it.
func (r *run) fillSoketiApp() {
	var part entry
	for _, key := range []string{"id", "key", "secret"} {
		if e, ok := r.settings[soketiApp+key]; ok && e.env {
			part = e
		}
	}
	for _, key := range []string{"id", "key", "secret"} {
		if name := soketiApp + key; part.name != "" && r.get(name) == "" {
			part.name, part.label, part.value = name, part.shown(), "app-"+key
			r.put(part)
		}
	}
}

// expand reads a setting whose value is JSON in an environment variable.
func (r *run) expand(name string) {
	e := r.settings[name]
	text, isText := e.value.(string)
	if !isText {
		return
	}
	delete(r.settings, name)
	inner := &source{name: e.file}
	if err := decodeJSON(inner, []byte(`{"_":`+text+`}`)); err != nil {
		r.problems = append(r.problems, syntaxProblem(e.file, e.line, "%s: not valid JSON", e.shown()))
		return
	}
	for _, part := range inner.entries {
		part.label, part.line, part.env, part.order = e.shown(), e.line, e.env, e.order
		part.name = name + strings.TrimPrefix(part.name, "_")
		r.put(part)
	}
}

// soketiAliases are the environment variables of soketi, which all begin with SOKETI_.
func soketiAliases() map[string]string {
	aliases := map[string]string{}
	for name, setting := range map[string]string{
		"ADAPTER_DRIVER": "adapter.driver", "APP_MANAGER_DRIVER": "app_manager.driver",
		"APP_MANAGER_CACHE_ENABLED": "app_manager.cache.enabled", "APP_MANAGER_CACHE_TTL": "app_manager.cache.ttl",
		"CACHE_DRIVER": "cache.driver", "QUEUE_DRIVER": "queue.driver", "RATE_LIMITER_DRIVER": "rate_limiter.driver",
		"CHANNEL_LIMITS_MAX_NAME_LENGTH": "channel_limits.max_name_length", "CHANNEL_CACHE_TTL": "channel_limits.cache_ttl",
		"CLUSTER_HOST": "cluster.hostname", "CLUSTER_BROADCAST_ADDRESS": "cluster.broadcast",
		"CLUSTER_KEEPALIVE_INTERVAL": "cluster.hello_interval", "CLUSTER_MULTICAST_ADDRESS": "cluster.multicast",
		"CLUSTER_UNICAST_ADDRESSES": "cluster.unicast", "ADAPTER_NATS_USER": "adapter.nats.username",
		"ADAPTER_REDIS_PUB_OPTIONS": "adapter.redis.redis_pub_options",
		"ADAPTER_REDIS_SUB_OPTIONS": "adapter.redis.redis_sub_options",
		"DEBUG":                     "debug", "HOST": "host", "MODE": "mode", "PORT": "port", "PATH_PREFIX": "path_prefix",
		"DB_POOLING_ENABLED": "database_pooling.enabled", "DB_POOLING_MIN": "database_pooling.min",
		"DB_POOLING_MAX": "database_pooling.max", "DB_REDIS_INSTANCE_NAME": "database.redis.name",
		"EVENT_MAX_SIZE_IN_KB":                 "event_limits.max_payload_in_kb",
		"HTTP_MAX_REQUEST_SIZE":                "http_api.request_limit_in_mb",
		"HTTP_ACCEPT_TRAFFIC_MEMORY_THRESHOLD": "http_api.accept_traffic.memory_threshold",
		"METRICS_ENABLED":                      "metrics.enabled", "METRICS_DRIVER": "metrics.driver", "METRICS_HOST": "metrics.host",
		"METRICS_PROMETHEUS_PREFIX": "metrics.prometheus.prefix", "METRICS_SERVER_PORT": "metrics.port",
		"PRESENCE_MAX_MEMBER_SIZE": "presence.max_member_size_in_kb", "PRESENCE_MAX_MEMBERS": "presence.max_members_per_channel",
		"SHUTDOWN_GRACE_PERIOD": "shutdown_grace_period", "USER_AUTHENTICATION_TIMEOUT": "user_authentication_timeout",
		"SSL_CERT": "ssl.cert_path", "SSL_KEY": "ssl.key_path", "SSL_PASS": "ssl.passphrase", "SSL_CA": "ssl.ca_path",
		"WEBHOOKS_BATCHING": "webhooks.batching.enabled", "WEBHOOKS_BATCHING_DURATION": "webhooks.batching.duration",
		"DEFAULT_APP_MAX_CONNS":                  soketiApp + "max_connections",
		"DEFAULT_APP_MAX_BACKEND_EVENTS_PER_SEC": soketiApp + "max_backend_events_per_second",
		"DEFAULT_APP_MAX_CLIENT_EVENTS_PER_SEC":  soketiApp + "max_client_events_per_second",
		"DEFAULT_APP_MAX_READ_REQ_PER_SEC":       soketiApp + "max_read_requests_per_second",
		"DEFAULT_APP_USER_AUTHENTICATION":        soketiApp + "enable_user_authentication",
	} {
		aliases["SOKETI_"+name] = setting
	}
	alike(aliases, "SOKETI_DEFAULT_APP_", soketiApp, "ID", "KEY", "SECRET", "ENABLED", "ENABLE_CLIENT_MESSAGES",
		"ENABLE_USER_AUTHENTICATION", "WEBHOOKS", "MAX_PRESENCE_MEMBERS_PER_CHANNEL", "MAX_PRESENCE_MEMBER_SIZE_IN_KB",
		"MAX_CHANNEL_NAME_LENGTH", "MAX_EVENT_CHANNELS_AT_ONCE", "MAX_EVENT_NAME_LENGTH", "MAX_EVENT_PAYLOAD_IN_KB",
		"MAX_EVENT_BATCH_SIZE")
	alike(aliases, "SOKETI_ADAPTER_CLUSTER_", "adapter.cluster.", "REQUESTS_TIMEOUT")
	alike(aliases, "SOKETI_ADAPTER_REDIS_", "adapter.redis.", "PREFIX", "CLUSTER_MODE", "REQUESTS_TIMEOUT",
		"SHARD_MODE")
	alike(aliases, "SOKETI_ADAPTER_NATS_", "adapter.nats.", "PREFIX", "SERVERS", "PASSWORD", "TOKEN", "CREDENTIALS",
		"TIMEOUT", "REQUESTS_TIMEOUT", "NODES_NUMBER")
	alike(aliases, "SOKETI_APP_MANAGER_DYNAMODB_", "app_manager.dynamodb.", "TABLE", "REGION", "ENDPOINT")
	alike(aliases, "SOKETI_APP_MANAGER_MYSQL_", "app_manager.mysql.", "TABLE", "VERSION", "USE_V2")
	alike(aliases, "SOKETI_APP_MANAGER_POSTGRES_", "app_manager.postgres.", "TABLE", "VERSION")
	for _, part := range fabricParts[1:] {
		alike(aliases, "SOKETI_"+strings.ToUpper(part.section)+"_REDIS_", part.section+".redis.", "CLUSTER_MODE")
		aliases["SOKETI_"+strings.ToUpper(part.section)+"_REDIS_OPTIONS"] = part.section + ".redis.redis_options"
	}
	alike(aliases, "SOKETI_CLUSTER_", "cluster.", "CHECK_INTERVAL", "IGNORE_PROCESS", "MASTER_TIMEOUT", "NODE_TIMEOUT",
		"PORT", "PREFIX")
	for _, database := range []string{"MYSQL", "POSTGRES"} {
		alike(aliases, "SOKETI_DB_"+database+"_", "database."+strings.ToLower(database)+".", "HOST", "PORT", "USERNAME",
			"PASSWORD", "DATABASE")
	}
	alike(aliases, "SOKETI_DB_REDIS_", "database.redis.", "HOST", "PORT", "DB", "USERNAME", "PASSWORD", "KEY_PREFIX",
		"SENTINELS", "SENTINEL_PASSWORD", "CLUSTER_NODES")
	alike(aliases, "SOKETI_EVENT_", "event_limits.", "MAX_BATCH_SIZE", "MAX_CHANNELS_AT_ONCE", "MAX_NAME_LENGTH")
	alike(aliases, "SOKETI_QUEUE_REDIS_", "queue.redis.", "CONCURRENCY")
	alike(aliases, "SOKETI_QUEUE_SQS_", "queue.sqs.", "REGION", "CLIENT_OPTIONS", "URL", "ENDPOINT", "PROCESS_BATCH",
		"BATCH_SIZE", "POLLING_WAIT_TIME_MS")
	return aliases
}
