package config

import "fmt"

// orEmpty is the kind of a string that has few possible values, or none.
func orEmpty(choices []string) kind[string] {
	k := oneOf(choices...)
	chosen := k.parse
	k.parse = func(r raw) (string, error) {
		if s, ok := r.text(); ok && s == "" {
			return "", nil
		}
		s, err := chosen(r)
		if err != nil {
			return "", fmt.Errorf("%w, or empty", err)
		}
		return s, nil
	}
	return k
}

// fabricOptions declare what nodes share things through.
var fabricOptions = []field[Config]{
	option("fabric.driver", DriverEmbedded, oneOf(drivers...),
		"What carries all that nodes share, where no other option below says otherwise: the engine of the nodes "+
			"themselves, the memory of one node, or a broker that is there already.",
		func(c *Config) *string { return &c.Fabric.Driver }),
	option("fabric.signal", "", orEmpty(drivers),
		"What carries events, and who is connected where, between nodes; empty for fabric.driver.",
		func(c *Config) *string { return &c.Fabric.Signal }),
	option("fabric.cache", "", orEmpty(drivers),
		"What carries caches: the last events of cache channels; empty for fabric.driver.",
		func(c *Config) *string { return &c.Fabric.Cache }),
	option("fabric.queue", "", orEmpty(queueDrivers),
		"What carries queues: webhooks on their way; empty for fabric.driver.",
		func(c *Config) *string { return &c.Fabric.Queue }),
	option("fabric.lock", "", orEmpty(drivers),
		"What carries locks; empty for fabric.driver.",
		func(c *Config) *string { return &c.Fabric.Lock }),
	option("fabric.documents", "", orEmpty(drivers),
		"What carries documents and logs: apps, and what webhooks were told; empty for fabric.driver.",
		func(c *Config) *string { return &c.Fabric.Documents }),
	option("fabric.rate_limit", "", orEmpty(drivers),
		"What carries the counts of rate limits between nodes; with memory each node counts for itself; empty for "+
			"fabric.signal.",
		func(c *Config) *string { return &c.Fabric.RateLimit }),

	option("engine.sync", syncAlways, stringKind,
		"When the embedded engine writes through to the disk: always, or at an interval.",
		func(c *Config) *string { return &c.Engine.Sync }, isSync),

	option("redis.servers", "127.0.0.1:6379", listKind,
		"Redis: host:port, redis:// or rediss:// URLs; some servers of a Redis Cluster, or the Sentinels with "+
			"redis.sentinel_master.",
		func(c *Config) *[]string { return &c.Redis.Servers }, areServers(isRedisServer)).secret(),
	option("redis.username", "", stringKind,
		"Name to log in to Redis with; empty for the default user.",
		func(c *Config) *string { return &c.Redis.Username }),
	option("redis.password", "", stringKind,
		"Password for Redis.",
		func(c *Config) *string { return &c.Redis.Password }).secret(),
	option("redis.database", "0", intKind,
		"Number of the database.",
		func(c *Config) *int { return &c.Redis.Database }, atLeast(0)),
	option("redis.prefix", "parley:", stringKind,
		"What every key and channel begins with, so that those who share a Redis stay apart.",
		func(c *Config) *string { return &c.Redis.Prefix }, notEmpty),
	option("redis.sentinel_master", "", stringKind,
		"Name of the master that the Sentinels watch; empty for no Sentinels.",
		func(c *Config) *string { return &c.Redis.SentinelMaster }),
	option("redis.sentinel_username", "", stringKind,
		"Name to log in to the Sentinels with.",
		func(c *Config) *string { return &c.Redis.SentinelUsername }),
	option("redis.sentinel_password", "", stringKind,
		"Password for the Sentinels.",
		func(c *Config) *string { return &c.Redis.SentinelPassword }).secret(),
	option("redis.tls", "false", boolKind,
		"Speak TLS with Redis and the Sentinels; rediss:// does the same.",
		func(c *Config) *bool { return &c.Redis.TLS }),
	option("redis.ca_file", "", stringKind,
		"PEM file with the authority that signs Redis' certificates; empty for those of the system.",
		func(c *Config) *string { return &c.Redis.CAFile }),
	option("redis.cert_file", "", stringKind,
		"PEM file with the certificate to show to Redis.",
		func(c *Config) *string { return &c.Redis.CertFile }),
	option("redis.key_file", "", stringKind,
		"PEM file with its key.",
		func(c *Config) *string { return &c.Redis.KeyFile }),
	option("redis.wait_replicas", "0", intKind,
		"How many replicas of Redis must have a durable write before it counts; otherwise a failover may lose it.",
		func(c *Config) *int { return &c.Redis.WaitReplicas }, atLeast(0)),
	option("redis.signal", "", stringKind,
		"Another place for signals: the number of a database, or the URL of another Redis, which says all about it; "+
			"empty for the same.",
		func(c *Config) *string { return &c.Redis.Signal }, isRedisPlace).secret(),
	option("redis.cache", "", stringKind,
		"Another place for caches, likewise.",
		func(c *Config) *string { return &c.Redis.Cache }, isRedisPlace).secret(),
	option("redis.queue", "", stringKind,
		"Another place for queues, likewise.",
		func(c *Config) *string { return &c.Redis.Queue }, isRedisPlace).secret(),
	option("redis.lock", "", stringKind,
		"Another place for locks, likewise.",
		func(c *Config) *string { return &c.Redis.Lock }, isRedisPlace).secret(),
	option("redis.documents", "", stringKind,
		"Another place for documents and logs, likewise.",
		func(c *Config) *string { return &c.Redis.Documents }, isRedisPlace).secret(),

	option("nats.servers", "nats://127.0.0.1:4222", listKind,
		"NATS: nats:// or tls:// URLs of some servers; the others are learnt from them.",
		func(c *Config) *[]string { return &c.NATS.Servers }, areServers(isNATSServer)).secret(),
	option("nats.username", "", stringKind,
		"Name to log in to NATS with.",
		func(c *Config) *string { return &c.NATS.Username }),
	option("nats.password", "", stringKind,
		"Password for NATS.",
		func(c *Config) *string { return &c.NATS.Password }).secret(),
	option("nats.token", "", stringKind,
		"Token for NATS, instead of name and password.",
		func(c *Config) *string { return &c.NATS.Token }).secret(),
	option("nats.credentials_file", "", stringKind,
		"Credentials for NATS as nsc makes them: a JWT and its key.",
		func(c *Config) *string { return &c.NATS.CredentialsFile }),
	option("nats.nkey_file", "", stringKind,
		"File with the seed of an NKey for NATS.",
		func(c *Config) *string { return &c.NATS.NkeyFile }),
	option("nats.prefix", "parley", stringKind,
		"What the names of all subjects and streams begin with, so that those who share a NATS stay apart.",
		func(c *Config) *string { return &c.NATS.Prefix }, isNamePrefix),
	option("nats.replicas", "0", intKind,
		"How many servers keep what is stored: 1, 3 or 5; 0 for 3 or 5 if so many servers are named, else 1.",
		func(c *Config) *int { return &c.NATS.Replicas }, isReplicas),
	option("nats.ca_file", "", stringKind,
		"PEM file with the authority that signs the certificates of NATS; empty for those of the system.",
		func(c *Config) *string { return &c.NATS.CAFile }),
	option("nats.cert_file", "", stringKind,
		"PEM file with the certificate to show to NATS.",
		func(c *Config) *string { return &c.NATS.CertFile }),
	option("nats.key_file", "", stringKind,
		"PEM file with its key.",
		func(c *Config) *string { return &c.NATS.KeyFile }),

	option("rabbitmq.servers", "amqp://guest:guest@127.0.0.1:5672/", listKind,
		"RabbitMQ, for fabric.queue: amqp:// or amqps:// URLs of the nodes of one cluster.",
		func(c *Config) *[]string { return &c.Rabbitmq.Servers }, areServers(isRabbitServer)).secret(),
	option("rabbitmq.prefix", "parley", stringKind,
		"What the names of all queues begin with, so that those who share a RabbitMQ stay apart.",
		func(c *Config) *string { return &c.Rabbitmq.Prefix }, isNamePrefix),
	option("rabbitmq.ca_file", "", stringKind,
		"PEM file with the authority that signs RabbitMQ's certificates; empty for those of the system.",
		func(c *Config) *string { return &c.Rabbitmq.CAFile }),
	option("rabbitmq.cert_file", "", stringKind,
		"PEM file with the certificate to show to RabbitMQ.",
		func(c *Config) *string { return &c.Rabbitmq.CertFile }),
	option("rabbitmq.key_file", "", stringKind,
		"PEM file with its key.",
		func(c *Config) *string { return &c.Rabbitmq.KeyFile }),
}
