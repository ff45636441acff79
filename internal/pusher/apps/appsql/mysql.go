package appsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// mysqlDialect is that of MySQL and MariaDB.
type mysqlDialect struct{}

func (mysqlDialect) quote(name string) string { return quoteWith("`", name) }

func (mysqlDialect) parameter(int) string { return "?" }

func (d mysqlDialect) asText(c column) string { return d.quote(c.name) }

func (mysqlDialect) cast(_ column, parameter string) string { return parameter }

func (mysqlDialect) inOrder(expression string) string { return "CAST(" + expression + " AS BINARY)" }

const describeMySQL = `SELECT column_name, data_type, column_type, character_maximum_length, is_nullable,
	column_default, extra FROM information_schema.columns
	WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ? ORDER BY ordinal_position`

func (mysqlDialect) describe(ctx context.Context, db querier, table string) (columns []column, err error) {
	schema, name, found := strings.Cut(table, ".")
	if !found {
		schema, name = "", table
	}
	rows, err := db.QueryContext(ctx, describeMySQL, schema, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // Err tells
	for rows.Next() {
		var c column
		var dataType, nullable, extra string
		var length sql.NullInt64
		var preset sql.NullString
		if err := rows.Scan(&c.name, &dataType, &c.sqlType, &length, &nullable, &preset, &extra); err != nil {
			return nil, err
		}
		c.nullable = nullable == "YES"
		// MariaDB writes the default of a column that may be null as NULL.
		c.hasDefault = preset.Valid && !strings.EqualFold(preset.String, "NULL") ||
			strings.Contains(extra, "auto_increment") || strings.Contains(strings.ToUpper(extra), "GENERATED")
		columns = append(columns, mysqlShape(c, strings.ToLower(dataType), length.Int64))
	}
	return columns, rows.Err()
}

// mysqlShape tells what a column of a type can hold.
func mysqlShape(c column, dataType string, length int64) column {
	bits := map[string]int{"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}[dataType]
	switch {
	case bits == 64 && strings.Contains(c.sqlType, "unsigned"):
		return integer(c, 0, math.MaxInt64)
	case bits > 0 && strings.Contains(c.sqlType, "unsigned"):
		return integer(c, 0, 1<<bits-1)
	case bits > 0:
		return integer(c, signed[bits][0], signed[bits][1])
	case dataType == "bit":
		return integer(c, 0, 1)
	case dataType == "decimal", dataType == "float", dataType == "double":
		c.shape = shapeDecimal
	case dataType == "char", dataType == "varchar":
		c.shape, c.length = shapeText, length
	case strings.HasSuffix(dataType, "text"):
		c.shape, c.length, c.bytes = shapeText, length, true
	case dataType == "json":
		c.shape = shapeJSON
	default:
		c.shape = shapeOther
	}
	return c
}

// mysqlRefusals are errors that say that the table does not take something, by their number in
// the reference of errors of the server.
var mysqlRefusals = map[uint16]string{
	1048: "a column must not be null", 1364: "a column has no default", 1264: "a number is out of range",
	1265: "a value does not fit its column", 1292: "a value does not fit its column", 1366: "a value does not fit its column", 1406: "a text is too long",
	3140: "a value is no valid JSON", 3819: "a check of the table fails", 4025: "a check of the table fails",
	1451: "rows of another table refer to the app", 1452: "a row of another table is missing",
	1142: "the user may not change the table", 1143: "the user may not change a column", 1644: "a trigger refuses it",
	1290: "the server is read-only", 1792: "the server is read-only", 1836: "the server is read-only",
	1347: "the table is a view", 1471: "the table is a view", 1288: "the table is a view",
}

func (mysqlDialect) explain(err error) error {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return err
	}
	if e.Number == 1062 {
		return fmt.Errorf("id or key: %w", apps.ErrExists)
	}
	if why, ok := mysqlRefusals[e.Number]; ok {
		return fmt.Errorf("%w: %s (error %d of the server)", apps.ErrRefused, why, e.Number)
	}
	return err
}

func (mysqlDialect) connectionLost(err error) bool {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number == 1053 || e.Number == 1927 || e.Number == 1152 // the server stops, or has cut it
	}
	return errors.Is(err, mysql.ErrInvalidConn) || lost(err)
}

func (mysqlDialect) again(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == 1213 || e.Number == 1205 || e.Number == 1020)
}

func (mysqlDialect) loginRefused(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == 1044 || e.Number == 1045 || e.Number == 1698)
}

func (mysqlDialect) unknownColumn(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number == 1054
}

func (mysqlDialect) columnType(f *field) string {
	switch f.kind {
	case textual:
		return "VARCHAR(255)"
	case flag:
		return "BOOLEAN"
	case document:
		return "JSON"
	}
	return "INT UNSIGNED"
}

// Texts are compared byte by byte: ids and keys that differ in capitals are others.
func (mysqlDialect) tableOptions() string {
	return " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin"
}

func (mysqlDialect) stamps() []string {
	return []string{
		"created_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP",
		"updated_at TIMESTAMP NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
	}
}
