package nats_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/nats"
	"github.com/parleyio/parley/test/process"
)

// nodeConfigs reserves addresses for three nodes that know each other.
func nodeConfigs(t testing.TB) []nodeConfig {
	t.Helper()
	configs := make([]nodeConfig, 3)
	routes := make([]string, len(configs))
	first := process.FreePorts(t, len(configs))
	for i := range configs {
		routes[i] = fmt.Sprint("127.0.0.1:", first+i)
		configs[i] = nodeConfig{DataDir: t.TempDir(), Name: fmt.Sprint("node-", i), Port: first + i, Routes: routes}
	}
	return configs
}

// startNodes starts nodes of a cluster together, in this process. They end with the test.
func startNodes(t testing.TB, configs ...nodeConfig) []*engine.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	engines := make([]*engine.Engine, len(configs))
	var starting sync.WaitGroup
	for i, config := range configs {
		starting.Go(func() {
			var err error
			if engines[i], err = config.start(ctx); err != nil {
				t.Errorf("%s: %v", config.Name, err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		for _, e := range engines {
			if e == nil {
				continue
			}
			if err := e.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	if len(engines) >= 3 {
		awaitStores(ctx, t, engines[0])
	}
	return engines
}

// awaitStores waits until something can be stored on three nodes: a leader that has just been
// elected takes a moment to learn of every server.
func awaitStores(ctx context.Context, t testing.TB, e *engine.Engine) {
	t.Helper()
	scratch := openReplicated(t, e)
	for {
		_, err := scratch.Documents(ctx, "scratch")
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("nothing can be stored: %v", err)
		}
		time.Sleep(50 * time.Millisecond) // nothing tells when it is so
	}
}

// openReplicated returns a provider with three replicas of everything.
func openReplicated(t testing.TB, e *engine.Engine) *nats.Provider {
	t.Helper()
	conn, err := e.Connect(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	p, err := nats.New(conn, nats.Options{Replicas: 3, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestClusteredContract runs the contract over three engines in turns, with everything stored
// on all of them.
func TestClusteredContract(t *testing.T) {
	if testing.Short() {
		t.Skip("three engines")
	}
	engines := startNodes(t, nodeConfigs(t)...)
	var turn atomic.Int64
	open := func(t *testing.T) fabric.Provider {
		return openReplicated(t, engines[turn.Add(1)%int64(len(engines))])
	}
	t.Run("each", func(t *testing.T) { fabrictest.Run(t, open) })
	t.Run("together", func(t *testing.T) { fabrictest.RunShared(t, open) })
}

// BenchmarkCacheRead reads 1,000 keys of a cache on three engines, one by one and together.
func BenchmarkCacheRead(b *testing.B) {
	engines := startNodes(b, nodeConfigs(b)...)
	ctx := b.Context()
	c, err := openReplicated(b, engines[0]).Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 16 << 20})
	must(b, err)
	keys := make([]string, 1000)
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
		must(b, c.Set(ctx, keys[i], make([]byte, 200), 0))
	}
	b.Run("one by one", func(b *testing.B) {
		for b.Loop() {
			for _, key := range keys {
				_, err := c.Get(ctx, key)
				must(b, err)
			}
		}
	})
	b.Run("together", func(b *testing.B) {
		for b.Loop() {
			values, err := c.GetMany(ctx, keys)
			must(b, err)
			if len(values) != len(keys) {
				b.Fatalf("%d values", len(values))
			}
		}
	})
}
