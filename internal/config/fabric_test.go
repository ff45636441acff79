package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestDrivers loads choices of drivers and expects the options that are refused.
func TestDrivers(t *testing.T) {
	const seeds = "PARLEY_CLUSTER_SEEDS=10.0.0.5"
	for name, test := range map[string]struct {
		environ    string // without PARLEY_FABRIC_, unless it begins with PARLEY_
		refused    string
		overBroker bool
	}{
		"default":                             {"", "", false},
		"all over Redis":                      {"DRIVER=redis", "", true},
		"all over a Redis Cluster":            {"DRIVER=redis-cluster", "", true},
		"all over NATS":                       {"DRIVER=nats", "", true},
		"queues over RabbitMQ":                {"DRIVER=redis QUEUE=rabbitmq", "", true},
		"queues of a node over RabbitMQ":      {"QUEUE=rabbitmq", "", false},
		"signals over NATS, the rest Redis":   {"DRIVER=redis SIGNAL=nats", "", true},
		"caches and counts of its own":        {"DRIVER=redis CACHE=memory RATE_LIMIT=memory QUEUE=memory", "", true},
		"signals of a cluster over NATS":      {"SIGNAL=nats " + seeds, "", false},
		"a cache of a node over Redis":        {"CACHE=redis", "", false},
		"documents of a node over Redis":      {"DOCUMENTS=redis", "", false},
		"signals over Redis alone":            {"SIGNAL=redis", "fabric.cache fabric.documents fabric.lock fabric.queue", false},
		"RabbitMQ without a shared cache":     {"DRIVER=redis QUEUE=rabbitmq CACHE=memory", "fabric.cache", false},
		"counts in its own engine":            {"DRIVER=redis RATE_LIMIT=embedded", "fabric.rate_limit", false},
		"locks of its own":                    {"DRIVER=redis LOCK=memory", "fabric.lock", false},
		"documents of its own":                {"DRIVER=nats DOCUMENTS=memory", "fabric.documents", false},
		"seeds without an engine":             {"DRIVER=redis " + seeds, "cluster.seeds", false},
		"a cluster with signals of each node": {"SIGNAL=memory " + seeds, "fabric.signal", false},
		"RabbitMQ for all":                    {"DRIVER=rabbitmq", "fabric.driver", false},
		"RabbitMQ for caches":                 {"CACHE=rabbitmq", "fabric.cache", false},
		"both kinds of Redis":                 {"DRIVER=redis CACHE=redis-cluster", "fabric.driver", false},
		"a database of a Redis Cluster":       {"DRIVER=redis-cluster PARLEY_REDIS_DATABASE=2", "redis.database", false},
		"Sentinels of a Redis Cluster":        {"DRIVER=redis-cluster PARLEY_REDIS_SENTINEL_MASTER=m", "redis.sentinel_master", false},
		"a certificate without a key":         {"DRIVER=redis PARLEY_REDIS_CERT_FILE=a", "redis.cert_file", false},
		"a database that is none":             {"PARLEY_REDIS_CACHE=two", "redis.cache", false},
		"a numbered place of a cluster":       {"DRIVER=redis-cluster PARLEY_REDIS_SIGNAL=3 PARLEY_REDIS_LOCK=0", "redis.signal", false},
		"a database of another cluster":       {"DRIVER=redis-cluster PARLEY_REDIS_QUEUE=redis://h/2", "redis.queue", false},
		"another cluster for one part":        {"DRIVER=redis-cluster PARLEY_REDIS_QUEUE=redis://h:7001/0", "", true},
		"a numbered place that nothing uses":  {"DRIVER=redis-cluster SIGNAL=nats PARLEY_REDIS_SIGNAL=3", "", true},
		"no servers":                          {"PARLEY_NATS_SERVERS=", "nats.servers", false},
		"four replicas":                       {"PARLEY_NATS_REPLICAS=4", "nats.replicas", false},
		"a prefix with a dot":                 {"PARLEY_NATS_PREFIX=a.b PARLEY_RABBITMQ_PREFIX=a:b", "nats.prefix rabbitmq.prefix", false},
	} {
		var environ []string
		for _, variable := range strings.Fields(test.environ) {
			if !strings.HasPrefix(variable, "PARLEY_") {
				variable = "PARLEY_FABRIC_" + variable
			}
			environ = append(environ, variable)
		}
		c, err := Load(Sources{Environ: environ})
		var refused []string
		if joined, is := err.(interface{ Unwrap() []error }); is {
			for _, each := range joined.Unwrap() {
				var problem Problem
				if errors.As(each, &problem) {
					refused = append(refused, problem.Key)
				}
			}
		}
		slices.Sort(refused)
		if got := strings.Join(refused, " "); got != test.refused {
			t.Errorf("%s: refused %q, want %q: %v", name, got, test.refused, err)
		}
		if err == nil && c.OverBroker() != test.overBroker {
			t.Errorf("%s: over a broker %v", name, c.OverBroker())
		}
	}
}

// TestServers loads addresses of brokers, and expects which are refused, without showing them.
func TestServers(t *testing.T) {
	good, bad := map[string]string{
		"redis.servers":    "h,h:6379,10.0.0.5,::1,[::1]:6379,redis://h,rediss://u:p%2F@h:6380/3,redis://[::1]:6379/",
		"redis.cache":      "rediss://:p@h:6379/12",
		"nats.servers":     "nats://h,nats://u:p@h:4222,tls://h:4222,wss://h:443,h:4222,nats://token@[::1]:4222",
		"rabbitmq.servers": "amqp://,amqp:///name,amqp://u:p@h,amqps://u:p@h:5671/name,amqp://[::1]:5672/%2f",
	}, map[string][]string{
		"redis.servers": {"http://h", "redis://", "redis://:6379", "redis://h:0", "redis://h:70000", "redis://h:x", "redis://h/x",
			"redis://h?db=1", "h:0", "h:70000", "u:secret@h:6379", "redis://u:se/cret@h:6379", "a b", "h:6379,nats://h"},
		"redis.cache":      {"http://h", "redis://", "redis://u:secret@h:70000", "rediss://h/x", "123456", "-1", "h:6379"},
		"nats.servers":     {"foo://u:secret@h:1", "nats://", "nats://:4222", "nats://h:0", "h:x", "nats://h:1,redis://h"},
		"rabbitmq.servers": {"h:5672", "http://u:secret@h", "amqp://h:70000", "amqp://:0", "amqp://u:se#cret@h"},
	}
	load := func(key, value string) error {
		_, err := Load(Sources{Environ: []string{"PARLEY_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")) + "=" + value}})
		return err
	}
	for key, value := range good {
		if err := load(key, value); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
	for key, values := range bad {
		for _, value := range values {
			if err := load(key, value); err == nil || !strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "cret") {
				t.Errorf("%s = %s: %v", key, value, err)
			}
		}
	}
}

// TestDriversToChoose wants refusals that say what else to choose.
func TestDriversToChoose(t *testing.T) {
	for environ, want := range map[string]string{
		"PARLEY_FABRIC_RATE_LIMIT=x":                                   "must be one of embedded, memory, nats, redis, redis-cluster, or empty",
		"PARLEY_FABRIC_DRIVER=redis PARLEY_FABRIC_LOCK=memory":         "all nodes must share it; choose redis",
		"PARLEY_FABRIC_DOCUMENTS=memory PARLEY_CLUSTER_SEEDS=10.0.0.5": "choose embedded, or a broker that all nodes reach",
	} {
		if _, err := Load(Sources{Environ: strings.Fields(environ)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", environ, err)
		}
	}
}
