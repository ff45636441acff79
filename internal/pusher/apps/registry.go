package apps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Collection is the name of the collection of documents that holds stored apps, one JSON
// document each, with the app's id as its key.
const Collection = "apps"

// Sentinel errors of the registry. Callers match them with errors.Is.
var (
	// ErrNotFound says that there is no app with that id.
	ErrNotFound = errors.New("app not found")
	// ErrExists says that another app has that id or key.
	ErrExists = errors.New("taken by another app")
	// ErrStatic says that the app is one of the configuration file, which no call changes.
	ErrStatic = errors.New("app is defined in the configuration file")
	// ErrInvalid says that a field of the app has a value that it cannot have; the text
	// names every such field.
	ErrInvalid = errors.New("invalid app")
	// ErrConflict says that others changed the app again and again at the same time.
	ErrConflict = errors.New("app was changed by others at the same time")
)

// Registry knows all apps: those of the configuration file and those of the store, of which
// it follows every change, whoever made it. A static app hides a stored one with the same
// id. If two stored apps have the same key, which needs two nodes that store them at the
// same moment, the key belongs to the one with the smaller id, on every node.
//
// All methods may be called concurrently. Reads take no lock.
type Registry struct {
	documents fabric.Documents
	log       *slog.Logger
	static    []*App
	snapshot  atomic.Pointer[snapshot]
	following sync.WaitGroup
	writing   chan struct{} // of size 1: holds a token while a write runs

	mu       sync.Mutex // guards the following fields
	stored   map[string]record
	changed  chan struct{} // closed and replaced after each change of stored
	handlers []func(old, new *App)
	loaded   bool
	current  bool // the watch tells of every change: false while the apps are loaded again
	// deletions are those that the watch told of while a write of this registry runs, with
	// their revisions: what was written may be gone again before its writer shows it.
	deletions map[string]uint64
}

// record is a stored app at its revision. The app is nil if the document is unreadable, or if
// this registry deleted it and the watch has not told of that yet.
type record struct {
	app      *App
	revision uint64
}

// snapshot is an immutable view of all apps.
type snapshot struct {
	all   []*App // static ones as configured, then stored ones by id
	byID  map[string]*App
	byKey map[string]*App
}

// New returns a registry that knows the static apps; the stored ones follow with Start. It
// takes the apps over and marks them static.
func New(static []*App, documents fabric.Documents, log *slog.Logger) *Registry {
	r := &Registry{
		documents: documents,
		log:       log,
		static:    static,
		writing:   make(chan struct{}, 1),
		stored:    map[string]record{},
		changed:   make(chan struct{}),
	}
	for _, app := range static {
		app.Static = true
		r.compile(app)
	}
	r.snapshot.Store(r.build())
	return r
}

// ByID returns the app with that id.
func (r *Registry) ByID(id string) (*App, bool) {
	app, ok := r.snapshot.Load().byID[id]
	return app, ok
}

// ByKey returns the app with that key.
func (r *Registry) ByKey(key string) (*App, bool) {
	app, ok := r.snapshot.Load().byKey[key]
	return app, ok
}

// All returns all apps: the static ones in the order of the file, then the stored ones in
// the order of their ids. The slice is shared and must not be changed.
func (r *Registry) All() []*App {
	return r.snapshot.Load().all
}

// OnChange has handler called after each change of an app, with nil for old if it did not
// exist and nil for new if it is gone. Static apps are not reported, and stored ones not
// before Start. Calls come one at a time, in order, and after the reading methods show the
// change; the writing methods return after the calls. A handler must return quickly and must
// call neither OnChange nor a writing method.
func (r *Registry) OnChange(handler func(old, new *App)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handlers = append(r.handlers, handler)
}

// Start loads the stored apps and returns when the reading methods show them all. It then
// follows their changes until ctx ends or the driver is closed; Wait waits for that. It
// fails if the apps cannot be loaded or ctx ends before they are. It must be called once.
func (r *Registry) Start(ctx context.Context) error {
	ready := make(chan struct{})
	failed := make(chan error, 1)
	r.following.Go(func() {
		var once sync.Once
		err := r.watch(ctx, func() { once.Do(func() { close(ready) }) })
		select {
		case <-ready:
			r.follow(ctx, err)
		default:
			failed <- errors.Join(err, ctx.Err())
		}
	})
	select {
	case <-ready:
		return nil
	case err := <-failed:
		return fmt.Errorf("load apps: %w", err)
	}
}

// Wait returns when what Start has started has ended.
func (r *Registry) Wait() {
	r.following.Wait()
}

// Pauses before a watch that broke is tried again.
const (
	rewatchMin = 100 * time.Millisecond
	rewatchMax = 5 * time.Second
)

// follow watches again whenever the watch breaks with an error.
func (r *Registry) follow(ctx context.Context, err error) {
	pause := rewatchMin
	for err != nil && ctx.Err() == nil && !errors.Is(err, fabric.ErrClosed) {
		r.log.Warn("apps cannot be followed, trying again", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, rewatchMax)
		err = r.watch(ctx, func() { pause = rewatchMin })
	}
}

// watch replaces the stored apps by those of the store, calls ready, and applies changes
// until ctx ends.
func (r *Registry) watch(ctx context.Context, ready func()) error {
	loading := map[string]record{}
	defer r.outdated()
	return r.documents.Watch(ctx, func(change fabric.Change) {
		switch {
		case loading == nil:
			r.apply(change)
		case change.Deleted:
			delete(loading, change.Key)
		default:
			loading[change.Key] = r.read(change.Document)
		}
	}, func() {
		r.replace(loading)
		loading = nil
		ready()
	})
}

// apply takes over one change of the store, unless it or a later one is known.
func (r *Registry) apply(change fabric.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if change.Revision <= r.stored[change.Key].revision {
		return
	}
	if change.Deleted {
		delete(r.stored, change.Key)
		if r.deletions != nil {
			r.deletions[change.Key] = change.Revision
		}
	} else {
		r.stored[change.Key] = r.read(change.Document)
	}
	r.publish()
}

// replace takes over the whole content of the store.
func (r *Registry) replace(stored map[string]record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, next := range stored {
		if last, ok := r.stored[id]; ok && last.revision == next.revision {
			stored[id] = last // not a change
		}
	}
	r.stored, r.loaded, r.current = stored, true, true
	r.publish()
}

// outdated notes that the watch has ended.
func (r *Registry) outdated() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = false
}

// wrote shows a write of this registry at once: the watch may be late, since it has to notice
// first when the server that told it is gone. It returns false when that must be left to the
// watch, whose first round would not know of it.
func (r *Registry) wrote(id string, now record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.stored[id]
	later := now.revision > last.revision || now.app == nil && now.revision == last.revision
	if r.current && later && now.revision > r.deletions[id] {
		r.stored[id] = now
		r.publish()
	}
	return r.current
}

// publish makes stored visible, reports what is different and wakes the writers that wait
// for it. The caller holds r.mu.
func (r *Registry) publish() {
	last, next := r.snapshot.Load(), r.build()
	r.snapshot.Store(next)
	for _, app := range last.all {
		if now := next.byID[app.ID]; now != app {
			r.report(app, now)
		}
	}
	for _, app := range next.all {
		before := last.byID[app.ID]
		if before == nil {
			r.report(nil, app)
		}
		if before != app && next.byKey[app.Key] != app {
			r.log.Warn("app has the key of another one and is not reached by it", "app_id", app.ID)
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Registry) report(last, next *App) {
	for _, handler := range r.handlers {
		handler(last, next)
	}
}

// build returns the view of the static and the stored apps.
func (r *Registry) build() *snapshot {
	size := len(r.static) + len(r.stored)
	s := &snapshot{
		all:   make([]*App, 0, size),
		byID:  make(map[string]*App, size),
		byKey: make(map[string]*App, size),
	}
	for _, app := range r.static {
		s.add(app)
	}
	for _, id := range slices.Sorted(maps.Keys(r.stored)) {
		if app := r.stored[id].app; app != nil {
			s.add(app)
		}
	}
	return s
}

// add adds an app unless its id is taken, and its key unless that is taken.
func (s *snapshot) add(app *App) {
	if s.byID[app.ID] != nil {
		return
	}
	s.all = append(s.all, app)
	s.byID[app.ID] = app
	if s.byKey[app.Key] == nil {
		s.byKey[app.Key] = app
	}
}

// read decodes a document. Fields that it does not know are those of a newer Parley and are
// passed over.
func (r *Registry) read(document fabric.Document) record {
	app, err := decode(document)
	if err != nil {
		r.log.Error("stored app is unreadable and not served", "app_id", document.Key, "error", err)
		return record{revision: document.Revision}
	}
	if other, ok := r.ByID(app.ID); ok && other.Static {
		r.log.Warn("stored app is hidden by the static one with its id", "app_id", app.ID)
	}
	r.compile(app)
	return record{app, document.Revision}
}

func decode(document fabric.Document) (*App, error) {
	var app App
	if err := json.Unmarshal(document.Value, &app); err != nil {
		return nil, fmt.Errorf("decode app %s: %w", document.Key, err)
	}
	app.ID, app.Static = document.Key, false
	return &app, nil
}

// compile prepares the filters of the app's webhooks. One that fails matches no channel.
func (r *Registry) compile(app *App) {
	for i := range app.Webhooks {
		if err := app.Webhooks[i].Filter.Compile(); err != nil {
			r.log.Error("webhook gets no events", "app_id", app.ID, "webhook", i, "error", err)
		}
	}
}
