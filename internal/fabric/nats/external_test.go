package nats_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/fabric/nats"
	"github.com/parleyio/parley/test/servers"
)

// connectTo returns a provider over servers as somebody else runs them, with everything on all of
// them.
func connectTo(t *testing.T, list []*servers.NATS, options nats.Options) *nats.Provider {
	t.Helper()
	var urls []string
	for _, s := range list {
		urls = append(urls, s.URL())
	}
	options.Logger, options.Replicas = logger(t), len(list)
	p, err := nats.Connect(context.Background(), nats.Server{URLs: urls}, options)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// externalServers starts three servers of the version that the engine has.
func externalServers(t *testing.T) []*servers.NATS {
	t.Helper()
	if testing.Short() {
		t.Skip("three servers")
	}
	program, err := servers.BuildNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return servers.StartNATS(t, 3, servers.NATSConfig{Program: program})
}

// TestExternalContract runs over three real servers.
func TestExternalContract(t *testing.T) {
	list := externalServers(t)
	open := func(t *testing.T) fabric.Provider { return connectTo(t, list, nats.Options{}) }
	t.Run("each", func(t *testing.T) { fabrictest.Run(t, open) })
	t.Run("together", func(t *testing.T) { fabrictest.RunShared(t, open) })
}

// TestOldServers runs over three servers of Debian's version, 2.9: what those carry keeps the
// contract, and the rest is refused.
func TestOldServers(t *testing.T) {
	if testing.Short() {
		t.Skip("three servers")
	}
	list := servers.StartNATS(t, 3, servers.NATSConfig{})
	t.Run("carried", func(t *testing.T) {
		fabrictest.Run(t, func(t *testing.T) fabric.Provider {
			old, others := connectTo(t, list, nats.Options{}), memory.New()
			return fabric.Compose(fabric.Parts{Signal: old, Queue: old,
				Documents: others, Cache: others, Locks: others, Log: others, Blobs: others})
		}, fabrictest.Signal, fabrictest.Queue)
	})
	p := connectTo(t, list, nats.Options{})
	defer func() { _ = p.Close() }() // nothing is stored
	ctx := t.Context()
	_, documents := p.Documents(ctx, "d")
	_, cache := p.Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: fabric.MinCacheBytes})
	_, locks := p.Locks(ctx, "l")
	_, log := p.Log(ctx, fabric.LogConfig{Name: "l"})
	_, blobs := p.Blobs(ctx, fabric.BlobConfig{Name: "b", MaxSize: 1})
	for kind, err := range map[string]error{"documents": documents, "cache": cache, "locks": locks, "log": log, "blobs": blobs} {
		if !errors.Is(err, fabric.ErrUnsupported) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestPrefixes has two who share servers see nothing of each other.
func TestPrefixes(t *testing.T) {
	url := startServer(t)
	open := func(prefix string) *nats.Provider {
		p, err := nats.Connect(t.Context(), nats.Server{URLs: []string{url}, User: "parley", Password: "p:ss/word"},
			nats.Options{Prefix: prefix, Logger: logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	one, two := open("one"), open("two")
	ctx := t.Context()
	heard := make(chan string, 10)
	for _, p := range []*nats.Provider{one, two} {
		s, err := p.Signal(ctx, "s")
		must(t, err)
		_, err = s.Subscribe(">", func(m fabric.Message) { heard <- string(m.Payload) })
		must(t, err)
		must(t, s.Flush(ctx))
		d, err := p.Documents(ctx, "d")
		must(t, err)
		_, err = d.Put(ctx, "k", nil, 0)
		must(t, err)
	}
	s, err := two.Signal(ctx, "s")
	must(t, err)
	must(t, s.Publish(ctx, "a", []byte("to two")))
	if got := <-heard; got != "to two" {
		t.Errorf("heard %q", got)
	}
	must(t, s.Flush(ctx))
	if len(heard) > 0 {
		t.Errorf("heard %q as well", <-heard)
	}
	if _, err := nats.Connect(ctx, nats.Server{URLs: []string{url}, User: "parley", Password: "p:ss/word"},
		nats.Options{Prefix: "a.b"}); !errors.Is(err, fabric.ErrInvalidConfig) {
		t.Errorf("a prefix with a dot: %v", err)
	}
}

// TestServersGone kills all servers under signals and a worker, and starts them again: everything
// goes on, the gap is told, and Ping says meanwhile that nobody is there.
func TestServersGone(t *testing.T) {
	list := externalServers(t)
	p := connectTo(t, list, nats.Options{})
	defer func() { must(t, p.Close()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, err := p.Signal(ctx, "s")
	must(t, err)
	messages, gaps := make(chan string, 100), make(chan fabric.Gap, 10)
	_, err = s.Subscribe("a", func(m fabric.Message) { messages <- string(m.Payload) },
		fabric.OnGap(func(gap fabric.Gap) { gaps <- gap }))
	must(t, err)
	q, err := p.Queue(ctx, fabric.QueueConfig{Name: "q", Visibility: 5 * time.Second, MaxJobs: 1000, MaxDead: 10, Concurrency: 1})
	must(t, err)
	done := make(chan string, 100)
	working, stop := context.WithCancel(ctx)
	var worker sync.WaitGroup
	worker.Go(func() {
		if err := q.Work(working, func(_ context.Context, job fabric.Job) error { done <- job.ID; return nil }); err != nil {
			t.Error(err)
		}
	})
	defer worker.Wait()
	defer stop()
	_, err = q.Enqueue(ctx, fabric.Job{ID: "before"})
	must(t, err)
	if got := <-done; got != "before" {
		t.Errorf("worked on %q", got)
	}
	must(t, p.Ping(ctx))
	for _, server := range list {
		server.Kill()
	}
	if err := p.Ping(ctx); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("ping without servers: %v", err)
	}
	hasty, end := context.WithTimeout(ctx, time.Second)
	defer end()
	if _, err := q.Enqueue(hasty, fabric.Job{ID: "meanwhile"}); err == nil {
		t.Error("a job was stored without servers")
	}
	for _, server := range list {
		server.Start()
	}
	if gap := <-gaps; gap != fabric.GapReconnect {
		t.Errorf("gap %q", gap)
	}
	for ctx.Err() == nil && p.Ping(ctx) != nil {
		time.Sleep(50 * time.Millisecond) // nothing tells
	}
	must(t, s.Publish(ctx, "a", []byte("after")))
	if got := <-messages; got != "after" {
		t.Errorf("heard %q", got)
	}
	for {
		if _, err = q.Enqueue(ctx, fabric.Job{ID: "after"}); err == nil || ctx.Err() != nil {
			break // leaders are elected by now
		}
	}
	must(t, err)
	for got := range done {
		if got == "after" {
			break
		}
	}
}
