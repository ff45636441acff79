package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// traffic is what two nodes do over one store while that is hurt: one writes, the other follows.
// What was acknowledged is checked at the end.
type traffic struct {
	t        *testing.T
	one, two *Provider
	names    func(kind string) string
	stop     context.CancelFunc
	running  sync.WaitGroup
	steps    map[string]*atomic.Int64 // acknowledged operations and deliveries by what they are
	gaps     atomic.Int64

	mu      sync.Mutex // guards the following fields
	acked   acknowledged
	watched map[string]string
	done    map[string]bool
	entries map[uint64]string
	held    fabric.Lock
	locks   fabric.Locks
	lock    string
}

// acknowledged is what the store said that it has.
type acknowledged struct {
	documents map[string]string // value by key
	jobs      map[string]bool
	entries   map[uint64]string
}

// startTraffic begins all of it. Names gives the name of each part, and for "lock" that of a lock.
func startTraffic(t *testing.T, options Options, names func(kind string) string) *traffic {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w := &traffic{
		t: t, one: openProvider(t, options), two: openProvider(t, options), names: names, stop: stop,
		steps: map[string]*atomic.Int64{}, watched: map[string]string{}, done: map[string]bool{}, entries: map[uint64]string{},
	}
	w.acked.documents, w.acked.jobs, w.acked.entries = map[string]string{}, map[string]bool{}, map[uint64]string{}
	for _, what := range []string{"document", "watched", "job", "work", "append", "follow", "publish", "receive", "count"} {
		w.steps[what] = new(atomic.Int64)
	}
	t.Cleanup(func() { stop(); w.running.Wait() })
	w.documents(ctx)
	w.queue(ctx)
	w.log(ctx)
	w.signal(ctx)
	w.cache(ctx)
	var err error
	w.lock = names("lock")
	w.locks, err = w.one.Locks(ctx, "l")
	check(t, err)
	w.held, err = w.locks.Acquire(ctx, w.lock, 20*time.Second)
	check(t, err)
	w.progress()
	return w
}

// goes runs a call until the traffic stops.
func (w *traffic) goes(ctx context.Context, what string, call func() error) {
	w.running.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if err := call(); err == nil {
				w.steps[what].Add(1)
			} else if !errors.Is(err, fabric.ErrUnavailable) && ctx.Err() == nil {
				w.t.Errorf("%s: %v", what, err)
				return
			}
			fabric.Pause(ctx, 2*time.Millisecond)
		}
	})
}

// progress waits until everything goes on.
func (w *traffic) progress() {
	w.t.Helper()
	before := map[string]int64{}
	for what, count := range w.steps {
		before[what] = count.Load()
	}
	for what, count := range w.steps {
		eventually(w.t, what+" goes on", func() bool { return count.Load() >= before[what]+5 })
	}
}

func (w *traffic) documents(ctx context.Context) {
	d, err := w.one.Documents(ctx, w.names("docs"))
	check(w.t, err)
	n, doubtful := 0, false // whether an earlier write may still be on its way
	w.goes(ctx, "document", func() error {
		n++
		key := "k" + strconv.Itoa(n%3)
		now, err := d.Get(ctx, key)
		if err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return err
		}
		value := strconv.Itoa(n)
		_, err = d.Put(ctx, key, []byte(value), now.Revision)
		if errors.Is(err, fabric.ErrConflict) && doubtful {
			return nil
		}
		if err != nil {
			doubtful = doubtful || errors.Is(err, fabric.ErrUnavailable)
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.acked.documents[key] = value
		return nil
	})
	other, err := w.two.Documents(ctx, w.names("docs"))
	check(w.t, err)
	w.running.Go(func() {
		err := other.Watch(ctx, func(c fabric.Change) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if delete(w.watched, c.Key); !c.Deleted {
				w.watched[c.Key] = string(c.Value)
			}
			w.steps["watched"].Add(1)
		}, func() {})
		if err != nil {
			w.t.Errorf("watch: %v", err)
		}
	})
}

func (w *traffic) queue(ctx context.Context) {
	config := fabric.QueueConfig{
		Name: w.names("queue"), Visibility: 2 * time.Second, MaxJobs: 10_000, MaxDead: 10, Concurrency: 4,
		Retry: fabric.RetryPolicy{Initial: 10 * time.Millisecond, Max: time.Second, Elapsed: time.Minute},
	}
	q, err := w.one.Queue(ctx, config)
	check(w.t, err)
	n := 0
	w.goes(ctx, "job", func() error {
		n++
		id, err := q.Enqueue(ctx, fabric.Job{ID: strconv.Itoa(n)})
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.acked.jobs[id] = true
		}
		return err
	})
	other, err := w.two.Queue(ctx, config)
	check(w.t, err)
	w.running.Go(func() {
		err := other.Work(ctx, func(_ context.Context, job fabric.Job) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.done[job.ID] = true
			w.steps["work"].Add(1)
			return nil
		})
		if err != nil {
			w.t.Errorf("work: %v", err)
		}
	})
}

func (w *traffic) log(ctx context.Context) {
	l, err := w.one.Log(ctx, fabric.LogConfig{Name: w.names("log")})
	check(w.t, err)
	n := 0
	w.goes(ctx, "append", func() error {
		n++
		payload := strconv.Itoa(n)
		seq, err := l.Append(ctx, "a."+strconv.Itoa(n%2), []byte(payload))
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.acked.entries[seq] = payload
		}
		return err
	})
	other, err := w.two.Log(ctx, fabric.LogConfig{Name: w.names("log")})
	check(w.t, err)
	w.running.Go(func() {
		last := uint64(0)
		err := other.Follow(ctx, "a.*", 1, func(e fabric.Entry) {
			if e.Seq <= last {
				w.t.Errorf("entry %d came after %d", e.Seq, last)
			}
			last = e.Seq
			w.mu.Lock()
			defer w.mu.Unlock()
			w.entries[e.Seq] = string(e.Payload)
			w.steps["follow"].Add(1)
		})
		if err != nil {
			w.t.Errorf("follow: %v", err)
		}
	})
}

func (w *traffic) signal(ctx context.Context) {
	sender, err := w.one.Signal(ctx, w.names("signal"))
	check(w.t, err)
	receiver, err := w.two.Signal(ctx, w.names("signal"))
	check(w.t, err)
	last := 0
	take := func(m fabric.Message) {
		number, _ := strconv.Atoi(string(m.Payload))
		if number < last {
			w.t.Errorf("message %d came after %d", number, last)
		}
		last = number
		w.steps["receive"].Add(1)
	}
	_, err = receiver.Subscribe("x.a", take, fabric.OnGap(func(fabric.Gap) { w.gaps.Add(1) }))
	check(w.t, err)
	_, err = receiver.Subscribe("x.*", take)
	check(w.t, err)
	check(w.t, receiver.Flush(ctx))
	n := 0
	w.goes(ctx, "publish", func() error {
		n++
		err := sender.Publish(ctx, "x."+string("ab"[n%2]), []byte(strconv.Itoa(n)))
		if errors.Is(err, fabric.ErrFull) {
			return nil
		}
		return err
	})
}

func (w *traffic) cache(ctx context.Context) {
	c, err := w.one.Cache(ctx, fabric.CacheConfig{Name: w.names("cache"), MaxBytes: 1 << 20})
	check(w.t, err)
	w.goes(ctx, "count", func() error { _, err := c.Add(ctx, "n", 1, 0); return err })
}

// end waits until the other node has what was acknowledged until then.
func (w *traffic) end(tokenGrows bool) {
	t := w.t
	t.Helper()
	ctx := context.Background()
	select {
	case <-w.held.Lost():
		t.Error("the lock was lost")
	default:
	}
	other, err := w.two.Locks(ctx, "l")
	check(t, err)
	if _, err := other.TryAcquire(ctx, w.lock, time.Second); !errors.Is(err, fabric.ErrLocked) {
		t.Errorf("acquire what is held: %v", err)
	}
	check(t, w.held.Release(ctx))
	again, err := other.Acquire(ctx, w.lock, time.Second)
	check(t, err)
	if again.Token() <= w.held.Token() && tokenGrows {
		t.Errorf("token %d after %d", again.Token(), w.held.Token())
	}
	w.mu.Lock()
	acked := w.acked // until now: the writers go on, and on a busy machine the other node may always be behind
	acked.documents, acked.jobs, acked.entries = maps.Clone(acked.documents), maps.Clone(acked.jobs), maps.Clone(acked.entries)
	w.mu.Unlock()
	eventually(t, "the other node has seen everything", func() bool { return w.missing(acked) == "" })
	t.Logf("%d documents, %d jobs and %d entries were acknowledged, %d gaps told",
		len(acked.documents), len(acked.jobs), len(acked.entries), w.gaps.Load())
}

// missing names something that was acknowledged and is not there.
func (w *traffic) missing(acked acknowledged) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, value := range acked.documents {
		// Another write may be under way.
		want, _ := strconv.Atoi(value)
		if got, _ := strconv.Atoi(w.watched[key]); got < want {
			return fmt.Sprintf("document %s is %d, not %s", key, got, value)
		}
	}
	for id := range acked.jobs {
		if !w.done[id] {
			return "job " + id
		}
	}
	for seq, payload := range acked.entries {
		if w.entries[seq] != payload {
			return fmt.Sprintf("entry %d is %q, not %q", seq, w.entries[seq], payload)
		}
	}
	return ""
}
