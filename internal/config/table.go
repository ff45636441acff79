package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

var (
	errTable  = errors.New("must be a table")
	errTables = errors.New("must be a list of tables")
)

// preset returns an S in which every field has its default.
func preset[S any](fields []field[S]) S {
	var s S
	for _, f := range fields {
		f.reset(&s)
	}
	return s
}

// tableReader reads the keys of one table of the file by their declaration.
type tableReader[S any] struct {
	loader   *loader
	document *document
	fields   []field[S]
	store    func(f *field[S], path string, value raw)
	nested   map[string]func(path string, value any) // keys that hold tables of another kind
}

// scope is the place of a table: path is where it stands in the document, name is what
// its keys begin with in the declaration.
type scope struct{ path, name string }

func (s scope) below(key string) scope { return scope{join(s.path, key), join(s.name, key)} }

// read stores every known key of the table and records the others as problems.
func (t tableReader[S]) read(at scope, table map[string]any) {
	for _, key := range t.document.keys(at.path, table) {
		here, value := at.below(key), table[key]
		field := find(t.fields, here.name)
		nested := t.nested[here.name]
		switch {
		case field != nil:
			t.store(field, here.path, raw{value: value})
		case nested != nil:
			nested(here.path, value)
		case isGroup(t.fields, here.name):
			t.group(here, value)
		default:
			t.loader.failAt(t.document, here.path, t.unknown(here.name))
		}
	}
}

// group reads a table that only groups keys, such as [channels].
func (t tableReader[S]) group(at scope, value any) {
	table, ok := value.(map[string]any)
	if !ok {
		t.loader.failAt(t.document, at.path, errTable)
		return
	}
	t.read(at, table)
}

func (t tableReader[S]) unknown(name string) error {
	known := keysOf(t.fields)
	if !strings.Contains(name, ".") {
		known = append(known, groupsOf(t.fields)...)
		known = append(known, slices.Sorted(maps.Keys(t.nested))...)
	}
	return fmt.Errorf("no such option; the nearest is %s", nearestKey(name, known))
}

// storeIn returns a function that stores fields into s, which is no part of the Config yet.
func storeIn[S any](l *loader, d *document, s *S) func(*field[S], string, raw) {
	return func(f *field[S], path string, value raw) {
		if err := f.set(s, value); err != nil {
			l.failAt(d, path, f.explain(err, value))
		}
	}
}

// eachTable calls read for every table of a list of tables.
func (l *loader) eachTable(
	d *document, path string, value any, read func(path string, table map[string]any),
) {
	items, ok := value.([]any)
	if !ok {
		l.failAt(d, path, errTables)
		return
	}
	for i, item := range items {
		if table, ok := item.(map[string]any); ok {
			read(index(path, i), table)
		} else {
			l.failAt(d, index(path, i), errTable)
		}
	}
}
