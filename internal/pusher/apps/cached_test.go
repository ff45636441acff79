package apps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

// cachedRegistry is a registry over rows, in a synctest bubble.
type cachedRegistry struct {
	*Registry
	cached  *Cached
	log     *bytes.Buffer
	reports []string
	inUse   atomic.Value // func(string) bool
	counts  sync.Map     // result or reason to *atomic.Int64
}

const cacheTTL = 80 * time.Second

func (r *cachedRegistry) count(what string) {
	n, _ := r.counts.LoadOrStore(what, &atomic.Int64{})
	n.(*atomic.Int64).Add(1)
}

func (r *cachedRegistry) counted(what string) int64 {
	if n, ok := r.counts.Load(what); ok {
		return n.(*atomic.Int64).Load()
	}
	return 0
}

// openCached starts a registry over rows as a node of a provider does.
func openCached(t *testing.T, table Table, provider fabric.Provider, capacity int, static ...*App) *cachedRegistry {
	t.Helper()
	signal, err := provider.Signal(t.Context(), SignalName)
	if err != nil {
		t.Fatal(err)
	}
	r := &cachedRegistry{log: &bytes.Buffer{}}
	r.inUse.Store(func(string) bool { return false })
	log := slog.New(slog.NewTextHandler(r.log, nil))
	r.cached = NewCached(table, signal, CacheOptions{
		TTL: cacheTTL, Capacity: capacity, Logger: log, Count: r.count, Dropped: r.count,
		InUse: func(id string) bool { return r.inUse.Load().(func(string) bool)(id) },
	})
	r.Registry = New(static, r.cached, log)
	r.OnChange(func(old, new *App) {
		name := func(app *App) string {
			if app == nil {
				return "-"
			}
			return app.ID + app.Name
		}
		r.reports = append(r.reports, name(old)+">"+name(new))
	})
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); r.Wait(); _ = provider.Close() })
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

// reported returns the changes since the last call, when all is still.
func (r *cachedRegistry) reported() string {
	synctest.Wait()
	r.cached.mu.Lock()
	defer r.cached.mu.Unlock()
	text := strings.Join(r.reports, " ")
	r.reports = nil
	return text
}

// text returns the log when all is still.
func (r *cachedRegistry) text() string {
	synctest.Wait()
	return r.log.String()
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// found fails if an app is not found with that name.
func (r *cachedRegistry) found(t *testing.T, id, name string) *App {
	t.Helper()
	app, err := r.FindByID(t.Context(), id)
	if err != nil || app.Name != name {
		t.Fatalf("app %s: %+v, %v", id, app, err)
	}
	return app
}

func TestCachedLooksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		static := valid("static")
		table := newRows(valid("1"), valid("2"), App{ID: "static", Key: "hidden", Secret: "s"})
		r := openCached(t, table, memory.New(), 10, &static)
		table.edit(func() { table.delay = time.Second })
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				if app, err := r.FindByKey(t.Context(), "key-1"); err != nil || app.ID != "1" {
					t.Errorf("found %+v, %v", app, err)
				}
			})
		}
		group.Wait()
		want(t, "asked", table.askedNow(), "key key-1")
		begin := time.Now()
		first := r.found(t, "1", "")
		if again, _ := r.FindByKey(t.Context(), "key-1"); again != first || time.Since(begin) > 0 {
			t.Error("it is not found in memory")
		}
		for range 3 {
			if _, err := r.FindByKey(t.Context(), "none"); !errors.Is(err, ErrNotFound) {
				t.Errorf("unknown key: %v", err)
			}
			if _, err := r.FindByKey(t.Context(), "hidden"); !errors.Is(err, ErrNotFound) {
				t.Errorf("key of a hidden app: %v", err)
			}
			if _, err := r.FindByKey(t.Context(), "no key/"); !errors.Is(err, ErrNotFound) {
				t.Errorf("impossible key: %v", err)
			}
		}
		want(t, "asked", table.askedNow(), "key none key hidden")
		if app := r.found(t, "static", ""); app != &static {
			t.Error("the static app is not the one of its id")
		}
		want(t, "reported", r.reported(), "->1")
		want(t, "in memory", ids(r.All()), "static 1")
		list, err := r.List(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		want(t, "listed", ids(list), "1 2 static")
		list, _ = r.List(t.Context(), "1", 1)
		want(t, "listed", ids(list), "2")
	})
}

func TestCachedSeesOtherPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newRows(valid("1"), valid("2"))
		r := openCached(t, table, memory.New(), 10)
		one, two := r.found(t, "1", ""), r.found(t, "2", "")
		changed := valid("1")
		changed.Name, changed.Key = "x", "new-key"
		table.setApp(changed)
		table.edit(func() { delete(table.apps, "2") })
		r.reported()
		table.askedNow()
		time.Sleep(cacheTTL / 2)
		synctest.Wait()
		if r.found(t, "1", "") != one || r.found(t, "2", "") != two {
			t.Error("apps were read again early")
		}
		want(t, "asked", table.askedNow(), "")
		time.Sleep(cacheTTL / 2)
		want(t, "reported", r.reported(), "1>1x 2>-")
		want(t, "asked", table.askedNow(), "1,2")
		if _, ok := r.view.getByKey("key-1"); ok {
			t.Error("the old key is still known")
		}
		if app, ok := r.view.getByKey("new-key"); !ok || app.Name != "x" {
			t.Errorf("by its new key it is %+v", app)
		}
		before := r.found(t, "1", "x")
		time.Sleep(2 * cacheTTL)
		if r.found(t, "1", "x") != before {
			t.Error("an app that did not change was replaced")
		}
		want(t, "reported", r.reported(), "")
		// A new app that somebody asked for before is found soon.
		_, _ = r.FindByID(t.Context(), "2")
		table.setApp(valid("2"))
		if _, err := r.FindByID(t.Context(), "2"); !errors.Is(err, ErrNotFound) {
			t.Errorf("it is not remembered as missing: %v", err)
		}
		time.Sleep(missTTL)
		r.found(t, "2", "")
	})
}

func TestCachedTellsOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provider, table := memory.New(), newRows(valid("1"))
		one, two := openCached(t, table, provider, 10), openCached(t, table, provider.Join(memory.Options{}), 10)
		two.found(t, "1", "")
		if _, err := two.FindByKey(t.Context(), "key-2"); !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		two.reported()
		begin := time.Now()
		if _, err := one.Create(t.Context(), valid("2")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if app, err := two.FindByKey(t.Context(), "key-2"); err != nil || app.ID != "2" {
			t.Errorf("the other node finds %+v, %v", app, err)
		}
		app, err := one.Update(t.Context(), "1", func(app *App) error { app.Name, app.Enabled = "x", false; return nil })
		if err != nil || app.Name != "x" {
			t.Fatalf("%+v, %v", app, err)
		}
		if err := one.Delete(t.Context(), "2"); err != nil {
			t.Fatal(err)
		}
		want(t, "reported to the other", two.reported(), "->2 1>1x 2>-")
		want(t, "reported here", one.reported(), "->2 ->1x 2>-")
		if time.Since(begin) > 0 {
			t.Errorf("it took %v", time.Since(begin))
		}
		// Whoever does not have the app in memory is told as well that it is gone.
		third := openCached(t, table, provider.Join(memory.Options{}), 10)
		if err := one.Delete(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		want(t, "reported to a third", third.reported(), "1>-")
	})
}

// A read that a change overtakes shows nothing old.
func TestCachedReadIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provider, table := memory.New(), newRows(valid("1"))
		one, two := openCached(t, table, provider, 10), openCached(t, table, provider.Join(memory.Options{}), 10)
		rename := func(name string) func() {
			return func() {
				if _, err := one.Update(context.Background(), "1", func(app *App) error { app.Name = name; return nil }); err != nil {
					t.Error(err)
				}
				synctest.Wait() // the other node has heard of it
			}
		}
		// In a bubble only a goroutine that is not part of the wait can wait.
		during := func(change func()) {
			table.edit(func() {
				table.during = func() { done := make(chan struct{}); go func() { defer close(done); change() }(); <-done }
			})
		}
		during(rename("x"))
		two.found(t, "1", "x")
		time.Sleep(cacheTTL / 2)
		during(rename("y"))
		time.Sleep(cacheTTL) // it is read again, and overtaken
		two.found(t, "1", "y")
	})
}

func TestCachedServesWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newRows(valid("1"), valid("2"))
		r := openCached(t, table, memory.New(), 10)
		r.found(t, "1", "")
		gone := errors.New("connection refused")
		table.edit(func() { table.failure = gone })
		time.Sleep(10 * cacheTTL)
		r.found(t, "1", "")
		if state := r.cached.State(); state != (CacheState{Apps: 1, Stale: 1, Away: true}) {
			t.Errorf("state %+v", state)
		}
		if _, err := r.FindByKey(t.Context(), "key-2"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, gone) {
			t.Errorf("what is not in memory: %v", err)
		}
		if _, err := r.FindByKey(t.Context(), "key-3"); !errors.Is(err, ErrUnavailable) {
			t.Errorf("what does not exist: %v", err)
		}
		_, err1 := r.List(t.Context(), "", 10)
		_, err2 := r.Create(t.Context(), valid("3"))
		_, err3 := r.Update(t.Context(), "1", func(*App) error { return nil })
		for _, err := range []error{err1, err2, err3, r.Delete(t.Context(), "1")} {
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("error is %v", err)
			}
		}
		if got := strings.Count(r.text(), "does not answer"); got != 1 {
			t.Errorf("it was logged %d times:\n%s", got, r.text())
		}
		changed := valid("1")
		changed.Name = "x"
		table.edit(func() { table.apps["1"], table.failure = &changed, nil })
		time.Sleep(retryMax)
		synctest.Wait()
		r.found(t, "1", "x")
		if state := r.cached.State(); state != (CacheState{Apps: 1}) {
			t.Errorf("state %+v", state)
		}
		if !strings.Contains(r.text(), "answers again") {
			t.Error("its return was not logged")
		}
		if failed := r.counted(LookupFailed); failed != 2 {
			t.Errorf("%d look-ups failed", failed)
		}
	})
}

func TestCachedUnreadable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newRows(valid("bad"), valid("good"), valid("turns"))
		r := openCached(t, table, memory.New(), 10)
		r.found(t, "turns", "")
		table.edit(func() {
			table.broken["bad"] = errors.New("column webhooks: not JSON")
			table.broken["turns"] = errors.New("column key: empty")
		})
		for range 3 {
			for _, find := range []func() (*App, error){
				func() (*App, error) { return r.FindByID(t.Context(), "bad") },
				func() (*App, error) { return r.FindByKey(t.Context(), "key-bad") },
			} {
				if app, err := find(); !errors.Is(err, ErrUnreadable) {
					t.Errorf("found %+v, %v", app, err)
				}
			}
			time.Sleep(missTTL)
		}
		r.found(t, "good", "")
		time.Sleep(cacheTTL)
		r.found(t, "turns", "") // as it was
		text := r.text()
		for part, count := range map[string]int{"app_id=bad": 2, "app_id=turns": 1, "column webhooks: not JSON": 2} {
			if got := strings.Count(text, part); got != count { // not each time; by its id and by its key
				t.Errorf("%q was logged %d times:\n%s", part, got, text)
			}
		}
		table.edit(func() { delete(table.broken, "bad") })
		time.Sleep(missTTL)
		r.found(t, "bad", "")
	})
}

func TestCachedForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity, used = 20, "a00"
		table := newRows()
		for i := range 200 {
			table.setApp(valid(fmt.Sprintf("a%02d", i)))
		}
		r := openCached(t, table, memory.New(), capacity)
		r.inUse.Store(func(id string) bool { return id == used })
		for i := range 200 {
			r.found(t, fmt.Sprintf("a%02d", i), "")
			if _, ok := r.ByID("a05"); !ok && i > 5 { // everybody asks for it
				t.Errorf("what is read all the time was forgotten at %d", i)
			}
			if got := r.cached.State().Apps; got > capacity+1 {
				t.Fatalf("%d apps are in memory", got)
			}
		}
		if _, ok := r.view.stored(used); !ok {
			t.Error("an app in use was forgotten")
		}
		if got, want := len(r.All()), r.cached.State().Apps; got != want {
			t.Errorf("%d apps are shown, %d are known", got, want)
		}
		if strings.Contains(r.reported(), ">-") {
			t.Error("to forget an app was reported as its end")
		}
		r.inUse.Store(func(string) bool { return true })
		for i := range 200 {
			r.found(t, fmt.Sprintf("a%02d", i), "")
		}
		if got := r.cached.State().Apps; got != 200 {
			t.Errorf("%d of 200 apps in use are in memory", got)
		}
		if got := r.cached.misses.Len(); got > capacity {
			t.Errorf("%d misses are kept", got)
		}
	})
}

// Reading apps again is no use of them: who was asked for last stays.
func TestCachedForgetsTheUnused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const capacity = 20
		table := newRows()
		for i := range capacity + 1 {
			table.setApp(valid(fmt.Sprintf("a%02d", i)))
		}
		r := openCached(t, table, memory.New(), capacity)
		for i := range capacity {
			r.found(t, fmt.Sprintf("a%02d", i), "")
		}
		r.found(t, "a00", "")
		time.Sleep(2 * cacheTTL)
		r.found(t, "a20", "")
		gone := ""
		for i := range capacity + 1 {
			id := fmt.Sprintf("a%02d", i)
			if _, ok := r.view.peek(id); !ok {
				gone += id + " "
			}
		}
		want(t, "forgotten", gone, "a01 a02 a03 ")
	})
}

// What others speak of is looked for beside them.
func TestCachedWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newRows(valid("1"), valid("2"))
		r := openCached(t, table, memory.New(), 10)
		for _, id := range []string{"1", "2", "none", "no id/"} {
			if _, ok := r.ByID(id); ok {
				t.Errorf("%s is in memory", id)
			}
		}
		want(t, "reported", sortWords(r.reported()), "->1 ->2 none>-")
		table.askedNow()
		if _, ok := r.ByID("1"); !ok {
			t.Error("it was not read")
		}
		if _, ok := r.ByID("none"); ok {
			t.Error("it was read")
		}
		synctest.Wait()
		want(t, "asked", table.askedNow(), "")
	})
}

func sortWords(text string) string {
	words := strings.Fields(text)
	slices.Sort(words)
	return strings.Join(words, " ")
}

// After a gap everything is read again.
func TestCachedGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newRows(valid("1"))
		r := openCached(t, table, memory.New(), 10)
		r.found(t, "1", "")
		_, _ = r.FindByID(t.Context(), "2")
		changed := valid("1")
		changed.Name = "x"
		table.setApp(changed)
		table.setApp(valid("2"))
		r.cached.missed(fabric.GapReconnect)
		synctest.Wait()
		r.found(t, "1", "x")
		r.found(t, "2", "")
		r.cached.heard(fabric.Message{Payload: []byte("no id/")})
		if got := r.counted(dropChangeMalformed); got != 1 {
			t.Errorf("%d malformed messages", got)
		}
	})
}

// Too many look-ups at a time are refused, and none goes on after the end.
func TestCachedLookupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newRows()
		table.delay = time.Hour
		r := openCached(t, table, memory.New(), 1000)
		var busy, failed atomic.Int64
		var group sync.WaitGroup
		for i := range maxLooks + 10 {
			group.Go(func() {
				_, err := r.FindByID(context.Background(), fmt.Sprint(i))
				switch {
				case !errors.Is(err, ErrUnavailable):
					t.Errorf("error is %v", err)
				case strings.Contains(err.Error(), "under way"):
					busy.Add(1)
				default:
					failed.Add(1)
				}
			})
		}
		group.Wait()
		if busy.Load() != 10 || failed.Load() != maxLooks || r.counted(LookupBusy) != 10 {
			t.Errorf("%d were busy, %d failed", busy.Load(), failed.Load())
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if _, err := r.FindByID(ctx, "x"); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("of a caller who left: %v", err)
		}
	})
}

func TestFileOnly(t *testing.T) {
	static := valid("static")
	r := New([]*App{&static}, FileOnly(), slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	_, err1 := r.Create(ctx, valid("1"))
	_, err2 := r.Update(ctx, "1", func(*App) error { return nil })
	for _, err := range []error{err1, err2, r.Delete(ctx, "1")} {
		if !errors.Is(err, ErrFixed) {
			t.Errorf("error is %v", err)
		}
	}
	if err := r.Delete(ctx, "static"); !errors.Is(err, ErrStatic) {
		t.Errorf("error is %v", err)
	}
	if _, err := r.FindByKey(ctx, "key-1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("error is %v", err)
	}
	list, err := r.List(ctx, "", 10)
	if app, ok := r.ByID("static"); err != nil || !ok || app != &static || ids(list) != "static" {
		t.Errorf("list %v, %v", ids(list), err)
	}
	stop()
	r.Wait()
}
