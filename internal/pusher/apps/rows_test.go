package apps

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// rows is a Table in memory, for tests in which time matters.
type rows struct {
	mu      sync.Mutex
	apps    map[string]*App
	broken  map[string]error
	failure error
	delay   time.Duration
	asked   []string // what was looked for, in order
	during  func()   // called once in the middle of the next look-up, with the row read
}

func newRows(list ...App) *rows {
	t := &rows{apps: map[string]*App{}, broken: map[string]error{}}
	for _, app := range list {
		t.apps[app.ID] = &app
	}
	return t
}

// edit changes the rows as another program does.
func (t *rows) edit(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
}

func (t *rows) setApp(app App) { t.edit(func() { t.apps[app.ID] = &app }) }

func (t *rows) row(id string) Row {
	if err := t.broken[id]; err != nil {
		return Row{ID: id, Err: fmt.Errorf("%w: %w", ErrUnreadable, err)}
	}
	app := *t.apps[id]
	app.Webhooks = slices.Clone(app.Webhooks)
	return Row{ID: id, App: &app}
}

// look notes a look-up, reads, and takes its time.
func (t *rows) look(ctx context.Context, what string, read func()) error {
	t.mu.Lock()
	t.asked = append(t.asked, what)
	delay, failure, during := t.delay, t.failure, t.during
	t.during = nil
	if failure == nil {
		read()
	}
	t.mu.Unlock()
	if during != nil {
		during()
	}
	select {
	case <-time.After(delay):
		return failure
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *rows) Ping(ctx context.Context) error { return t.look(ctx, "ping", func() {}) }

func (t *rows) ByIDs(ctx context.Context, ids []string) (found []Row, err error) {
	sorted := slices.Sorted(slices.Values(ids))
	err = t.look(ctx, strings.Join(sorted, ","), func() {
		for _, id := range sorted {
			if t.apps[id] != nil {
				found = append(found, t.row(id))
			}
		}
	})
	return found, err
}

func (t *rows) ByKey(ctx context.Context, key string) (row Row, err error) {
	missing := ErrNotFound
	err = t.look(ctx, "key "+key, func() {
		for id, app := range t.apps {
			if app.Key == key {
				row, missing = t.row(id), nil
			}
		}
	})
	if err == nil {
		err = missing
	}
	return row, err
}

func (t *rows) List(ctx context.Context, after string, limit int) (found []Row, err error) {
	err = t.look(ctx, "list", func() {
		for id := range t.apps {
			if id > after {
				found = append(found, t.row(id))
			}
		}
	})
	slices.SortFunc(found, func(a, b Row) int { return strings.Compare(a.ID, b.ID) })
	return found[:min(limit, len(found))], err
}

func (t *rows) Create(_ context.Context, app *App) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure == nil && t.apps[app.ID] != nil {
		return ErrExists
	}
	if t.failure == nil {
		stored := *app
		t.apps[app.ID] = &stored
	}
	return t.failure
}

func (t *rows) Update(_ context.Context, id string, change func(*App) error) (*App, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure != nil {
		return nil, t.failure
	}
	if t.apps[id] == nil {
		return nil, ErrNotFound
	}
	app := *t.apps[id]
	if err := change(&app); err != nil {
		return nil, err
	}
	t.apps[id] = &app
	return &app, nil
}

func (t *rows) Delete(_ context.Context, id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure == nil && t.apps[id] == nil {
		return ErrNotFound
	}
	if t.failure == nil {
		delete(t.apps, id)
	}
	return t.failure
}

// askedNow returns what was looked for since the last call.
func (t *rows) askedNow() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.Join(t.asked, " ")
	t.asked = nil
	return text
}
