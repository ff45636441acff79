package appsql

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

const (
	// writeTries is how often a transaction is begun again because another one ran.
	writeTries = 5
	// writePause is the pause after the first time; it grows by as much each time.
	writePause = 20 * time.Millisecond
)

// transact runs do in a transaction, again if another one was in the way. Errors are explained.
func (t *Table) transact(ctx context.Context, do func(*sql.Tx, *layout) error) error {
	for try := 1; ; try++ {
		l, err := t.columns(ctx)
		if err != nil {
			return err
		}
		err = t.transactOnce(ctx, func(tx *sql.Tx) error { return do(tx, l) })
		switch {
		case err == nil:
			return nil
		case (t.unknownColumn(err) || errors.Is(err, errNoColumn)) && try < queryTries:
			t.forgetColumns() // one may have come or gone since they were read
		case !t.again(err):
			return t.explain(err)
		case try == writeTries:
			return fmt.Errorf("%w: %w", apps.ErrConflict, err)
		}
		select {
		case <-time.After(time.Duration(try) * writePause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *Table) transactOnce(ctx context.Context, do func(*sql.Tx) error) error {
	var tx *sql.Tx
	err := t.twice(ctx, func() (err error) {
		tx, err = t.db.BeginTx(ctx, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	if err := do(tx); err != nil {
		_ = tx.Rollback() // the first error says more
		return err
	}
	return tx.Commit()
}

// Create implements apps.Table.
func (t *Table) Create(ctx context.Context, app *apps.App) error {
	err := t.transact(ctx, func(tx *sql.Tx, l *layout) error {
		if len(l.strange) > 0 {
			return refuse("there is a column %s that must be given and that Parley does not know", l.strange[0])
		}
		if err := t.keyIsFree(ctx, tx, l, app); err != nil {
			return err
		}
		var s statement
		for _, f := range fields {
			if err := t.put(&s, l, f, f.get(app), true); err != nil {
				return err
			}
		}
		for _, stamp := range []*column{l.created, l.updated} {
			if stamp != nil && !stamp.hasDefault {
				s.add(t.quote(stamp.name), "CURRENT_TIMESTAMP")
			}
		}
		query := "INSERT INTO " + t.quote(t.name) + " (" + strings.Join(s.names, ", ") +
			") VALUES (" + strings.Join(s.places, ", ") + ")"
		_, err := tx.ExecContext(ctx, query, s.args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("table %s: %w", t.name, err)
	}
	return nil
}

// Update implements apps.Table. It writes the columns of what has changed, and no others.
func (t *Table) Update(ctx context.Context, id string, change func(*apps.App) error) (updated *apps.App, err error) {
	err = t.transact(ctx, func(tx *sql.Tx, l *layout) error {
		r, err := t.lock(ctx, tx, l, id)
		if err != nil {
			return err
		}
		last, left, err := r.app()
		if err != nil {
			return err
		}
		if updated, _, err = r.app(); err != nil { // another copy
			return err
		}
		if err := change(updated); err != nil {
			return err
		}
		changed := slices.DeleteFunc(slices.Clone(fields), func(f *field) bool { return f.get(last) == f.get(updated) })
		if len(changed) == 0 {
			return nil
		}
		if slices.Contains(changed, webhooksField) && len(left) > 0 {
			return refuse("column webhooks has what Parley does not know and would lose, %s: change it in the database",
				strings.Join(left, ", "))
		}
		if slices.Contains(changed, keyField) {
			if err := t.keyIsFree(ctx, tx, l, updated); err != nil {
				return err
			}
		}
		return t.write(ctx, tx, l, r, updated, changed)
	})
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", t.name, err)
	}
	return updated, nil
}

// write stores the changed fields of an app in its row.
func (t *Table) write(ctx context.Context, tx *sql.Tx, l *layout, r row, app *apps.App, changed []*field) error {
	var s statement
	for _, f := range changed {
		if err := t.put(&s, l, f, f.get(app), false); err != nil {
			return err
		}
	}
	if r.policy != "" {
		text, err := r.changedPolicy(app, changed)
		if err != nil {
			return err
		}
		s.add(t.quote(l.policy.name), t.cast(*l.policy, t.parameter(len(s.args)+1)), text)
	}
	if l.updated != nil {
		s.add(t.quote(l.updated.name), "CURRENT_TIMESTAMP")
	}
	var assignments []string
	for i, name := range s.names {
		assignments = append(assignments, name+" = "+s.places[i])
	}
	query := "UPDATE " + t.quote(t.name) + " SET " + strings.Join(assignments, ", ") +
		" WHERE " + t.comparable(l.held[idField]) + " = " + t.parameter(len(s.args)+1)
	_, err := tx.ExecContext(ctx, query, append(s.args, app.ID)...)
	return err
}

// changedPolicy returns the row's policy with the changed fields of an app.
func (r row) changedPolicy(app *apps.App, changed []*field) (string, error) {
	p, err := decodePolicy(r.policy)
	for _, f := range changed {
		if err != nil {
			break
		}
		if f.policy != "" {
			p, err = p.with(f.policy, f.inPolicy(f.get(app)))
		}
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", apps.ErrUnreadable, err)
	}
	return encode(p), nil
}

// inPolicy returns a value as the column policy holds it. Sockudo wants numbers for the limits that
// its table must have.
func (f *field) inPolicy(v value) any {
	const kib = 1 << 10
	switch {
	case v.kind == flag:
		return v.number != 0
	case v.kind == document && v.set():
		return json.RawMessage(v.text)
	case v.kind == size && v.set():
		return float64(v.number) / kib
	case v.set():
		return v.number
	case f.name == "limits.max_connections", f.name == clientEvents:
		return 0
	}
	return nil
}

// Delete implements apps.Table.
func (t *Table) Delete(ctx context.Context, id string) error {
	err := t.transact(ctx, func(tx *sql.Tx, l *layout) error {
		if _, err := t.lock(ctx, tx, l, id); err != nil {
			return err
		}
		query := "DELETE FROM " + t.quote(t.name) + " WHERE " + t.comparable(l.held[idField]) + " = " + t.parameter(1)
		_, err := tx.ExecContext(ctx, query, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("table %s: %w", t.name, err)
	}
	return nil
}

// lock reads the row of an app, which nobody else changes until the transaction ends.
func (t *Table) lock(ctx context.Context, tx *sql.Tx, l *layout, id string) (row, error) {
	rows, err := t.selectRows(ctx, tx, l, "WHERE "+t.comparable(l.held[idField])+" = "+t.parameter(1)+" FOR UPDATE", []any{id})
	if err != nil {
		return row{}, err
	}
	return exact(rows, id)
}

// keyIsFree returns an error that wraps apps.ErrExists if another row has the app's key. A table
// without a unique key, such as soketi's, would take it.
func (t *Table) keyIsFree(ctx context.Context, tx *sql.Tx, l *layout, app *apps.App) error {
	rows, err := t.selectRows(ctx, tx, l, "WHERE "+t.comparable(l.held[keyField])+" = "+t.parameter(1), []any{app.Key})
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.id() != app.ID && textOf(r.texts[keyField]) == app.Key {
			return fmt.Errorf("key %q: %w", app.Key, apps.ErrExists)
		}
	}
	return nil
}

// statement is the columns that an INSERT or UPDATE writes.
type statement struct {
	names  []string
	places []string
	args   []any
}

func (s *statement) add(name, place string, args ...any) {
	s.names, s.places, s.args = append(s.names, name), append(s.places, place), append(s.args, args...)
}

// put has a statement write a field into its column, or refuses what the table cannot hold. A new
// row gets the column's default for what is not set.
func (t *Table) put(s *statement, l *layout, f *field, v value, isNew bool) error {
	c, ok := l.held[f]
	if !ok {
		if v == f.get(&apps.App{Enabled: true}) {
			return nil // what an app is without the column
		}
		return refuse("%w %s to keep %s in; \"parley app migrate --add-columns\" adds it", errNoColumn, f.columns[0], f.name)
	}
	var arg any
	switch {
	case v.kind == flag || v.set():
		var err error
		if arg, err = c.holds(v); err != nil {
			return refuse("column %s %w", c.name, err)
		}
	case isNew && (c.nullable || c.hasDefault):
		return nil
	case v.kind == amount || v.kind == size:
		arg = c.none(l.noLimit(f))
	case !c.nullable && v.kind == document:
		arg = "[]"
	case !c.nullable:
		arg = ""
	}
	s.add(t.quote(c.name), t.cast(c, t.parameter(len(s.args)+1)), arg)
	return nil
}

// errNoColumn says that the table lacks a column.
var errNoColumn = errors.New("there is no column")

// refuse returns an error that wraps apps.ErrRefused and names the column.
func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", apps.ErrRefused, fmt.Errorf(format, args...))
}
