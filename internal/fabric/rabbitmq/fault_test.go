package rabbitmq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/fabric/rabbitmq"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// enqueueLimit is how long an Enqueue without a deadline may take, with some time for a busy
// machine.
const enqueueLimit = 5*time.Second + 3*time.Second

// lines is a log that is read afterwards.
type lines struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// quiet is the logger of a provider that is disturbed on purpose.
func quiet(testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// wantTold wants one line that the broker went away and one that it came back.
func wantTold(t *testing.T, log *lines) {
	t.Helper()
	process.Eventually(t, "the log says that the broker is back", func() bool { return log.count("RabbitMQ is back") > 0 })
	if away, back := log.count("RabbitMQ is away"), log.count("RabbitMQ is back"); away != 1 || back != 1 {
		t.Errorf("the log says %d times that the broker is away, and %d times that it is back:\n%s",
			away, back, log.text.String())
	}
}

// testCut has the broker close all connections while a handler runs: it keeps its job, and
// others follow.
func testCut(t *testing.T, server *servers.RabbitMQ) {
	var log lines
	o := options(server, memory.New())
	o.Logger = log.logger()
	for _, concurrency := range []int{1, 4} {
		log = lines{}
		c := config(fmt.Sprint("cut-", concurrency))
		c.Concurrency = concurrency
		p := open(t, o)
		q := openQueue(t, p, c)
		started, release := make(chan string, 10), make(chan error)
		stop := work(t, q, func(ctx context.Context, job fabric.Job) error {
			started <- fmt.Sprint(job.ID, job.Attempt)
			if job.ID != "long" {
				return nil
			}
			select {
			case err := <-release:
				return err
			case <-ctx.Done(): // the test has failed
				return ctx.Err()
			}
		})
		enqueue(t, q, fabric.Job{ID: "long"})
		receive(t, "handler", started)
		server.Eval(t, `[catch rabbit_networking:close_connection(C, "test") || C <- rabbit_networking:connections()].`)
		wantTold(t, &log)
		enqueue(t, q, fabric.Job{ID: "other"})
		if concurrency > 1 {
			if got := receive(t, "handler", started); got != "other1" {
				t.Errorf("%s was begun", got)
			}
		}
		release <- errors.New("fails once")
		want := []string{"other1", "long2"}
		if concurrency > 1 {
			want = want[1:]
		}
		for range want {
			got := receive(t, "handler", started)
			if got == "long2" {
				release <- nil
			}
			if !strings.Contains(strings.Join(want, " "), got) {
				t.Errorf("%s was begun, want %v", got, want)
			}
		}
		wantLen(t, q, 0)
		if len(started) != 0 {
			t.Errorf("%s was begun too", <-started)
		}
		stop()
		must(t, p.Close())
	}
}

// testSlowHandler has a handler run for longer than the broker waits for the answer to a
// delivery: it closes the channel, and delivers the job again. The handler keeps it.
func testSlowHandler(t *testing.T, server *servers.RabbitMQ) {
	server.Eval(t, `application:set_env(rabbit, consumer_timeout, 500),
		application:set_env(rabbit, channel_tick_interval, 250).`)
	var log lines
	o := options(server, memory.New())
	o.Logger = log.logger()
	c := config("slow")
	c.Concurrency = 2
	q := openQueue(t, open(t, o), c)
	started, release := make(chan struct{}, 10), make(chan struct{})
	work(t, q, func(context.Context, fabric.Job) error {
		started <- struct{}{}
		<-release
		return nil
	})
	enqueue(t, q, fabric.Job{})
	receive(t, "handler", started)
	process.Eventually(t, "the broker has lost patience twice", func() bool { return log.count("timed out") >= 2 })
	server.Eval(t, `application:set_env(rabbit, consumer_timeout, 1800000),
		application:set_env(rabbit, channel_tick_interval, 60000).`)
	close(release)
	wantLen(t, q, 0)
	if len(started) != 0 {
		t.Error("the job ran twice")
	}
}

// testAlarm lets the broker run short of disk: it takes no jobs, and finishes those it has.
func testAlarm(t *testing.T, server *servers.RabbitMQ) {
	var log lines
	o := options(server, memory.New())
	o.Logger = log.logger()
	p := open(t, o)
	q := openQueue(t, p, config("alarm"))
	handler, jobs := attempts()
	started, release := make(chan struct{}, 1), make(chan struct{})
	work(t, q, func(ctx context.Context, job fabric.Job) error {
		if job.ID == "before" {
			started <- struct{}{}
			<-release
		}
		return handler(ctx, job)
	})
	enqueue(t, q, fabric.Job{ID: "before"})
	receive(t, "handler", started)
	const alarm = "{resource_limit, disk, node()}"
	server.Eval(t, "rabbit_alarm:set_alarm({"+alarm+", []}).")
	t.Cleanup(func() { server.Eval(t, "rabbit_alarm:clear_alarm("+alarm+").") })
	stored := 0
	for { // the broker takes the first, and blocks the connection then
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := q.Enqueue(ctx, fabric.Job{ID: fmt.Sprint(stored)})
		cancel()
		refused := errors.Is(err, fabric.ErrUnavailable)
		if refused && log.count("takes no jobs") > 0 {
			break
		}
		if !refused && !errors.Is(err, context.DeadlineExceeded) { // as when the broker is only slow
			must(t, err)
			stored++
		}
	}
	if err := p.Ping(t.Context()); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("ping: %v", err)
	}
	close(release)
	for range 1 + stored {
		receive(t, "job", jobs)
	}
	server.Eval(t, "rabbit_alarm:clear_alarm("+alarm+").")
	enqueue(t, q, fabric.Job{ID: fmt.Sprint(stored)}) // it may have been stored
	receive(t, "job", jobs)
	wantLen(t, q, 0)
	must(t, p.Ping(t.Context()))
	if len(jobs) != 0 || log.count("takes no jobs") != 1 || log.count("takes jobs again") != 1 {
		t.Errorf("%d more attempts, log:\n%s", len(jobs), log.text.String())
	}
}

// testPaused stops the broker for a while: Enqueue says in time that nobody answers, and all
// goes on when it does.
func testPaused(t *testing.T, server *servers.RabbitMQ) {
	o := options(server, memory.New())
	o.Logger = quiet(t)
	p := open(t, o)
	q := openQueue(t, p, config("paused"))
	handler, jobs := attempts()
	work(t, q, handler)
	enqueue(t, q, fabric.Job{ID: "before"})
	receive(t, "job", jobs)
	server.Pause()
	resumed := false
	t.Cleanup(func() {
		if !resumed {
			server.Resume()
		}
	})
	process.Eventually(t, "the broker is silent", func() bool {
		began := time.Now()
		err := p.Ping(t.Context())
		if err != nil && (!errors.Is(err, fabric.ErrUnavailable) || time.Since(began) > enqueueLimit) {
			t.Errorf("ping: %v after %v", err, time.Since(began))
		}
		return err != nil
	})
	began := time.Now()
	var running sync.WaitGroup
	running.Go(func() {
		_, err := q.Enqueue(t.Context(), fabric.Job{ID: "meanwhile"})
		if !errors.Is(err, fabric.ErrUnavailable) || time.Since(began) > enqueueLimit {
			t.Errorf("enqueue: %v after %v", err, time.Since(began))
		}
	})
	running.Go(func() {
		if _, err := q.Len(t.Context()); !errors.Is(err, fabric.ErrUnavailable) || time.Since(began) > enqueueLimit {
			t.Errorf("len: %v after %v", err, time.Since(began))
		}
	})
	running.Wait()
	server.Resume()
	resumed = true
	enqueue(t, q, fabric.Job{ID: "after"})
	got := map[string]int{}
	for range 1 {
		got[receive(t, "job", jobs).ID]++
	}
	enqueue(t, q, fabric.Job{ID: "meanwhile"}) // it may have been stored, or not
	for len(got) < 2 {
		got[receive(t, "job", jobs).ID]++
	}
	wantLen(t, q, 0)
	if got["meanwhile"] != 1 || got["after"] != 1 || len(jobs) != 0 {
		t.Errorf("jobs ran %v times, and %d more", got, len(jobs))
	}
}

// testKilled kills the broker while jobs are enqueued and worked on: all that were
// acknowledged are worked on.
func testKilled(t *testing.T, server *servers.RabbitMQ) {
	var log lines
	store := memory.New()
	o := options(server, store)
	o.Logger = log.logger()
	producer := openQueue(t, open(t, o), config("killed-broker"))
	o.Logger = quiet(t)
	c := config("killed-broker")
	c.Concurrency = 8
	var mu sync.Mutex
	worked := map[string]int{}
	for range 2 {
		work(t, openQueue(t, open(t, o), c), func(_ context.Context, job fabric.Job) error {
			mu.Lock()
			defer mu.Unlock()
			worked[job.ID]++
			if worked[job.ID] == 1 && strings.HasSuffix(job.ID, "7") {
				return errors.New("fails at first")
			}
			return nil
		})
	}
	acknowledged := make(chan string, 100_000)
	var stop atomic.Bool
	var running sync.WaitGroup
	for i := range 4 {
		running.Go(func() {
			for n := 0; !stop.Load(); n++ {
				id := fmt.Sprintf("%d-%d", i, n)
				began := time.Now()
				switch _, err := producer.Enqueue(context.Background(), fabric.Job{ID: id}); {
				case err == nil:
					acknowledged <- id
				case !errors.Is(err, fabric.ErrUnavailable) || time.Since(began) > enqueueLimit:
					t.Errorf("enqueue: %v after %v", err, time.Since(began))
				}
			}
		})
	}
	time.Sleep(time.Second) // of traffic
	before := len(acknowledged)
	server.Kill()
	late := make(chan error, 1)
	go func() { // a node that starts while the broker is away
		p, err := rabbitmq.Open(context.Background(), o)
		if err == nil {
			err = errors.Join(p.Ping(context.Background()), p.Close())
		}
		late <- err
	}()
	server.Start(t)
	must(t, receive(t, "late node", late))
	process.Eventually(t, "jobs are taken again", func() bool { return len(acknowledged) > before+100 })
	stop.Store(true)
	running.Wait()
	close(acknowledged)
	repeated, all := 0, 0
	for id := range acknowledged {
		all++
		process.Eventually(t, "job "+id+" is worked on", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return worked[id] > 0
		})
	}
	wantLen(t, producer, 0)
	for id, times := range worked {
		if most := 1 + strings.Count(id[len(id)-1:], "7"); times > most {
			repeated++
		}
	}
	wantTold(t, &log)
	t.Logf("figure: of %d jobs, %d were repeated", all, repeated)
}
