package nats_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/nats"
)

// startEngine returns an engine in a directory of its own, which ends with the test.
func startEngine(t testing.TB, dir, sync string) *engine.Engine {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	e, err := engine.Start(ctx, engine.Options{DataDir: dir, Sync: sync, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
		defer cancel()
		if err := e.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return e
}

// openProvider returns a provider over a connection of its own.
func openProvider(t testing.TB, e *engine.Engine) *nats.Provider {
	t.Helper()
	conn, err := e.Connect(t.Name())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	p, err := nats.New(conn, nats.Options{Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func TestContract(t *testing.T) {
	e := startEngine(t, t.TempDir(), "2m") // TestDurability has each write on disk
	fabrictest.Run(t, func(t *testing.T) fabric.Provider { return openProvider(t, e) })
}

func TestSharedContract(t *testing.T) {
	e := startEngine(t, t.TempDir(), "2m") // TestDurability has each write on disk
	fabrictest.RunShared(t, func(t *testing.T) fabric.Provider { return openProvider(t, e) })
}
