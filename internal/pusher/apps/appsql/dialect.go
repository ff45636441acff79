package appsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"math"
	"net"
	"strings"
)

// dialect is what differs between the databases.
type dialect interface {
	// quote writes the name of a table, with or without a schema, or of a column.
	quote(name string) string
	// parameter writes the place of the argument with that number, counted from 1.
	parameter(number int) string
	// asText writes a column so that it is read as text, for what database/sql would not make
	// text of.
	asText(c column) string
	// cast writes the place of an argument, which is text, for a column.
	cast(c column, parameter string) string
	// inOrder writes a column so that it is compared byte by byte.
	inOrder(expression string) string
	// describe returns the columns of a table, none if there is no such table.
	describe(ctx context.Context, db querier, table string) ([]column, error)
	// explain returns an error of the database's own as one of package apps where it is one: the
	// text tells why without a value. Others are returned as they are.
	explain(err error) error
	// connectionLost tells whether an error is about the connection and not about the question.
	connectionLost(err error) bool
	// again tells whether a transaction failed only because another one ran.
	again(err error) bool
	// loginRefused tells whether the user, the password or the use of the database was refused.
	loginRefused(err error) bool
	// unknownColumn tells whether a column is not there any more.
	unknownColumn(err error) bool
	// columnType writes the type of the column that holds a field, with what it is by default.
	columnType(f *field) string
	// tableOptions is what is written behind the columns of a new table.
	tableOptions() string
	// stamps are the columns that other programs expect of a table.
	stamps() []string
}

// querier is a pool, or one connection of it.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// quoteWith puts quotes around each part of a name.
func quoteWith(quote, name string) string {
	parts := strings.Split(name, ".")
	for i := range parts {
		parts[i] = quote + strings.ReplaceAll(parts[i], quote, quote+quote) + quote
	}
	return strings.Join(parts, ".")
}

// lost tells whether an error is one that all drivers have of connections that are gone.
func lost(err error) bool {
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &network)
}

// integer returns the shape of a column of whole numbers.
func integer(c column, low, high int64) column {
	c.shape, c.low, c.high = shapeInteger, low, high
	return c
}

// signed are the bounds of whole numbers by their size in bits.
var signed = map[int][2]int64{
	8: {math.MinInt8, math.MaxInt8}, 16: {math.MinInt16, math.MaxInt16}, 24: {-1 << 23, 1<<23 - 1},
	32: {math.MinInt32, math.MaxInt32}, 64: {math.MinInt64, math.MaxInt64},
}
