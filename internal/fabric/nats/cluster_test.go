package nats_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/nats"
)

// startCluster returns three engines that form a cluster, which ends with the test.
func startCluster(t testing.TB) []*engine.Engine {
	t.Helper()
	const nodes = 3
	var ports [nodes]int
	var routes []string
	for i := range nodes {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports[i] = listener.Addr().(*net.TCPAddr).Port
		routes = append(routes, listener.Addr().String())
		_ = listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	engines := make([]*engine.Engine, nodes)
	var starting sync.WaitGroup
	for i := range nodes {
		options := engine.Options{
			DataDir:    t.TempDir(),
			Sync:       "2m", // one disk serves all nodes of the test
			ServerName: fmt.Sprint("node-", i),
			Logger:     slog.New(slog.DiscardHandler),
			Cluster: &engine.Cluster{
				Name: "test", Host: "127.0.0.1", Port: ports[i], Routes: routes,
				Secret: "known to the nodes of the test",
			},
		}
		starting.Go(func() {
			var err error
			if engines[i], err = engine.Start(ctx, options); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	starting.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		for _, e := range engines {
			if err := e.Stop(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	return engines
}

// TestClusteredContract runs the contract over three engines in turns, with everything stored
// on all of them.
func TestClusteredContract(t *testing.T) {
	if testing.Short() {
		t.Skip("three engines")
	}
	engines := startCluster(t)
	var turn atomic.Int64
	open := func(t *testing.T) fabric.Provider {
		e := engines[turn.Add(1)%int64(len(engines))]
		conn, err := e.Connect(t.Name())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		p, err := nats.New(conn, nats.Options{Replicas: len(engines), Logger: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("each", func(t *testing.T) { fabrictest.Run(t, open) })
	t.Run("together", func(t *testing.T) { fabrictest.RunShared(t, open) })
}
