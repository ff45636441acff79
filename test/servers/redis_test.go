package servers_test

import (
	"testing"

	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

func TestRedis(t *testing.T) {
	t.Parallel()
	r := servers.StartRedis(t, servers.RedisConfig{Password: "secret", AppendOnly: true})
	r.Do("SET", "k", "a b\r\nc")
	if _, err := r.Try("INCR", "k"); err == nil {
		t.Error("a text was counted")
	}
	r.Restart()
	if got := r.Do("MGET", "k", "none"); got != "a b\r\nc\n" {
		t.Errorf("after a restart it has %q", got)
	}
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	c := servers.StartRedisCluster(t, servers.RedisConfig{Failover: true})
	master, replicas := c.MasterOf("k")
	if len(replicas) != 1 || master.Do("SET", "k", "v") != "OK" {
		t.Fatalf("the master of a key has %d replicas", len(replicas))
	}
	master.Kill()
	process.Eventually(t, "the replica takes over", func() bool {
		_, err := replicas[0].Try("SET", "k", "2")
		return err == nil
	})
	if now, _ := c.MasterOf("k"); now != replicas[0] {
		t.Error("another node has the slot")
	}
	master.Restart()
	c.AwaitWhole()
}

func TestSentinels(t *testing.T) {
	t.Parallel()
	s := servers.StartSentinels(t, servers.RedisConfig{Password: "secret", TLS: servers.NewCertificates(t), Failover: true})
	master, other := s.Master()
	master.Kill()
	s.Rejoin(master)
	if now, _ := s.Master(); now != other {
		t.Error("the Sentinels name the one that was killed")
	}
	process.Eventually(t, "the old master follows", func() bool { return master.Info("role") == "slave" })
}
