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
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Collection is the name of the collection of documents that holds stored apps, one JSON
// document each, with the app's id as its key.
const Collection = "apps"

const (
	// writeTries is how often a write meets a conflict before it gives up.
	writeTries = 10
	// writePause is the pause after the first conflict; it grows by as much each time.
	writePause = 10 * time.Millisecond
	// visibleTimeout is the longest wait for the own watch to show what was written.
	visibleTimeout = 5 * time.Second
)

// Pauses before a watch that broke is tried again.
const (
	rewatchMin = 100 * time.Millisecond
	rewatchMax = 5 * time.Second
)

var errNotLoaded = errors.New("apps are not loaded yet")

// documents is a Store over a collection of documents. It has all of them in memory, by a
// watch.
type documents struct {
	collection fabric.Documents
	log        *slog.Logger
	view       *view

	mu      sync.Mutex // guards the following fields
	known   map[string]record
	changed chan struct{} // closed and replaced after each change of known
	loaded  bool
	current bool // the watch tells of every change: false while the apps are loaded again
	// deletions are those that the watch told of while a write of this store runs, with their
	// revisions: what was written may be gone again before its writer shows it.
	deletions map[string]uint64
}

// record is a stored app at its revision. The app is nil if the document is unreadable, or if
// this store deleted it and the watch has not told of that yet.
type record struct {
	app      *App
	revision uint64
}

// NewDocuments returns the Store over a collection of documents.
func NewDocuments(collection fabric.Documents, log *slog.Logger) Store {
	return &documents{
		collection: collection, log: log, known: map[string]record{}, changed: make(chan struct{}),
	}
}

func (d *documents) attach(v *view) { d.view = v }

// find finds nothing: what there is, the view shows.
func (d *documents) find(context.Context, lookup) (*App, error) { return nil, ErrNotFound }

func (d *documents) want(string) {}

func (d *documents) list(_ context.Context, after string, limit int) ([]*App, error) {
	var list []*App
	for _, app := range d.view.all()[len(d.view.static.all):] {
		if app.ID > after && len(list) < limit {
			list = append(list, app)
		}
	}
	return list, nil
}

// follow watches again whenever the watch breaks with an error.
func (d *documents) follow(ctx context.Context, ready func()) error {
	began := false
	pause := rewatchMin
	for {
		err := d.watch(ctx, func() {
			began, pause = true, rewatchMin
			ready()
		})
		if !began || err == nil || ctx.Err() != nil || errors.Is(err, fabric.ErrClosed) {
			return err
		}
		d.log.Warn("apps cannot be followed, trying again", "error", err, "pause", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, rewatchMax)
	}
}

// watch replaces the stored apps by those of the collection, calls ready, and applies changes
// until ctx ends.
func (d *documents) watch(ctx context.Context, ready func()) error {
	loading := map[string]record{}
	defer d.outdated()
	return d.collection.Watch(ctx, func(change fabric.Change) {
		switch {
		case loading == nil:
			d.apply(change)
		case change.Deleted:
			delete(loading, change.Key)
		default:
			loading[change.Key] = d.read(change.Document)
		}
	}, func() {
		d.replace(loading)
		loading = nil
		ready()
	})
}

// apply takes over one change of the collection, unless it or a later one is known.
func (d *documents) apply(change fabric.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if change.Revision <= d.known[change.Key].revision {
		return
	}
	if change.Deleted {
		delete(d.known, change.Key)
		if d.deletions != nil {
			d.deletions[change.Key] = change.Revision
		}
	} else {
		d.known[change.Key] = d.read(change.Document)
	}
	d.show(change.Key)
}

// replace takes over the whole content of the collection.
func (d *documents) replace(next map[string]record) {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.known
	for id, now := range next {
		if before, ok := last[id]; ok && before.revision == now.revision {
			next[id] = before // not a change
		}
	}
	d.known, d.loaded, d.current = next, true, true
	changed := maps.Clone(last)
	maps.Copy(changed, next)
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		d.view.set(id, d.known[id].app)
	}
	d.wake()
}

// outdated notes that the watch has ended.
func (d *documents) outdated() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = false
}

// wrote shows a write of this store at once: the watch may be late, since it has to notice
// first when the server that told it is gone. It returns false when that must be left to the
// watch, whose first round would not know of it.
func (d *documents) wrote(id string, now record) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	last := d.known[id]
	later := now.revision > last.revision || now.app == nil && now.revision == last.revision
	if d.current && later && now.revision > d.deletions[id] {
		d.known[id] = now
		d.show(id)
	}
	return d.current
}

// show makes the view show what is known of an id, and wakes the writers that wait for it. The
// caller holds d.mu.
func (d *documents) show(id string) {
	d.view.set(id, d.known[id].app)
	d.wake()
}

func (d *documents) wake() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// read decodes a document. Fields that it does not know are those of a newer Parley and are
// passed over.
func (d *documents) read(document fabric.Document) record {
	app, err := decode(document)
	if err != nil {
		d.log.Error("stored app is unreadable and not served", "app_id", document.Key, "error", err)
		return record{revision: document.Revision}
	}
	if d.view.hides(app.ID) {
		d.log.Warn("stored app is hidden by the static one with its id", "app_id", app.ID)
	}
	d.view.compile(app)
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

// create stores an app that must not exist yet. When another node was faster, the view shows
// its app when this returns.
func (d *documents) create(ctx context.Context, app App) (*App, error) {
	end, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if _, ok := d.view.get(app.ID); ok {
		return nil, fmt.Errorf("id %q: %w", app.ID, ErrExists)
	}
	if err := d.keyIsFree(&app); err != nil {
		return nil, err
	}
	stored, err := d.put(ctx, app, 0)
	if errors.Is(err, fabric.ErrConflict) {
		d.awaitVisible(ctx, app.ID, func(now record) bool { return now.revision != 0 })
		return nil, fmt.Errorf("id %q: %w", app.ID, ErrExists)
	}
	return stored, err
}

func (d *documents) update(ctx context.Context, id string, change func(*App) error) (*App, error) {
	var updated *App
	err := d.write(ctx, id, func(document fabric.Document) error {
		app, err := decode(document)
		if err != nil {
			return err
		}
		if err := change(app); err != nil {
			return err
		}
		if err := d.keyIsFree(app); err != nil {
			return err
		}
		updated, err = d.put(ctx, *app, document.Revision)
		return err
	})
	return updated, err
}

func (d *documents) remove(ctx context.Context, id string) error {
	return d.write(ctx, id, func(document fabric.Document) error {
		err := d.collection.Delete(ctx, id, document.Revision)
		if err == nil && !d.wrote(id, record{revision: document.Revision}) {
			d.awaitVisible(ctx, id, func(now record) bool { return now.revision != document.Revision })
		}
		return err
	})
}

// write calls step with the current document of a stored app, again for as long as that
// ends with a conflict.
func (d *documents) write(ctx context.Context, id string, step func(fabric.Document) error) error {
	end, err := d.begin()
	if err != nil {
		return err
	}
	defer end()
	for try := range writeTries {
		document, err := d.collection.Get(ctx, id)
		if err == nil {
			err = step(document)
		}
		switch {
		case errors.Is(err, fabric.ErrNotFound):
			return ErrNotFound
		case !errors.Is(err, fabric.ErrConflict):
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(try+1) * writePause):
		}
	}
	return ErrConflict
}

// begin notes that a write runs, until end is called.
func (d *documents) begin() (end func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.loaded {
		return nil, errNotLoaded
	}
	d.deletions = map[string]uint64{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.deletions = nil
	}, nil
}

// put stores app over the given revision, and returns when it is visible.
func (d *documents) put(ctx context.Context, app App, revision uint64) (*App, error) {
	value, err := json.Marshal(app)
	if err != nil {
		return nil, fmt.Errorf("encode app %s: %w", app.ID, err)
	}
	if err := fabric.CheckValue(value); err != nil {
		return nil, fmt.Errorf("%w: all fields together: %w", ErrInvalid, err)
	}
	revision, err = d.collection.Put(ctx, app.ID, value, revision)
	if err != nil {
		return nil, err
	}
	stored := d.read(fabric.Document{Key: app.ID, Value: value, Revision: revision})
	if !d.wrote(app.ID, stored) {
		d.awaitVisible(ctx, app.ID, func(now record) bool { return now.revision >= revision })
	}
	return stored.app, nil
}

// awaitVisible waits until seen is true for the record with that id, which is zero if there
// is none. The write is done already, so that a wait that ends early is no failure of it.
func (d *documents) awaitVisible(ctx context.Context, id string, seen func(record) bool) {
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	for {
		d.mu.Lock()
		now, changed := d.known[id], d.changed
		d.mu.Unlock()
		if seen(now) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			d.log.Warn("app is stored, but this node does not see it yet", "app_id", id)
			return
		}
	}
}

// keyIsFree returns an error that wraps ErrExists if another app has the app's key.
func (d *documents) keyIsFree(app *App) error {
	if other, ok := d.view.getByKey(app.Key); ok && other.ID != app.ID {
		return fmt.Errorf("key %q: %w", app.Key, ErrExists)
	}
	return nil
}
