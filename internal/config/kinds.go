package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is a kind of value: how it is read from its source and written in TOML.
type kind[T any] struct {
	name    string
	list    bool
	parse   func(raw) (T, error)
	literal func(text string) string
}

var (
	errText  = errors.New("must be a string")
	errWhole = errors.New("must be a whole number")
	errBool  = errors.New("must be true or false")
	errList  = errors.New("must be a list of strings")
)

var (
	stringKind   = kind[string]{name: "string", parse: asText, literal: quote}
	intKind      = kind[int]{name: "number", parse: asInt, literal: bare}
	boolKind     = kind[bool]{name: "bool", parse: asBool, literal: bare}
	durationKind = kind[time.Duration]{name: "duration", parse: asDuration, literal: quote}
	sizeKind     = kind[int64]{name: "size", parse: asSize, literal: quote}
	modeKind     = kind[fs.FileMode]{name: "mode", parse: asMode, literal: quote}
	listKind     = kind[[]string]{name: "list", list: true, parse: asList, literal: quoteList}
	prefixKind   = kind[[]netip.Prefix]{
		name: "addresses", list: true, parse: asPrefixes, literal: quoteList,
	}
	propertiesKind = kind[map[string]string]{
		name: "properties", list: true, parse: asProperties, literal: func(string) string { return "{}" },
	}
	headerKind = kind[map[string]string]{name: "table", parse: asHeaders, literal: bare}
)

// oneOf is the kind of a string that has few possible values.
func oneOf(choices ...string) kind[string] {
	parse := func(r raw) (string, error) {
		s, _ := r.text()
		if !slices.Contains(choices, s) {
			return "", fmt.Errorf("must be one of %s", strings.Join(choices, ", "))
		}
		return s, nil
	}
	return kind[string]{name: strings.Join(choices, "|"), parse: parse, literal: quote}
}

// optional is the kind k for a key that may stay unset, which is nil.
func optional[T any](k kind[T], checks ...func(T) error) kind[*T] {
	parse := func(r raw) (*T, error) {
		value, err := k.parse(r)
		if err != nil {
			return nil, err
		}
		for _, check := range checks {
			if err := check(value); err != nil {
				return nil, err
			}
		}
		return &value, nil
	}
	return kind[*T]{name: k.name, parse: parse, literal: k.literal}
}

func asText(r raw) (string, error) {
	s, ok := r.text()
	if !ok {
		return "", errText
	}
	return s, nil
}

func asInt(r raw) (int, error) {
	if n, ok := r.value.(int64); ok && int64(int(n)) == n {
		return int(n), nil
	}
	s, ok := r.text()
	if !ok || !r.plain {
		return 0, errWhole
	}
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return 0, errWhole
	}
	return n, nil
}

func asBool(r raw) (bool, error) {
	switch value := r.value.(type) {
	case bool:
		return value, nil
	case int64:
		if value == 0 || value == 1 {
			return value == 1, nil
		}
	case string:
		switch strings.ToLower(strings.TrimSpace(value)) {
		case "true", "1", "yes", "on":
			return true, nil
		case "false", "0", "no", "off":
			return false, nil
		}
	}
	return false, errBool
}

func asDuration(r raw) (time.Duration, error) {
	switch value := r.value.(type) {
	case string:
		return parseDuration(value)
	case int64:
		return parseDuration(strconv.FormatInt(value, 10))
	case float64:
		return 0, errDurationUnit
	}
	return 0, errDuration
}

func asSize(r raw) (int64, error) {
	switch value := r.value.(type) {
	case string:
		return parseSize(value)
	case int64:
		return parseSize(strconv.FormatInt(value, 10))
	case float64:
		return 0, errSizeUnit
	}
	return 0, errSize
}

func asMode(r raw) (fs.FileMode, error) {
	s, ok := r.text()
	if !ok {
		return 0, errMode
	}
	return parseMode(strings.TrimSpace(s))
}

// asList reads a TOML array of strings, or plain text separated by commas. Spaces around
// the commas do not count, and empty plain text is the empty list.
func asList(r raw) ([]string, error) {
	if s, ok := r.text(); ok && r.plain {
		return splitList(s), nil
	}
	items, ok := r.value.([]any)
	if !ok {
		return nil, errList
	}
	var out []string
	for _, item := range items {
		s, ok := item.(string)
		if !ok {
			return nil, errList
		}
		out = append(out, s)
	}
	return out, nil
}

func splitList(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	items := strings.Split(s, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

func asPrefixes(r raw) ([]netip.Prefix, error) {
	items, err := asList(r)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, item := range items {
		prefix, err := parsePrefix(item)
		if err != nil {
			return nil, err
		}
		out = append(out, prefix)
	}
	return out, nil
}

// parsePrefix reads a CIDR or a single address. An IPv4 address in IPv6 notation becomes
// plain IPv4, as addresses of clients do, so that the two can match.
func parsePrefix(s string) (netip.Prefix, error) {
	problem := fmt.Errorf("holds %q, which is no address such as 10.0.0.1 or 10.0.0.0/8", s)
	if addr, err := netip.ParseAddr(s); err == nil {
		if addr.Zone() != "" {
			return netip.Prefix{}, problem
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, problem
	}
	const mapped = 96 // bits in front of an IPv4 address in IPv6 notation
	if prefix.Addr().Is4In6() && prefix.Bits() >= mapped {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mapped)
	}
	return prefix.Masked(), nil
}

func asHeaders(r raw) (map[string]string, error) {
	table, ok := r.value.(map[string]any)
	if !ok {
		return nil, errors.New("must be a table of strings")
	}
	out := make(map[string]string, len(table))
	for name, value := range table {
		s, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("%s must be a string", name)
		}
		out[name] = s
	}
	return out, nil
}

// asProperties reads a table of strings, or key=value as a list or in plain text separated by
// commas. None is nil.
func asProperties(r raw) (map[string]string, error) {
	if _, ok := r.value.(map[string]any); ok {
		out, err := asHeaders(r)
		if len(out) == 0 {
			out = nil
		}
		return out, err
	}
	items, err := asList(r)
	if err != nil {
		return nil, errors.New("must be a table of strings or a list of key=value")
	}
	var out map[string]string
	for _, item := range items {
		key, value, found := strings.Cut(item, "=")
		if !found {
			return nil, fmt.Errorf("holds %q, which is not key=value", item)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	return out, nil
}

func bare(s string) string { return s }

// quote writes s, the text of a default, as a TOML string.
func quote(s string) string { return strconv.Quote(s) }

func quoteList(s string) string {
	items := splitList(s)
	for i := range items {
		items[i] = quote(items[i])
	}
	return "[" + strings.Join(items, ", ") + "]"
}
