package appsql

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value is one field of an app on its way into a column.
type value struct {
	kind   kind
	text   string // of textual and document
	number int64  // of amount, size (in bytes) and flag (0 or 1)
}

// kind is what a field is, whatever column holds it.
type kind int

const (
	textual  kind = iota
	flag          // true or false
	amount        // a limit; 0 is not set
	size          // a limit in bytes that columns hold in KiB; 0 is not set
	document      // JSON; the empty text is not set
)

// set tells whether the value says something.
func (v value) set() bool {
	switch v.kind {
	case textual, document:
		return v.text != ""
	default:
		return v.number != 0
	}
}

// type of column, as far as it matters for what it can hold.
type shape int

const (
	shapeText shape = iota
	shapeInteger
	shapeDecimal
	shapeBoolean
	shapeJSON
	shapeOther
)

// column is one column of the table.
type column struct {
	name       string
	shape      shape
	sqlType    string // as the database writes it
	low, high  int64  // of shapeInteger
	length     int64  // of shapeText, 0 for any
	bytes      bool   // the length is in bytes, not in characters
	nullable   bool
	hasDefault bool
}

// errors of columns; they never repeat a value.
var (
	errNumber   = errors.New("is not a number")
	errFlag     = errors.New("is not true or false")
	errTooLarge = errors.New("is too large")
)

// none is what a column holds for a limit that is not set: null, or where that cannot be 0, or
// what else the table has for no limit.
func (c column) none(noLimit int64) any {
	switch {
	case c.nullable:
		return nil
	case c.shape == shapeInteger:
		return max(noLimit, c.low)
	}
	return strconv.FormatInt(noLimit, 10)
}

// holds returns what is sent to the database to have a column hold a value that is set. The
// error says why the column cannot.
func (c column) holds(v value) (any, error) {
	switch v.kind {
	case textual:
		return c.holdsText(v.text)
	case document:
		if c.shape == shapeJSON {
			return v.text, nil
		}
		return c.holdsText(v.text)
	case flag:
		if c.shape == shapeBoolean {
			return strconv.FormatBool(v.number != 0), nil
		}
		return c.holdsNumber(v.number)
	case size:
		const kib = 1 << 10
		if v.number%kib == 0 {
			return c.holdsNumber(v.number / kib)
		}
		if c.shape == shapeInteger {
			return nil, fmt.Errorf("holds whole KiB, which %d bytes are not", v.number)
		}
		return c.holdsText(strconv.FormatFloat(float64(v.number)/kib, 'f', -1, 64))
	}
	return c.holdsNumber(v.number)
}

func (c column) holdsNumber(n int64) (any, error) {
	if c.shape == shapeInteger && (n < c.low || n > c.high) {
		return nil, fmt.Errorf("holds %d to %d, not %d", c.low, c.high, n)
	}
	switch c.shape {
	case shapeInteger:
		return n, nil // as text it would be something else for a column of bits
	case shapeBoolean, shapeJSON:
		return nil, fmt.Errorf("is of type %s and holds no number", c.sqlType)
	}
	return c.holdsText(strconv.FormatInt(n, 10))
}

func (c column) holdsText(s string) (any, error) {
	switch {
	case c.shape == shapeDecimal, c.shape == shapeInteger:
		if _, err := strconv.ParseFloat(s, 64); err != nil {
			return nil, fmt.Errorf("is of type %s and holds no text", c.sqlType)
		}
	case c.shape == shapeOther:
		return nil, fmt.Errorf("is of type %s, which Parley does not write", c.sqlType)
	case c.shape != shapeText:
		return nil, fmt.Errorf("is of type %s and holds no text", c.sqlType)
	case strings.ContainsRune(s, 0) || !utf8.ValidString(s):
		return nil, errors.New("holds text in UTF-8 without zero bytes")
	case c.length > 0 && c.bytes && int64(len(s)) > c.length:
		return nil, fmt.Errorf("holds %d bytes, not %d", c.length, len(s))
	case c.length > 0 && !c.bytes && int64(utf8.RuneCountInString(s)) > c.length:
		return nil, fmt.Errorf("holds %d characters, not %d", c.length, utf8.RuneCountInString(s))
	}
	return s, nil
}

// parseFlag reads a column of true and false, in the words of all databases and programs.
func parseFlag(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "1", "\x01", "t", "true", "y", "yes", "on":
		return true, nil
	case "0", "\x00", "f", "false", "n", "no", "off":
		return false, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n != 0, nil
	}
	return false, errFlag
}

// parseNumber reads a column of numbers, which may be strings and have a point.
func parseNumber(text string) (float64, error) {
	n, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange), math.IsNaN(n):
		return 0, errNumber
	case math.Abs(n) > 1<<53: // beyond it whole numbers are not exact
		return 0, errTooLarge
	}
	return n, nil
}
