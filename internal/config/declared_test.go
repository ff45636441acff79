package config

import (
	"strings"
	"testing"
)

func TestDeclaredChecks(t *testing.T) {
	all := map[string]Declared{}
	for _, d := range Declarations() {
		if d.Key == "" || d.Kind == "" || all[d.Table+"/"+d.Key].Key != "" {
			t.Errorf("%+v is empty or there twice", d)
		}
		all[d.Table+"/"+d.Key] = d
	}
	if len(all) != len(options)+len(appFields)+len(webhookFields)+len(keyFields) {
		t.Errorf("%d declarations", len(all))
	}
	for _, c := range []struct {
		name  string
		value any
		want  string // a part of the error, empty for none
	}{
		{"/channels.port", "6001", ""},
		{"/channels.port", "70000", `must be between 0 and 65535, not "70000"`},
		{"/cluster.seeds", []string{"a", "b"}, ""},
		{"/channels.port", []string{"a"}, "must be a whole number"},
		{"apps/secret", "", "is required"},
		{"/admin.token", "hidden token", "visible ASCII characters, without spaces"},
		{"apps.webhooks/headers", map[string]string{"A": "b"}, ""},
		{"apps.webhooks/headers", map[string]string{"A b": "c"}, "no name of an HTTP header"},
	} {
		err := all[c.name].Check(c.value)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %v: %v", c.name, c.value, err)
		}
		if err != nil && strings.Contains(err.Error(), "hidden") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
}

func TestLoadImported(t *testing.T) {
	from := &Imported{
		Name: "foreign.json", TOML: []byte("[channels]\nport = 70000\n[[apps]]\nid = \"a\"\nkey = \"k\"\n"),
		Source: func(path string) string { return "foreign.json at " + path },
	}
	_, summary, err := LoadSummary(Sources{Imported: from, File: "not-read.toml"})
	want := "channels.port (foreign.json at channels.port): must be between 0 and 65535, not 70000\n" +
		"apps[0].secret (foreign.json at apps[0].secret): is required and must not be empty"
	if err == nil || err.Error() != want || summary.FileName != "foreign.json" {
		t.Errorf("got %v, %+v", err, summary)
	}
}

func TestNearestOfNames(t *testing.T) {
	if got, edits := Nearest("prot", []string{"host", "port", "ports"}); got != "port" || edits != 1 {
		t.Errorf("got %s, %d", got, edits)
	}
}
