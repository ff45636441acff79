package importer

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// Sockudo and soketi choose a driver for the adapter, the cache, the queue and the rate limiter each. The
// rules for drivers and for NATS and RabbitMQ stand here, in the notation of Sockudo; those for Redis in
// redis.go.

// Reasons that several settings share.
const (
	whySQS       = "Amazon's queues are not among Parley's drivers (fabric.queue)"
	whyEvents    = "events go between the nodes themselves, or over redis, redis-cluster or nats (fabric.driver)"
	whyLimits    = "what carries events counts limits as well, for all nodes together (fabric.rate_limit)"
	whyNoNATS    = "nothing goes over NATS: no driver in the files is nats"
	whyNoRabbit  = "RabbitMQ carries queues alone (fabric.queue); " + whyEvents
	whyOneNATS   = "all that goes over NATS has one cluster there, nats.servers"
	whyNATSUser  = "name and password count before a token"
	whyAllQueues = "what carries events carries queues as well, for all nodes together (fabric.queue)"
	whyAllCaches = "what carries events carries caches as well, for all nodes together (fabric.cache)"
)

// fabricPart is something that Sockudo and soketi choose a driver for.
type fabricPart struct {
	section string   // of its settings
	option  string   // that chooses what carries it
	place   string   // name of the setting for a Redis of its own, after redisPlace
	drivers []string // that Parley has
	local   string   // another name of the driver memory, if that is among them
	// whys has the reasons why other drivers have no effect; under the empty name that for all the rest.
	whys map[string]string
}

// fabricParts are all of them. Of two kinds of Redis that of the first one counts.
var fabricParts = []fabricPart{
	{
		section: "adapter", option: "fabric.driver", place: "signal",
		drivers: []string{config.DriverRedis, config.DriverRedisCluster, config.DriverNATS},
		whys: map[string]string{
			"local":               "the embedded engine carries events; nothing else has to run",
			"cluster":             "Parley's nodes are a cluster by themselves",
			config.DriverRabbitMQ: whyNoRabbit,
			"":                    "Parley has no such driver; " + whyEvents,
		},
	},
	{
		section: "cache", option: "fabric.cache", place: "cache",
		drivers: []string{config.DriverRedis, config.DriverRedisCluster},
		whys:    map[string]string{"": whyAllCaches},
	},
	{
		section: "queue", option: "fabric.queue", place: "queue",
		drivers: []string{config.DriverRedis, config.DriverRedisCluster, config.DriverNATS, config.DriverRabbitMQ},
		whys: map[string]string{
			"memory": whyAllQueues, "none": whyAllQueues, "sync": whyAllQueues, "sqs": whySQS, "sns": whySQS,
			"": "Parley has no such driver for queues; " + whyAllQueues,
		},
	},
	{ // with memory each node counts for itself, there and here
		section: "rate_limiter", option: "fabric.rate_limit", place: "signal", local: "local",
		drivers: []string{config.DriverRedis, config.DriverRedisCluster, config.DriverMemory},
		whys:    map[string]string{"": whyLimits},
	},
}

// driverOf returns the one name of a driver that has several spellings, in lower case.
func (p fabricPart) driverOf(text string) string {
	name := driverName(text)
	if name == p.local && name != "" {
		return config.DriverMemory
	}
	return name
}

// driverRules are the rules for the drivers of all parts.
func driverRules() []rule {
	var rules []rule
	for _, part := range fabricParts {
		rules = append(rules, takes(part.section+".driver", part.option, broker(part.drivers, part.whys)))
	}
	return rules
}

// broker returns the conversion of the name of a driver: one of those that Parley has, or a reason why it
// has no effect, which is found under the name or else under the empty one.
func broker(drivers []string, whys map[string]string) conversion {
	return func(value any) (any, error) {
		name := driverName(textOf(value))
		if slices.Contains(drivers, name) {
			return name, nil
		}
		return nil, noEffect(cmp.Or(whys[name], whys[""]))
	}
}

// driverName returns the one name of a driver that has several spellings.
func driverName(text string) string {
	name := strings.ToLower(strings.TrimSpace(text))
	if name == "rabbit-mq" {
		return config.DriverRabbitMQ
	}
	return name
}

func isRedis(driver string) bool {
	return driver == config.DriverRedis || driver == config.DriverRedisCluster
}

// brokerRules are the rules for NATS, RabbitMQ and what queues have of their own.
func brokerRules() []rule {
	return together([]rule{
		takes("adapter.nats.servers", "nats.servers", natsServers),
		takes("adapter.nats.prefix", "nats.prefix", namePrefix),
		takes("rabbitmq_prefix", "rabbitmq.prefix", namePrefix),
		takes("queue_concurrency", "webhooks.concurrency", number),
	}, hidden([]rule{
		takes("adapter.nats.username", "nats.username", nil), takes("adapter.nats.user", "nats.username", nil),
		takes("adapter.nats.password", "nats.password", nil), takes("adapter.nats.pass", "nats.password", nil),
		takes("adapter.nats.token", "nats.token", nil),
		takes("rabbitmq_url", "rabbitmq.servers", rabbitURL),
	}),
		hidden(lacks("Parley reads it from a file: name one in nats.credentials_file", "adapter.nats.credentials")),
		lacks(whyNoRequests, "adapter.nats.request_timeout_ms", "adapter.nats.requests_timeout", "adapter.nats.nodes_number"),
		hidden(lacks("Parley's driver for NATS has its own", "adapter.nats.*", "queue.nats.*")),
		hidden(lacks(whyNoRabbit, "adapter.rabbitmq.*", "queue.rabbitmq.*")),
		lacks("webhooks.concurrency is that of the driver of the queue, which is another one", "queue.redis.concurrency",
			"queue.redis_cluster.concurrency"),
		lacks(whySQS, "queue.sqs.*", "queue.sns.*"),
	)
}

// deriveBrokers finds out which brokers are used, and what their settings come to.
func deriveBrokers(r *run, nodePort string) {
	uses := r.chooseDrivers()
	r.deriveRedis(uses, nodePort)
	r.deriveNATS(uses)
	if uses["queue"] == config.DriverRabbitMQ {
		r.firstOf("rabbitmq_url", "queue.rabbitmq.url", "adapter.rabbitmq.url")
		r.firstOf("rabbitmq_prefix", "queue.rabbitmq.prefix", "adapter.rabbitmq.prefix")
	}
	switch uses["queue"] {
	case config.DriverRedis:
		r.firstOf("queue_concurrency", "queue.redis.concurrency")
	case config.DriverRedisCluster:
		r.firstOf("queue_concurrency", "queue.redis_cluster.concurrency", "queue.redis.concurrency")
	}
}

// firstOf moves the first of some settings that has a value to another name.
func (r *run) firstOf(to string, names ...string) {
	for _, name := range names {
		if e := r.settings[name]; e.text() != "" {
			r.move(name, to, e.value)
			return
		}
	}
}

// chooseDrivers returns the broker of each section that has one. Parley has one kind of Redis for all.
func (r *run) chooseDrivers() map[string]string {
	uses, kind := map[string]string{}, ""
	if !r.isOn("rate_limiter.enabled") {
		r.omit("rate_limiter.driver", "because "+r.switchName("rate_limiter.enabled")+" is off")
	}
	for _, part := range fabricParts {
		name := part.section + ".driver"
		driver := part.driverOf(r.resolvedText(name))
		if !slices.Contains(part.drivers, driver) {
			continue
		}
		if driver == config.DriverRedis && r.isTrue(part.section+".redis.cluster_mode") {
			driver = config.DriverRedisCluster
		}
		if isRedis(driver) {
			if kind = cmp.Or(kind, driver); driver != kind {
				r.omit(name, fmt.Sprintf("Parley has one kind of Redis for all, here %s", kind))
				continue
			}
		}
		uses[part.section] = driver
		e := r.settings[name]
		e.value = driver
		r.put(e)
	}
	return uses
}

// isTrue tells whether a setting is there and true.
func (r *run) isTrue(name string) bool {
	value, err := boolean(r.resolvedText(name))
	return err == nil && value == "true"
}

// deriveNATS leaves the settings of the part that is over NATS.
func (r *run) deriveNATS(uses map[string]string) {
	switch {
	case uses["adapter"] == config.DriverNATS:
		r.dropUnder(whyOneNATS, "queue.nats.")
	case uses["queue"] == config.DriverNATS:
		for _, key := range []string{"servers", "username", "password", "token", "prefix"} {
			if own := r.settings["queue.nats."+key]; own.text() != "" {
				r.omit("adapter.nats."+key, whyOneNATS)
				r.move(own.name, "adapter.nats."+key, own.value)
			}
		}
	default:
		r.dropUnder(whyNoNATS, "adapter.nats.", "queue.nats.")
	}
	name, password := r.get("adapter.nats.username")+r.get("adapter.nats.user"), r.get("adapter.nats.password")+r.get("adapter.nats.pass")
	if name != "" && password != "" {
		r.omit("adapter.nats.token", whyNATSUser)
	}
}

// natsServers makes URLs of servers.
func natsServers(value any) (any, error) {
	servers := slices.Clone(listOf(value))
	for i, server := range servers {
		if !strings.Contains(server, "://") {
			servers[i] = "nats://" + server
		}
	}
	return servers, nil
}

// rabbitURL accepts the URL of a RabbitMQ, which never is in the error.
func rabbitURL(value any) (any, error) {
	text := strings.TrimSpace(textOf(value))
	if !strings.HasPrefix(text, "amqp://") && !strings.HasPrefix(text, "amqps://") {
		return nil, errors.New("must be an address such as amqp://user:password@host:5672/")
	}
	return []string{text}, nil
}

var nameOfPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// namePrefix makes a prefix fit to begin the names of subjects and queues.
func namePrefix(value any) (any, error) {
	text := strings.TrimRight(strings.TrimSpace(textOf(value)), ":.#/")
	if !nameOfPrefix.MatchString(text) {
		return nil, noEffect("a prefix of Parley's has letters, digits, - and _ alone, 64 at most")
	}
	return text, nil
}

// needServers notes an option with the servers of a broker that is used, if one of the settings should say
// them and does not.
func (r *run) needServers(option string, settings ...string) {
	driver, _, _ := strings.Cut(option, ".")
	used := false
	for path, a := range r.result.set {
		text := textOf(a.value)
		used = used || strings.HasPrefix(path, "fabric.") && (text == driver || driver == config.DriverRedis && isRedis(text))
	}
	if _, known := r.result.set[option]; known || !used {
		return
	}
	for _, name := range settings {
		if e, ok := r.settings[name]; ok {
			r.missing(option, fmt.Sprintf("%s says nothing that Parley can use, and without it Parley looks on its own machine",
				e.shown()))
			return
		}
	}
}

// completeBrokers notes what is needed besides the settings of brokers: servers, or other nodes where those
// of the other system find each other in a way that Parley's do not.
func completeBrokers(r *run) {
	r.needServers("redis.servers", "redis_url", "redis_servers")
	r.needServers("nats.servers", "adapter.nats.servers")
	r.needServers("rabbitmq.servers", "rabbitmq_url")
	if _, ok := r.result.set["fabric.driver"]; ok {
		return
	}
	switch adapter := r.resolvedText("adapter.driver"); {
	case adapter == "", driverName(adapter) == "local", reference.MatchString(adapter):
	default:
		needCluster(r, "Parley's nodes ask each other, or meet in a broker (fabric.driver): name some")
	}
}
