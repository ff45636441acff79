package redis

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// same gives all parts one name.
func same(string) string { return "x" }

// TestRestart kills the one server, which keeps each write on disk, and starts it again.
func TestRestart(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{AppendOnly: true})
	w := startTraffic(t, Options{Servers: []string{server.Address()}, Logger: slog.New(slog.DiscardHandler)}, same)
	for range 2 {
		server.Kill()
		time.Sleep(500 * time.Millisecond) // for writers to run into it
		server.Restart()
		w.progress()
	}
	if w.gaps.Load() < 2 {
		t.Errorf("%d gaps were told", w.gaps.Load())
	}
	w.end(true)
}

// TestClusterFailover kills the master that has everything. Each write waits for its replica.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := servers.StartRedisCluster(t, servers.RedisConfig{Failover: true})
	options := Options{
		Servers: cluster.Addresses(), Cluster: true, WaitReplicas: 1, Logger: slog.New(slog.DiscardHandler),
	}
	master := cluster.Nodes[1]
	w := startTraffic(t, options, func(kind string) string {
		name := ""
		process.Eventually(t, "a name on the master", func() bool {
			name += "x"
			key := "parley:{" + kind + ":" + name + "}"
			if kind == "lock" {
				key = "parley:{lock:l:" + name + "}"
			}
			slot, _ := strconv.Atoi(master.Do("CLUSTER", "KEYSLOT", key))
			return slot >= 5461 && slot < 10922
		})
		return name
	})
	master.Kill()
	cluster.Await(cluster.Nodes[4], "master")
	master.Restart() // as a replica, without which no write is acknowledged
	w.progress()
	if w.gaps.Load() == 0 {
		t.Error("no gap was told")
	}
	w.end(true)
}

// TestSentinelFailover kills the master behind Sentinels.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	s := servers.StartSentinels(t, servers.RedisConfig{Password: "secret", TLS: servers.NewCertificates(t), Failover: true})
	settings := s.Servers[0].TLS().Client(t)
	w := startTraffic(t, Options{
		Servers: s.Addresses(), SentinelMaster: s.Name, SentinelPassword: "secret", SentinelTLS: settings,
		Password: "secret", TLS: settings, WaitReplicas: 1, Logger: slog.New(slog.DiscardHandler),
	}, same)
	master, _ := s.Master()
	master.Kill()
	s.Rejoin(master)
	w.progress()
	w.end(true)
}

// TestStandstill stops the server for longer than connections live without an answer. What it had
// been sent it does when it goes on, beside what comes over the new connections.
func TestStandstill(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	w := startTraffic(t, Options{Servers: []string{server.Address()}, Logger: slog.New(slog.DiscardHandler)}, same)
	server.Pause()
	eventually(t, "the standstill is noticed", func() bool {
		w.one.mu.Lock()
		defer w.one.mu.Unlock()
		return !w.one.buses[""].isConnected()
	})
	server.Resume()
	w.progress()
	w.end(true)
}

// TestTooFewReplicas has a write wait for a replica that is gone.
func TestTooFewReplicas(t *testing.T) {
	t.Parallel()
	s := servers.StartSentinels(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: s.Addresses(), SentinelMaster: s.Name, WaitReplicas: 1})
	d, err := p.Documents(t.Context(), "d")
	check(t, err)
	revision, err := d.Put(t.Context(), "k", []byte("1"), 0)
	check(t, err)
	_, replica := s.Master()
	replica.Pause()
	_, err = d.Put(t.Context(), "k", []byte("2"), revision)
	if !errors.Is(err, fabric.ErrUnavailable) || !strings.Contains(err.Error(), "0 of 1") {
		t.Errorf("put without a replica: %v", err)
	}
	replica.Resume()
	eventually(t, "it works again", func() bool { _, err := d.Put(t.Context(), "other", nil, 0); return err == nil })
	now, err := d.Get(t.Context(), "k")
	check(t, err)
	if _, err = d.Put(t.Context(), "k", []byte("3"), now.Revision); err != nil {
		t.Errorf("put: %v", err)
	}
}

// hangLimit is what no call without a deadline takes, however busy the machine is.
const hangLimit = 20 * time.Second

// briefly calls with a context that ends soon. On a busy machine it may be over before the call has
// begun, which then says no more than that: it is called again.
func briefly(ctx context.Context, call func(context.Context) error) (err error) {
	for range 100 {
		brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err = call(brief)
		cancel()
		if errors.Is(err, fabric.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return err
}

// TestUnavailable calls everything while the server is gone: each says so, in bounded time.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: newLogger(&lines{})})
	ctx := t.Context()
	d, err := p.Documents(ctx, "d")
	check(t, err)
	q, err := p.Queue(ctx, fabric.QueueConfig{Name: "q", Visibility: time.Second, MaxJobs: 1, MaxDead: 1, Concurrency: 1})
	check(t, err)
	c, err := p.Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 1 << 20})
	check(t, err)
	locks, err := p.Locks(ctx, "l")
	check(t, err)
	l, err := p.Log(ctx, fabric.LogConfig{Name: "l"})
	check(t, err)
	server.Kill()
	calls := map[string]func(context.Context) error{
		"get":     func(ctx context.Context) error { _, err := d.Get(ctx, "k"); return err },
		"put":     func(ctx context.Context) error { _, err := d.Put(ctx, "k", nil, 0); return err },
		"list":    func(ctx context.Context) error { _, err := d.List(ctx); return err },
		"watch":   func(ctx context.Context) error { return d.Watch(ctx, func(fabric.Change) {}, func() {}) },
		"enqueue": func(ctx context.Context) error { _, err := q.Enqueue(ctx, fabric.Job{}); return err },
		"len":     func(ctx context.Context) error { _, err := q.Len(ctx); return err },
		"dead":    func(ctx context.Context) error { _, err := q.DeadLetters(ctx, "", 1); return err },
		"replay":  func(ctx context.Context) error { return q.Replay(ctx, "k") },
		"cached":  func(ctx context.Context) error { _, err := c.Get(ctx, "k"); return err },
		"many":    func(ctx context.Context) error { _, err := c.GetMany(ctx, []string{"k"}); return err },
		"set":     func(ctx context.Context) error { return c.Set(ctx, "k", nil, 0) },
		"add":     func(ctx context.Context) error { _, err := c.Add(ctx, "k", 1, 0); return err },
		"acquire": func(ctx context.Context) error { _, err := locks.TryAcquire(ctx, "k", time.Second); return err },
		"append":  func(ctx context.Context) error { _, err := l.Append(ctx, "a", nil); return err },
		"read":    func(ctx context.Context) error { _, err := l.Read(ctx, ">", 0, 1); return err },
		"info":    func(ctx context.Context) error { _, err := l.Info(ctx); return err },
		"open":    func(ctx context.Context) error { _, err := p.Log(ctx, fabric.LogConfig{Name: "m"}); return err },
		"ping":    func(ctx context.Context) error { return p.Ping(ctx) },
	}
	var running sync.WaitGroup
	for name, call := range calls {
		running.Go(func() {
			began := time.Now()
			err := call(ctx)
			if took := time.Since(began); !errors.Is(err, fabric.ErrUnavailable) || took > hangLimit {
				t.Errorf("%s without a deadline: %v after %v", name, err, took)
			}
			if name == "watch" {
				return // its context ends it
			}
			if err := briefly(ctx, call); !errors.Is(err, fabric.ErrUnavailable) {
				t.Errorf("%s with a deadline: %v", name, err)
			}
		})
	}
	running.Wait()
	began := time.Now()
	value, err := c.GetOrLoad(ctx, "k", 0, func(context.Context) ([]byte, error) { return []byte("loaded"), nil })
	if took := time.Since(began); err != nil || string(value) != "loaded" || took > hangLimit {
		t.Errorf("load without a cache: %q, %v after %v", value, err, took)
	}
}
