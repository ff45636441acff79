package appsql

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// queryTries is how often a question is asked whose columns have changed.
const queryTries = 2

// ByIDs implements apps.Table.
func (t *Table) ByIDs(ctx context.Context, ids []string) ([]apps.Row, error) {
	rows, err := t.query(ctx, func(l *layout) (where string, args []any) {
		places := make([]string, len(ids))
		for i, id := range ids {
			places[i] = t.parameter(i + 1)
			args = append(args, id)
		}
		return "WHERE " + t.comparable(l.held[idField]) + " IN (" + strings.Join(places, ", ") + ")", args
	})
	if err != nil {
		return nil, fmt.Errorf("read %d apps: %w", len(ids), err)
	}
	// The database may take capitals and small letters, or spaces at the end, for the same.
	return slices.DeleteFunc(rows, func(r apps.Row) bool { return !slices.Contains(ids, r.ID) }), nil
}

// ByKey implements apps.Table.
func (t *Table) ByKey(ctx context.Context, key string) (apps.Row, error) {
	var keys []string
	rows, err := t.queryKeys(ctx, func(l *layout) (where string, args []any) {
		id := t.inOrder(t.asText(l.held[idField]))
		return "WHERE " + t.comparable(l.held[keyField]) + " = " + t.parameter(1) + " ORDER BY " + id, []any{key}
	}, &keys)
	if err != nil {
		return apps.Row{}, fmt.Errorf("read app by key: %w", err)
	}
	for i, row := range rows {
		if keys[i] == key {
			return row, nil
		}
	}
	return apps.Row{}, apps.ErrNotFound
}

// List implements apps.Table.
func (t *Table) List(ctx context.Context, after string, limit int) ([]apps.Row, error) {
	rows, err := t.query(ctx, func(l *layout) (where string, args []any) {
		id := t.inOrder(t.asText(l.held[idField]))
		where = fmt.Sprintf("WHERE %s > %s ORDER BY %s LIMIT %d", id, t.inOrder(t.parameter(1)), id, limit)
		return where, []any{after}
	})
	if err != nil {
		return nil, fmt.Errorf("list apps: %w", err)
	}
	return rows, nil
}

// comparable writes a column so that it can be compared with a text.
func (t *Table) comparable(c column) string {
	if c.shape == shapeText {
		return t.quote(c.name) // an index helps
	}
	return t.asText(c)
}

// query reads the rows that a condition chooses.
func (t *Table) query(ctx context.Context, where func(*layout) (string, []any)) ([]apps.Row, error) {
	return t.queryKeys(ctx, where, nil)
}

// queryKeys is query that also returns the key of each row.
func (t *Table) queryKeys(
	ctx context.Context, where func(*layout) (string, []any), keys *[]string,
) (found []apps.Row, err error) {
	for range queryTries {
		var l *layout
		if l, err = t.columns(ctx); err != nil {
			return nil, err
		}
		condition, args := where(l)
		var rows []row
		err = t.twice(ctx, func() (err error) {
			rows, err = t.selectRows(ctx, t.db, l, condition, args)
			return err
		})
		if err == nil {
			for _, r := range rows {
				found = append(found, r.export())
				if keys != nil {
					*keys = append(*keys, textOf(r.texts[keyField]))
				}
			}
			return found, nil
		}
		if !t.unknownColumn(err) {
			break
		}
		t.forgetColumns()
	}
	return nil, err
}

// selectRows reads rows with all columns that hold a part of an app.
func (t *Table) selectRows(ctx context.Context, db querier, l *layout, condition string, args []any) ([]row, error) {
	var names []string
	var held []*field
	for _, f := range fields {
		if c, ok := l.held[f]; ok {
			names, held = append(names, t.asText(c)), append(held, f)
		}
	}
	if l.policy != nil {
		names = append(names, t.asText(*l.policy))
	}
	query := "SELECT " + strings.Join(names, ", ") + " FROM " + t.quote(t.name) + " " + condition
	found, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = found.Close() }() // Err tells
	var rows []row
	for found.Next() {
		texts := make([]sql.NullString, len(names))
		places := make([]any, len(names))
		for i := range texts {
			places[i] = &texts[i]
		}
		if err := found.Scan(places...); err != nil {
			return nil, fmt.Errorf("scan row: %w", err)
		}
		rows = append(rows, newRow(l, held, texts))
	}
	return rows, found.Err()
}

// newRow gives each field its text; one more is that of policy.
func newRow(l *layout, held []*field, texts []sql.NullString) row {
	r := row{layout: l, texts: map[*field]*string{}}
	for i, f := range held {
		if texts[i].Valid {
			r.texts[f] = &texts[i].String
		} else {
			r.texts[f] = nil
		}
	}
	if len(texts) > len(held) {
		if text := strings.TrimSpace(texts[len(held)].String); text != "null" {
			r.policy = text
		}
	}
	return r
}

// export returns the row as package apps wants it.
func (r row) export() apps.Row {
	app, left, err := r.app()
	return apps.Row{ID: r.id(), App: app, Left: left, Err: err}
}

func textOf(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// exact returns the row of the app with exactly that id, or apps.ErrNotFound.
func exact(rows []row, id string) (row, error) {
	for _, r := range rows {
		if r.id() == id {
			return r, nil
		}
	}
	return row{}, apps.ErrNotFound
}
