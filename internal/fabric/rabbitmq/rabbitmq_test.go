package rabbitmq_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/fabric/rabbitmq"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(workerVariable); url != "" {
		if err := runWorker(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestBroker runs everything that needs a broker against one, because it takes seconds to
// start. What disturbs the broker comes last.
func TestBroker(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a broker")
	}
	dir := t.TempDir()
	certificate := makeCertificate(t, dir)
	server := servers.StartRabbitMQ(t, servers.RabbitMQOptions{
		CertFile: certificate, KeyFile: filepath.Join(dir, keyFile),
	})
	t.Run("contract", func(t *testing.T) {
		fabrictest.Run(t, func(t *testing.T) fabric.Provider { return composed(t, server) }, fabrictest.Queue)
	})
	t.Run("parallel", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *servers.RabbitMQ){
			"prefixes":          testPrefixes,
			"virtual hosts":     testVirtualHosts,
			"failover":          testFailover,
			"refused":           testRefused,
			"TLS":               testTLS,
			"same ID anywhere":  testSameIDAnywhere,
			"full anywhere":     testFullAnywhere,
			"len anywhere":      testLenAnywhere,
			"queue deleted":     testQueueDeleted,
			"queue emptied":     testQueueEmptied,
			"policy":            testPolicy,
			"poison":            testPoison,
			"given back often":  testGivenBackOften,
			"stored twice":      testStoredTwice,
			"bookkeeping away":  testBookkeepingAway,
			"worker is killed":  testWorkerKilled,
			"large dead letter": testLargeDeadLetter,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, server)
			})
		}
	})
	t.Run("slow handler", func(t *testing.T) { testSlowHandler(t, server) })
	t.Run("alarm", func(t *testing.T) { testAlarm(t, server) })
	t.Run("cut", func(t *testing.T) { testCut(t, server) })
	t.Run("paused", func(t *testing.T) { testPaused(t, server) })
	t.Run("killed", func(t *testing.T) { testKilled(t, server) })
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// open returns a provider that is closed at the end of the test.
func open(t testing.TB, options rabbitmq.Options) *rabbitmq.Provider {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
	defer cancel()
	if options.Logger == nil {
		options.Logger = logger(t)
	}
	p, err := rabbitmq.Open(ctx, options)
	must(t, err)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// options are those of a provider with bookkeeping in the store.
func options(server *servers.RabbitMQ, store *memory.Provider) rabbitmq.Options {
	return rabbitmq.Options{URLs: []string{server.URL("/")}, Cache: store, Documents: store}
}

// composed is a provider with queues over RabbitMQ, and everything else in memory.
func composed(t *testing.T, server *servers.RabbitMQ) fabric.Provider {
	store := memory.New()
	return fabric.Compose(fabric.Parts{
		Documents: store, Queue: open(t, options(server, store)), Signal: store, Cache: store, Locks: store,
		Log: store, Blobs: store,
	})
}

// config is a configuration in which nothing happens by the passing of time.
func config(name string) fabric.QueueConfig {
	return fabric.QueueConfig{
		Name: name, Visibility: time.Minute, MaxJobs: 100_000, MaxDead: 100, Concurrency: 1,
		Retry: fabric.RetryPolicy{Initial: 50 * time.Millisecond, Max: time.Second, Elapsed: time.Minute},
	}
}

func openQueue(t testing.TB, p *rabbitmq.Provider, config fabric.QueueConfig) fabric.Queue {
	t.Helper()
	q, err := p.Queue(t.Context(), config)
	must(t, err)
	return q
}

func enqueue(t testing.TB, q fabric.Queue, job fabric.Job) {
	t.Helper()
	_, err := q.Enqueue(t.Context(), job)
	must(t, err)
}

// work runs handler until the test or the returned function ends it.
func work(t testing.TB, q fabric.Queue, handler fabric.Handler) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Work(ctx, handler) }()
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("work: %v", err)
			}
		case <-time.After(process.Patience):
			t.Error("work did not return")
		}
	}
	t.Cleanup(stop)
	return stop
}

// attempts returns a handler that tells of each job and succeeds.
func attempts() (fabric.Handler, <-chan fabric.Job) {
	jobs := make(chan fabric.Job, 10_000)
	return func(_ context.Context, job fabric.Job) error {
		jobs <- job
		return nil
	}, jobs
}

func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(process.Patience):
		t.Fatalf("%s: nothing came", what)
		panic("unreachable")
	}
}

func wantLen(t testing.TB, q fabric.Queue, want int) {
	t.Helper()
	got := -1
	if !process.Until(process.Patience, func() bool {
		var err error
		got, err = q.Len(t.Context())
		return err == nil && got == want
	}) {
		t.Fatalf("%d jobs in the queue, want %d", got, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
