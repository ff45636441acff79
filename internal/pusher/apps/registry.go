package apps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// Sentinel errors of the registry. Callers match them with errors.Is.
var (
	// ErrNotFound says that there is no app with that id or key.
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
	// ErrUnavailable says that the store did not answer, so that nobody knows whether there is
	// such an app. A later call may succeed.
	ErrUnavailable = errors.New("the store of apps does not answer")
)

// Registry knows all apps: those of the configuration file and those of a store, of which it
// learns every change, whoever made it. A static app hides a stored one with the same id. If
// two stored apps have the same key, which needs two nodes that store them at the same moment
// or a table that allows it, the key belongs to the one with the smaller id.
//
// All methods may be called concurrently. Those without a context answer from memory, take no
// lock and never wait. With NewDocuments all stored apps are in memory; with NewCached those
// that this node has had a use for.
type Registry struct {
	view      *view
	store     Store
	following sync.WaitGroup
	writing   chan struct{} // of size 1: holds a token while a write runs
}

// New returns a registry that knows the static apps; the stored ones follow with Start. It
// takes the apps over and marks them static.
func New(static []*App, store Store, log *slog.Logger) *Registry {
	r := &Registry{view: newView(static, log), store: store, writing: make(chan struct{}, 1)}
	store.attach(r.view)
	return r
}

// ByID returns the app with that id, if it is in memory. If it is not, but may be in the store,
// it is looked for, and OnChange tells when it is found.
func (r *Registry) ByID(id string) (*App, bool) {
	app, ok := r.view.get(id)
	if !ok {
		r.store.want(id)
	}
	return app, ok
}

// FindByID returns the app with that id, and waits for the store if it is not in memory. The
// error wraps ErrNotFound or, when nobody can tell, ErrUnavailable.
func (r *Registry) FindByID(ctx context.Context, id string) (*App, error) {
	if app, ok := r.view.get(id); ok {
		return app, nil
	}
	return r.find(ctx, id, lookup{id: id})
}

// FindByKey is FindByID for a key.
func (r *Registry) FindByKey(ctx context.Context, key string) (*App, error) {
	if app, ok := r.view.getByKey(key); ok {
		return app, nil
	}
	return r.find(ctx, key, lookup{key: key})
}

func (r *Registry) find(ctx context.Context, name string, by lookup) (*App, error) {
	if checkIdentifier(name) != nil { // no app can have it
		return nil, ErrNotFound
	}
	return r.store.find(ctx, by)
}

// All returns the apps in memory: the static ones in the order of the file, then the stored
// ones in the order of their ids.
func (r *Registry) All() []*App { return r.view.all() }

// List returns apps whose ids come after the given one, "" for the beginning, in the order of
// their ids and at most limit, from the store as well. The error wraps ErrUnavailable if that
// does not answer.
func (r *Registry) List(ctx context.Context, after string, limit int) ([]*App, error) {
	stored, err := r.store.list(ctx, after, limit)
	if err != nil {
		return nil, fmt.Errorf("list apps: %w", err)
	}
	var list []*App
	for _, app := range r.view.static.all {
		if app.ID > after {
			list = append(list, app)
		}
	}
	for _, app := range stored {
		if !r.view.hides(app.ID) {
			list = append(list, app)
		}
	}
	sortByID(list)
	return list[:min(limit, len(list))], nil
}

// OnChange has handler called after each change of an app, with nil for old if it did not
// exist, or was not in memory, and nil for new if it is gone. Static apps are not reported, and
// stored ones not before Start. Calls come one at a time, in order, and after the reading
// methods show the change; the writing methods return after the calls. A handler must return
// quickly and must call neither OnChange nor a method with a context.
func (r *Registry) OnChange(handler func(old, new *App)) { r.view.onChange(handler) }

// Start makes the stored apps known and returns when they are: with NewDocuments when all are
// in memory. It then follows their changes until ctx ends or the driver is closed; Wait waits
// for that. It fails if that cannot begin or ctx ends before. It must be called once.
func (r *Registry) Start(ctx context.Context) error {
	ready := make(chan struct{})
	failed := make(chan error, 1)
	r.following.Go(func() {
		err := r.store.follow(ctx, sync.OnceFunc(func() { close(ready) }))
		failed <- errors.Join(err, ctx.Err())
	})
	select {
	case <-ready:
		return nil
	case err := <-failed:
		return fmt.Errorf("load apps: %w", err)
	}
}

// Wait returns when what Start has started has ended.
func (r *Registry) Wait() { r.following.Wait() }
