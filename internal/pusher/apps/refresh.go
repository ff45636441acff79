package apps

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// reading is one reading of the table that is under way.
type reading struct {
	changes uint64 // told before it began
	at      time.Time
}

// begin begins a reading.
func (c *Cached) begin() reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return reading{c.changes, time.Now()}
}

// learn takes over what was read for a look-up. It is not done when a change was told meanwhile.
func (c *Cached) learn(r reading, by lookup, rows []Row) (app *App, err error, done bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != r.changes {
		return nil, nil, false
	}
	if len(rows) == 0 || c.view.hides(rows[0].ID) {
		c.options.Count(LookupUnknown)
		c.misses.Add(by, miss{ErrNotFound, r.at})
		return nil, ErrNotFound, true
	}
	row := rows[0]
	if row.Err != nil {
		c.options.Count(LookupUnreadable)
		c.unreadable(r, by, row)
		return nil, row.Err, true
	}
	c.options.Count(LookupFound)
	return c.take(r, row), nil, true
}

// take shows an app that was read, and returns it as it is shown. The caller holds c.mu.
func (c *Cached) take(r reading, row Row) *App {
	app := row.App
	c.misses.Remove(lookup{id: app.ID})
	c.misses.Remove(lookup{key: app.Key})
	c.read[app.ID] = r.at
	if last, ok := c.view.peek(app.ID); ok && same(last, app) {
		return last // not a change
	}
	if len(row.Left) > 0 {
		c.log.Warn("parts of the app have no effect", "app_id", app.ID, "parts", strings.Join(row.Left, ","))
	}
	c.view.compile(app)
	c.view.set(app.ID, app)
	if len(c.read) > c.evictAt {
		// A tenth more than must be, so that it is rare; and not again soon if most are in use.
		tenth := c.options.Capacity / 10
		for _, id := range c.view.evict(len(c.read)-c.options.Capacity+tenth, c.options.InUse) {
			delete(c.read, id)
		}
		c.evictAt = max(c.options.Capacity, len(c.read)+tenth)
	}
	return app
}

// unreadable notes an app whose row cannot be understood. One in memory is served as it was. The
// caller holds c.mu.
func (c *Cached) unreadable(r reading, by lookup, row Row) {
	served := ""
	if _, ok := c.view.peek(row.ID); ok {
		c.read[row.ID] = r.at
		served = ", but as it was"
	}
	if last, ok := c.misses.Peek(by); !ok || last.err.Error() != row.Err.Error() { // not each time
		c.log.Error("app is unreadable and not served"+served, "app_id", row.ID, "error", row.Err)
	}
	c.misses.Add(by, miss{row.Err, r.at})
}

// same tells whether two apps differ in nothing. Filters need not be compiled.
func same(a, b *App) bool {
	plain := func(app App) App {
		app.Webhooks = slices.Clone(app.Webhooks)
		for i := range app.Webhooks {
			app.Webhooks[i].Filter.compiled = nil
		}
		return app
	}
	return reflect.DeepEqual(plain(*a), plain(*b))
}

// refresh reads apps again that are due or will soon be too old, until ctx ends.
func (c *Cached) refresh(ctx context.Context) {
	const parts = 8 // an app is read again after 6 of 8 parts of TTL, or within one more
	ticker := time.NewTicker(max(c.options.TTL/parts, time.Millisecond))
	defer ticker.Stop()
	pause := retryMin
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-ticker.C:
			c.demand(c.olderThan(c.options.TTL * (parts - 2) / parts)...)
		}
		ids := c.takeDue()
		err := c.reload(ctx, ids)
		if len(ids) == 0 && c.State().Away {
			err = c.pingOnce(ctx) // nobody else may ask for long
		}
		if err == nil {
			pause = retryMin
			continue
		}
		c.demand(ids...) // all of them: some may have been read
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
			pause = min(2*pause, retryMax)
		}
	}
}

func (c *Cached) pingOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return c.Ping(ctx)
}

// olderThan returns the apps in memory that were read so long ago.
func (c *Cached) olderThan(age time.Duration) (ids []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, at := range c.read {
		if time.Since(at) >= age {
			ids = append(ids, id)
		}
	}
	return ids
}

func (c *Cached) takeDue() (ids []string) {
	c.dueMu.Lock()
	defer c.dueMu.Unlock()
	for id := range c.due {
		ids = append(ids, id)
	}
	clear(c.due)
	return ids
}

// reload reads apps again, some at a time.
func (c *Cached) reload(ctx context.Context, ids []string) error {
	for chunk := range slices.Chunk(ids, chunkSize) {
		if err := c.reloadChunk(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cached) reloadChunk(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for ctx.Err() == nil {
		r := c.begin()
		rows, err := c.table.ByIDs(ctx, ids)
		c.answered(err)
		if err != nil {
			return err
		}
		if c.relearn(r, ids, rows) {
			return nil
		}
	}
	return ctx.Err()
}

// relearn takes over what was read for apps. It returns false when a change was told meanwhile.
func (c *Cached) relearn(r reading, ids []string, rows []Row) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != r.changes {
		return false
	}
	found := make(map[string]bool, len(rows))
	for _, row := range rows {
		found[row.ID] = true
		switch {
		case c.view.hides(row.ID):
		case row.Err != nil:
			c.unreadable(r, lookup{id: row.ID}, row)
		default:
			c.take(r, row)
		}
	}
	for _, id := range ids {
		if !found[id] {
			delete(c.read, id)
			c.misses.Add(lookup{id: id}, miss{ErrNotFound, r.at})
			c.view.gone(id)
		}
	}
	return true
}

// create implements Store.
func (c *Cached) create(ctx context.Context, app App) (*App, error) {
	if err := c.asked(ctx, app.ID, c.table.Create(ctx, &app)); err != nil {
		return nil, err
	}
	return c.wrote(ctx, &app), nil
}

// update implements Store.
func (c *Cached) update(ctx context.Context, id string, change func(*App) error) (*App, error) {
	var refused error // by change, which is no matter of the table
	app, err := c.table.Update(ctx, id, func(app *App) error {
		refused = change(app)
		return refused
	})
	if refused != nil {
		return nil, refused
	}
	if err = c.asked(ctx, id, err); err != nil {
		return nil, err
	}
	return c.wrote(ctx, app), nil
}

// remove implements Store.
func (c *Cached) remove(ctx context.Context, id string) error {
	err := c.asked(ctx, id, c.table.Delete(ctx, id))
	if err == nil {
		c.wrote(ctx, &App{ID: id})
	}
	return err
}

// asked returns the error of a write, which says ErrUnavailable if the table did not answer. Then
// it may have been done all the same, so that everybody looks.
func (c *Cached) asked(ctx context.Context, id string, err error) error {
	for _, known := range []error{ErrNotFound, ErrExists, ErrInvalid, ErrRefused, ErrUnreadable, ErrConflict} {
		if errors.Is(err, known) {
			return err
		}
	}
	if ctx.Err() == nil {
		c.answered(err)
	}
	if err == nil {
		return nil
	}
	c.tell(ctx, id)
	c.demand(id)
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// tell has all nodes read an app again that was, or may have been, written.
func (c *Cached) tell(ctx context.Context, id string) {
	c.outdated(id)
	if err := c.signal.Publish(context.WithoutCancel(ctx), subjectChanged+fabric.Token(id), []byte(id)); err != nil {
		c.options.Dropped(dropChangeUntold)
		c.log.Warn("other nodes are not told of a changed app", "app_id", id, "error", err)
	}
}

// wrote tells all nodes of a write that was done and shows it here. It returns the app as the
// table has it, or as it was written if that cannot be read.
func (c *Cached) wrote(ctx context.Context, app *App) *App {
	c.tell(ctx, app.ID)
	// It is done, whoever still waits for it.
	if err := c.reload(context.WithoutCancel(ctx), []string{app.ID}); err != nil {
		c.demand(app.ID)
		return app
	}
	if now, ok := c.view.peek(app.ID); ok {
		return now
	}
	return app
}
