package importer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// lookup is the environment of the tests.
func lookup(name string) (string, bool) {
	if name == "REDIS_PASSWORD" {
		return "redis-password", true
	}
	return "", false
}

// testFile reads a file of testdata.
func testFile(t testing.TB, name string) File {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return File{Name: filepath.Base(name), Data: data}
}

// text returns a file with that text.
func text(name, data string) File { return File{Name: name, Data: []byte(data)} }

// imported imports files that hold no mistake.
func imported(t testing.TB, o Options, files ...File) *Result {
	t.Helper()
	if o.Lookup == nil {
		o.Lookup = lookup
	}
	result, err := Import(files, o)
	if err != nil {
		t.Fatalf("import: %v", err)
	}
	return result
}

// refused returns the lines of the problems that an import ends with.
func refused(t testing.TB, o Options, files ...File) []string {
	t.Helper()
	_, err := Import(files, o)
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("no problems but %v", err)
	}
	return strings.Split(err.Error(), "\n")
}

// value returns what the result sets a path to, as text.
func value(r *Result, path string) string {
	a, ok := r.set[path]
	if !ok {
		return "(unset)"
	}
	if a.waiting != "" {
		return "(waiting) " + textOf(a.value)
	}
	return textOf(a.value)
}

// notes returns the notes with an outcome as lines.
func notes(r *Result, outcome Outcome) []string {
	var lines []string
	for _, n := range r.Notes {
		if n.Outcome == outcome {
			lines = append(lines, n.String())
		}
	}
	return lines
}

// reload loads the result's TOML as parley serve does with a file, and returns what it holds.
func reload(t testing.TB, r *Result) config.Config {
	t.Helper()
	name := filepath.Join(t.TempDir(), "parley.toml")
	if err := os.WriteFile(name, r.TOML(), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Sources{File: name})
	if err != nil {
		t.Fatalf("the result is not valid: %v\n%s", err, r.TOML())
	}
	return c
}
