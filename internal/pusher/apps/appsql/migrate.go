package appsql

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Migration is what Migrate did, or would do.
type Migration struct {
	Statements []string `json:"statements"`        // in the order in which they were, or would be, executed
	Created    bool     `json:"created"`           // the table
	Added      []string `json:"added,omitempty"`   // columns that an existing table was given
	Missing    []string `json:"missing,omitempty"` // columns that an existing table does not have, and was not given
}

// Migrate creates the table if the database has none, with the columns of Sockudo's and two more.
// An existing table is left as it is, unless addColumns is set: then it gets the columns that it
// lacks. With dryRun nothing is changed.
func (t *Table) Migrate(ctx context.Context, addColumns, dryRun bool) (Migration, error) {
	m := Migration{Statements: []string{}} // and not null in JSON
	l, err := t.describe(ctx)
	switch {
	case errors.Is(err, ErrNoTable):
		m.Created = true
		m.Statements = []string{t.createStatement()}
	case err != nil:
		return m, err
	default:
		for _, f := range l.missing() {
			if !addColumns {
				m.Missing = append(m.Missing, f.columns[0])
				continue
			}
			m.Added = append(m.Added, f.columns[0])
			m.Statements = append(m.Statements, "ALTER TABLE "+t.quote(t.name)+" ADD COLUMN "+
				t.quote(f.columns[0])+" "+t.columnType(f)+" NULL")
		}
	}
	if dryRun {
		return m, nil
	}
	for _, statement := range m.Statements {
		if _, err := t.db.ExecContext(ctx, statement); err != nil {
			return m, fmt.Errorf("migrate table %s: %w", t.name, t.explain(err))
		}
	}
	t.forgetColumns()
	return m, nil
}

// createStatement writes the table with a column for every field.
func (t *Table) createStatement() string {
	var lines []string
	for _, f := range fields {
		line := t.quote(f.columns[0]) + " " + t.columnType(f)
		switch {
		case f == idField:
			line += " NOT NULL PRIMARY KEY"
		case f == keyField:
			line += " NOT NULL UNIQUE"
		case f.required:
			line += " NOT NULL"
		case f == enabledField:
			line += " NOT NULL DEFAULT TRUE"
		case f.name == "enable_client_messages":
			line += " NOT NULL DEFAULT FALSE"
		case f.name == "limits.max_connections", f.name == clientEvents: // Sockudo reads no null there
			line += " NOT NULL DEFAULT 0"
		default:
			line += " NULL"
		}
		lines = append(lines, line)
	}
	lines = append(lines, t.stamps()...)
	return "CREATE TABLE IF NOT EXISTS " + t.quote(t.name) + " (\n  " + strings.Join(lines, ",\n  ") + "\n)" + t.tableOptions()
}
