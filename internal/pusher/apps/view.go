package apps

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
)

// view is what a registry has in memory: the static apps, which never change and hide stored
// ones, and those of the store. Reads take no lock.
type view struct {
	log    *slog.Logger
	static index
	byID   sync.Map     // id to *entry, of stored apps
	byKey  sync.Map     // key to *App, of stored apps
	clock  atomic.Int64 // ticks with each app that is added

	mu       sync.Mutex          // guards the following fields, and is held while handlers run
	owners   map[string][]string // key to the ids of the stored apps that have it, in order
	handlers []func(old, new *App)
}

// index is an immutable set of apps.
type index struct {
	all         []*App
	byID, byKey map[string]*App
}

// entry is one stored app.
type entry struct {
	app  *App
	used atomic.Int64 // what the view's clock showed when somebody read it last
}

func newView(static []*App, log *slog.Logger) *view {
	v := &view{
		log:    log,
		static: index{all: static, byID: map[string]*App{}, byKey: map[string]*App{}},
		owners: map[string][]string{},
	}
	for _, app := range static {
		app.Static = true
		v.compile(app)
		v.static.byID[app.ID], v.static.byKey[app.Key] = app, app
	}
	return v
}

// compile prepares the filters of the app's webhooks. One that fails matches no channel.
func (v *view) compile(app *App) {
	for i := range app.Webhooks {
		if err := app.Webhooks[i].Filter.Compile(); err != nil {
			v.log.Error("webhook gets no events", "app_id", app.ID, "webhook", i, "error", err)
		}
	}
}

// get returns the app with that id.
func (v *view) get(id string) (*App, bool) {
	if app, ok := v.static.byID[id]; ok {
		return app, true
	}
	return v.stored(id)
}

// stored returns the app of the store with that id.
func (v *view) stored(id string) (*App, bool) {
	found, ok := v.byID.Load(id)
	if !ok {
		return nil, false
	}
	e := found.(*entry)
	if now := v.clock.Load(); e.used.Load() != now { // so that reading does not always write
		e.used.Store(now)
	}
	return e.app, true
}

// peek is stored for whoever has no use for the app.
func (v *view) peek(id string) (*App, bool) {
	found, ok := v.byID.Load(id)
	if !ok {
		return nil, false
	}
	return found.(*entry).app, true
}

// getByKey returns the app with that key.
func (v *view) getByKey(key string) (*App, bool) {
	if app, ok := v.static.byKey[key]; ok {
		return app, true
	}
	found, ok := v.byKey.Load(key)
	if !ok {
		return nil, false
	}
	app := found.(*App)
	v.stored(app.ID) // it is in use
	return app, true
}

// hides tells whether there is a static app with that id.
func (v *view) hides(id string) bool { return v.static.byID[id] != nil }

// all returns the static apps as configured, then the stored ones by id.
func (v *view) all() []*App {
	var stored []*App
	v.byID.Range(func(_, e any) bool {
		stored = append(stored, e.(*entry).app)
		return true
	})
	sortByID(stored)
	return append(slices.Clone(v.static.all), stored...)
}

func (v *view) onChange(handler func(old, new *App)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.handlers = append(v.handlers, handler)
}

// set makes app the stored one with the id, nil for none, and reports what is different.
func (v *view) set(id string, app *App) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.replace(id, app, true)
}

// gone removes a stored app, and reports that even if the view did not show one.
func (v *view) gone(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.replace(id, nil, true) && !v.hides(id) {
		v.report(&App{ID: id}, nil)
	}
}

// forget removes a stored app without a word: it is there, but no longer in memory.
func (v *view) forget(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.replace(id, nil, false)
}

// replace does what set says, and tells whether anything is different. The caller holds v.mu.
func (v *view) replace(id string, app *App, report bool) bool {
	if v.hides(id) {
		return false
	}
	last, _ := v.peek(id)
	if last == app {
		return false
	}
	if app == nil {
		v.byID.Delete(id)
	} else {
		e := &entry{app: app}
		e.used.Store(v.clock.Add(1))
		v.byID.Store(id, e)
	}
	v.own(id, last, app)
	if report {
		v.report(last, app)
	}
	return true
}

// own gives keys to those who have them: of several to the one with the smallest id. The
// caller holds v.mu.
func (v *view) own(id string, last, app *App) {
	if last != nil && (app == nil || app.Key != last.Key) {
		ids := v.owners[last.Key]
		if at, ok := slices.BinarySearch(ids, id); ok {
			v.owners[last.Key] = slices.Delete(ids, at, at+1)
		}
		v.show(last.Key)
	}
	if app == nil {
		return
	}
	ids := v.owners[app.Key]
	if at, ok := slices.BinarySearch(ids, id); !ok {
		v.owners[app.Key] = slices.Insert(ids, at, id)
	}
	v.show(app.Key)
	if owner, _ := v.getByKey(app.Key); owner != app {
		v.log.Warn("app has the key of another one and is not reached by it", "app_id", id)
	}
}

// show makes a key lead to its owner. The caller holds v.mu.
func (v *view) show(key string) {
	ids := v.owners[key]
	if len(ids) == 0 {
		delete(v.owners, key)
		v.byKey.Delete(key)
		return
	}
	owner, _ := v.peek(ids[0])
	v.byKey.Store(key, owner)
}

// report calls the handlers. The caller holds v.mu.
func (v *view) report(last, next *App) {
	for _, handler := range v.handlers {
		handler(last, next)
	}
}

// evict forgets so many stored apps, or fewer if the others are in use: first those that nobody
// has read for the longest time.
func (v *view) evict(count int, inUse func(id string) bool) (evicted []string) {
	type candidate struct {
		id   string
		used int64
	}
	var all []candidate
	v.byID.Range(func(id, e any) bool {
		all = append(all, candidate{id.(string), e.(*entry).used.Load()})
		return true
	})
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	for _, c := range all {
		if len(evicted) == count {
			break
		}
		if !inUse(c.id) {
			v.forget(c.id)
			evicted = append(evicted, c.id)
		}
	}
	return evicted
}

func sortByID(apps []*App) {
	slices.SortFunc(apps, func(a, b *App) int { return cmp.Compare(a.ID, b.ID) })
}
