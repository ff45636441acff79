package importer

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// addFiles gives the files of testdata with that ending to a fuzz target.
func addFiles(f *testing.F, ending string) {
	f.Helper()
	for _, dir := range []string{"testdata/reference", "testdata/systems"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, entry := range entries {
			if data, err := os.ReadFile(filepath.Join(dir, entry.Name())); err == nil && strings.HasSuffix(entry.Name(), ending) {
				f.Add(data)
			}
		}
	}
}

// checkImport expects that a file is refused with problems that name a place, or else that
// what it becomes is a configuration that loads.
func checkImport(t *testing.T, name string, data []byte) {
	formats := Formats() // one of them and the detection: all would take too long
	for _, format := range []string{"", formats[len(data)%len(formats)]} {
		r, err := Import([]File{{Name: name, Data: data}}, Options{Format: format})
		var problems config.Problems
		if errors.As(err, &problems) {
			for _, problem := range problems {
				if problem.Key == "" || problem.Source == "" || problem.Err == nil {
					t.Errorf("%s: problem without place: %+v", format, problem)
				}
				if text := problem.Err.Error(); strings.Contains(text, "not valid TOML") {
					t.Errorf("%s: wrote what is no TOML: %v", format, problem)
				}
			}
		}
		if err != nil {
			continue
		}
		if _, err := config.Load(config.Sources{Imported: r.Imported()}); err != nil {
			t.Errorf("%s: the result does not load: %v\n%s", format, err, r.TOML())
		}
		for line := range strings.Lines(string(r.TOML())) {
			if strings.HasPrefix(line, "#") && strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x00") {
				t.Errorf("%s: comment %q", format, line)
			}
		}
	}
}

func FuzzEnv(f *testing.F) {
	addFiles(f, ".env")
	f.Add([]byte("export PORT = 1\nA=\"two\nlines\"\nB='$x ${Y:-z}'\nC=\n=\nD\n"))
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, ".env", data) })
}

func FuzzJSON(f *testing.F) {
	addFiles(f, ".json")
	f.Add([]byte(`{"app_manager":{"array":{"apps":[{"id":"a","webhooks":[{"headers":{"A b\"":"c"}}]},[1,[2]],null]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, "config.json", data) })
}

func FuzzYAML(f *testing.F) {
	addFiles(f, ".yaml")
	addFiles(f, ".yml")
	f.Add([]byte("a: &a [1]\nb: *a\nservices: {x: {environment: [A=1, B]}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, "wk.yaml", data) })
}

func FuzzXML(f *testing.F) {
	addFiles(f, ".xml")
	f.Add([]byte("<a><!-- --><parameter/><property name='' value=''/><b/></a><c>"))
	f.Fuzz(func(t *testing.T, data []byte) { checkImport(t, "axis2.xml", data) })
}

// FuzzDetect expects that no name and no content confuse the detection.
func FuzzDetect(f *testing.F) {
	f.Add("Parley.TOML", []byte("port_offset = 1"))
	f.Add("parley.conf", []byte("[channels]\nport = 6001"))
	f.Add("x", []byte("upstream a {"))
	f.Add(".env", []byte("PORT=1"))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		if IsForeign(File{Name: name, Data: data}) && strings.HasSuffix(strings.ToLower(name), ".toml") {
			t.Errorf("%q is Parley's own", name)
		}
	})
}
