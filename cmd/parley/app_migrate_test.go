package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/servers"
)

func TestAppMigrate(t *testing.T) {
	servers.NeedPostgres(t)
	server := servers.StartPostgres(t)
	file := filepath.Join(t.TempDir(), "parley.toml")
	text := "[app_store]\ndriver = \"postgres\"\nurl = \"" + server.URL(server.Database) + "\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		args []string
		code int
		want string // part of the output, or of the error
	}{
		{[]string{"--dry-run"}, 0, "CREATE TABLE IF NOT EXISTS \"applications\" (\n  \"id\" VARCHAR(255) NOT NULL PRIMARY KEY,\n"},
		{nil, 0, "created table applications\n"},
		{nil, 0, "table applications is there, and was not changed\n"},
		{[]string{"--json"}, 0, `"created": false`},
		{[]string{"--add-columns"}, 0, "was not changed"},
		{[]string{"--app_store.table", "pg_catalog.pg_class"}, 1, "no table of apps"},
		{[]string{"--app_store.driver", "mysql"}, 1, "must begin with mysql://"},
		{[]string{"--app_store.url", "postgres://parley:hush@127.0.0.1:1/x"}, 1, "refused"},
		{[]string{"--app_store.url", "", "--app_store.driver", "fabric"}, 1, "set it to mysql or postgres"},
	} {
		code, out, errout := run(t, append([]string{"app", "migrate", "-c", file}, step.args...)...)
		if code != step.code || !strings.Contains(out+errout, step.want) {
			t.Errorf("%v: %d\n%s%s\nwant %q", step.args, code, out, errout, step.want)
		}
		if strings.Contains(out+errout, "hush") || strings.Contains(out+errout, server.Password) {
			t.Errorf("%v shows a password:\n%s%s", step.args, out, errout)
		}
	}
}
