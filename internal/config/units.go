package config

import (
	"errors"
	"io/fs"
	"math"
	"strconv"
	"strings"
	"time"
)

var (
	errDuration     = errors.New(`must be a duration such as "30s", "500ms" or "5m"`)
	errDurationUnit = errors.New(`needs a unit, as in "30s", "500ms" or "5m"`)
	errNegative     = errors.New("must not be negative")
	errSize         = errors.New("must be a whole number with one of the units " +
		"B, KB, KiB, MB, MiB, GB, GiB")
	errSizeUnit = errors.New(`needs a unit, as in "512B", "64KiB" or "10MB"`)
	errMode     = errors.New(`must be an octal string such as "0660"`)
)

// sizeUnits maps a unit in lower case to its bytes.
var sizeUnits = map[string]int64{
	"b":  1,
	"kb": 1000, "kib": 1 << 10,
	"mb": 1000 * 1000, "mib": 1 << 20,
	"gb": 1000 * 1000 * 1000, "gib": 1 << 30,
}

// parseDuration reads a duration with a unit, or "0".
func parseDuration(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	if isBareNumber(text) && text != "0" {
		return 0, errDurationUnit
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, errDuration
	}
	if d < 0 {
		return 0, errNegative
	}
	return d, nil
}

// parseSize reads a number of bytes with a unit in any case, or "0".
func parseSize(text string) (int64, error) {
	text = strings.TrimSpace(text)
	if text == "0" {
		return 0, nil
	}
	if isBareNumber(text) {
		return 0, errSizeUnit
	}
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	if err != nil {
		return 0, errSize
	}
	unit, ok := sizeUnits[strings.ToLower(strings.TrimSpace(text[digits:]))]
	if !ok || n > math.MaxInt64/unit {
		return 0, errSize
	}
	return n * unit, nil
}

// parseMode reads the permission bits of a file in octal.
func parseMode(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n > uint64(fs.ModePerm) {
		return 0, errMode
	}
	return fs.FileMode(n), nil
}

// isBareNumber reports whether text consists of digits, with sign or decimal point.
func isBareNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789.+-_") == ""
}
