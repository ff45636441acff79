package apps

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
)

// DefaultID is the id of the app that EnsureDefault creates. It is fixed so that nodes that
// start together create one app and not one each.
const DefaultID = "1000001"

const (
	keySize    = 10 // bytes of randomness, twice as many hex digits
	secretSize = 20 // bytes of randomness, twice as many hex digits

	// randomTries is how many ids are tried before Create gives up.
	randomTries = 10
)

// Create stores a new app and returns it. An empty id, key or secret is filled with a random
// one. The error wraps ErrInvalid, or ErrExists if another app has the id or key, or what the
// store says: ErrFixed, ErrRefused, ErrUnavailable.
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
	if r.view.hides(app.ID) {
		return nil, fmt.Errorf("id %q: %w", app.ID, ErrExists)
	}
	if err := r.keyIsFree(&app); err != nil {
		return nil, err
	}
	return r.store.create(ctx, app)
}

// keyIsFree returns an error that wraps ErrExists if a static app has the app's key. Stored
// ones are for the store to compare.
func (r *Registry) keyIsFree(app *App) error {
	if r.view.static.byKey[app.Key] != nil {
		return fmt.Errorf("key %q: %w", app.Key, ErrExists)
	}
	return nil
}

// Update changes a stored app: change gets a copy, alters it, and may be called again if
// others changed the app meanwhile. The id cannot change. The error is that of change, or
// wraps ErrNotFound, ErrStatic, ErrInvalid, ErrExists if another app has the new key,
// ErrConflict, or what the store says: ErrFixed, ErrRefused, ErrUnreadable, ErrUnavailable.
func (r *Registry) Update(ctx context.Context, id string, change func(*App) error) (*App, error) {
	var updated *App
	err := r.write(ctx, id, func() (err error) {
		updated, err = r.store.update(ctx, id, func(app *App) error {
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
			return r.keyIsFree(app)
		})
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

// Delete removes a stored app. The error wraps ErrNotFound, ErrStatic, ErrConflict, or what the
// store says: ErrFixed, ErrRefused, ErrUnavailable.
func (r *Registry) Delete(ctx context.Context, id string) error {
	err := r.write(ctx, id, func() error { return r.store.remove(ctx, id) })
	if err != nil {
		return fmt.Errorf("delete app %.300q: %w", id, err)
	}
	return nil
}

// EnsureDefault creates a first app with the id, random if empty, and random key and secret if there
// is no app at all, neither static nor stored. It returns the app and true if it did, and
// nil and false if there were apps. It needs a store that has all apps in memory.
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
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("create the first app: %w", err)
	}
	return app, true, nil
}

// write calls step when no other write of this registry runs, if the app can be one of the store.
func (r *Registry) write(ctx context.Context, id string, step func() error) error {
	release, err := r.beginWrite(ctx)
	if err != nil {
		return err
	}
	defer release()
	if r.view.hides(id) {
		return ErrStatic
	}
	if checkIdentifier(id) != nil { // no app can have it
		return ErrNotFound
	}
	return step()
}

// beginWrite waits until no other write of this registry runs, so that no two of them can
// take the same key.
func (r *Registry) beginWrite(ctx context.Context) (release func(), err error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r.writing <- struct{}{}:
		return func() { <-r.writing }, nil
	}
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
