package config

import (
	"errors"
	"fmt"
	"strings"
)

// field declares one key of a table S: of Config itself, of an app or of a webhook. The
// declarations are built by option, which hides the type of the value.
type field[S any] struct {
	key     string // path below S, such as "channels.port"
	preset  string // default, written as in the environment
	kind    string // name of the kind of value, for the reference page and the help text
	doc     string // one sentence
	list    bool   // several values, comma separated outside the file
	private bool   // the value must never be shown
	others  []alias

	literal func(text string) string // TOML notation of text
	set     func(*S, raw) error      // parses, checks and stores
	reset   func(*S)                 // stores the default
}

// alias is a variable of another program that sets the field as well.
type alias struct {
	name string
	unit string // of a value without one; empty if it needs none
}

// raw is a value as its source holds it: a decoded TOML value, or plain text from the
// environment or a flag.
type raw struct {
	value any
	plain bool
}

// text returns the value if it is a string, whichever source it comes from.
func (r raw) text() (string, bool) {
	s, ok := r.value.(string)
	return s, ok
}

// errRequired is the problem of a key that has no default and is missing or empty.
var errRequired = errors.New("is required and must not be empty")

// option declares a key of S: its default, kind, documentation, place and further checks.
// An empty default is the zero value.
func option[S, T any](
	key, preset string, k kind[T], doc string, at func(*S) *T, checks ...func(T) error,
) field[S] {
	set := func(s *S, r raw) error {
		value, err := k.parse(r)
		if err != nil {
			return err
		}
		for _, check := range checks {
			if err := check(value); err != nil {
				return err
			}
		}
		*at(s) = value
		return nil
	}
	reset := func(s *S) {
		var zero T
		*at(s) = zero
		if preset == "" {
			return
		}
		if err := set(s, raw{value: preset, plain: true}); err != nil {
			panic(fmt.Sprintf("config: default of %s: %v", key, err)) // a mistake in the table
		}
	}
	return field[S]{
		key: key, preset: preset, kind: k.name, doc: doc, list: k.list,
		literal: k.literal, set: set, reset: reset,
	}
}

// secret marks a field whose value must never be shown.
func (f field[S]) secret() field[S] {
	f.private = true
	return f
}

// also lets a variable of another program set the field, where its own is not set. A number
// alone has the unit.
func (f field[S]) also(name, unit string) field[S] {
	f.others = append(f.others, alias{name, unit})
	return f
}

// text returns a value of the variable as the field understands it.
func (a alias) text(value string) string {
	value = strings.TrimSpace(value)
	if a.unit != "" && value != "" && strings.Trim(value, "0123456789") == "" {
		return value + a.unit
	}
	return value
}

// environment returns the name of the environment variable that sets the field.
func (f field[S]) environment() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(f.key, ".", "_"))
}

// find returns the field with that key, or nil.
func find[S any](fields []field[S], key string) *field[S] {
	for i := range fields {
		if fields[i].key == key {
			return &fields[i]
		}
	}
	return nil
}

// isGroup reports whether some key lies below name, so that name is a table.
func isGroup[S any](fields []field[S], name string) bool {
	for _, f := range fields {
		if strings.HasPrefix(f.key, name+".") {
			return true
		}
	}
	return false
}

// explain adds the refused value to err where it is a scalar that may be shown. Errors of
// lists name the element themselves.
func (f field[S]) explain(err error, r raw) error {
	if f.private || f.list {
		return err
	}
	switch value := r.value.(type) {
	case string:
		if runes := []rune(value); len(runes) > shownRunes {
			value = string(runes[:shownRunes]) + "…"
		}
		return fmt.Errorf("%w, not %q", err, value)
	case int64, float64, bool:
		return fmt.Errorf("%w, not %v", err, value)
	}
	return err
}

// shownRunes bounds how much of a refused value an error repeats.
const shownRunes = 60
