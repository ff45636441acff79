package importer

import (
	"fmt"
	"slices"
	"strings"
)

// nocobase is the environment of a NocoBase cluster.
var nocobase = &system{
	name: "nocobase", title: "NocoBase",
	rules: together([]rule{
		takes("LOGGER_LEVEL", "log.level", choice("Parley logs nothing finer than debug",
			map[string]string{"debug": "debug", "info": "info", "warn": "warn", "error": "error", "trace": "debug"})),
		takes("LOGGER_FORMAT", "log.format", choice("text is the default", map[string]string{"json": "json"})),
		takes("WORKER_MODE", "node.worker_mode", nil).or(takes("", "node.roles", workerMode)),
		chooses("CACHE_DEFAULT_STORE", "fabric.driver", choice("the embedded engine keeps the cache", redisOnly)),
		chooses("PUBSUB_ADAPTER", "fabric.driver", choice("the embedded engine carries signals", redisOnly)),
		chooses("LOCK_ADAPTER_DEFAULT", "fabric.driver", choice("the embedded engine keeps locks", redisOnly)),
		chooses("QUEUE_ADAPTER", "fabric.driver", choice("the embedded engine keeps queues", redisOnly)),
		takes("queue_driver", "fabric.queue", nil),
		takes("CACHE_MEMORY_MAX", "data.cache_memory_max", number),
		takes("APP_PORT", "data.port", number),
		takes("API_BASE_PATH", "data.api_base_path", nil),
		takes("WS_PATH", "data.ws_path", nil),
		takes("ASYNC_TASK_MAX_CONCURRENCY", "data.async_task_max_concurrency", number),
	},
		hidden([]rule{
			takes("database_url", "database.url", nil),
			takes("REDIS_URL", "redis.servers", redisServer),
			takes("REDIS_URL", "redis.database", redisDatabase),
			takes("CACHE_REDIS_URL", "redis.servers", redisServer),
			takes("CACHE_REDIS_URL", "redis.cache_database", redisDatabase),
			takes("PUBSUB_ADAPTER_REDIS_URL", "redis.servers", redisServer),
			takes("PUBSUB_ADAPTER_REDIS_URL", "redis.signal_database", redisDatabase),
			takes("QUEUE_ADAPTER_REDIS_URL", "redis.servers", redisServer),
			takes("QUEUE_ADAPTER_REDIS_URL", "redis.queue_database", redisDatabase),
			takes("LOCK_ADAPTER_REDIS_URL", "redis.servers", redisServer),
			takes("LOCK_ADAPTER_REDIS_URL", "redis.lock_database", redisDatabase),
			takes("QUEUE_ADAPTER_RABBITMQ_URL", "rabbitmq.url", nil),
			takes("APP_KEY", "data.app_key", nil),
			takes("APP_AES_SECRET_KEY", "data.aes_secret_key", nil),
		}),
		parts("database.url", "DB_DIALECT", "DB_HOST", "DB_PORT", "DB_DATABASE", "DB_USER", "DB_PASSWORD", "DB_STORAGE"),
		lacks("one Parley process uses every processor of its machine", "CLUSTER_MODE"),
		lacks("this version of Parley keeps no collections, so it needs no database", "DB_*"),
		hidden(lacks("this version of Parley keeps no collections and has no users of its own", "INIT_*", "APP_AES_*",
			"ASYNC_TASK_*", "EXPORT_*", "DEFAULT_STORAGE_TYPE", "LOCAL_STORAGE_*", "AWS_*", "ALI_OSS_*", "TX_COS_*")),
		hidden(lacks("Parley's modules are in its binary", "NOCOBASE_PKG_*", "PLUGIN_*", "APPEND_PRESET_*")),
		lacks("this version of Parley has no environments under a supervisor", "APP_MODE", "APP_DISCOVERY_ADAPTER",
			"APP_PROCESS_ADAPTER", "APP_COMMAND_ADAPTER", "ENVIRONMENT_*"),
		hidden(lacks("this version of Parley has no environments under a supervisor", "APP_SUPERVISOR_*",
			"APP_COMMAND_REDIS_URL")),
		lacks("Parley has one mode", "APP_ENV"),
		lacks("it belongs to NocoBase's pages", "APP_PUBLIC_PATH", "API_BASE_URL", "API_CLIENT_*", "CDN_*",
			"WEBSOCKET_URL", "SERVER_TRACKING_*"),
		lacks("Parley logs to the standard error", "LOGGER_*"),
		lacks("Parley's nodes know each other's names, so no numbers are handed out", "WORKER_ID*"),
		lacks("log entries have the time zone of the machine", "TZ"),
		lacks("a node serves on ports and unix_socket.path", "SOCKET_PATH"),
	),
	prefixes: []string{"CACHE_", "PUBSUB_", "LOCK_ADAPTER_", "QUEUE_ADAPTER", "WORKER_", "NOCOBASE_"},
	derive:   deriveNocobase,
	complete: completeNocobase,
}

var redisOnly = map[string]string{"redis": "redis"}

// workerMode turns NocoBase's WORKER_MODE into roles: what serves HTTP is a gateway, "!" is a
// node without background work, "*" one with nothing else, and keys are work of their own.
func workerMode(value any) (any, error) {
	text := strings.TrimSpace(textOf(value))
	switch text {
	case "-":
		return nil, noEffect("it is for commands that end at once, not for a node")
	case "*":
		return []string{"store", "manager", "worker", "keymanager"}, nil
	}
	roles := []string{"store"}
	for _, key := range listOf(text) {
		switch {
		case key == "!":
			roles = append(roles, "gateway", "manager", "keymanager")
		case key == "*":
			return nil, noEffect(`"*" counts only alone`)
		default:
			roles = append(roles, strings.ToLower(key))
		}
	}
	return slices.Compact(roles), nil
}

func deriveNocobase(r *run) {
	if e, ok := r.settings["QUEUE_ADAPTER"]; ok && e.text() == "rabbitmq" { // for the queue alone
		delete(r.settings, e.name)
		e.label, e.name = e.shown(), "queue_driver"
		r.put(e)
	}
	dialect := r.resolvedText("DB_DIALECT")
	if dialect == "" || dialect == "sqlite" {
		return
	}
	ports := map[string]string{"postgres": "5432", "mysql": "3306", "mariadb": "3306", "kingbase": "54321"}
	r.composeURL("database_url", dialect, "DB_", "HOST", ports[dialect], "USER", "PASSWORD", "DATABASE")
}

// completeNocobase says what takes the place of a shared Redis.
func completeNocobase(r *run) {
	if a, ok := r.result.set["fabric.driver"]; ok && a.waiting == "" {
		return
	}
	for _, name := range []string{"PUBSUB_ADAPTER_REDIS_URL", "LOCK_ADAPTER_DEFAULT", "QUEUE_ADAPTER", "CLUSTER_MODE"} {
		if _, ok := r.settings[name]; ok {
			needCluster(r, "NocoBase's nodes meet in Redis, Parley's ask each other: name some")
			return
		}
	}
}

// needClusterForDriver is needCluster if this version lacks the broker that carries events
// between the nodes of another system.
func needClusterForDriver(r *run) {
	if a, ok := r.result.set["fabric.driver"]; ok && a.waiting != "" {
		needCluster(r, fmt.Sprintf("nodes of %s meet in a broker, Parley's ask each other: name some", r.system.title))
	}
}

// needCluster notes what a cluster needs and the files of another system cannot say.
func needCluster(r *run, seeds string) {
	if _, ok := r.result.set["cluster.seeds"]; !ok {
		r.missing("cluster.seeds", seeds+`, such as ["10.0.0.5", "10.0.0.6"]`)
	}
	if _, ok := r.result.set["cluster.bootstrap_expect"]; !ok {
		r.missing("cluster.bootstrap_expect", "how many nodes found the cluster together, such as 3")
	}
	if _, ok := r.result.set["cluster.secret"]; !ok {
		r.missing("cluster.secret", "the same on every node: openssl rand -hex 32")
	}
}
