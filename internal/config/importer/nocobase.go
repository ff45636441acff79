package importer

import "github.com/parleyio/parley/internal/config"

// nocobase is the environment of a NocoBase cluster.
var nocobase = &system{
	name: "nocobase", title: "NocoBase",
	rules: together([]rule{
		takes("LOGGER_LEVEL", "log.level", choice("Parley logs nothing finer than debug",
			map[string]string{"debug": "debug", "info": "info", "warn": "warn", "error": "error", "trace": "debug"})),
		takes("LOGGER_FORMAT", "log.format", choice("text is the default", map[string]string{"json": "json"})),
		takes("WORKER_MODE", "node.worker_mode", nil),
		takes("PUBSUB_ADAPTER", "fabric.driver", broker(redisAlone, map[string]string{"": "Parley's nodes carry signals themselves, or over redis"})),
		takes("CACHE_DEFAULT_STORE", "fabric.cache", broker(redisAlone, map[string]string{"": whyAllCaches})),
		takes("LOCK_ADAPTER_DEFAULT", "fabric.lock",
			broker(redisAlone, map[string]string{"": "what carries signals carries locks as well, for all nodes together (fabric.lock)"})),
		takes("QUEUE_ADAPTER", "fabric.queue",
			broker([]string{config.DriverRedis, config.DriverRabbitMQ}, map[string]string{"": whyAllQueues})),
		takes("CACHE_MEMORY_MAX", "data.cache_memory_max", number),
		takes("APP_PORT", "data.port", number),
		takes("API_BASE_PATH", "data.api_base_path", nil),
		takes("WS_PATH", "data.ws_path", nil),
		takes("ASYNC_TASK_MAX_CONCURRENCY", "data.async_task_max_concurrency", number),
	},
		hidden([]rule{
			takes("database_url", "database.url", nil),
			takes("REDIS_URL", "redis.servers", redisURLs), takes("redis_url", "redis.servers", redisURLs),
			takes("QUEUE_ADAPTER_RABBITMQ_URL", "rabbitmq.servers", rabbitURL),
			takes("APP_KEY", "data.app_key", nil),
			takes("APP_AES_SECRET_KEY", "data.aes_secret_key", nil),
		}),
		placeRules("signal", "cache", "lock", "queue"),
		hidden(lacks("it is empty", "PUBSUB_ADAPTER_REDIS_URL", "CACHE_REDIS_URL", "LOCK_ADAPTER_REDIS_URL", "QUEUE_ADAPTER_REDIS_URL")),
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

var redisAlone = []string{config.DriverRedis}

// nocobaseRoles are what NocoBase's nodes share, with the setting that chooses how and the address of the
// Redis for it. The first one carries what has no setting.
var nocobaseRoles = []struct{ driver, address, place string }{
	{"PUBSUB_ADAPTER", "PUBSUB_ADAPTER_REDIS_URL", "signal"}, {"CACHE_DEFAULT_STORE", "CACHE_REDIS_URL", "cache"},
	{"LOCK_ADAPTER_DEFAULT", "LOCK_ADAPTER_REDIS_URL", "lock"}, {"QUEUE_ADAPTER", "QUEUE_ADAPTER_REDIS_URL", "queue"},
}

func deriveNocobase(r *run) {
	r.nocobaseRedis()
	dialect := r.resolvedText("DB_DIALECT")
	if dialect == "" || dialect == "sqlite" {
		return
	}
	ports := map[string]string{"postgres": "5432", "mysql": "3306", "mariadb": "3306", "kingbase": "54321"}
	r.composeURL("database_url", dialect, "DB_", "HOST", ports[dialect], "USER", "PASSWORD", "DATABASE")
}

// nocobaseRedis settles which Redis carries what.
func (r *run) nocobaseRedis() {
	if signal := r.settings["PUBSUB_ADAPTER_REDIS_URL"]; signal.text() != "" && r.get("PUBSUB_ADAPTER") == "" {
		signal.label, signal.name, signal.value = signal.shown(), "PUBSUB_ADAPTER", config.DriverRedis
		r.put(signal)
	}
	r.move("REDIS_URL", "redis_url", r.settings["REDIS_URL"].value)
	used := false
	for _, role := range nocobaseRoles {
		own := r.settings[role.address]
		isOver := driverName(r.resolvedText(role.driver)) == config.DriverRedis
		used = used || isOver
		switch {
		case own.text() == "":
		case isOver:
			r.move(own.name, redisPlace+role.place, own.value)
		default:
			r.omit(own.name, role.driver+" is not redis")
		}
	}
	if !used {
		r.omit("redis_url", whyNoRedis)
	}
	if driverName(r.resolvedText("QUEUE_ADAPTER")) != config.DriverRabbitMQ {
		r.omit("QUEUE_ADAPTER_RABBITMQ_URL", "QUEUE_ADAPTER is not rabbitmq")
	}
	r.sharePlaces(config.DriverRedis, "signal", "cache", "lock", "queue")
}

// completeNocobase says what takes the place of a shared Redis.
func completeNocobase(r *run) {
	addresses := []string{"redis_url"}
	for _, role := range nocobaseRoles {
		addresses = append(addresses, role.address)
	}
	r.needServers("redis.servers", addresses...)
	r.needServers("rabbitmq.servers", "QUEUE_ADAPTER_RABBITMQ_URL")
	if _, ok := r.result.set["fabric.driver"]; ok {
		return
	}
	for _, name := range []string{"PUBSUB_ADAPTER_REDIS_URL", "LOCK_ADAPTER_DEFAULT", "QUEUE_ADAPTER", "CLUSTER_MODE"} {
		if _, ok := r.settings[name]; ok {
			needCluster(r, `Parley's nodes ask each other, or meet in Redis (fabric.driver = "redis"): name some`)
			return
		}
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
