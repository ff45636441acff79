// Package fabrictest is the contract of fabric as a test suite: what fabric.go promises in
// prose, every driver proves here.
//
// It may import fabric and the standard library, and nothing else.
package fabrictest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// patience is how long a test waits for what must come, however busy the machine is, and short how
// long it watches that something does not.
const (
	patience = time.Minute
	short    = 300 * time.Millisecond
)

// Parts of the contract, for drivers that do not carry all of it.
const (
	Documents = "documents"
	Queue     = "queue"
	Order     = "order" // of a queue, where a worker takes no more jobs than it wants
	Signal    = "signal"
	Cache     = "cache"
	Locks     = "lock"
	Log       = "log"
	Blobs     = "blob"
)

// contract is every promise by the part that makes it, or "provider" for those about all.
var contract = map[string]func(*testing.T, fabric.Provider){
	"documents/revisions":         testRevisions,
	"documents/values":            testValues,
	"documents/keys":              testKeys,
	"documents/list":              testList,
	"documents/list while busy":   testListWhileBusy,
	"documents/increment race":    testIncrementRace,
	"documents/create race":       testCreateRace,
	"documents/watch":             testWatch,
	"documents/watch while busy":  testWatchWhileBusy,
	"documents/collections":       testCollections,
	"documents/commit":            testCommit,
	"documents/commit limits":     testCommitLimits,
	"documents/commit race":       testCommitRace,
	"documents/commit watched":    testCommitWatched,
	"queue/order":                 testOrder,
	"queue/limits":                testJobLimits,
	"queue/not before":            testNotBefore,
	"queue/same id":               testSameID,
	"queue/full":                  testFull,
	"queue/retry":                 testRetry,
	"queue/give up by time":       testGiveUpByTime,
	"queue/give up at once":       testGiveUpAtOnce,
	"queue/concurrency":           testConcurrency,
	"queue/two workers":           testTwoWorkers,
	"queue/long handler":          testLongHandler,
	"queue/worker dies":           testWorkerDies,
	"queue/worker stops":          testWorkerStops,
	"queue/handover":              testHandover,
	"queue/idle":                  testIdle,
	"queue/wake":                  testWake,
	"queue/taken":                 func(t *testing.T, p fabric.Provider) { testTaken(t, p, false) },
	"order/taken":                 func(t *testing.T, p fabric.Provider) { testTaken(t, p, true) },
	"queue/put back":              testPutBack,
	"queue/settled":               testSettled,
	"queue/removed":               testRemoved,
	"queue/dead pages":            testDeadPages,
	"queue/dead bounded":          testDeadBounded,
	"queue/dead replay":           testReplay,
	"queue/dead replay into full": testReplayIntoFull,
	"queue/dead discard":          testDiscard,
	"signal/delivery":             testSignalDelivery,
	"signal/wildcards":            testSignalWildcards,
	"signal/subjects":             testSignalSubjects,
	"signal/order":                testSignalOrder,
	"signal/skip self":            testSignalSkipSelf,
	"signal/unsubscribe":          testSignalUnsubscribe,
	"signal/in a handler":         testSignalInHandler,
	"signal/request":              testSignalRequest,
	"signal/slow":                 testSignalSlow,
	"signal/close":                testSignalClose,
	"cache/values":                testCacheValues,
	"cache/ttl":                   testCacheTTL,
	"cache/swap":                  testCacheSwap,
	"cache/add":                   testCacheAdd,
	"cache/load":                  testCacheLoad,
	"cache/bounded":               testCacheBounded,
	"cache/close":                 testCacheClose,
	"lock/one holder":             testLock,
	"lock/renewal":                testLockRenewal,
	"lock/contended":              testLockContended,
	"lock/fair":                   testLockFair,
	"lock/close":                  testLockClose,
	"log/entries":                 testLog,
	"log/send":                    testLogSend,
	"log/lead":                    testLogLead,
	"log/values":                  testLogValues,
	"log/expectations":            testLogExpectations,
	"log/race":                    testLogRace,
	"log/follow":                  testLogFollow,
	"log/retention":               testLogRetention,
	"log/close":                   testLogClose,
	"blob/content":                testBlob,
	"blob/replace":                testBlobReplace,
	"blob/close":                  testBlobClose,
	"log/replay":                  testLogReplay,
	"log/replay from a position":  testLogReplayFrom,
	"log/replay by pages":         testLogReplayPages,
	"provider/ping":               testPing,
	"provider/names":              testNames,
	"provider/close":              testClose,
	"provider/ended context":      testEndedContext,
}

// between is what holds between nodes.
var between = map[string]func(*testing.T, func() fabric.Provider){
	"signal/between nodes": testSignalBetweenNodes,
	"cache/between nodes":  testCacheBetweenNodes,
	"lock/between nodes":   testLockBetweenNodes,
	"lock/holder dies":     testLockHolderDies,
	"log/between nodes":    testLogBetweenNodes,
	"blob/between nodes":   testBlobBetweenNodes,
}

// Run proves the contract for the driver whose providers open returns. They may all share
// one store: each test uses names of its own. Of a driver that does not carry every port,
// Compose the rest from another driver, and name the parts that are to be proved.
func Run(t *testing.T, open func(t *testing.T) fabric.Provider, parts ...string) {
	for name, test := range contract {
		if !chosen(name, parts) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, opened(t, open))
		})
	}
}

// RunShared proves what holds between nodes. Each call of open returns the provider of
// another node, all over one store; each is closed by itself.
func RunShared(t *testing.T, open func(t *testing.T) fabric.Provider, parts ...string) {
	for name, test := range between {
		if !chosen(name, parts) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, func() fabric.Provider { return opened(t, open) })
		})
	}
}

// chosen says whether a test is one of the parts, or about all; no parts are all of them.
func chosen(name string, parts []string) bool {
	part, _, _ := strings.Cut(name, "/")
	return len(parts) == 0 || part == "provider" || slices.Contains(parts, part)
}

// opened returns a provider that is closed at the end of the test.
func opened(t *testing.T, open func(*testing.T) fabric.Provider) fabric.Provider {
	provider := open(t)
	t.Cleanup(func() {
		if err := provider.Close(); err != nil {
			t.Errorf("close provider: %v", err)
		}
	})
	return provider
}

// shortName is name for the parts whose names stand in many subjects.
func shortName(t *testing.T) string {
	sum := sha256.Sum256([]byte(t.Name()))
	return "test-" + hex.EncodeToString(sum[:6])
}

// name returns a name that no other test uses.
func name(t *testing.T) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == '#' || r == ' ' {
			return '_'
		}
		return r
	}, t.Name())
}

// wantError fails the test unless err wraps want.
func wantError(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// must fails the test at once when err is not nil.
func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// patient returns a context for what a busy machine takes long for: a driver gives up after some seconds
// on a call whose context has no deadline.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// receive returns the next value of a channel, which must come.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		t.Fatalf("%s: nothing came", what)
		panic("unreachable")
	}
}

// eventually waits until ask returns true. It is for state that no event tells of.
func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ask(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: did not happen", what)
		}
	}
}

// background runs call until the test or the returned function ends it, and fails the test
// when call does not return nil then.
func background(t *testing.T, what string, call func(context.Context) error) func() {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- call(ctx) }()
	ended := false
	stop := func() {
		cancel()
		if ended {
			return
		}
		ended = true
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s returned %v", what, err)
			}
		case <-time.After(patience):
			t.Errorf("%s did not return", what)
		}
	}
	t.Cleanup(stop)
	return stop
}

func testNames(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	for _, bad := range []string{"", "a b", "a.b", "a/b", "ü", "*", ">", strings.Repeat("n", 129)} {
		_, err := p.Documents(ctx, bad)
		wantError(t, "documents "+bad, err, fabric.ErrInvalidConfig)
		config := queueConfig(t)
		config.Name = bad
		_, err = p.Queue(ctx, config)
		wantError(t, "queue "+bad, err, fabric.ErrInvalidConfig)
		_, err = p.Signal(ctx, bad)
		wantError(t, "signal "+bad, err, fabric.ErrInvalidConfig)
		_, err = p.Cache(ctx, fabric.CacheConfig{Name: bad, MaxBytes: fabric.MinCacheBytes})
		wantError(t, "cache "+bad, err, fabric.ErrInvalidConfig)
		_, err = p.Locks(ctx, bad)
		wantError(t, "locks "+bad, err, fabric.ErrInvalidConfig)
		_, err = p.Log(ctx, fabric.LogConfig{Name: bad})
		wantError(t, "log "+bad, err, fabric.ErrInvalidConfig)
		_, err = p.Blobs(ctx, fabric.BlobConfig{Name: bad, MaxSize: 1})
		wantError(t, "blobs "+bad, err, fabric.ErrInvalidConfig)
	}
	spoil := map[string]func(*fabric.QueueConfig){
		"visibility":  func(c *fabric.QueueConfig) { c.Visibility = 0 },
		"max jobs":    func(c *fabric.QueueConfig) { c.MaxJobs = 0 },
		"max dead":    func(c *fabric.QueueConfig) { c.MaxDead = -1 },
		"concurrency": func(c *fabric.QueueConfig) { c.Concurrency = 0 },
		"jitter":      func(c *fabric.QueueConfig) { c.Retry.Jitter = 1.1 },
		"initial":     func(c *fabric.QueueConfig) { c.Retry.Initial = 0 },
		"max":         func(c *fabric.QueueConfig) { c.Retry.Max = c.Retry.Initial - 1 },
		"elapsed":     func(c *fabric.QueueConfig) { c.Retry.Elapsed = -1 },
	}
	for what, spoil := range spoil {
		config := queueConfig(t)
		spoil(&config)
		_, err := p.Queue(ctx, config)
		wantError(t, what, err, fabric.ErrInvalidConfig)
	}
}

func testPing(t *testing.T, p fabric.Provider) {
	openDocuments(t, p)
	openSignal(t, p)
	must(t, "ping", p.Ping(context.Background()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantError(t, "ping with an ended context", p.Ping(ctx), context.Canceled)
	must(t, "close", p.Close())
	wantError(t, "ping after close", p.Ping(context.Background()), fabric.ErrClosed)
}

func testClose(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	d := openDocuments(t, p)
	q := openQueue(t, p, queueConfig(t))
	revision, err := d.Put(ctx, "key", nil, 0)
	must(t, "put", err)
	watching, working := make(chan struct{}), make(chan struct{})
	watched := make(chan error, 1)
	go func() { watched <- d.Watch(ctx, func(fabric.Change) {}, func() { close(watching) }) }()
	_, err = q.Enqueue(ctx, fabric.Job{})
	must(t, "enqueue", err)
	returned := make(chan error, 1)
	go func() {
		returned <- q.Work(ctx, func(ctx context.Context, _ fabric.Job) error {
			close(working)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	receive(t, "watch is ready", watching)
	receive(t, "handler runs", working)
	must(t, "close", p.Close())
	wantError(t, "work", receive(t, "work ends", returned), fabric.ErrClosed)
	wantError(t, "watch", receive(t, "watch ends", watched), fabric.ErrClosed)

	_, err = p.Documents(ctx, name(t))
	wantError(t, "documents", err, fabric.ErrClosed)
	_, err = p.Queue(ctx, queueConfig(t))
	wantError(t, "queue", err, fabric.ErrClosed)
	_, err = d.Get(ctx, "key")
	wantError(t, "get", err, fabric.ErrClosed)
	_, err = d.Put(ctx, "key", nil, revision)
	wantError(t, "put", err, fabric.ErrClosed)
	wantError(t, "delete", d.Delete(ctx, "key", revision), fabric.ErrClosed)
	_, err = d.Commit(ctx, []fabric.Write{{Key: "key"}})
	wantError(t, "commit", err, fabric.ErrClosed)
	_, err = d.List(ctx)
	wantError(t, "list", err, fabric.ErrClosed)
	wantError(t, "watch again", d.Watch(ctx, nil, nil), fabric.ErrClosed)
	_, err = q.Enqueue(ctx, fabric.Job{})
	wantError(t, "enqueue", err, fabric.ErrClosed)
	wantError(t, "work again", q.Work(ctx, nil), fabric.ErrClosed)
	_, err = q.Len(ctx)
	wantError(t, "len", err, fabric.ErrClosed)
	_, err = q.DeadLetters(ctx, "", 1)
	wantError(t, "dead letters", err, fabric.ErrClosed)
	wantError(t, "replay", q.Replay(ctx, "id"), fabric.ErrClosed)
	wantError(t, "discard", q.Discard(ctx, "id"), fabric.ErrClosed)
	must(t, "close again", p.Close())
}

func testEndedContext(t *testing.T, p fabric.Provider) {
	d := openDocuments(t, p)
	q := openQueue(t, p, queueConfig(t))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := p.Documents(ctx, name(t))
	wantError(t, "documents", err, context.Canceled)
	_, err = d.Put(ctx, "key", nil, 0)
	wantError(t, "put", err, context.Canceled)
	_, err = q.Enqueue(ctx, fabric.Job{})
	wantError(t, "enqueue", err, context.Canceled)
	if err := d.Watch(ctx, func(fabric.Change) {}, func() {}); err != nil {
		t.Errorf("watch: %v", err)
	}
	s, c, locks, l, b := openSignal(t, p), openCache(t, p), openLocks(t, p), openLog(t, p), openBlobs(t, p)
	wantError(t, "publish", s.Publish(ctx, "a", nil), context.Canceled)
	_, err = s.Request(ctx, "a", nil)
	wantError(t, "request", err, context.Canceled)
	wantError(t, "flush", s.Flush(ctx), context.Canceled)
	wantError(t, "set", c.Set(ctx, "k", nil, 0), context.Canceled)
	_, err = locks.Acquire(ctx, "k", time.Second)
	wantError(t, "acquire", err, context.Canceled)
	_, err = l.Append(ctx, "a", nil)
	wantError(t, "append", err, context.Canceled)
	if err := l.Follow(ctx, ">", 0, func(fabric.Entry) {}); err != nil {
		t.Errorf("follow: %v", err)
	}
	_, err = b.Put(ctx, "k", strings.NewReader(""))
	wantError(t, "put", err, context.Canceled)
	if err := q.Work(ctx, nil); err != nil {
		t.Errorf("work: %v", err)
	}
}
