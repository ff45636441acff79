package apps

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// DefaultID is the id of the app that EnsureDefault creates. It is fixed so that nodes that
// start together create one app and not one each.
const DefaultID = "1000001"

const (
	keySize    = 10 // bytes of randomness, twice as many hex digits
	secretSize = 20 // bytes of randomness, twice as many hex digits

	// randomTries is how many ids are tried before Create gives up.
	randomTries = 10
	// writeTries is how often a write meets a conflict before it gives up.
	writeTries = 10
	// writePause is the pause after the first conflict; it grows by as much each time.
	writePause = 10 * time.Millisecond
	// visibleTimeout is the longest wait for the own watch to show what was written.
	visibleTimeout = 5 * time.Second
)

var errNotLoaded = errors.New("apps are not loaded yet")

// Create stores a new app and returns it. An empty id, key or secret is filled with a random
// one. The error wraps ErrInvalid, or ErrExists if another app has the id or key.
//
// Like every writing method it needs Start to have returned, and returns when the reading
// methods of this registry show the app (while it loads the apps again after an error of the
// store, it waits for that for 5 seconds at most).
func (r *Registry) Create(ctx context.Context, app App) (*App, error) {
	release, err := r.beginWrite(ctx)
	if err != nil {
		return nil, fmt.Errorf("create app: %w", err)
	}
	defer release()
	randomID := app.ID == ""
	if app.Key == "" {
		app.Key = randomHex(keySize)
	}
	if app.Secret == "" {
		app.Secret = randomHex(secretSize)
	}
	app.Static = false
	for range randomTries {
		if randomID {
			app.ID = newID()
		}
		var created *App
		if created, err = r.insert(ctx, app); err == nil {
			return created, nil
		}
		if !randomID || !errors.Is(err, ErrExists) {
			break
		}
	}
	return nil, fmt.Errorf("create app %.300q: %w", app.ID, err)
}

// insert stores an app that must not exist yet.
func (r *Registry) insert(ctx context.Context, app App) (*App, error) {
	if err := app.Validate(); err != nil {
		return nil, err
	}
	if _, ok := r.ByID(app.ID); ok {
		return nil, fmt.Errorf("id %q: %w", app.ID, ErrExists)
	}
	if err := r.keyIsFree(&app); err != nil {
		return nil, err
	}
	stored, err := r.put(ctx, app, 0)
	if errors.Is(err, fabric.ErrConflict) {
		return nil, fmt.Errorf("id %q: %w", app.ID, ErrExists)
	}
	return stored, err
}

// Update changes a stored app: change gets a copy, alters it, and may be called again if
// others changed the app meanwhile. The id cannot change. The error is that of change, or
// wraps ErrNotFound, ErrStatic, ErrInvalid, ErrExists if another app has the new key, or
// ErrConflict.
func (r *Registry) Update(ctx context.Context, id string, change func(*App) error) (*App, error) {
	var updated *App
	err := r.write(ctx, id, func(document fabric.Document) error {
		app, err := decode(document)
		if err != nil {
			return err
		}
		if err := change(app); err != nil {
			return err
		}
		if app.ID != id {
			return fmt.Errorf("%w: id cannot be changed", ErrInvalid)
		}
		app.Static = false
		if err := app.Validate(); err != nil {
			return err
		}
		if err := r.keyIsFree(app); err != nil {
			return err
		}
		updated, err = r.put(ctx, *app, document.Revision)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("update app %.300q: %w", id, err)
	}
	return updated, nil
}

// Rotate gives a stored app a new random secret, and if alsoKey is set a new random key. The
// old ones are refused from then on. Errors are those of Update.
func (r *Registry) Rotate(ctx context.Context, id string, alsoKey bool) (*App, error) {
	return r.Update(ctx, id, func(app *App) error {
		app.Secret = randomHex(secretSize)
		if alsoKey {
			app.Key = randomHex(keySize)
		}
		return nil
	})
}

// Delete removes a stored app. The error wraps ErrNotFound, ErrStatic or ErrConflict.
func (r *Registry) Delete(ctx context.Context, id string) error {
	err := r.write(ctx, id, func(document fabric.Document) error {
		err := r.documents.Delete(ctx, id, document.Revision)
		if err == nil && !r.wrote(id, record{revision: document.Revision}) {
			r.awaitVisible(ctx, id, func(now record) bool { return now.revision != document.Revision })
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("delete app %.300q: %w", id, err)
	}
	return nil
}

// EnsureDefault creates a first app with the id, random if empty, and random key and secret if there
// is no app at all, neither static nor stored. It returns the app and true if it did, and
// nil and false if there were apps.
func (r *Registry) EnsureDefault(ctx context.Context, id string) (*App, bool, error) {
	if len(r.All()) > 0 {
		return nil, false, nil
	}
	app, err := r.Create(ctx, App{
		ID:                       id,
		Name:                     "default",
		Enabled:                  true,
		EnableClientMessages:     true,
		EnableUserAuthentication: true,
		EnableWatchlistEvents:    true,
	})
	if errors.Is(err, ErrExists) { // another node was faster
		r.awaitVisible(ctx, id, func(now record) bool { return now.revision != 0 })
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("create the first app: %w", err)
	}
	return app, true, nil
}

// write calls step with the current document of a stored app, again for as long as that
// ends with a conflict.
func (r *Registry) write(ctx context.Context, id string, step func(fabric.Document) error) error {
	release, err := r.beginWrite(ctx)
	if err != nil {
		return err
	}
	defer release()
	if app, ok := r.ByID(id); ok && app.Static {
		return ErrStatic
	}
	if checkIdentifier(id) != nil { // the store would call it an invalid key
		return ErrNotFound
	}
	for try := range writeTries {
		document, err := r.documents.Get(ctx, id)
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

// beginWrite waits until no other write of this registry runs, so that no two of them can
// take the same key.
func (r *Registry) beginWrite(ctx context.Context) (release func(), err error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r.writing <- struct{}{}:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.loaded {
		<-r.writing
		return nil, errNotLoaded
	}
	r.deletions = map[string]uint64{}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.deletions = nil
		<-r.writing
	}, nil
}

// put stores app over the given revision, and returns when it is visible.
func (r *Registry) put(ctx context.Context, app App, revision uint64) (*App, error) {
	value, err := json.Marshal(app)
	if err != nil {
		return nil, fmt.Errorf("encode app %s: %w", app.ID, err)
	}
	if err := fabric.CheckValue(value); err != nil {
		return nil, fmt.Errorf("%w: all fields together: %w", ErrInvalid, err)
	}
	revision, err = r.documents.Put(ctx, app.ID, value, revision)
	if err != nil {
		return nil, err
	}
	stored := r.read(fabric.Document{Key: app.ID, Value: value, Revision: revision})
	if !r.wrote(app.ID, stored) {
		r.awaitVisible(ctx, app.ID, func(now record) bool { return now.revision >= revision })
	}
	return stored.app, nil
}

// awaitVisible waits until seen is true for the record with that id, which is zero if there
// is none. The write is done already, so that a wait that ends early is no failure of it.
func (r *Registry) awaitVisible(ctx context.Context, id string, seen func(record) bool) {
	ctx, cancel := context.WithTimeout(ctx, visibleTimeout)
	defer cancel()
	for {
		r.mu.Lock()
		now, changed := r.stored[id], r.changed
		r.mu.Unlock()
		if seen(now) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r.log.Warn("app is stored, but this node does not see it yet", "app_id", id)
			return
		}
	}
}

// keyIsFree returns an error that wraps ErrExists if another app has the app's key.
func (r *Registry) keyIsFree(app *App) error {
	if other, ok := r.ByKey(app.Key); ok && other.ID != app.ID {
		return fmt.Errorf("key %q: %w", app.Key, ErrExists)
	}
	return nil
}

// newID returns a number of seven digits, as Pusher's app ids are.
func newID() string {
	const low, high = 1_000_000, 10_000_000
	n, err := rand.Int(rand.Reader, big.NewInt(high-low))
	if err != nil { // cannot happen: rand.Reader never fails
		n = new(big.Int)
	}
	return n.Add(n, big.NewInt(low)).String()
}

func randomHex(size int) string {
	random := make([]byte, size)
	_, _ = rand.Read(random) // never fails
	return hex.EncodeToString(random)
}
