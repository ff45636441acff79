package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// TestServerLate opens before there is a server, which the log says once, and once when there is.
func TestServerLate(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	server.Kill()
	told := &lines{}
	options := Options{Servers: []string{server.Address()}, Logger: newLogger(told)}
	brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := Open(brief, options)
	if !errors.Is(err, fabric.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("open without a server: %v", err)
	}
	opened := make(chan *Provider, 1)
	go func() {
		p, err := Open(context.Background(), options)
		if err != nil {
			t.Error(err)
		}
		opened <- p
	}()
	eventually(t, "the log says that there is none", func() bool { return told.count("away") == 2 })
	server.Restart()
	p := next(t, "a provider", opened)
	defer func() { check(t, p.Close()) }()
	check(t, p.Ping(t.Context()))
	if told.count("away") != 2 || told.count("is there") != 1 {
		t.Errorf("the log says %q", told.all())
	}
}

// TestRefusals opens what waiting does not mend.
func TestRefusals(t *testing.T) {
	t.Parallel()
	certificates := servers.NewCertificates(t)
	open := servers.StartRedis(t, servers.RedisConfig{Password: "secret"})
	sealed := servers.StartRedis(t, servers.RedisConfig{TLS: certificates})
	bus := fmt.Sprintf("cluster-port %d", process.FreePorts(t, 1))
	cluster := servers.StartRedis(t, servers.RedisConfig{Settings: []string{"cluster-enabled yes", bus}})
	sentinels := servers.StartSentinels(t, servers.RedisConfig{})
	for name, c := range map[string]struct {
		options Options
		want    string
	}{
		"no password":       {Options{Servers: []string{open.Address()}}, "NOAUTH"},
		"wrong password":    {Options{Servers: []string{open.Address()}, Password: "other"}, "WRONGPASS"},
		"unknown database":  {Options{Servers: []string{open.Address()}, Password: "secret", Database: 99}, "out of range"},
		"not a cluster":     {Options{Servers: []string{open.Address()}, Password: "secret", Cluster: true}, "not a node of a Redis Cluster"},
		"a cluster":         {Options{Servers: []string{cluster.Address()}}, "node of a Redis Cluster"},
		"a Sentinel":        {Options{Servers: sentinels.Addresses()[:1]}, "is a Sentinel"},
		"unknown master":    {Options{Servers: sentinels.Addresses(), SentinelMaster: "other"}, "No such master"},
		"unknown authority": {Options{Servers: []string{"rediss://" + sealed.Address()}}, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			p, err := Open(ctx, c.options)
			if err == nil {
				_ = p.Close()
			}
			if err == nil || errors.Is(err, fabric.ErrUnavailable) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("got error %v, want %q at once", err, c.want)
			}
		})
	}
}

// TestTLSRefused opens what a server gives no reason for: it is waited for, in vain.
func TestTLSRefused(t *testing.T) {
	t.Parallel()
	certificates := servers.NewCertificates(t)
	anonymous := certificates.Client(t)
	anonymous.Certificates = nil
	for name, c := range map[string]struct {
		server servers.RedisConfig
		want   string
	}{
		"without a certificate": {servers.RedisConfig{TLS: certificates}, ""},
		"a server without TLS":  {servers.RedisConfig{}, "TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := servers.StartRedis(t, c.server)
			ctx, cancel := context.WithTimeout(t.Context(), dialTimeout+time.Second)
			defer cancel()
			_, err := Open(ctx, Options{Servers: []string{server.Address()}, TLS: anonymous, Logger: newLogger(&lines{})})
			if !errors.Is(err, fabric.ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v", err)
			}
		})
	}
}

func TestVersion(t *testing.T) {
	for version, fits := range map[string]bool{
		"7.0.15": true, "7.2.4": true, "8.0.1": true, "10.0": true, "6.2.14": false, "5.0.7": false, "": false, "x": false,
	} {
		if err := checkVersion(version); (err == nil) != fits || !fits && !errors.Is(err, fabric.ErrUnsupported) {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

// TestEvictionWarned tells of a server that throws away what must be kept.
func TestEvictionWarned(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{Settings: []string{"maxmemory 100mb", "maxmemory-policy allkeys-lru"}})
	told := &lines{}
	openProvider(t, Options{Servers: []string{server.Address()}, Logger: newLogger(told)})
	if told.count("noeviction") != 1 {
		t.Errorf("the log says %q", told.all())
	}
}

// TestServerFull writes to a server without memory left: nobody waits, and the error says why.
func TestServerFull(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{Settings: []string{"maxmemory 100kb", "maxmemory-policy noeviction"}})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	c, err := p.Cache(t.Context(), fabric.CacheConfig{Name: "c", MaxBytes: 1 << 20})
	if err == nil {
		_, err = c.Add(t.Context(), "k", 1, 0)
	}
	d, openErr := p.Documents(t.Context(), "d")
	check(t, openErr)
	began := time.Now()
	_, putErr := d.Put(t.Context(), "k", nil, 0)
	for what, err := range map[string]error{"add": err, "put": putErr} {
		if !errors.Is(err, fabric.ErrUnavailable) || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if took := time.Since(began); took >= operationTimeout { // it has not tried until then
		t.Errorf("it took %v", took)
	}
}

// TestNames looks at what the server knows: the connections' name, and the prefix of all keys.
func TestNames(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Name: "node-1", Prefix: "env:"})
	useAll(t, p, "x")
	if clients := server.Do("CLIENT", "LIST"); strings.Count(clients, "name=node-1 ") < 2 {
		t.Errorf("connections are %s", clients)
	}
	for key := range strings.Lines(server.Do("KEYS", "*")) {
		if !strings.HasPrefix(key, "env:") {
			t.Errorf("there is a key %q", key)
		}
	}
	for channel := range strings.Lines(server.Do("PUBSUB", "SHARDCHANNELS")) {
		if !strings.HasPrefix(channel, "env:") {
			t.Errorf("there is a channel %q", channel)
		}
	}
}

// useAll writes something into each part.
func useAll(t *testing.T, p *Provider, value string) (received <-chan string) {
	t.Helper()
	ctx := t.Context()
	d, err := p.Documents(ctx, "x")
	check(t, err)
	_, err = d.Put(ctx, "k", []byte(value), 0)
	check(t, err)
	q, err := p.Queue(ctx, fabric.QueueConfig{Name: "x", Visibility: time.Second, MaxJobs: 1, MaxDead: 1, Concurrency: 1})
	check(t, err)
	_, err = q.Enqueue(ctx, fabric.Job{ID: "k", Payload: []byte(value)})
	check(t, err)
	c, err := p.Cache(ctx, fabric.CacheConfig{Name: "x", MaxBytes: 1 << 20})
	check(t, err)
	check(t, c.CompareAndSwap(ctx, "k", nil, []byte(value), 0))
	l, err := p.Locks(ctx, "x")
	check(t, err)
	_, err = l.TryAcquire(ctx, "k", time.Minute)
	check(t, err)
	log, err := p.Log(ctx, fabric.LogConfig{Name: "x"})
	check(t, err)
	if _, err = log.Append(ctx, "k", []byte(value), fabric.ExpectLast(0)); err != nil {
		t.Error(err)
	}
	s, err := p.Signal(ctx, "x")
	check(t, err)
	messages := make(chan string, 10)
	for _, subject := range []string{"k", "k.>"} {
		_, err = s.Subscribe(subject, func(m fabric.Message) { messages <- string(m.Payload) })
		check(t, err)
	}
	check(t, s.Flush(ctx))
	check(t, s.Publish(ctx, "k", []byte(value)))
	return messages
}

// TestIsolation has several environments share a server: each believes that it is alone.
func TestIsolation(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	address := []string{server.Address()}
	received := map[string]<-chan string{}
	for name, options := range map[string]Options{
		"default": {Servers: address}, "prefix": {Servers: address, Prefix: "other:"},
		"database": {Servers: address, Database: 1}, "both": {Servers: address, Database: 2, Prefix: "other:"},
	} {
		p := openProvider(t, options)
		received[name] = useAll(t, p, name)
	}
	for name, messages := range received {
		if got := next(t, "message of "+name, messages); got != name {
			t.Errorf("%s received from %s", name, got)
		}
		time.Sleep(10 * time.Millisecond)
		if len(messages) > 0 {
			t.Errorf("%s received more", name)
		}
	}
}

// TestPing asks a server that is there, stands still, and is gone.
func TestPing(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: newLogger(&lines{})})
	_, err := p.Signal(t.Context(), "s")
	check(t, err)
	check(t, p.Ping(t.Context()))
	server.Pause()
	began := time.Now()
	if err := p.Ping(t.Context()); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("ping a server that stands still: %v", err)
	}
	if took := time.Since(began); took > hangLimit {
		t.Errorf("it took %v", took)
	}
	server.Resume()
	process.Eventually(t, "it answers again", func() bool { return p.Ping(t.Context()) == nil })
	server.Kill()
	if err := p.Ping(t.Context()); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("ping a server that is gone: %v", err)
	}
}

// TestClosed leaves no connection behind, and nothing that runs.
func TestClosed(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Name: "node-1"})
	useAll(t, p, "x")
	check(t, p.Close())
	eventually(t, "all connections are closed", func() bool {
		return !strings.Contains(server.Do("CLIENT", "LIST"), "name=node-1 ")
	})
	if _, err := p.Documents(t.Context(), "x"); !errors.Is(err, fabric.ErrClosed) {
		t.Errorf("open after close: %v", err)
	}
	if _, err := p.Blobs(t.Context(), fabric.BlobConfig{Name: "x", MaxSize: 1}); !errors.Is(err, fabric.ErrClosed) {
		t.Errorf("open blobs after close: %v", err)
	}
}

// TestBlobs says that there are none.
func TestBlobs(t *testing.T) {
	t.Parallel()
	p := openProvider(t, Options{Servers: []string{servers.StartRedis(t, servers.RedisConfig{}).Address()}})
	if _, err := p.Blobs(t.Context(), fabric.BlobConfig{Name: "x", MaxSize: 1}); !errors.Is(err, fabric.ErrUnsupported) {
		t.Errorf("open blobs: %v", err)
	}
	if _, err := p.Blobs(t.Context(), fabric.BlobConfig{Name: "x"}); !errors.Is(err, fabric.ErrInvalidConfig) {
		t.Errorf("open blobs without a size: %v", err)
	}
}
