package engine_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/engine"
)

// patience bounds what must come. It is long, as only a run that fails takes that long.
const patience = 90 * time.Second

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func options(t *testing.T, dir string) engine.Options {
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	return engine.Options{DataDir: dir, Logger: log}
}

func start(t *testing.T, dir string) *engine.Engine {
	t.Helper()
	e, err := engine.Start(bounded(t), options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, e) })
	return e
}

// needsTime leaves out tests that form clusters when only the short ones are wanted.
func needsTime(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("forms a cluster; run without -short")
	}
}

func stop(t *testing.T, e *engine.Engine) {
	t.Helper()
	if err := e.Stop(bounded(t)); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, e *engine.Engine) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := e.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

// TestLife starts, stores, stops and starts again: what was stored is there.
func TestLife(t *testing.T) {
	ctx := bounded(t)
	dir := filepath.Join(t.TempDir(), "data", "node")
	e := start(t, dir)
	if err := e.Health(ctx); err != nil {
		t.Error(err)
	}
	conn, js := connect(t, e)
	stream := jetstream.StreamConfig{Name: "s", Subjects: []string{"s"}}
	if _, err := js.CreateStream(ctx, stream); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(ctx, "s", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	stop(t, e)
	if !conn.IsClosed() {
		t.Error("connection is open after Stop")
	}
	if err := e.Health(ctx); !errors.Is(err, engine.ErrUnhealthy) {
		t.Errorf("health after Stop: %v", err)
	}
	stop(t, e) // again, to no effect

	again := start(t, dir)
	_, js = connect(t, again)
	s, err := js.Stream(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	msg, err := s.GetMsg(ctx, 1)
	if err != nil || string(msg.Data) != "kept" {
		t.Errorf("got %+v, %v", msg, err)
	}
}

// A server tries at its start whether it can write. What is left of that when it is killed meanwhile is in
// nobody's way.
func TestStartAfterKilledStart(t *testing.T) {
	dir := t.TempDir()
	stop(t, start(t, dir))
	left := filepath.Join(dir, "engine", "jetstream", "_test_123")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no mode bits")
	}
	dir := filepath.Join(t.TempDir(), "node")
	start(t, dir)
	for _, path := range []string{dir, filepath.Join(dir, "engine"), filepath.Join(dir, "engine.lock")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir)
	_, err := engine.Start(bounded(t), options(t, dir))
	if !errors.Is(err, engine.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second start: %v", err)
	}
	if err := first.Health(bounded(t)); err != nil {
		t.Errorf("the first was disturbed: %v", err)
	}
	stop(t, first)
	start(t, dir)
}

func TestWrongOptions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "never")
	for what, options := range map[string]engine.Options{
		"no directory":     {},
		"sync not a time":  {DataDir: dir, Sync: "often"},
		"sync zero":        {DataDir: dir, Sync: "0s"},
		"sync negative":    {DataDir: dir, Sync: "-1s"},
		"name with a dot":  {DataDir: dir, ServerName: "a.b"},
		"name with spaces": {DataDir: dir, ServerName: "a b"},
	} {
		if _, err := engine.Start(bounded(t), options); err == nil {
			t.Errorf("%s: started", what)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused start left %s: %v", dir, err)
	}
}

// TestFatal gives the engine a store it cannot open. It calls that fatal and would end the
// process; Start returns its reason, and releases the directory.
func TestFatal(t *testing.T) {
	dir := t.TempDir()
	obstacle := filepath.Join(dir, "engine", "jetstream")
	if err := os.MkdirAll(filepath.Dir(obstacle), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(obstacle, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	silent := engine.Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)}
	_, err := engine.Start(bounded(t), silent)
	if err == nil || !strings.Contains(err.Error(), "JetStream") || !strings.Contains(err.Error(), dir) {
		t.Errorf("start: %v", err)
	}
	if err := os.Remove(obstacle); err != nil {
		t.Fatal(err)
	}
	start(t, dir)
}

// TestEndedContext has Start and Stop give up at once. The directory is free when the
// shutdown behind them is through.
func TestEndedContext(t *testing.T) {
	dir := t.TempDir()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := engine.Start(ended, options(t, dir)); !errors.Is(err, context.Canceled) {
		t.Fatalf("start: %v", err)
	}
	var e *engine.Engine
	for e == nil {
		var err error
		e, err = engine.Start(bounded(t), options(t, dir))
		if err != nil && !errors.Is(err, engine.ErrInUse) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	conn, _ := connect(t, e)
	if err := e.Stop(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("stop: %v", err)
	}
	stop(t, e)
	if !conn.IsClosed() {
		t.Error("connection is open after Stop")
	}
}

// TestStopWithUnread stops while nobody reads what a subscription has received. What waits in
// the connection is still sent.
func TestStopWithUnread(t *testing.T) {
	e := start(t, t.TempDir())
	conn, _ := connect(t, e)
	unread, err := conn.SubscribeSync("s")
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := conn.Publish("s", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := unread.Pending(); err != nil || n != 10 {
		t.Fatalf("%d messages wait, %v", n, err)
	}
	begin := time.Now()
	stop(t, e)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the stop took %v", took)
	}
}
