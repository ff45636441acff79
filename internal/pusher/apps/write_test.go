package apps

import (
	"context"
	"errors"
	"regexp"
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

func TestCreateFillsIn(t *testing.T) {
	r := started(t, collection(t, memory.New()))
	app, err := r.Create(t.Context(), App{Name: "chat"})
	if err != nil {
		t.Fatal(err)
	}
	for name, part := range map[string]struct{ value, pattern string }{
		"id":     {app.ID, `^[1-9][0-9]{6}$`},
		"key":    {app.Key, `^[0-9a-f]{20}$`},
		"secret": {app.Secret, `^[0-9a-f]{40}$`},
	} {
		if !regexp.MustCompile(part.pattern).MatchString(part.value) {
			t.Errorf("%s is %q, want a match of %s", name, part.value, part.pattern)
		}
	}
	if seen, ok := r.view.getByKey(app.Key); !ok || seen.Name != "chat" || seen.Secret != app.Secret {
		t.Errorf("the registry shows %+v", seen)
	}
	other, err := r.Create(t.Context(), App{})
	if err != nil {
		t.Fatal(err)
	}
	if other.ID == app.ID || other.Key == app.Key || other.Secret == app.Secret {
		t.Error("two apps have the same random values")
	}
}

func TestCreateTakesACopy(t *testing.T) {
	r := started(t, collection(t, memory.New()))
	given := valid("1")
	given.AllowedOrigins = []string{"example.com"}
	given.Static = true
	if _, err := r.Create(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	given.AllowedOrigins[0] = "changed"
	if app, _ := r.ByID("1"); app.AllowedOrigins[0] != "example.com" || app.Static {
		t.Errorf("the registry shows %+v", app)
	}
}

func TestCreateRefuses(t *testing.T) {
	static := valid("static")
	r := started(t, collection(t, memory.New()), &static)
	if _, err := r.Create(t.Context(), valid("1")); err != nil {
		t.Fatal(err)
	}
	with := func(id, key string) App { return App{ID: id, Key: key, Secret: "s"} }
	tests := []struct {
		name string
		app  App
		want error
	}{
		{"id of a stored app", with("1", "new"), ErrExists},
		{"id of a static app", with("static", "new"), ErrExists},
		{"key of a stored app", with("2", "key-1"), ErrExists},
		{"key of a static app", with("2", "key-static"), ErrExists},
		{"key of a stored app, any id", with("", "key-1"), ErrExists},
		{"invalid", with("a b", "new"), ErrInvalid},
		{"too large", App{Key: "new", AllowedOrigins: []string{strings.Repeat("a", fabric.MaxValueSize)}}, ErrInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := r.Create(t.Context(), test.app); !errors.Is(err, test.want) {
				t.Errorf("error is %v, want %v", err, test.want)
			}
		})
	}
	if got, want := ids(r.All()), "static 1"; got != want {
		t.Errorf("All has %s, want %s", got, want)
	}
}

func TestUpdateAndDeleteRefuse(t *testing.T) {
	static := valid("static")
	r := started(t, collection(t, memory.New()), &static)
	for _, id := range []string{"1", "2"} {
		if _, err := r.Create(t.Context(), valid(id)); err != nil {
			t.Fatal(err)
		}
	}
	errOwn := errors.New("own")
	nothing := func(*App) error { return nil }
	tests := []struct {
		name   string
		id     string
		change func(*App) error
		want   error
	}{
		{"unknown", "3", nothing, ErrNotFound},
		{"no possible id", "../1", nothing, ErrNotFound},
		{"static", "static", nothing, ErrStatic},
		{"new id", "1", func(a *App) error { a.ID = "3"; return nil }, ErrInvalid},
		{"invalid", "1", func(a *App) error { a.Secret = ""; return nil }, ErrInvalid},
		{"key of another", "1", func(a *App) error { a.Key = "key-2"; return nil }, ErrExists},
		{"key of a static one", "1", func(a *App) error { a.Key = "key-static"; return nil }, ErrExists},
		{"error of change", "1", func(a *App) error { a.Name = "x"; return errOwn }, errOwn},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, err := r.Update(t.Context(), test.id, test.change); !errors.Is(err, test.want) {
				t.Errorf("error is %v, want %v", err, test.want)
			}
		})
	}
	if app, _ := r.ByID("1"); app.Name != "" || app.Key != "key-1" {
		t.Errorf("a refused update changed the app: %+v", app)
	}
	for id, want := range map[string]error{"3": ErrNotFound, "static": ErrStatic, "": ErrNotFound} {
		if err := r.Delete(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("Delete(%q): %v, want %v", id, err, want)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := r.Delete(ctx, "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete with an ended context: %v", err)
	}
}

func TestUpdateRetriesConflicts(t *testing.T) {
	provider := memory.New()
	one, two := started(t, collection(t, provider)), started(t, collection(t, provider))
	if _, err := one.Create(t.Context(), valid("1")); err != nil {
		t.Fatal(err)
	}
	calls := 0
	app, err := one.Update(t.Context(), "1", func(app *App) error {
		if calls++; calls == 1 { // another node is faster
			if _, err := two.Update(t.Context(), "1", func(app *App) error {
				app.Limits.MaxConnections = 5
				return nil
			}); err != nil {
				return err
			}
		}
		app.Name = "renamed"
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if calls != 2 || app.Limits.MaxConnections != 5 || app.Name != "renamed" {
		t.Errorf("after %d calls the app is %+v", calls, app)
	}
	_, err = one.Update(t.Context(), "1", func(*App) error { // and now always
		_, err := two.Update(t.Context(), "1", func(app *App) error { return nil })
		return err
	})
	if !errors.Is(err, ErrConflict) {
		t.Errorf("error is %v, want ErrConflict", err)
	}
}

func TestConcurrentWritesLoseNothing(t *testing.T) {
	r := started(t, collection(t, memory.New()))
	if _, err := r.Create(t.Context(), valid("1")); err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 10
	var taken atomic.Int64
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				if _, err := r.Update(t.Context(), "1", func(app *App) error {
					app.Limits.MaxConnections++
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
			if _, err := r.Create(t.Context(), App{Key: "wanted"}); err == nil {
				taken.Add(1)
			} else if !errors.Is(err, ErrExists) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if app, _ := r.ByID("1"); app.Limits.MaxConnections != writers*each {
		t.Errorf("%d updates are left of %d", app.Limits.MaxConnections, writers*each)
	}
	if got := taken.Load(); got != 1 {
		t.Errorf("%d apps got the same key", got)
	}
}

func TestRotate(t *testing.T) {
	r := started(t, collection(t, memory.New()))
	if _, err := r.Create(t.Context(), valid("1")); err != nil {
		t.Fatal(err)
	}
	app, err := r.Rotate(t.Context(), "1", false)
	if err != nil {
		t.Fatal(err)
	}
	if len(app.Secret) != 2*secretSize || app.Key != "key-1" {
		t.Errorf("with a new secret the app is %+v", app)
	}
	again, err := r.Rotate(t.Context(), "1", true)
	if err != nil {
		t.Fatal(err)
	}
	if again.Secret == app.Secret || again.Key == "key-1" || len(again.Key) != 2*keySize {
		t.Errorf("with a new key as well the app is %+v", again)
	}
	if _, ok := r.view.getByKey("key-1"); ok {
		t.Error("the old key is still known")
	}
}

func TestEnsureDefault(t *testing.T) {
	provider := memory.New()
	one, two := started(t, collection(t, provider)), started(t, collection(t, provider))
	var created atomic.Int64
	var group sync.WaitGroup
	for _, r := range []*Registry{one, two} {
		group.Go(func() {
			app, ok, err := r.EnsureDefault(t.Context(), DefaultID)
			if err != nil {
				t.Error(err)
			}
			if ok {
				created.Add(1)
				if !app.Enabled || !app.EnableClientMessages || !app.EnableUserAuthentication ||
					!app.EnableWatchlistEvents || app.Name != "default" {
					t.Errorf("the first app is %+v", app)
				}
			}
			if got := ids(r.All()); got != DefaultID {
				t.Errorf("All has %q, want %s", got, DefaultID)
			}
		})
	}
	group.Wait()
	if got := created.Load(); got != 1 {
		t.Errorf("%d registries say that they created the first app", got)
	}
	static := valid("static")
	if _, ok, err := started(t, collection(t, memory.New()), &static).EnsureDefault(t.Context(), DefaultID); ok || err != nil {
		t.Errorf("beside a static app: created %v, error %v", ok, err)
	}
}

// deaf is a collection whose watch tells nothing after its first round until it is told to.
type deaf struct {
	fabric.Documents
	hear chan struct{}
}

func (d deaf) Watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	loaded := false
	return d.Documents.Watch(ctx, func(change fabric.Change) {
		if loaded {
			<-d.hear
		}
		changed(change)
	}, func() { loaded = true; ready() })
}

// TestWritesShowAtOnce has the watch be late: what this registry wrote itself shows at once, and
// nothing comes back or is reported again when the watch tells of it.
func TestWritesShowAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := deaf{collection(t, memory.New()), make(chan struct{})}
		r := started(t, late)
		var reports []string
		r.OnChange(func(old, new *App) {
			switch {
			case old == nil:
				reports = append(reports, "create "+new.ID)
			case new == nil:
				reports = append(reports, "delete "+old.ID)
			default:
				reports = append(reports, "update "+new.ID+" "+new.Name)
			}
		})
		begin := time.Now()
		_, err1 := r.Create(t.Context(), valid("stays"))
		_, err2 := r.Create(t.Context(), valid("goes"))
		_, err3 := r.Update(t.Context(), "stays", func(app *App) error { app.Name = "new"; return nil })
		err4 := r.Delete(t.Context(), "goes")
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 0 {
			t.Errorf("the writes took %v", took)
		}
		if got := ids(r.All()); got != "stays" {
			t.Errorf("All has %q", got)
		}
		if _, err := r.Create(t.Context(), valid("again")); err != nil {
			t.Fatal(err)
		}
		close(late.hear)
		synctest.Wait()
		if got := ids(r.All()); got != "again stays" {
			t.Errorf("then All has %q", got)
		}
		want := []string{"create stays", "create goes", "update stays new", "delete goes", "create again"}
		if !slices.Equal(reports, want) {
			t.Errorf("reported %q, want %q", reports, want)
		}
		if kept := len(r.store.(*documents).known); kept != 2 {
			t.Errorf("%d records are kept", kept)
		}
	})
}

// hasty is a collection where each document that was put is deleted before Put returns, when
// the watch has told of both.
type hasty struct {
	fabric.Documents
}

func (h hasty) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	revision, err := h.Documents.Put(ctx, key, value, revision)
	if err == nil {
		err = h.Documents.Delete(ctx, key, revision)
	}
	synctest.Wait()
	return revision, err
}

// TestDeletedMeanwhile has another delete an app before its creator has shown it.
func TestDeletedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := started(t, hasty{Documents: collection(t, memory.New())})
		if _, err := r.Create(t.Context(), valid("1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := ids(r.All()); got != "" {
			t.Errorf("All has %q", got)
		}
	})
}
