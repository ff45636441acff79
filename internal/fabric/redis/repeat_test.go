package redis

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/servers"
)

// twice is a client that sends each script twice, as if the first answer had been lost.
type twice struct {
	rueidis.Client
	t *testing.T
}

func (c twice) Do(ctx context.Context, command rueidis.Completed) rueidis.RedisResult {
	words := command.Commands()
	if words[0] != "EVALSHA" && words[0] != "EVAL" {
		return c.Client.Do(ctx, command)
	}
	again := c.Client.B().Arbitrary(words[:3]...).Args(words[3:]...).Build()
	if first := c.Client.Do(ctx, command); first.Error() != nil {
		return first
	}
	return c.Client.Do(ctx, again)
}

// TestRepeated has every operation done twice under the hood: nobody may notice.
func TestRepeated(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	p.client = twice{p.client, t}

	d, err := p.Documents(ctx, "d")
	check(t, err)
	revision, err := d.Put(ctx, "k", []byte("1"), 0)
	check(t, err)
	revisions, err := d.Commit(ctx, []fabric.Write{{Key: "k", Value: []byte("2"), Revision: revision}, {Key: "l", Value: []byte("1")}})
	check(t, err)
	check(t, d.Delete(ctx, "k", revisions[0]))
	if _, err = d.Put(ctx, "l", nil, 0); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("create what exists: %v", err)
	}

	c, err := p.Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 1 << 20})
	check(t, err)
	check(t, c.CompareAndSwap(ctx, "k", nil, []byte("a"), 0))
	check(t, c.CompareAndSwap(ctx, "k", []byte("a"), []byte("b"), 0))
	if err := c.CompareAndSwap(ctx, "k", nil, []byte("b"), 0); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("swap: %v", err)
	}
	for want := range int64(3) {
		if n, err := c.Add(ctx, "n", 1, 0); err != nil || n != want+1 {
			t.Errorf("add: %d, %v", n, err)
		}
	}

	l, err := p.Log(ctx, fabric.LogConfig{Name: "l"})
	check(t, err)
	for want := range uint64(3) {
		if seq, err := l.Append(ctx, "a", nil, fabric.ExpectLast(want)); err != nil || seq != want+1 {
			t.Errorf("append: %d, %v", seq, err)
		}
	}
	check(t, l.Delete(ctx, 2))
	if info, err := l.Info(ctx); err != nil || info.Entries != 2 || info.LastSeq != 3 {
		t.Errorf("info: %+v, %v", info, err)
	}

	locks, err := p.Locks(ctx, "l")
	check(t, err)
	held, err := locks.TryAcquire(ctx, "k", time.Minute)
	check(t, err)
	k := held.(*lock)
	k.stop()
	<-k.kept
	check(t, k.renew(ctx))
	check(t, held.Release(ctx))
	repeatQueue(t, p)
}

func repeatQueue(t *testing.T, p *Provider) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	q, err := p.Queue(ctx, fabric.QueueConfig{
		Name: "q", Visibility: time.Hour, MaxJobs: 10, MaxDead: 2, Concurrency: 1,
		Retry: fabric.RetryPolicy{Initial: time.Millisecond, Max: time.Millisecond, Elapsed: time.Minute},
	})
	check(t, err)
	for i := range 4 {
		_, err := q.Enqueue(ctx, fabric.Job{ID: strconv.Itoa(i)})
		check(t, err)
	}
	if n, err := q.Len(ctx); err != nil || n != 4 {
		t.Errorf("%d jobs, %v", n, err)
	}
	done := make(chan error, 1)
	go func() {
		done <- q.Work(ctx, func(_ context.Context, job fabric.Job) error {
			if job.Attempt == 1 {
				return errors.New("first")
			}
			return fabric.ErrGiveUp
		})
	}()
	eventually(t, "all are given up", func() bool { n, err := q.Len(ctx); return err == nil && n == 0 })
	stop()
	check(t, next(t, "end of work", done))
	letters, err := q.DeadLetters(t.Context(), "", 10)
	check(t, err)
	ids := []string{}
	for _, letter := range letters {
		ids = append(ids, letter.ID)
	}
	if len(ids) != 2 {
		t.Fatalf("dead letters are %q", ids)
	}
	check(t, q.Replay(t.Context(), ids[0]))
	check(t, q.Discard(t.Context(), ids[1]))
	if err := q.Discard(t.Context(), ids[1]); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("discard again: %v", err)
	}
	if n, err := q.Len(t.Context()); err != nil || n != 1 {
		t.Errorf("%d jobs, %v", n, err)
	}
}

// deaf is a client that has a script done, and leaves its first answer unheard until the caller goes.
type deaf struct {
	rueidis.Client
	script *script
	once   *sync.Once
	done   chan struct{} // closed when the script was done whose answer stays unheard
}

func newDeaf(client rueidis.Client, script *script) deaf {
	return deaf{client, script, new(sync.Once), make(chan struct{})}
}

func (c deaf) Do(ctx context.Context, command rueidis.Completed) rueidis.RedisResult {
	words := command.Commands()
	which := words[0] == "EVALSHA" && words[1] == c.script.sha || words[0] == "EVAL" && words[1] == c.script.text
	result := c.Client.Do(ctx, command)
	if which && result.Error() == nil {
		c.once.Do(func() {
			close(c.done)
			<-ctx.Done()
			result = rueidis.NewErrorResult(ctx.Err())
		})
	}
	return result
}

// TestUnheard ends callers between what the server does for them and its answer: it is undone.
func TestUnheard(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	options := Options{Servers: []string{server.Address()}}
	one, two := openProvider(t, options), openProvider(t, options)
	client := one.client
	config := fabric.QueueConfig{Name: "q", Visibility: time.Hour, MaxJobs: 10, MaxDead: 2, Concurrency: 1}
	q, err := one.Queue(t.Context(), config)
	check(t, err)
	for _, id := range []string{"1", "2"} {
		_, err = q.Enqueue(t.Context(), fabric.Job{ID: id})
		check(t, err)
	}
	unheard := newDeaf(client, takeJobScript)
	one.client = unheard
	working, stop := context.WithCancel(t.Context())
	go func() { // a job is taken, and the worker ends
		<-unheard.done
		stop()
	}()
	check(t, q.Work(working, func(context.Context, fabric.Job) error { t.Error("it was handled"); return nil }))
	other, err := two.Queue(t.Context(), config)
	check(t, err)
	jobs := make(chan string, 10)
	working, stop = context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- other.Work(working, func(_ context.Context, job fabric.Job) error { jobs <- job.ID; return nil })
	}()
	wantNext(t, jobs, "1", "2")
	stop()
	check(t, next(t, "end of work", ended))

	one.client = newDeaf(client, takeLockScript)
	locks, err := one.Locks(t.Context(), "l")
	check(t, err)
	brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := locks.TryAcquire(brief, "k", time.Hour); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("acquire unheard: %v", err)
	}
	eventually(t, "the lock is free", func() bool {
		held, err := locks.TryAcquire(t.Context(), "k", time.Hour)
		return err == nil && held.Release(t.Context()) == nil
	})
}

// TestTurns asks for the jobs of turns again, and of some that are over.
func TestTurns(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := openProvider(t, Options{Servers: []string{servers.StartRedis(t, servers.RedisConfig{}).Address()}})
	opened, err := p.Queue(ctx, fabric.QueueConfig{Name: "q", Visibility: time.Hour, MaxJobs: 10, MaxDead: 2, Concurrency: 1})
	check(t, err)
	q := opened.(*queue)
	for _, id := range []string{"1", "2", "3"} {
		_, err := q.Enqueue(ctx, fabric.Job{ID: id})
		check(t, err)
	}
	w := newWorker(q, nil)
	for i, step := range []struct {
		turn   uint64
		leaves string
		want   string
	}{
		{1, "0", "1"}, {1, "0", "1"}, {2, "0", "2"}, {1, "0", ""}, {1, "1", ""}, {2, "1", "2"},
		{3, "1", ""}, {3, "0", "3"}, {4, "0", ""}, {3, "0", ""},
	} {
		w.turn = step.turn
		d, _, err := w.askOnce(ctx, step.leaves)
		got := ""
		if d != nil {
			got = d.id
		}
		if err != nil || got != step.want {
			t.Errorf("step %d: got %q, %v, want %q", i, got, err, step.want)
		}
	}
}

// TestForgotten empties the server below everything that goes on.
func TestForgotten(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: slog.New(slog.DiscardHandler)})
	d, err := p.Documents(ctx, "d")
	check(t, err)
	_, err = d.Put(ctx, "gone", nil, 0)
	check(t, err)
	changes := make(chan string, 10)
	go func() {
		_ = d.Watch(ctx, func(c fabric.Change) { changes <- c.Key + strconv.FormatBool(c.Deleted) }, func() { changes <- "ready" })
	}()
	l, err := p.Log(ctx, fabric.LogConfig{Name: "l", MaxPerSubject: 2})
	check(t, err)
	_, err = l.Append(ctx, "a", []byte("gone"))
	check(t, err)
	entries := make(chan string, 10)
	go func() { _ = l.Follow(ctx, ">", 0, func(e fabric.Entry) { entries <- string(e.Payload) }) }()
	q, err := p.Queue(ctx, fabric.QueueConfig{Name: "q", Visibility: time.Minute, MaxJobs: 10, MaxDead: 2, Concurrency: 1})
	check(t, err)
	jobs := make(chan string, 10)
	go func() { _ = q.Work(ctx, func(_ context.Context, job fabric.Job) error { jobs <- job.ID; return nil }) }()
	opened, err := p.Locks(ctx, "l")
	check(t, err)
	held, err := opened.Acquire(ctx, "k", 20*time.Second)
	check(t, err)
	wantNext(t, changes, "gonefalse", "ready")
	wantNext(t, entries, "gone")

	server.Do("FLUSHALL")
	server.Do("SCRIPT", "FLUSH")
	eventually(t, "the lock is there again", func() bool { return server.Do("EXISTS", opened.(*locks).key("k")) == "1" })
	if _, err := opened.TryAcquire(ctx, "k", time.Second); !errors.Is(err, fabric.ErrLocked) {
		t.Errorf("acquire what is held: %v", err)
	}
	_, err = d.Put(ctx, "new", nil, 0)
	check(t, err)
	wantNext(t, changes, "gonetrue", "newfalse")
	for _, payload := range []string{"1", "2", "3"} {
		_, err = l.Append(ctx, "a", []byte(payload))
		check(t, err)
		wantNext(t, entries, payload)
	}
	if info, err := l.Info(ctx); err != nil || info.Entries != 2 {
		t.Errorf("the log has %+v, %v", info, err)
	}
	_, err = q.Enqueue(ctx, fabric.Job{ID: "job"})
	check(t, err)
	wantNext(t, jobs, "job")
	check(t, held.Release(ctx))
}

func wantNext(t *testing.T, from <-chan string, want ...string) {
	t.Helper()
	for _, text := range want {
		if got := next(t, text, from); got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
}

// TestLogRewritten has a server lose the end of a log and give its numbers to other entries, as a
// failover can: who follows is told of all of these.
func TestLogRewritten(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}, Logger: slog.New(slog.DiscardHandler)})
	opened, err := p.Log(ctx, fabric.LogConfig{Name: "l"})
	check(t, err)
	l := opened.(*log)
	appendAll := func(payloads ...string) {
		for _, payload := range payloads {
			_, err := l.Append(ctx, "a", []byte(payload))
			check(t, err)
		}
	}
	appendAll("1", "2")
	saved := map[string]string{}
	for _, key := range []string{l.base + "e", l.base + "l", l.base + "s", l.base + "i:a"} {
		saved[key] = server.Do("DUMP", key)
	}
	appendAll("3", "4")
	var heard []string
	f := &following{log: l, pattern: "a", from: 1, next: 1, handler: func(e fabric.Entry) { heard = append(heard, string(e.Payload)) }}
	news := &waiter{}
	catchUp := func() {
		for more := true; more; {
			var err error
			if more, err = f.catchUp(ctx, news); err != nil {
				t.Fatal(err)
			}
		}
	}
	catchUp()
	for key, value := range saved {
		server.Do("RESTORE", key, "0", value, "REPLACE")
	}
	appendAll("three", "four", "five")
	news.gap.Store(true)
	catchUp()
	if want := []string{"1", "2", "3", "4", "three", "four", "five"}; !slices.Equal(heard, want) {
		t.Errorf("heard %q, want %q", heard, want)
	}
	news.gap.Store(true)
	catchUp()
	if len(heard) != 7 {
		t.Errorf("heard %q", heard)
	}
}
