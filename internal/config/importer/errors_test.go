package importer

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

func TestProblemsNameTheLine(t *testing.T) {
	for _, c := range []struct {
		name string
		file File
		want []string
	}{
		{"ports and limits out of range", text("config.json", "{\n\"port\": 70000,\n\"event_limits\": {\n\"max_batch_size\": 0},"+
			"\n\"metrics\": {\"enabled\": \"maybe\"}}"), []string{
			`port (config.json:2): must be between 0 and 65535, not "70000"`,
			`event_limits.max_batch_size (config.json:4): must be at least 1, not "0"`,
			`metrics.enabled (config.json:5): must be true or false, not "maybe"`,
		}},
		{"variables", text(".env", "# first\nADAPTER_DRIVER=local\nPORT=http\nACTIVITY_TIMEOUT=-5\n"), []string{
			`PORT (.env:3): must be a whole number, not "http"`,
			`ACTIVITY_TIMEOUT (.env:4): must not be negative, not "-5s"`,
		}},
		{"a secret is not repeated", text(".env", "SOCKUDO_DEFAULT_APP_ID=a b\nSOCKUDO_DEFAULT_APP_KEY=hidden key\n"+
			"SOCKUDO_DEFAULT_APP_SECRET=s\n"), []string{
			`SOCKUDO_DEFAULT_APP_ID (.env:1): must consist of letters, digits, - and _, not "a b"`,
			`SOCKUDO_DEFAULT_APP_KEY (.env:2): must consist of letters, digits, - and _`,
		}},
		{"an app without a secret", text("config.json", "{\"app_manager\": {\"array\": {\"apps\": [\n{\"id\": \"a\",\n\"key\": \"k\"}]}}}"),
			[]string{`apps[0].secret (config.json:2): is required and must not be empty`}},
		{"options that do not fit together", text(".env", "ADAPTER_DRIVER=local\nPORT=9601\n"),
			[]string{`metrics.port (default): must differ from channels.port, which is 9601 as well`}},
		{"members", text("wk.yaml", "cluster:\n  initNodes:\n    - 1001@nowhere\n    - 1002@10.0.0.5:11110\n"),
			[]string{`cluster.initNodes (wk.yaml:3): must be host:port, not "nowhere"`}},
		{"offset", text("carbon.xml", "<Server>\n<Ports>\n<Offset>x</Offset></Ports></Server>"),
			[]string{`Server.Ports.Offset (carbon.xml:3): must be a whole number, not "x"`}},
		{"no statement", text(".env", "PORT=1\nADAPTER_DRIVER local\nHOST='unfinished\n"), []string{
			`config (.env:2): is no NAME=value statement`, `config (.env:3): is no NAME=value statement`}},
		{"broken JSON", text("config.json", "{\n\"port\": 1,\n\"secret\": hidden}"),
			[]string{`config (config.json:3): not valid JSON: invalid character 'h' looking for beginning of value`}},
		{"unfinished JSON", text("config.json", "{\n\"port\": 1"), []string{`config (config.json:2): not valid JSON: the document ends too early`}},
		{"broken YAML", text("wk.yaml", "mode: a\n  hidden: b: c\n"), []string{`config (wk.yaml:2): not valid YAML`}},
		{"broken XML", text("axis2.xml", "<axisconfig>\n<hidden></axisconfig>"), []string{`config (axis2.xml:2): not valid XML`}},
		{"unknown encoding", text("axis2.xml", `<?xml version="1.0" encoding="ebcdic"?><axisconfig/>`),
			[]string{`config (axis2.xml:1): not valid XML`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := refused(t, Options{}, c.file); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestRefusedFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []File
		o     Options
		want  error
	}{
		{"nothing known", []File{text("x.env", "A=1\n")}, Options{}, ErrUnrecognised},
		{"empty", []File{text("x.json", "{}")}, Options{}, ErrUnrecognised},
		{"TOML", []File{text("config.toml", "PORT = 6001\n")}, Options{}, ErrUnrecognised},
		{"two systems", []File{testFile(t, "systems/soketi.env"), testFile(t, "reference/wso2-carbon.xml")}, Options{}, ErrMixed},
		{"too large", []File{{Name: ".env", Data: make([]byte, MaxFile+1)}}, Options{}, ErrTooLarge},
		{"too deep", []File{text("x.json", strings.Repeat(`{"a":`, 60)+"1"+strings.Repeat("}", 60))}, Options{}, nil},
		{"multiplied", []File{text("x.yaml", "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"+
			"c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"+
			"f: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n")}, Options{}, ErrTooLarge},
		{"format", []File{text(".env", "PORT=1\n")}, Options{Format: "pusher"}, nil},
		{"service", []File{testFile(t, "reference/sockudo-compose.yml")}, Options{Service: "node9"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Import(c.files, c.o)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestUnknownSettingsNameTheNearest(t *testing.T) {
	for _, c := range []struct {
		file File
		want string
	}{
		{text(".env", "ADAPTER_DRIVR=redis\nPORT=1\n"),
			"ADAPTER_DRIVR (.env:1): no setting of Sockudo is known by this name; the nearest is ADAPTER_DRIVER"},
		{text("config.json", "{\"adapter\": {\"driver\": \"local\",\n\"bufer_multiplier_per_cpu\": 1}}"),
			"adapter.bufer_multiplier_per_cpu (config.json:2): no setting of Sockudo is known by this name; " +
				"the nearest is adapter.buffer_multiplier_per_cpu"},
		{text("wk.yaml", "cluster:\n  nodeid: 1\n  seed: 1@a:1\n"),
			"cluster.nodeid (wk.yaml:2): no setting of WuKongIM is known by this name; the nearest is cluster.nodeId"},
		{text("axis2.xml", `<clustering enable="true"><parameter name="localMemberHots">h</parameter></clustering>`),
			"clustering.localMemberHots (axis2.xml:1): no setting of WSO2 is known by this name; " +
				"the nearest is clustering.localMemberHost"},
		{text(".env", "CACHE_DEFAULT_STOR=redis\nLOCK_ADAPTER_DEFAULT=redis\n"),
			"CACHE_DEFAULT_STOR (.env:1): no setting of NocoBase is known by this name; the nearest is CACHE_DEFAULT_STORE"},
		{text(".env", "SOKETI_DEFAULT_APP_SECERT=hidden\nSOKETI_PORT=6001\n"),
			"SOKETI_DEFAULT_APP_SECERT (.env:1): no setting of soketi is known by this name; " +
				"the nearest is SOKETI_DEFAULT_APP_SECRET"},
	} {
		if got := notes(imported(t, Options{}, c.file), Unknown); len(got) != 1 || got[0] != c.want {
			t.Errorf("got %q, not %q", got, c.want)
		}
	}
}

// secrets are the values in testdata that no note, error or comment about one may show.
var secrets = []string{"-password", "shop-secret", "news-secret", "header-secret", "secret-value", "token-value",
	"token-for-the-api", "demo secret", "reverb-secret", "pusher-secret", "app-secret", "url-password", "one-key-for-all",
	"laravel-app-key", "passphrase\""}

func TestNotesShowNoSecret(t *testing.T) {
	for _, name := range []string{
		"systems/sockudo-config.json", "systems/sockudo-all.env", "systems/sockudo5-all.env", "systems/soketi.json",
		"systems/soketi.env", "systems/reverb.env", "systems/laravel-pusher.env", "systems/wukongim-all.yaml",
		"reference/nocobase-middleware.env", "reference/wukongim-ports-wk.yaml", "reference/wso2-carbon.xml",
		"reference/wso2-sync-carbon.xml", "reference/sockudo-compose.yml",
	} {
		r := imported(t, Options{}, testFile(t, name))
		for _, n := range r.Notes {
			for _, secret := range secrets {
				shown := strings.TrimPrefix(n.String(), n.Name) + n.shown
				if strings.Contains(shown, secret) {
					t.Errorf("%s: %s shows %q", name, n.Name, secret)
				}
			}
		}
	}
}

// Values that are JSON or addresses may hold a secret whatever their setting is called.
func TestHiddenInside(t *testing.T) {
	r := imported(t, Options{}, text(".env", `SOKETI_QUEUE_REDIS_OPTIONS='{"password": "hidden"}'`+"\n"+
		"SOKETI_CLUSTER_PREFIX=redis://user:hidden@redis\nSOKETI_DEFAULT_APP_SECERT=hidden\n"))
	for _, n := range r.Notes {
		if strings.Contains(n.String()+n.shown, "hidden") {
			t.Errorf("shown: %s %s", n, n.shown)
		}
	}
	if text := string(r.TOML()); strings.Contains(text, "hidden") {
		t.Errorf("shown in\n%s", text)
	}
}

// TestWaitingBecomesEffective declares an option that this version lacks.
func TestWaitingBecomesEffective(t *testing.T) {
	files := []File{text(".env", "DB_DIALECT=postgres\nDB_HOST=db\nDB_PASSWORD=a/b\nCACHE_DEFAULT_STORE=memory\n")}
	sys, sources, err := recognise(files, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, exists := range []bool{false, true} {
		r := &run{system: sys, result: &Result{set: map[string]assignment{}}, declared: declarations()}
		if exists {
			r.declared["database.url"] = config.Declared{Key: "database.url", Kind: "string", Private: true}
		}
		r.read(sources)
		r.apply()
		got := r.result.set["database.url"]
		if textOf(got.value) != "postgres://:a%2Fb@db:5432" || (got.waiting == "") != exists {
			t.Errorf("declared %v: %+v", exists, got)
		}
	}
}
