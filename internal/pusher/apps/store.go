package apps

import (
	"context"
	"errors"
)

// Store is where apps are kept that can be changed while the node runs: NewDocuments, NewCached
// and FileOnly return the stores there are. A store belongs to one registry, which calls its
// writing methods one at a time.
type Store interface {
	// attach gives the store the view that it fills, before anything else is called.
	attach(v *view)
	// follow has the view show what it should, calls ready, and keeps it true until ctx ends
	// or the store is closed.
	follow(ctx context.Context, ready func()) error
	// find returns an app that the view does not show. It may wait.
	find(ctx context.Context, by lookup) (*App, error)
	// want has an app looked for that the view does not show, without waiting.
	want(id string)
	// list returns the stored apps whose ids come after the given one, in order.
	list(ctx context.Context, after string, limit int) ([]*App, error)
	// create stores a valid app; ErrExists if one has its id or key.
	create(ctx context.Context, app App) (*App, error)
	// update changes a stored app by change, which gets a copy.
	update(ctx context.Context, id string, change func(*App) error) (*App, error)
	// remove deletes a stored app.
	remove(ctx context.Context, id string) error
}

// lookup names an app by its id or by its key; the other is empty.
type lookup struct{ id, key string }

// Sentinel errors of stores.
var (
	// ErrFixed says that there is no store: all apps are those of the configuration file.
	ErrFixed = errors.New("app_store.driver is memory, so apps are changed in the configuration file alone")
	// ErrRefused says that the store cannot hold what was asked for, or may not be changed; the
	// text says why.
	ErrRefused = errors.New("the database does not take it")
	// ErrUnreadable says that the app is in the store and cannot be understood; the text says
	// why, and never repeats a value.
	ErrUnreadable = errors.New("the stored app is unreadable")
)

// FileOnly returns the store of a node whose apps are those of the configuration file.
func FileOnly() Store { return fileOnly{} }

type fileOnly struct{}

func (fileOnly) attach(*view) {}

func (fileOnly) follow(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

func (fileOnly) find(context.Context, lookup) (*App, error) { return nil, ErrNotFound }

func (fileOnly) want(string) {}

func (fileOnly) list(context.Context, string, int) ([]*App, error) { return nil, nil }

func (fileOnly) create(context.Context, App) (*App, error) { return nil, ErrFixed }

func (fileOnly) update(context.Context, string, func(*App) error) (*App, error) {
	return nil, ErrFixed
}

func (fileOnly) remove(context.Context, string) error { return ErrFixed }
