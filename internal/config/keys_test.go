package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// loadText loads a file of that text.
func loadText(t *testing.T, text string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "parley.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Sources{File: file})
}

func TestPrimitiveKeys(t *testing.T) {
	hash := strings.Repeat("0a", 32)
	c, err := loadText(t, `
[primitives]
max_queues = 3
[[primitives.keys]]
id = "shop"
namespace = "shop"
token = "0123456789abcdef"
scopes = ["cache", "cache:read=users/*", "locks=deploy-*", "queues:admin=q", "ids", "*"]
[[primitives.keys]]
id = "other"
namespace = "shop"
token_sha256 = "`+hash+`"
scopes = ["signals:subscribe=a.*"]
requests_per_second = 7
`)
	if err != nil {
		t.Fatal(err)
	}
	keys := c.Primitives.Keys
	if c.Primitives.MaxQueues != 3 || len(keys) != 2 || keys[0].ID != "shop" || keys[0].Token != "0123456789abcdef" ||
		len(keys[0].Scopes) != 6 || keys[1].TokenSHA256 != hash || keys[1].RequestsPerSecond != 7 {
		t.Errorf("got %+v", c.Primitives)
	}

	const good = "[[primitives.keys]]\nid = \"a\"\nnamespace = \"n\"\ntoken = \"0123456789abcdef\"\nscopes = [\"*\"]\n"
	for name, test := range map[string]struct{ text, want string }{
		"missing":     {"[[primitives.keys]]\n", "primitives.keys[0].id"},
		"no token":    {strings.ReplaceAll(good, "token", "#"), "primitives.keys[0].token"},
		"both":        {good + "token_sha256 = \"" + hash + "\"\n", "primitives.keys[0].token"},
		"short":       {strings.ReplaceAll(good, "abcdef", ""), "16 characters or more"},
		"hash":        {strings.ReplaceAll(good, "token =", "token_sha256 ="), "64 hexadecimal digits"},
		"namespace":   {strings.ReplaceAll(good, `"n"`, `"a_b"`), "primitives.keys[0].namespace"},
		"id":          {strings.ReplaceAll(good, `"a"`, `"a b"`), "primitives.keys[0].id"},
		"no scope":    {strings.ReplaceAll(good, `"*"`, ``), "from 1 to 100"},
		"same id":     {good + strings.ReplaceAll(good, "0123", "9876"), `is "a"`},
		"same token":  {good + strings.ReplaceAll(good, `"a"`, `"b"`), "is that of primitives.keys[0].token already"},
		"unknown":     {good + "scope = 1\n", "the nearest is scopes"},
		"no table":    {"[primitives]\nkeys = 1\n", "must be a list of tables"},
		"unknown one": {"[primitives]\nmax_queue = 1\n", "the nearest is primitives.max_queues"},
		"too many":    {"[primitives]\nmax_queues = 513\n", "must be at most 512"},
		"age":         {"[primitives]\nsignals_max_age = \"1ms\"\n", "must be 0 or at least 1s"},
	} {
		_, err := loadText(t, test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "0123456789") {
			t.Errorf("%s: the error shows a token: %v", name, err)
		}
	}
	for _, bad := range []string{"x", "cache:delete", "locks:read", "cache=", "cache=a*b", "ids=x", "*=x", ""} {
		if err := isScope(bad); err == nil {
			t.Errorf("scope %q is accepted", bad)
		}
	}
}

// The truth table of NocoBase's WORKER_MODE.
func TestWorkerModeTruth(t *testing.T) {
	keys := []string{"workflow:process", "async-task:process", "plugin:other"}
	for _, test := range []struct {
		mode     string
		requests bool
		works    []string
	}{
		{"", true, keys},
		{"!", true, nil},
		{"*", false, keys},
		{"workflow:process,async-task:process", false, keys[:2]},
		{"!,workflow:process", true, keys[:1]},
		{"-", false, nil},
	} {
		c, err := Load(Sources{Environ: []string{"WORKER_MODE=" + test.mode}})
		if err != nil {
			t.Errorf("%q: %v", test.mode, err)
			continue
		}
		if got := c.Node.ServesRequests(); got != test.requests {
			t.Errorf("%q serves requests: %v", test.mode, got)
		}
		for _, key := range keys {
			want := false
			for _, works := range test.works {
				want = want || works == key
			}
			if got := c.Node.Works(key); got != want {
				t.Errorf("%q works on %s: %v", test.mode, key, got)
			}
		}
	}
	// "*" is one only alone; beside others NocoBase takes it for a key, and nobody has that.
	if _, err := Load(Sources{Environ: []string{"WORKER_MODE=!,*"}}); err == nil {
		t.Error("!,* is accepted")
	}
	// Names of roles are no keys of work.
	node := Node{Roles: []string{"gateway", "store"}}
	if node.Works("gateway") || node.Works("store") || node.Works("a:b") || !node.ServesRequests() {
		t.Error("a gateway works")
	}
}
