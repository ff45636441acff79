package servers

import (
	"cmp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// clusterSlots is the number of hash slots of a Redis Cluster.
const clusterSlots = 16384

// RedisCluster is a Redis Cluster of three masters and three replicas.
type RedisCluster struct {
	Nodes []*Redis // the three that began as masters, then their replicas in the same order

	t testing.TB
}

// StartRedisCluster starts a cluster. It serves when StartRedisCluster returns.
func StartRedisCluster(t testing.TB, config RedisConfig) *RedisCluster {
	t.Helper()
	const masters = 3
	c := &RedisCluster{t: t}
	first := process.FreePorts(t, 4*masters) // ports for clients, then those of the bus
	for i := range 2 * masters {
		with := config
		with.Settings = append([]string{
			"cluster-enabled yes", "cluster-config-file nodes.conf", "cluster-node-timeout " + config.goneAfter(),
			"cluster-replica-validity-factor 0", "cluster-announce-ip " + cmp.Or(config.Host, "127.0.0.1"),
			"cluster-port " + strconv.Itoa(first+2*masters+i),
		}, config.Settings...)
		c.Nodes = append(c.Nodes, newRedis(t, first+i, with))
	}
	for _, node := range c.Nodes {
		node.start()
	}
	for _, node := range c.Nodes {
		node.AwaitReady()
	}
	c.join()
	return c
}

// join makes one cluster of the nodes. It is many times faster than redis-cli, which waits for
// gossip: everybody is introduced to everybody.
func (c *RedisCluster) join() {
	c.t.Helper()
	masters := len(c.Nodes) / 2
	for i, node := range c.Nodes {
		node.Do("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i < masters {
			node.Do("CLUSTER", "ADDSLOTSRANGE",
				strconv.Itoa(i*clusterSlots/masters), strconv.Itoa((i+1)*clusterSlots/masters-1))
		}
		for _, other := range c.Nodes[:i] {
			node.Do("CLUSTER", "MEET", other.host, strconv.Itoa(other.Port),
				strconv.Itoa(other.Port+len(c.Nodes)))
		}
	}
	c.await("all nodes know each other", func(node *Redis) bool {
		info, err := node.Try("CLUSTER", "INFO")
		return err == nil && strings.Contains(info, "cluster_state:ok") &&
			strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(len(c.Nodes)))
	})
	for i, replica := range c.Nodes[masters:] {
		id := c.Nodes[i].Do("CLUSTER", "MYID")
		process.Eventually(c.t, "a replica follows its master", func() bool {
			_, err := replica.Try("CLUSTER", "REPLICATE", id)
			return err == nil
		})
	}
	for _, replica := range c.Nodes[masters:] {
		process.Eventually(c.t, "a replica is up to date", func() bool {
			return replica.Info("master_link_status") == "up"
		})
	}
	c.await("all nodes know the replicas", func(node *Redis) bool {
		list, err := node.Try("CLUSTER", "NODES")
		return err == nil && strings.Count(list, "slave") == masters
	})
}

func (c *RedisCluster) await(what string, done func(node *Redis) bool) {
	c.t.Helper()
	for _, node := range c.Nodes {
		process.Eventually(c.t, what, func() bool { return done(node) })
	}
}

// Addresses are those of all nodes.
func (c *RedisCluster) Addresses() []string { return redisAddresses(c.Nodes) }

func redisAddresses(nodes []*Redis) []string {
	var list []string
	for _, node := range nodes {
		list = append(list, node.Address())
	}
	return list
}

// MasterOf returns the node that has the slot of a key, as the nodes that run see it, and the
// replicas of it.
func (c *RedisCluster) MasterOf(key string) (master *Redis, replicas []*Redis) {
	c.t.Helper()
	process.Eventually(c.t, "a master has the slot of "+key, func() bool {
		master, replicas = c.masterOf(key)
		return master != nil
	})
	return master, replicas
}

func (c *RedisCluster) masterOf(key string) (master *Redis, replicas []*Redis) {
	for _, node := range c.Nodes {
		if !node.Running() {
			continue
		}
		// A node that does not have the slot says who has it.
		_, err := node.Try("EXISTS", key)
		owner := node
		if err != nil {
			place := strings.Fields(err.Error())
			if len(place) != 3 || place[0] != "MOVED" {
				continue
			}
			owner = c.node(place[2])
		}
		if owner == nil || !owner.Running() {
			continue
		}
		id, err := owner.Try("CLUSTER", "MYID")
		if err != nil {
			continue
		}
		list, err := owner.Try("CLUSTER", "REPLICAS", id)
		if err != nil {
			continue
		}
		for line := range strings.Lines(list) {
			address, _, _ := strings.Cut(strings.Fields(line)[1], "@")
			replicas = append(replicas, c.node(address))
		}
		return owner, replicas
	}
	return nil, nil
}

// node returns the node with an address, nil if there is none.
func (c *RedisCluster) node(address string) *Redis {
	for _, node := range c.Nodes {
		if node.Address() == address {
			return node
		}
	}
	return nil
}

// MoveSlot has another master serve the hash slot of a key, with what is in it.
func (c *RedisCluster) MoveSlot(key string, from, to *Redis) {
	c.t.Helper()
	slot := from.Do("CLUSTER", "KEYSLOT", key)
	to.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", from.Do("CLUSTER", "MYID"))
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", to.Do("CLUSTER", "MYID"))
	for {
		keys := from.Do("CLUSTER", "GETKEYSINSLOT", slot, "100")
		if keys == "" {
			break
		}
		migrate := []string{"MIGRATE", "127.0.0.1", strconv.Itoa(to.Port), "", "0", "5000", "KEYS"}
		from.Do(append(migrate, strings.Split(keys, "\n")...)...)
	}
	for _, node := range []*Redis{to, from} {
		node.Do("CLUSTER", "SETSLOT", slot, "NODE", to.Do("CLUSTER", "MYID"))
	}
}

// Await waits until a node has a role, "master" or "slave", and the cluster serves all slots.
func (c *RedisCluster) Await(node *Redis, role string) {
	c.t.Helper()
	process.Eventually(c.t, "a node is "+role, func() bool { return node.Info("role") == role })
	c.AwaitWhole()
}

// AwaitWhole waits until every node that runs says that all slots are served.
func (c *RedisCluster) AwaitWhole() {
	c.t.Helper()
	c.await("the cluster serves all slots", func(node *Redis) bool {
		if !node.Running() {
			return true
		}
		info, err := node.Try("CLUSTER", "INFO")
		return err == nil && strings.Contains(info, "cluster_state:ok")
	})
}

// Sentinels are a master with a replica, and three Sentinels that watch them.
type Sentinels struct {
	Name      string // of the master, as the Sentinels know it
	Password  string // of the Sentinels
	Servers   []*Redis
	Sentinels []*Redis

	t testing.TB
}

// StartSentinels starts a master, a replica, and three Sentinels that watch them. The Sentinels have
// the password of the servers.
func StartSentinels(t testing.TB, config RedisConfig) *Sentinels {
	t.Helper()
	const name, count = "main", 3
	s := &Sentinels{Name: name, Password: config.Password, t: t}
	first := process.FreePorts(t, 2+count)
	master := newRedis(t, first, config)
	replica := newRedis(t, first+1, config)
	replica.add("replicaof 127.0.0.1 " + strconv.Itoa(first))
	s.Servers = []*Redis{master, replica}
	for _, server := range s.Servers {
		server.start()
		server.AwaitReady()
	}
	process.Eventually(t, "the replica is up to date", func() bool {
		return replica.Info("master_link_status") == "up"
	})
	for i := range count {
		sentinel := newSentinel(t, first+2+i, s, config.goneAfter())
		s.Sentinels = append(s.Sentinels, sentinel)
	}
	for _, sentinel := range s.Sentinels {
		process.Eventually(t, "the Sentinels know each other and the replica", func() bool {
			status, err := sentinel.Try("SENTINEL", "MASTER", name)
			return err == nil && redisField(status, "num-other-sentinels") == strconv.Itoa(count-1) &&
				redisField(status, "num-slaves") == "1"
		})
	}
	return s
}

// newSentinel starts a Sentinel. It writes what it learns into its configuration.
func newSentinel(t testing.TB, port int, s *Sentinels, goneAfter string) *Redis {
	t.Helper()
	r := &Redis{host: "127.0.0.1", Port: port, t: t, dir: t.TempDir(), tls: s.Servers[0].tls, auth: s.Password}
	lines := append(r.listening(), "bind 127.0.0.1", "dir "+r.dir,
		"sentinel monitor "+s.Name+" 127.0.0.1 "+strconv.Itoa(s.Servers[0].Port)+" 2",
		"sentinel down-after-milliseconds "+s.Name+" "+goneAfter,
		"sentinel failover-timeout "+s.Name+" 3000")
	if s.Password != "" {
		lines = append(lines, "requirepass "+s.Password, "sentinel sentinel-pass "+s.Password,
			"sentinel auth-pass "+s.Name+" "+s.Password)
	}
	config := filepath.Join(r.dir, "sentinel.conf")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.args = []string{redisServer(t), config, "--sentinel"}
	r.start()
	r.AwaitReady()
	// What else takes seconds: to learn of the others and of replicas, and to replace a master.
	r.Do("SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "200", "ASK-PERIOD", "200")
	return r
}

// redisField returns the value behind a name in an answer of alternating names and values.
func redisField(answer, name string) string {
	lines := strings.Split(answer, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		if lines[i] == name {
			return lines[i+1]
		}
	}
	return ""
}

// Addresses are those of the Sentinels.
func (s *Sentinels) Addresses() []string { return redisAddresses(s.Sentinels) }

// Rejoin starts a server that was killed, as a replica of the master that the others chose. One that
// has nothing on disk must not come back as the master that it was: it would be an empty one.
func (s *Sentinels) Rejoin(server *Redis) {
	s.t.Helper()
	var master *Redis
	process.Eventually(s.t, "another server is master", func() bool {
		master, _ = s.Master()
		return master != server
	})
	server.add("replicaof 127.0.0.1 " + strconv.Itoa(master.Port))
	server.Restart()
}

// Master returns the server that all Sentinels name, and the other one.
func (s *Sentinels) Master() (master, other *Redis) {
	s.t.Helper()
	process.Eventually(s.t, "the Sentinels agree on a master", func() bool {
		votes := map[string]int{}
		for _, sentinel := range s.Sentinels {
			if answer, err := sentinel.Try("SENTINEL", "GET-MASTER-ADDR-BY-NAME", s.Name); err == nil {
				votes[answer]++
			}
		}
		for i, server := range s.Servers {
			if votes["127.0.0.1\n"+strconv.Itoa(server.Port)] == len(s.Sentinels) {
				master, other = server, s.Servers[1-i]
			}
		}
		return master != nil
	})
	return master, other
}
