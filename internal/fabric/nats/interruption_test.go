package nats

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// A worker whose store is away says so once, not with every try, and once more when it works.
func TestWorkerTellsInterruption(t *testing.T) {
	t.Parallel()
	ctx, p := open(t)
	lines := make(chan slog.Record, 100)
	p.logger = slog.New(records(lines))
	config := fabric.QueueConfig{Name: "q", Visibility: 30 * time.Second, MaxJobs: 10, MaxDead: 10, Concurrency: 1}
	q, err := p.Queue(ctx, config)
	check(t, err)
	working, stop := context.WithCancel(ctx)
	defer stop()
	done, jobs := make(chan error, 1), make(chan fabric.Job, 10)
	go func() {
		done <- q.Work(working, func(_ context.Context, job fabric.Job) error { jobs <- job; return nil })
	}()
	_, err = q.Enqueue(ctx, fabric.Job{ID: "1"})
	check(t, err)
	next(ctx, t, jobs)
	info, err := q.(*queue).jobs.Info(ctx)
	check(t, err)
	said := "" // of an interruption while the machine was busy
	for len(lines) > 0 {
		said = (<-lines).Message
	}
	check(t, p.js.DeleteStream(ctx, info.Config.Name))
	const want = "worker interrupted, trying on"
	if said != want {
		said = next(ctx, t, lines).Message
	}
	if said != want {
		t.Errorf("the log says %q", said)
	}
	select { // it tries every second
	case line := <-lines:
		t.Errorf("then the log says %q", line.Message)
	case <-time.After(4 * retryPause):
	}
	_, err = p.Queue(ctx, config)
	check(t, err)
	_, err = q.Enqueue(ctx, fabric.Job{ID: "2"})
	check(t, err)
	next(ctx, t, jobs)
	if line := next(ctx, t, lines); line.Message != "worker works again" {
		t.Errorf("the log says %q", line.Message)
	}
	stop()
	check(t, next(ctx, t, done))
}

// records is a handler of a log that hands on its lines.
type records chan<- slog.Record

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) Handle(_ context.Context, line slog.Record) error {
	if strings.HasPrefix(line.Message, "worker ") {
		r <- line
	}
	return nil
}
func (r records) WithAttrs([]slog.Attr) slog.Handler { return r }
func (r records) WithGroup(string) slog.Handler      { return r }
