package apps

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

// collection opens the apps of a provider.
func collection(t *testing.T, provider fabric.Provider) fabric.Documents {
	t.Helper()
	documents, err := provider.Documents(t.Context(), Collection)
	if err != nil {
		t.Fatal(err)
	}
	return documents
}

// over returns a registry over the documents.
func over(documents fabric.Documents, log *slog.Logger, static ...*App) *Registry {
	return New(static, NewDocuments(documents, log), log)
}

// started returns a registry that follows the documents until the test ends.
func started(t *testing.T, documents fabric.Documents, static ...*App) *Registry {
	t.Helper()
	r := over(documents, slog.New(slog.DiscardHandler), static...)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); r.Wait() })
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

func valid(id string) App {
	return App{ID: id, Key: "key-" + id, Secret: "secret-" + id, Enabled: true}
}

func ids(all []*App) string {
	var list []string
	for _, app := range all {
		list = append(list, app.ID)
	}
	return strings.Join(list, " ")
}

func TestRegistryReads(t *testing.T) {
	documents := collection(t, memory.New())
	for _, id := range []string{"b", "a", "fixed"} {
		text := []byte(`{"id":"other","key":"key-` + id + `","secret":"s","enabled":true,"static":true,"later":1}`)
		if _, err := documents.Put(t.Context(), id, text, 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := documents.Put(t.Context(), "broken", []byte("{"), 0); err != nil {
		t.Fatal(err)
	}
	z, fixed := valid("z"), valid("fixed")
	fixed.Key = "fixed-key"
	r := started(t, documents, &z, &fixed)
	if got, want := ids(r.All()), "z fixed a b"; got != want {
		t.Errorf("All has %s, want %s", got, want)
	}
	if app, ok := r.ByID("fixed"); !ok || app != &fixed || !app.Static {
		t.Errorf("the static app is not the one of its id: %+v", app)
	}
	if app, ok := r.view.getByKey("key-a"); !ok || app.ID != "a" || app.Static {
		t.Errorf("ByKey found %+v", app)
	}
	for _, key := range []string{"key-fixed", "key-broken", ""} { // of hidden and unreadable ones
		if app, ok := r.view.getByKey(key); ok {
			t.Errorf("ByKey(%q) found %+v", key, app)
		}
	}
}

func TestRegistrySameKeyBelongsToSmallerID(t *testing.T) {
	documents := collection(t, memory.New())
	for _, id := range []string{"2", "1"} { // as two nodes might at the same moment
		if _, err := documents.Put(t.Context(), id, []byte(`{"key":"same","secret":"s"}`), 0); err != nil {
			t.Fatal(err)
		}
	}
	r := started(t, documents)
	if app, _ := r.view.getByKey("same"); app == nil || app.ID != "1" {
		t.Errorf("the key belongs to %+v", app)
	}
	if err := r.Delete(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	if app, _ := r.view.getByKey("same"); app == nil || app.ID != "2" {
		t.Errorf("the key belongs to %+v", app)
	}
}

func TestRegistryCompilesFilters(t *testing.T) {
	static := valid("static")
	static.Webhooks = []Webhook{{URL: "http://example.com", Filter: Filter{ChannelRegexp: "^a"}}}
	r := started(t, collection(t, memory.New()), &static)
	stored := valid("stored")
	stored.Webhooks = static.Webhooks
	created, err := r.Create(t.Context(), stored)
	if err != nil {
		t.Fatal(err)
	}
	for _, app := range append(slices.Clone(r.All()), created) {
		if filter := app.Webhooks[0].Filter; !filter.Match("ab") || filter.Match("b") {
			t.Errorf("filter of app %s does not work", app.ID)
		}
	}
}

// TestRegistrySeesOthers has one registry write and another one of the same store read.
func TestRegistrySeesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provider := memory.New()
		writer, reader := started(t, collection(t, provider)), started(t, collection(t, provider))
		if _, err := writer.Create(t.Context(), valid("1")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := reader.view.getByKey("key-1"); !ok {
			t.Error("the app is not seen")
		}
		if _, err := writer.Update(t.Context(), "1", func(app *App) error {
			app.Key = "changed"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, ok := reader.view.getByKey("changed"); !ok {
			t.Error("the new key is not seen")
		}
		if _, ok := reader.view.getByKey("key-1"); ok {
			t.Error("the old key is still seen")
		}
		if err := writer.Delete(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := ids(reader.All()); got != "" {
			t.Errorf("All has %s, want nothing", got)
		}
	})
}

func TestRegistryOnChange(t *testing.T) {
	documents := collection(t, memory.New())
	if _, err := documents.Put(t.Context(), "0", []byte(`{"key":"k0","secret":"s"}`), 0); err != nil {
		t.Fatal(err)
	}
	static := valid("static")
	r := over(documents, slog.New(slog.DiscardHandler), &static)
	var log []string
	name := func(app *App) string {
		if app == nil {
			return "-"
		}
		return app.ID + app.Name
	}
	r.OnChange(func(old, new *App) { // writes return after it, so there is no race
		log = append(log, name(old)+">"+name(new))
		if now, ok := r.ByID("1"); ok && new != nil && new.ID == "1" && now != new {
			t.Error("a reading method does not show the reported app")
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	if err := r.Start(ctx); err != nil {
		t.Fatal(err)
	}
	_, err1 := r.Create(ctx, valid("1"))
	_, err2 := r.Update(ctx, "1", func(app *App) error { app.Name = "x"; return nil })
	err3 := r.Delete(ctx, "1")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	stop()
	r.Wait()
	if got, want := strings.Join(log, " "), "->0 ->1 1>1x 1x>-"; got != want {
		t.Errorf("changes are %q, want %q", got, want)
	}
}

func TestRegistryStartFails(t *testing.T) {
	provider := memory.New()
	documents := collection(t, provider)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	r := over(documents, slog.New(slog.DiscardHandler))
	if err := r.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want that of the context", err)
	}
	r.Wait()
	if _, err := r.Create(t.Context(), valid("1")); !errors.Is(err, errNotLoaded) {
		t.Errorf("Create before Start: %v", err)
	}
	if err := provider.Close(); err != nil {
		t.Fatal(err)
	}
	if err := over(documents, slog.New(slog.DiscardHandler)).Start(t.Context()); !errors.Is(err, fabric.ErrClosed) {
		t.Errorf("error is %v, want ErrClosed", err)
	}
}

func TestRegistryEndsWhenDriverIsClosed(t *testing.T) {
	provider := memory.New()
	r := over(collection(t, provider), slog.New(slog.DiscardHandler))
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := provider.Close(); err != nil {
		t.Fatal(err)
	}
	r.Wait() // hangs if it does not
}

// brittle breaks every watch when told to.
type brittle struct {
	fabric.Documents

	mu    sync.Mutex
	crack context.CancelFunc
	down  bool
}

var errBroken = errors.New("connection lost")

func (b *brittle) Watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	bound, cancel := context.WithCancel(ctx)
	defer cancel()
	b.mu.Lock()
	b.crack = cancel
	down := b.down
	b.mu.Unlock()
	if down {
		return errBroken
	}
	if err := b.Documents.Watch(bound, changed, ready); err != nil || ctx.Err() != nil {
		return err
	}
	return errBroken
}

func (b *brittle) set(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	if down {
		b.crack()
	}
}

func TestRegistryWatchesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		documents := collection(t, memory.New())
		weak := &brittle{Documents: documents}
		var text bytes.Buffer
		r := over(weak, slog.New(slog.NewTextHandler(&text, nil)))
		ctx, stop := context.WithCancel(context.Background())
		if err := r.Start(ctx); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"stays", "goes", "changes"} {
			if _, err := r.Create(ctx, valid(id)); err != nil {
				t.Fatal(err)
			}
		}
		stays, _ := r.ByID("stays")
		weak.set(true)
		synctest.Wait()
		other := started(t, documents)
		_, err1 := other.Update(ctx, "changes", func(app *App) error { app.Name = "new"; return nil })
		err2 := other.Delete(ctx, "goes")
		_, err3 := other.Create(ctx, valid("comes"))
		if err := errors.Join(err1, err2, err3); err != nil {
			t.Fatal(err)
		}
		if got, want := ids(r.All()), "changes goes stays"; got != want {
			t.Errorf("cut off, All has %s, want %s", got, want)
		}
		// A write succeeds although its own watch cannot show it.
		if _, err := r.Update(ctx, "changes", func(app *App) error { app.Name += "er"; return nil }); err != nil {
			t.Error(err)
		}
		reported := make(chan struct{})
		r.OnChange(func(old, new *App) {
			if new != nil && new.ID == "comes" {
				close(reported)
			}
		})
		weak.set(false)
		<-reported
		synctest.Wait()
		if got, want := ids(r.All()), "changes comes stays"; got != want {
			t.Errorf("All has %s, want %s", got, want)
		}
		if app, _ := r.ByID("changes"); app == nil || app.Name != "newer" {
			t.Errorf("the changed app is %+v", app)
		}
		if app, _ := r.ByID("stays"); app != stays {
			t.Error("an app that did not change was replaced")
		}
		stop()
		r.Wait()
		if strings.Contains(text.String(), "secret-") {
			t.Error("there is a secret in the log")
		}
	})
}
