package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// Names of drivers.
const (
	DriverEmbedded     = "embedded" // the node's own engine
	DriverMemory       = "memory"   // of this node alone
	DriverNATS         = "nats"
	DriverRedis        = "redis"
	DriverRedisCluster = "redis-cluster"
	DriverRabbitMQ     = "rabbitmq" // for queues only
)

// drivers carry everything; queueDrivers carry queues.
var (
	drivers      = []string{DriverEmbedded, DriverMemory, DriverNATS, DriverRedis, DriverRedisCluster}
	queueDrivers = append(slices.Clone(drivers), DriverRabbitMQ)
)

// Fabric chooses what carries that which nodes share. What is empty is chosen by Driver, and
// RateLimit by Signal; see Chosen.
type Fabric struct {
	Driver    string
	Signal    string // events and who is there, between nodes
	Cache     string
	Queue     string
	Lock      string
	Documents string // apps, what webhooks were told, and logs
	RateLimit string // counts of rate limits, between nodes
}

// Chosen returns the choice with everything filled in.
func (f Fabric) Chosen() Fabric {
	for _, part := range []*string{&f.Signal, &f.Cache, &f.Queue, &f.Lock, &f.Documents} {
		*part = cmp.Or(*part, f.Driver)
	}
	f.RateLimit = cmp.Or(f.RateLimit, f.Signal)
	return f
}

// Uses tells whether a driver carries something.
func (f Fabric) Uses(driver string) bool {
	f = f.Chosen()
	return slices.Contains([]string{f.Signal, f.Cache, f.Queue, f.Lock, f.Documents, f.RateLimit}, driver)
}

// isBroker tells whether a driver's server is another program, which all nodes reach.
func isBroker(driver string) bool { return driver != DriverEmbedded && driver != DriverMemory }

// OverBroker tells whether nodes are one server because they share a broker, without a cluster of
// engines.
func (c Config) OverBroker() bool { return isBroker(c.Fabric.Chosen().Signal) && !c.Cluster.Enabled() }

// Clustered tells whether this node is one of several, in whichever way.
func (c Config) Clustered() bool { return c.Cluster.Enabled() || c.OverBroker() }

// checkFabric records drivers that do not go together.
func (l *loader) checkFabric() {
	c := &l.config
	f := c.Fabric.Chosen()
	if c.Cluster.Enabled() && !f.Uses(DriverEmbedded) && f.Driver != DriverMemory {
		l.conflict("cluster.seeds", []string{"cluster.bootstrap_expect", "fabric.driver"}, fmt.Sprintf(
			"finds the embedded engines of other nodes, and nothing is carried by it: nodes that share %s find each "+
				"other there; remove cluster.seeds and cluster.bootstrap_expect", f.Signal))
	}
	if f.Uses(DriverRedis) && f.Uses(DriverRedisCluster) {
		l.conflict("fabric.driver", nil, "cannot be redis for some and redis-cluster for others: redis.servers names "+
			"the servers of one of them")
	}
	if c.Redis.SentinelMaster != "" && f.Uses(DriverRedisCluster) {
		l.conflict("redis.sentinel_master", []string{"fabric.driver"}, "is for redis; a Redis Cluster has no Sentinels")
	}
	if f.Uses(DriverRedisCluster) && c.Redis.Database != 0 {
		l.conflict("redis.database", []string{"fabric.driver"}, "must be 0: a Redis Cluster has one database")
	}
	if f.Uses(DriverRedisCluster) {
		l.checkRedisPlaces()
	}
	if c.Redis.CertFile == "" != (c.Redis.KeyFile == "") {
		l.conflict("redis.cert_file", []string{"redis.key_file"}, "and redis.key_file must be set both or neither")
	}
	if c.NATS.CertFile == "" != (c.NATS.KeyFile == "") {
		l.conflict("nats.cert_file", []string{"nats.key_file"}, "and nats.key_file must be set both or neither")
	}
	if c.Rabbitmq.CertFile == "" != (c.Rabbitmq.KeyFile == "") {
		l.conflict("rabbitmq.cert_file", []string{"rabbitmq.key_file"}, "and rabbitmq.key_file must be set both or neither")
	}
	if f.Queue == DriverRabbitMQ && f.Cache == DriverMemory && c.Clustered() {
		l.conflict("fabric.cache", []string{"fabric.queue"}, "is memory, this node's alone, and queues over rabbitmq keep "+
			"in it which job was taken; choose one that all nodes share")
	}
	if c.OverBroker() {
		l.checkOverBroker()
	} else if c.Cluster.Enabled() {
		l.checkShared(DriverMemory, "is this node's alone, and a cluster shares it; choose embedded, or a "+
			"broker that all nodes reach")
	}
}

// checkRedisPlaces records places of parts in a Redis Cluster that are databases other than 0.
func (l *loader) checkRedisPlaces() {
	c, f := &l.config, l.config.Fabric.Chosen()
	for _, part := range []struct{ name, driver, place string }{
		{"signal", f.Signal, c.Redis.Signal}, {"signal", f.RateLimit, c.Redis.Signal}, {"cache", f.Cache, c.Redis.Cache},
		{"queue", f.Queue, c.Redis.Queue}, {"lock", f.Lock, c.Redis.Lock}, {"documents", f.Documents, c.Redis.Documents},
	} {
		key := "redis." + part.name
		number, ok := databaseOf(part.place)
		if part.driver == DriverRedisCluster && ok && number != 0 && !l.failed[key] {
			l.conflict(key, []string{"fabric.driver"}, "must name no database but 0: a Redis Cluster has one; give the URL of "+
				"another Redis Cluster, or leave it out")
			l.failed[key] = true // two parts are at the place for signals
		}
	}
}

// checkOverBroker records what nodes that share a broker would have each for itself.
func (l *loader) checkOverBroker() {
	l.checkShared(DriverEmbedded, fmt.Sprintf("is this node's own engine, and all nodes that share %s must share it; "+
		"choose %[1]s, or set cluster.seeds for a cluster of engines", l.config.Fabric.Chosen().Signal))
	l.checkShared(DriverMemory, "is this node's alone, and all nodes must share it; choose "+l.config.Fabric.Chosen().Signal)
	f := l.config.Fabric.Chosen()
	for key, driver := range map[string]string{
		"fabric.cache": f.Cache, "fabric.queue": f.Queue, "fabric.rate_limit": f.RateLimit,
	} {
		if driver == DriverEmbedded {
			l.conflict(key, []string{"fabric.driver"}, fmt.Sprintf("is embedded, this node's own engine; choose %s, or "+
				"memory where each node may have its own", f.Signal))
		}
	}
}

// checkShared records what must be shared and is carried by a driver that does not.
func (l *loader) checkShared(driver, why string) {
	f := l.config.Fabric.Chosen()
	if l.config.Cluster.Enabled() && f.Driver == DriverMemory && f.Signal == DriverMemory {
		return // a node of its own, whatever the cluster section says
	}
	for key, used := range map[string]string{"fabric.signal": f.Signal, "fabric.documents": f.Documents, "fabric.lock": f.Lock} {
		if used == driver {
			l.conflict(key, []string{"fabric.driver"}, "is "+driver+", which "+why)
		}
	}
}

// Redis says how Redis is reached, for all that it carries.
type Redis struct {
	Servers          []string // host:port, redis:// or rediss://; the Sentinels when SentinelMaster is set
	Username         string
	Password         string
	Database         int
	Prefix           string // of all keys and channels
	SentinelMaster   string
	SentinelUsername string
	SentinelPassword string
	TLS              bool
	CAFile           string
	CertFile         string // of this node, with KeyFile
	KeyFile          string
	WaitReplicas     int

	// Another database, or another Redis by its URL, for one part; empty for the same.
	Signal    string
	Cache     string
	Queue     string
	Lock      string
	Documents string
}

// NATS says how a NATS cluster is reached.
type NATS struct {
	Servers         []string // nats:// or tls://
	Username        string
	Password        string
	Token           string
	CredentialsFile string
	NkeyFile        string
	Prefix          string // of all names
	Replicas        int    // 0 for as many as the servers named allow
	CAFile          string
	CertFile        string // of this node, with KeyFile
	KeyFile         string
}

// Rabbitmq says how RabbitMQ is reached.
type Rabbitmq struct {
	Servers  []string // amqp:// or amqps:// URLs, of one cluster
	Prefix   string   // of all queues
	CAFile   string
	CertFile string // of this node, with KeyFile
	KeyFile  string
}

// isReplicas accepts how many copies NATS keeps.
func isReplicas(n int) error {
	if n != 0 && n != 1 && n != 3 && n != 5 {
		return errors.New("must be 1, 3 or 5, or 0 for as many as the servers named allow")
	}
	return nil
}

// isNamePrefix accepts what may begin the names of streams and queues.
func isNamePrefix(prefix string) error {
	for _, r := range prefix {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return errors.New("must be letters, digits, - and _")
		}
	}
	if prefix == "" || len(prefix) > 64 {
		return errors.New("must have 1 to 64 characters")
	}
	return nil
}
