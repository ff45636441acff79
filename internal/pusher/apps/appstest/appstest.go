// Package appstest is the contract of a registry of apps over a store, as a suite that every
// store passes.
//
// It may import apps and the standard library, and nothing else.
package appstest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// Open starts so many registries over one new store, as nodes of a cluster do, and ends them with
// the test.
type Open func(t *testing.T, nodes int, static ...*apps.App) []*apps.Registry

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, Open){
		"Whole":      testWhole,
		"Refusals":   testRefusals,
		"Changes":    testChanges,
		"OtherNode":  testOtherNode,
		"Concurrent": testConcurrent,
		"List":       testList,
		"Texts":      testTexts,
		"Static":     testStatic,
	} {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

// App returns an app that sets everything that an app can set.
func App(id string) apps.App {
	return apps.App{
		ID: id, Name: "App " + id, Key: "key-" + id, Secret: "secret-" + id, Enabled: true,
		EnableClientMessages: true, EnableUserAuthentication: true,
		EnableWatchlistEvents: true, EnableSubscriptionCount: true,
		Limits: apps.Limits{
			MaxConnections: 1, MaxClientEventsPerSecond: 2, MaxBackendEventsPerSecond: 3, MaxReadRequestsPerSecond: 4,
			MaxPresenceMembers: 5, MaxPresenceMemberSize: 6 << 10, MaxChannelNameLength: 7, MaxEventChannels: 8,
			MaxEventNameLength: 9, MaxEventPayload: 10 << 10, MaxEventBatch: 11,
		},
		AllowedOrigins: []string{"*.example.com", "https://a.example:8443"},
		Webhooks: []apps.Webhook{
			{URL: "https://a.example/hook?token=x"},
			{
				URL: "http://b.example", EventTypes: []string{"cache_miss", "member_added"},
				Filter:  apps.Filter{ChannelPrefix: "presence-", ChannelSuffix: "-x", ChannelRegexp: `^\w+-\d{2,3}$`},
				Headers: map[string]string{"X-A": "b \"c\" é"},
			},
		},
	}
}

// Same fails the test if two apps differ, but for their compiled filters.
func Same(t *testing.T, what string, got *apps.App, want apps.App) {
	t.Helper()
	plain := func(app apps.App) apps.App {
		app.Webhooks = slices.Clone(app.Webhooks)
		for i, hook := range app.Webhooks {
			app.Webhooks[i].Filter = apps.Filter{ChannelPrefix: hook.Filter.ChannelPrefix,
				ChannelSuffix: hook.Filter.ChannelSuffix, ChannelRegexp: hook.Filter.ChannelRegexp}
		}
		return app
	}
	if got == nil || !reflect.DeepEqual(plain(*got), plain(want)) {
		t.Errorf("%s is\n%+v, want\n%+v", what, got, want)
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error is %v, want %v", what, got, want)
	}
}

// patience bounds every wait for what must happen.
const patience = 20 * time.Second

// eventually waits until something is so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func testWhole(t *testing.T, open Open) {
	ctx := t.Context()
	r := open(t, 2)
	full, bare := App("1"), apps.App{ID: "2", Key: "key-2", Secret: "s"}
	for _, app := range []apps.App{full, bare} {
		created, err := r[0].Create(ctx, app)
		must(t, "create", err)
		Same(t, "what Create returns", created, app)
		for _, node := range r {
			eventually(t, "every node finds it", func() bool { _, err := node.FindByKey(ctx, app.Key); return err == nil })
			found, err := node.FindByKey(ctx, app.Key)
			must(t, "find by key", err)
			Same(t, "by its key the app", found, app)
			found, err = node.FindByID(ctx, app.ID)
			must(t, "find by id", err)
			Same(t, "by its id the app", found, app)
			for _, hook := range found.Webhooks[min(1, len(found.Webhooks)):] {
				if !hook.Filter.Match("presence-12-x") && hook.Filter.ChannelRegexp == "" {
					t.Error("a filter is not compiled")
				}
			}
		}
	}
	random, err := r[0].Create(ctx, apps.App{})
	must(t, "create with nothing", err)
	if random.ID == "" || random.Key == "" || random.Secret == "" || random.Enabled {
		t.Errorf("the app is %+v", random)
	}
	// Everything can be changed, and taken back.
	other := App("1")
	other.Name, other.Key, other.Secret, other.Enabled = "other", "other-key", "other-secret", false
	other.EnableClientMessages, other.EnableUserAuthentication = false, false
	other.EnableWatchlistEvents, other.EnableSubscriptionCount = false, false
	other.Limits, other.AllowedOrigins, other.Webhooks = apps.Limits{}, nil, nil
	for _, app := range []apps.App{other, full} {
		updated, err := r[0].Update(ctx, "1", func(a *apps.App) error { *a = app; return nil })
		must(t, "update", err)
		Same(t, "what Update returns", updated, app)
		Same(t, "the updated app", find(t, r[0], "1"), app)
	}
}

func find(t *testing.T, r *apps.Registry, id string) *apps.App {
	t.Helper()
	app, err := r.FindByID(t.Context(), id)
	must(t, "find "+id, err)
	return app
}

func testRefusals(t *testing.T, open Open) {
	ctx := t.Context()
	r := open(t, 1)[0]
	for _, id := range []string{"1", "2"} {
		_, err := r.Create(ctx, App(id))
		must(t, "create", err)
	}
	with := func(id, key string) apps.App { return apps.App{ID: id, Key: key, Secret: "s"} }
	for what, app := range map[string]apps.App{"the id": with("1", "new"), "the key": with("3", "key-1")} {
		_, err := r.Create(ctx, app)
		wantError(t, "create with "+what+" of another", err, apps.ErrExists)
	}
	_, err := r.Create(ctx, with("a b", "new"))
	wantError(t, "create an invalid app", err, apps.ErrInvalid)
	own := errors.New("own")
	for what, test := range map[string]struct {
		id     string
		change func(*apps.App) error
		want   error
	}{
		"unknown":        {"3", func(*apps.App) error { return nil }, apps.ErrNotFound},
		"new id":         {"1", func(a *apps.App) error { a.ID = "3"; return nil }, apps.ErrInvalid},
		"invalid":        {"1", func(a *apps.App) error { a.Secret = ""; return nil }, apps.ErrInvalid},
		"key of another": {"1", func(a *apps.App) error { a.Key = "key-2"; return nil }, apps.ErrExists},
		"error":          {"1", func(a *apps.App) error { a.Name = "x"; return own }, own},
	} {
		_, err := r.Update(ctx, test.id, test.change)
		wantError(t, "update, "+what, err, test.want)
	}
	wantError(t, "delete unknown", r.Delete(ctx, "3"), apps.ErrNotFound)
	Same(t, "after refusals the app", find(t, r, "1"), App("1"))
	for _, id := range []string{"3", "", "a b", "none"} {
		_, err := r.FindByID(ctx, id)
		wantError(t, "find unknown id", err, apps.ErrNotFound)
		_, err = r.FindByKey(ctx, id)
		wantError(t, "find unknown key", err, apps.ErrNotFound)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if err := r.Delete(ended, "1"); err == nil {
		t.Error("delete with an ended context")
	}
}

func testChanges(t *testing.T, open Open) {
	ctx := t.Context()
	r := open(t, 1)[0]
	var mu sync.Mutex
	var reports []string
	r.OnChange(func(old, new *apps.App) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case old == nil:
			reports = append(reports, "+"+new.Name)
		case new == nil:
			reports = append(reports, "-"+old.Name)
		default:
			reports = append(reports, old.Name+">"+new.Name)
		}
	})
	app := App("1")
	app.Name = "a"
	_, err := r.Create(ctx, app)
	must(t, "create", err)
	_, err = r.Update(ctx, "1", func(a *apps.App) error { a.Name = "b"; return nil })
	must(t, "update", err)
	_, err = r.Update(ctx, "1", func(*apps.App) error { return nil })
	must(t, "update nothing", err)
	rotated, err := r.Rotate(ctx, "1", true)
	must(t, "rotate", err)
	if rotated.Key == "key-1" || rotated.Secret == "secret-1" {
		t.Errorf("rotated it is %+v", rotated)
	}
	if _, err := r.FindByKey(ctx, "key-1"); !errors.Is(err, apps.ErrNotFound) {
		t.Errorf("the old key: %v", err)
	}
	must(t, "delete", r.Delete(ctx, "1"))
	wantError(t, "delete again", r.Delete(ctx, "1"), apps.ErrNotFound)
	if _, err := r.FindByKey(ctx, rotated.Key); !errors.Is(err, apps.ErrNotFound) {
		t.Errorf("the deleted app: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	// An update of nothing may be told, as it may be a write.
	got := strings.ReplaceAll(strings.Join(reports, " "), "b>b b>b", "b>b")
	if want := "+a a>b b>b -b"; got != want {
		t.Errorf("reported %q, want %q", got, want)
	}
}

// testOtherNode has one node change and another one see it at once.
func testOtherNode(t *testing.T, open Open) {
	ctx := t.Context()
	r := open(t, 2)
	gone := make(chan struct{})
	r[1].OnChange(func(old, new *apps.App) {
		if new == nil && old.ID == "1" {
			close(gone)
		}
	})
	_, err := r[0].Create(ctx, App("1"))
	must(t, "create", err)
	eventually(t, "the other node finds it", func() bool { _, err := r[1].FindByKey(ctx, "key-1"); return err == nil })
	begin := time.Now()
	_, err = r[0].Update(ctx, "1", func(a *apps.App) error { a.Key, a.Enabled = "new-key", false; return nil })
	must(t, "update", err)
	eventually(t, "the other node sees the change", func() bool {
		app, ok := r[1].ByID("1")
		return ok && !app.Enabled
	})
	if _, err := r[1].FindByKey(ctx, "key-1"); !errors.Is(err, apps.ErrNotFound) {
		t.Errorf("the old key on the other node: %v", err)
	}
	must(t, "delete", r[0].Delete(ctx, "1"))
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the other node is not told of the end")
	}
	if _, ok := r[1].ByID("1"); ok {
		t.Error("the other node still has it")
	}
	t.Logf("the other node saw both after %v", time.Since(begin).Round(time.Millisecond))
}

// testConcurrent has two nodes change one app at the same time: no change is lost.
func testConcurrent(t *testing.T, open Open) {
	ctx := t.Context()
	r := open(t, 2)
	_, err := r[0].Create(ctx, apps.App{ID: "1", Key: "k", Secret: "s"})
	must(t, "create", err)
	const each = 10
	var group sync.WaitGroup
	for _, node := range r {
		group.Go(func() {
			for range each {
				for {
					_, err := node.Update(ctx, "1", func(a *apps.App) error { a.Limits.MaxConnections++; return nil })
					if err == nil {
						break
					}
					if !errors.Is(err, apps.ErrConflict) {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	for _, node := range r {
		eventually(t, "every node sees all of them", func() bool {
			app, err := node.FindByID(ctx, "1")
			return err == nil && app.Limits.MaxConnections == len(r)*each
		})
	}
}

func testList(t *testing.T, open Open) {
	ctx := t.Context()
	static := App("b1")
	r := open(t, 2, &static)
	var want []string
	for _, id := range []string{"c", "a-1", "Z", "9", "a_1", "10"} {
		_, err := r[0].Create(ctx, apps.App{ID: id, Key: "key-" + id, Secret: "s"})
		must(t, "create", err)
		want = append(want, id)
	}
	want = append(want, "b1")
	slices.Sort(want)
	eventually(t, "the other node lists all", func() bool {
		list, err := r[1].List(ctx, "", 100)
		return err == nil && len(list) == len(want)
	})
	for _, limit := range []int{1, 2, 3, 100} {
		var got []string
		for after := ""; ; {
			list, err := r[1].List(ctx, after, limit)
			must(t, "list", err)
			for _, app := range list {
				got = append(got, app.ID)
			}
			if len(list) < limit {
				break
			}
			after = list[limit-1].ID
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d the list is %q, want %q", limit, got, want)
		}
	}
}

// testTexts keeps texts that mean something to databases.
func testTexts(t *testing.T, open Open) {
	ctx := t.Context()
	r := open(t, 2)
	for i, text := range []string{
		`'; DROP TABLE applications; --`, `"quoted" \ 'single' %s $1 ? ;`, "tab\tline\nend\r", "Ünïcødé 漢字 🚀",
		`{"json": [1, "two"]}`, strings.Repeat("é", 100), "null", "NULL", " spaces ",
	} {
		app := apps.App{ID: fmt.Sprint(i), Key: fmt.Sprint("key-", i), Name: text, Secret: text}
		_, err := r[0].Create(ctx, app)
		must(t, "create", err)
		eventually(t, "the other node finds it", func() bool { _, err := r[1].FindByID(ctx, app.ID); return err == nil })
		Same(t, fmt.Sprintf("with %q it", text), find(t, r[1], app.ID), app)
	}
	_, err := r[0].Create(ctx, apps.App{ID: "Case", Key: "Case-Key", Secret: "s"})
	must(t, "create", err)
	for _, name := range []string{"case", "CASE", "case-key"} {
		if app, err := r[1].FindByID(ctx, name); !errors.Is(err, apps.ErrNotFound) {
			t.Errorf("with the id %s: %+v, %v", name, app, err)
		}
		if app, err := r[1].FindByKey(ctx, name); !errors.Is(err, apps.ErrNotFound) {
			t.Errorf("with the key %s: %+v, %v", name, app, err)
		}
		wantError(t, "delete "+name, r[0].Delete(ctx, name), apps.ErrNotFound)
	}
}

// testStatic has an app of the file beside stored ones.
func testStatic(t *testing.T, open Open) {
	ctx := t.Context()
	static := App("fixed")
	r := open(t, 1, &static)[0]
	for _, app := range []apps.App{{ID: "fixed", Key: "new", Secret: "s"}, {ID: "new", Key: "key-fixed", Secret: "s"}} {
		_, err := r.Create(ctx, app)
		wantError(t, "create what the file has", err, apps.ErrExists)
	}
	_, err := r.Create(ctx, App("1"))
	must(t, "create", err)
	_, err = r.Update(ctx, "1", func(a *apps.App) error { a.Key = "key-fixed"; return nil })
	wantError(t, "take the key of one of the file", err, apps.ErrExists)
	_, err = r.Update(ctx, "fixed", func(*apps.App) error { return nil })
	wantError(t, "update one of the file", err, apps.ErrStatic)
	wantError(t, "delete one of the file", r.Delete(ctx, "fixed"), apps.ErrStatic)
	if app, err := r.FindByKey(ctx, "key-fixed"); err != nil || app != &static {
		t.Errorf("the app of the file is %+v, %v", app, err)
	}
}
