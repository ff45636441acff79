package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/servers"
)

// TestWatchCutOff deletes more keys than are remembered while a watch hears nothing.
func TestWatchCutOff(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	opened, err := p.Documents(ctx, "d")
	check(t, err)
	d := opened.(*documents)
	first, err := d.Put(ctx, "first", nil, 0)
	check(t, err)
	_, err = d.Put(ctx, "stays", nil, 0)
	check(t, err)
	var told []string
	w := &watching{documents: d, known: map[string]uint64{}, changed: func(c fabric.Change) {
		told = append(told, fmt.Sprint(c.Key, c.Deleted))
	}}
	news := &waiter{}
	check(t, w.compare(ctx))
	check(t, d.Delete(ctx, "first", first))
	for i := 0; i < keptDeletions+fabric.MaxWrites; i += fabric.MaxWrites {
		writes := make([]fabric.Write, fabric.MaxWrites)
		for n := range writes {
			writes[n] = fabric.Write{Key: strconv.Itoa(i + n), Value: []byte{}}
		}
		revisions, err := d.Commit(ctx, writes)
		check(t, err)
		for n := range writes {
			writes[n].Value, writes[n].Revision = nil, revisions[n]
		}
		_, err = d.Commit(ctx, writes)
		check(t, err)
	}
	if n := server.Do("ZCARD", d.keys[2]); n != strconv.Itoa(keptDeletions) {
		t.Errorf("%s deletions are remembered", n)
	}
	_, err = d.Put(ctx, "last", nil, 0)
	check(t, err)
	check(t, w.catchUp(ctx, news))
	if got := fmt.Sprint(told); got != "[firstfalse staysfalse firsttrue lastfalse]" {
		t.Errorf("told %s", got)
	}
	told = nil
	check(t, w.catchUp(ctx, news))
	if len(told) != 0 {
		t.Errorf("told again %q", told)
	}
}

// TestDocumentPages lists and watches more than fits into a page, by number and by size.
func TestDocumentPages(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := openProvider(t, Options{Servers: []string{servers.StartRedis(t, servers.RedisConfig{}).Address()}})
	d, err := p.Documents(ctx, "d")
	check(t, err)
	const large, small = 12, 2*pageEntries + 1
	for i := range large {
		_, err := d.Put(ctx, "large"+strconv.Itoa(i), make([]byte, fabric.MaxValueSize), 0)
		check(t, err)
	}
	var writes []fabric.Write
	for i := range small {
		writes = append(writes, fabric.Write{Key: strconv.Itoa(i), Value: []byte{}})
		if len(writes) == fabric.MaxWrites || i == small-1 {
			_, err := d.Commit(ctx, writes)
			check(t, err)
			writes = nil
		}
	}
	list, err := d.List(ctx)
	check(t, err)
	if len(list) != large+small {
		t.Errorf("%d of %d documents are listed", len(list), large+small)
	}
	watching, stop := context.WithCancel(ctx)
	seen := 0
	check(t, d.Watch(watching, func(fabric.Change) { seen++ }, stop))
	if seen != large+small {
		t.Errorf("%d of %d documents are told", seen, large+small)
	}
}

// TestDropped checks that what is lost in a queue is counted under its reason.
func TestDropped(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	server := servers.StartRedis(t, servers.RedisConfig{})
	var dead, unreadable atomic.Int64
	counts := map[string]*atomic.Int64{fabric.DropDeadLetter: &dead, fabric.DropJobUnreadable: &unreadable}
	p := openProvider(t, Options{
		Servers: []string{server.Address()}, Logger: newLogger(&lines{}),
		Dropped: func(reason, _ string, n int) { counts[reason].Add(int64(n)) },
	})
	opened, err := p.Queue(ctx, fabric.QueueConfig{Name: "q", Visibility: time.Second, MaxJobs: 100, MaxDead: 10, Concurrency: 1})
	check(t, err)
	q := opened.(*queue)
	for i := range 13 {
		_, err := q.Enqueue(ctx, fabric.Job{ID: strconv.Itoa(i)})
		check(t, err)
	}
	server.Do("HSET", q.keys[0], "3", "not an envelope")
	server.Do("HDEL", q.keys[0], "4") // its entry stands for nothing
	server.Do("XADD", q.keys[2], "*", "x", "y")
	done := make(chan error, 1)
	go func() {
		done <- q.Work(ctx, func(context.Context, fabric.Job) error { return fabric.ErrGiveUp })
	}()
	eventually(t, "the queue is empty", func() bool { n, err := q.Len(t.Context()); return err == nil && n == 0 })
	eventually(t, "so is the stream", func() bool { return server.Do("XLEN", q.keys[2]) == "0" })
	stop()
	check(t, next(t, "end of work", done))
	if dead.Load() != 1 || unreadable.Load() != 1 {
		t.Errorf("%d dead letters and %d jobs were lost", dead.Load(), unreadable.Load())
	}
	server.Do("HSET", q.keys[4], "0", "not an envelope", "12", "nor this")
	if letters, err := q.DeadLetters(t.Context(), "", 100); err != nil || len(letters) != 10 {
		t.Errorf("%d dead letters, %v", len(letters), err)
	}
	check(t, q.Replay(t.Context(), "12")) // its payload is there
	check(t, q.Discard(t.Context(), "11"))
	for i, key := range q.keys {
		if i == 2 || i == 4 || i == 5 || i == 6 || i < 2 {
			continue
		}
		if server.Do("EXISTS", key) != "0" {
			t.Errorf("%s is left", key)
		}
	}
}

// TestJobLateWorkers has what a worker says of a job count no more when another has it.
func TestJobLateWorkers(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := openProvider(t, Options{Servers: []string{servers.StartRedis(t, servers.RedisConfig{}).Address()}})
	opened, err := p.Queue(ctx, fabric.QueueConfig{
		Name: "q", Visibility: 50 * time.Millisecond, MaxJobs: 10, MaxDead: 10, Concurrency: 1,
		Retry: fabric.RetryPolicy{Initial: time.Hour, Max: time.Hour, Elapsed: 2 * time.Hour},
	})
	check(t, err)
	q := opened.(*queue)
	_, err = q.Enqueue(ctx, fabric.Job{ID: "job"})
	check(t, err)
	w := newWorker(q, nil)
	take := func() (d *delivered) {
		eventually(t, "the job", func() bool { d, _, err = w.ask(ctx); return err == nil && d != nil })
		return d
	}
	late := take()
	second := take()
	if late.entry != second.entry || late.delivery == second.delivery {
		t.Errorf("delivered as %+v and %+v", late, second)
	}
	e, err := decodeEnvelope(late.envelope)
	check(t, err)
	check(t, w.keep(ctx, *late, q.visibility())) // it has no say
	w.fail(ctx, *late, e, time.Now(), errors.New("late"))
	w.fail(ctx, *late, e, time.Now(), fabric.ErrGiveUp)
	third := take()
	if third.envelope != late.envelope {
		t.Errorf("a late worker changed the job to %s", third.envelope)
	}
	check(t, w.finish(ctx, *late)) // what is done is done
	if n, err := q.Len(ctx); err != nil || n != 0 {
		t.Errorf("%d jobs, %v", n, err)
	}
	w.fail(ctx, *third, e, time.Now(), fabric.ErrGiveUp)
	if letters, err := q.DeadLetters(ctx, "", 10); err != nil || len(letters) != 0 {
		t.Errorf("dead letters %+v, %v", letters, err)
	}
}

// TestCacheAccount compares what a cache counts with what is there, after writes, ends and
// removals.
func TestCacheAccount(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	opened, err := p.Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 1 << 20})
	check(t, err)
	c := opened.(*cache)
	for i := range 100 {
		check(t, c.Set(ctx, "brief"+strconv.Itoa(i), make([]byte, 1000), time.Second))
	}
	for range 3 {
		check(t, c.Set(ctx, "again", make([]byte, 100_000), 0))
	}
	check(t, c.Set(ctx, "deleted", make([]byte, 100_000), 0))
	check(t, c.Delete(ctx, "deleted"))
	base := c.base(0)
	eventually(t, "what has ended is forgotten", func() bool {
		_, err := c.Add(ctx, "n", 1, 0)
		check(t, err)
		return server.Do("ZCARD", base+"a") == "2"
	})
	sum := 0
	for size := range strings.SplitSeq(server.Do("HVALS", base+"s"), "\n") {
		n, _ := strconv.Atoi(size)
		sum += n
	}
	if total := server.Do("GET", base+"t"); total != strconv.Itoa(sum) || sum > 102_000 {
		t.Errorf("it counts %s bytes, the values %d", total, sum)
	}
	if n := server.Do("ZCARD", base+"e"); n != "0" {
		t.Errorf("%s ends are remembered", n)
	}
	for i := range 3000 { // many small ones
		check(t, c.Set(ctx, strconv.Itoa(i), nil, 0))
	}
	used, _ := strconv.Atoi(server.Do("GET", base+"t"))
	if n := server.Do("ZCARD", base+"a"); used > 1<<20 || n == "3002" {
		t.Errorf("%s values are counted with %d bytes", n, used)
	}
}

// testCacheParts has nodes with different configurations agree on the parts of a cache.
func testCacheParts(t *testing.T, cluster *servers.RedisCluster) {
	t.Parallel()
	ctx := t.Context()
	options := Options{Servers: cluster.Addresses(), Cluster: true}
	one, err := openProvider(t, options).Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 64 << 20})
	check(t, err)
	two, err := openProvider(t, options).Cache(ctx, fabric.CacheConfig{Name: "c", MaxBytes: 1 << 20})
	check(t, err)
	var keys []string
	masters := map[int]bool{}
	for i := range 100 {
		key := strconv.Itoa(i)
		keys = append(keys, key)
		check(t, one.Set(ctx, key, []byte(key), 0))
		master, _ := cluster.MasterOf(one.(*cache).valueKey(key))
		masters[master.Port] = true
	}
	found, err := two.GetMany(ctx, keys)
	check(t, err)
	if len(found) != len(keys) || string(found["7"]) != "7" || len(masters) < 2 {
		t.Errorf("%d of %d values are found, on %d masters", len(found), len(keys), len(masters))
	}
	check(t, two.Set(ctx, "large", make([]byte, fabric.MaxValueSize), 0))
	if _, err := one.Get(ctx, "large"); err != nil {
		t.Errorf("a large value: %v", err)
	}
}

// TestLogWide reads and removes under a pattern that covers little of a log.
func TestLogWide(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := servers.StartRedis(t, servers.RedisConfig{})
	p := openProvider(t, Options{Servers: []string{server.Address()}})
	opened, err := p.Log(ctx, fabric.LogConfig{Name: "l"})
	check(t, err)
	l := opened.(*log)
	const count = 5000
	for i := range count {
		subject := "many." + strconv.Itoa(i%300)
		if i == 10 || i == count-10 {
			subject = "rare.a.b"
		}
		_, err := l.Append(ctx, subject, nil)
		check(t, err)
	}
	for pattern, want := range map[string]int{"rare.>": 2, "rare.*.b": 2, "*.a.b": 2, "rare.*": 0, "many.7": 17, "*.*.*": 2, "none": 0} {
		page, err := l.Read(ctx, pattern, 0, 1000)
		if err != nil || len(page) != want {
			t.Errorf("%s: %d entries, %v, want %d", pattern, len(page), err, want)
		}
	}
	if e, err := l.Last(ctx, "rare.>"); err != nil || e.Seq != count-9 {
		t.Errorf("last: %+v, %v", e, err)
	}
	check(t, l.Purge(ctx, "many.*"))
	if info, err := l.Info(ctx); err != nil || info.Entries != 2 || info.FirstSeq != 11 {
		t.Errorf("info: %+v, %v", info, err)
	}
	check(t, l.Purge(ctx, ">"))
	if keys := server.Do("KEYS", l.base+"i:*"); keys != "" {
		t.Errorf("there is still %s", keys)
	}
	if info, err := l.Info(ctx); err != nil || info.Bytes != 0 || info.LastSeq != count {
		t.Errorf("info: %+v, %v", info, err)
	}
}
