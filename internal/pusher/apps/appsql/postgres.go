package appsql

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// postgresDialect is that of PostgreSQL.
type postgresDialect struct{}

func (postgresDialect) quote(name string) string { return quoteWith(`"`, name) }

func (postgresDialect) parameter(number int) string { return "$" + strconv.Itoa(number) }

func (d postgresDialect) asText(c column) string {
	if c.shape == shapeText {
		return d.quote(c.name)
	}
	return "CAST(" + d.quote(c.name) + " AS text)"
}

func (postgresDialect) cast(c column, parameter string) string {
	if c.shape == shapeText {
		return parameter
	}
	return "CAST(" + parameter + " AS " + c.sqlType + ")"
}

func (postgresDialect) inOrder(expression string) string { return expression + ` COLLATE "C"` }

// to_regclass finds a table where queries without a schema find it, and returns null for none.
const describePostgres = `SELECT a.attname, format_type(a.atttypid, NULL), a.atttypmod, NOT a.attnotnull, a.atthasdef
	OR a.attidentity <> '' FROM pg_attribute a
	WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`

func (d postgresDialect) describe(ctx context.Context, db querier, table string) (columns []column, err error) {
	rows, err := db.QueryContext(ctx, describePostgres, d.quote(table))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells
	for rows.Next() {
		var c column
		var modifier int64
		if err := rows.Scan(&c.name, &c.sqlType, &modifier, &c.nullable, &c.hasDefault); err != nil {
			return nil, err
		}
		columns = append(columns, postgresShape(c, modifier))
	}
	return columns, rows.Err()
}

// postgresShape tells what a column of a type can hold. The modifier of a type of texts with a
// bound is 4 more than that.
func postgresShape(c column, modifier int64) column {
	bits := map[string]int{"smallint": 16, "integer": 32, "bigint": 64}[c.sqlType]
	switch c.sqlType {
	case "smallint", "integer", "bigint":
		return integer(c, signed[bits][0], signed[bits][1])
	case "numeric", "real", "double precision":
		c.shape = shapeDecimal
	case "boolean":
		c.shape = shapeBoolean
	case "json", "jsonb":
		c.shape = shapeJSON
	case "text", "character varying", "character":
		c.shape, c.length = shapeText, max(0, modifier-4)
	default:
		c.shape = shapeOther
	}
	return c
}

// postgresRefusals are errors that say that the table does not take something, by their code in
// appendix A of PostgreSQL's documentation.
var postgresRefusals = map[string]string{
	"23502": "a column must not be null", "23514": "a check of the table fails",
	"23503": "rows of another table refer to the app, or one is missing",
	"42501": "the user may not change the table", "25006": "the server is read-only",
	"22001": "a text is too long", "22003": "a number is out of range", "22P02": "a value does not fit its column",
	"22021": "a text is not in the encoding of the database", "55000": "the table is a view", "P0001": "a trigger refuses it",
}

func (postgresDialect) explain(err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return err
	}
	if e.Code == "23505" {
		return fmt.Errorf("id or key: %w", apps.ErrExists)
	}
	if why, ok := postgresRefusals[e.Code]; ok {
		if e.ColumnName != "" {
			why += ": " + e.ColumnName
		}
		return fmt.Errorf("%w: %s (error %s of the server)", apps.ErrRefused, why, e.Code)
	}
	return err
}

func (postgresDialect) connectionLost(err error) bool {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code == "57P01" || e.Code == "57P02" || e.Code == "57P03" // the server stops or starts
	}
	return lost(err) || pgconn.SafeToRetry(err)
}

func (postgresDialect) again(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "40001" || e.Code == "40P01" || e.Code == "55P03")
}

func (postgresDialect) loginRefused(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "28P01" || e.Code == "28000")
}

func (postgresDialect) unknownColumn(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.Code == "42703"
}

func (postgresDialect) columnType(f *field) string {
	switch f.kind {
	case textual:
		return "VARCHAR(255)"
	case flag:
		return "BOOLEAN"
	case document:
		return "JSONB"
	}
	return "INTEGER"
}

func (postgresDialect) tableOptions() string { return "" }

func (postgresDialect) stamps() []string {
	return []string{
		"created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP", "updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP",
	}
}
