package redis

import (
	"testing"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/test/servers"
)

// carried are the parts of the contract that the driver proves.
var carried = []string{
	fabrictest.Documents, fabrictest.Queue, fabrictest.Order, fabrictest.Signal, fabrictest.Cache, fabrictest.Locks, fabrictest.Log,
}

// prove runs the contract. What the driver does not have is carried by another.
func prove(t *testing.T, options Options) {
	open := func(t *testing.T) fabric.Provider {
		p := openProvider(t, options)
		return fabric.Compose(fabric.Parts{
			Documents: p, Queue: p, Signal: p, Cache: p, Locks: p, Log: p, Blobs: memory.New(),
		})
	}
	fabrictest.Run(t, open, carried...)
	fabrictest.RunShared(t, open, carried...)
}

func TestContract(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	prove(t, Options{Servers: []string{server.Address()}})
}

// TestCluster proves the contract over a Redis Cluster, and what is particular to one.
func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := servers.StartRedisCluster(t, servers.RedisConfig{})
	prove(t, Options{Servers: cluster.Addresses()[:2], Cluster: true})
	t.Run("signal/slot moves", func(t *testing.T) { testSlotMoves(t, cluster) })
	t.Run("cache/parts", func(t *testing.T) { testCacheParts(t, cluster) })
}

// TestSentinels proves the contract behind Sentinels, with each durable write on the replica.
func TestSentinels(t *testing.T) {
	t.Parallel()
	s := servers.StartSentinels(t, servers.RedisConfig{Password: "secret"})
	prove(t, Options{
		Servers: s.Addresses(), SentinelMaster: s.Name, SentinelPassword: s.Password, Password: s.Password, WaitReplicas: 1,
	})
}

// TestTLS speaks TLS with a certificate of the client.
func TestTLS(t *testing.T) {
	t.Parallel()
	certificates := servers.NewCertificates(t)
	server := servers.StartRedis(t, servers.RedisConfig{TLS: certificates, Password: "secret"})
	for _, address := range []string{server.Address(), "rediss://:secret@" + server.Address() + "/1"} {
		p := openProvider(t, Options{Servers: []string{address}, Password: "secret", TLS: certificates.Client(t)})
		useAll(t, p, address)
		check(t, p.Ping(t.Context()))
	}
}
