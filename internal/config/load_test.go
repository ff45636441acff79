package config

import (
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// failure is a configuration with mistakes and the exact lines that report them, in which
// FILE stands for the path of the file.
type failure struct {
	name    string
	file    string
	environ []string
	flags   []string
	want    []string
}

var failures = []failure{
	{
		name: "every source at once, in order",
		file: "[channels]\nport = \"6001\"\n\n[transport]\nmax_queue = 65536\nmax_frme = \"1KiB\"\n",
		environ: []string{
			"PARLEY_CHANNELS_PROT=1", "PARLEY_CACHE_TTL=30", "PARLEY_LOG_LEVEL=INFO",
		},
		flags: []string{"--shutdown.grace=soon", "--unix_socket.mode=0999"},
		want: []string{
			`channels.port (FILE:2): must be a whole number, not "6001"`,
			`transport.max_queue (FILE:5): needs a unit, as in "512B", "64KiB" or "10MB", not 65536`,
			`transport.max_frme (FILE:6): no such option; the nearest is transport.max_frame`,
			`log.level (environment PARLEY_LOG_LEVEL): must be one of debug, info, warn, error, ` +
				`not "INFO"`,
			`cache.ttl (environment PARLEY_CACHE_TTL): needs a unit, as in "30s", "500ms" or ` +
				`"5m", not "30"`,
			`PARLEY_CHANNELS_PROT (environment PARLEY_CHANNELS_PROT): no such option; ` +
				`the nearest is PARLEY_CHANNELS_PORT`,
			`unix_socket.mode (flag --unix_socket.mode): must be an octal string such as "0660", ` +
				`not "0999"`,
			`shutdown.grace (flag --shutdown.grace): must be a duration such as "30s", "500ms" ` +
				`or "5m", not "soon"`,
		},
	},
	{
		name: "unknown keys and tables",
		file: "port = 1\n\"channels.port\" = 2\n[chanels]\nport = 3\n[channels.pong]\ny = 1\n" +
			"[transport]\nmax_event_payload = \"1KiB\"\n",
		want: []string{
			`port (FILE:1): no such option; the nearest is channels.port`,
			`"channels.port" (FILE:2): no such option; the nearest is channels.port`,
			`chanels (FILE:3): no such option; the nearest is channels`,
			`channels.pong (FILE:5): no such option; the nearest is channels.port`,
			`transport.max_event_payload (FILE:8): no such option; ` +
				`the nearest is limits.max_event_payload`,
		},
	},
	{
		name: "unknown keys in apps",
		file: "[[apps]]\nid = \"a\"\nkey = \"k\"\nsecret = \"s\"\nmax_conections = 1\n" +
			"[[apps.webhooks]]\nurl = \"https://x\"\nevent_type = []\n" +
			"[[app]]\nid = \"b\"\n",
		want: []string{
			`apps[0].max_conections (FILE:5): no such option; the nearest is max_connections`,
			`apps[0].webhooks[0].event_type (FILE:8): no such option; the nearest is event_types`,
			`app (FILE:9): no such option; the nearest is apps`,
		},
	},
	{
		name: "wrong shapes",
		file: "channels = 1\nhttp.cors_origins = \"*\"\nlog.level.x = 1\n" +
			"apps = [1, {id = \"a\", key = \"b\", secret = \"c\", webhooks = 3}]\n",
		want: []string{
			`channels (FILE:1): must be a table`,
			`http.cors_origins (FILE:2): must be a list of strings`,
			`log.level (FILE:3): must be one of debug, info, warn, error`,
			`apps[0] (FILE:4): must be a table`,
			`apps[1].webhooks (FILE:4): must be a list of tables`,
		},
	},
	{
		name: "apps",
		file: `[[apps]]
id = "a b"
key = "k"
max_event_payload = 1024
max_channel_name_length = 0
allowed_origins = ["https://*.a.com", "*.*.com"]

[[apps]]
id = "x"
key = "k"
secret = ""
allowed_origins = ["https://"]

  [[apps.webhooks]]
  url = "ftp://example.com"
  event_types = ["channel_occupied", "channel_open"]
  channel_pattern = "("
  headers = {"X Y" = "1"}
  [[apps.webhooks]]
[[apps]]
id = "x"
key = "l"
secret = "s"
`,
		want: []string{
			`apps[0].secret (FILE:1): is required and must not be empty`,
			`apps[0].id (FILE:2): must consist of letters, digits, - and _, not "a b"`,
			`apps[0].max_event_payload (FILE:4): needs a unit, as in "512B", "64KiB" or "10MB", ` +
				`not 1024`,
			`apps[0].max_channel_name_length (FILE:5): must be at least 1, not 0`,
			`apps[0].allowed_origins (FILE:6): holds "*.*.com", which has more than one *`,
			`apps[1].key (FILE:10): is "k", which apps[0].key (FILE:3) is already`,
			`apps[1].secret (FILE:11): is required and must not be empty`,
			`apps[1].allowed_origins (FILE:12): holds "https://", which has no host`,
			`apps[1].webhooks[0].url (FILE:15): must be an absolute http or https address`,
			`apps[1].webhooks[0].event_types (FILE:16): holds "channel_open", but the event types ` +
				`are channel_occupied, channel_vacated, member_added, member_removed, ` +
				`client_event, cache_miss, subscription_count`,
			`apps[1].webhooks[0].channel_pattern (FILE:17): must be a regular expression in the ` +
				`notation of RE2, not "("`,
			`apps[1].webhooks[0].headers (FILE:18): "X Y" is no name of an HTTP header`,
			`apps[1].webhooks[1].url (FILE:19): is required and must not be empty`,
			`apps[2].id (FILE:21): is "x", which apps[1].id (FILE:9) is already`,
		},
	},
	{
		name:    "TLS halves",
		environ: []string{"PARLEY_TLS_CERT_FILE=c.pem", "PARLEY_TLS_REDIRECT_PORT=80"},
		want:    []string{`tls.key_file (default): must be set, because tls.cert_file is`},
	},
	{
		name:    "WSS without a certificate, or with half of one",
		environ: []string{"PARLEY_IM_ENABLED=true", "PARLEY_IM_WSS_PORT=5210", "PARLEY_IM_WSS_KEY_FILE=k.pem"},
		want: []string{"im.wss_port (environment PARLEY_IM_WSS_PORT): needs im.wss_cert_file and im.wss_key_file, " +
			"or tls.cert_file and tls.key_file"},
	},
	{
		name:  "redirect without TLS, proxies without trust",
		flags: []string{"--tls.redirect_port=80", "--http.proxy_protocol", "--http.trust_hops=1"},
		want: []string{
			`tls.redirect_port (flag --tls.redirect_port): needs tls.cert_file and tls.key_file`,
			`http.proxy_protocol (flag --http.proxy_protocol): needs http.trusted_proxies`,
			`http.trust_hops (flag --http.trust_hops): needs http.trusted_proxies, because ` +
				`X-Forwarded-For of other peers is not believed`,
		},
	},
	{
		name: "cluster, single values",
		environ: []string{
			"PARLEY_NODE_ROLES=gatway", "PARLEY_NODE_SUB_DOMAIN=a b", "PARLEY_CLUSTER_PROPERTIES=parley.x=1",
			"WORKER_MODE=!,*", "CLUSTER_HEALTH_HEARTBEAT_INTERVAL=often",
		},
		want: []string{
			`node.roles (environment PARLEY_NODE_ROLES): holds "gatway", which is no role; the nearest is ` +
				`gateway; the roles are gateway, keymanager, manager, store, worker, and keys of background ` +
				`work, in lower case, have a - or : in them`,
			`node.worker_mode (environment WORKER_MODE): has a * beside others, which means nothing; ` +
				`* alone is background work only, and empty is everything, not "!,*"`,
			`node.sub_domain (environment PARLEY_NODE_SUB_DOMAIN): must be letters, digits, - _ and dots, ` +
				`such as worker, not "a b"`,
			`cluster.properties (environment PARLEY_CLUSTER_PROPERTIES): holds "parley.x", but keys that ` +
				`begin with parley. are for the node itself`,
			`cluster.heartbeat_interval (environment CLUSTER_HEALTH_HEARTBEAT_INTERVAL): must be a duration ` +
				`such as "30s", "500ms" or "5m", not "often"`,
		},
	},
	{
		name: "cluster, together",
		environ: []string{
			"PARLEY_CLUSTER_SEEDS=10.0.0.5", "CLUSTER_HEALTH_ENABLED=false",
			"CLUSTER_HEALTH_HEARTBEAT_INTERVAL=10000", "PARLEY_CLUSTER_CERT_FILE=c.pem",
			"PARLEY_CLUSTER_KEY_FILE=k.pem", "PARLEY_CLUSTER_BIND_PORT=65535",
			"PARLEY_NODE_ROLES=store", "WORKER_MODE=!",
		},
		want: []string{
			`node.worker_mode (environment WORKER_MODE): says the same as node.roles: set only one of them`,
			`cluster.node_timeout (default): is 5s and must be at least twice cluster.heartbeat_interval, ` +
				`which is 10s: a node may miss one heartbeat and be alive; three times is usual, 30s`,
			`cluster.health_enabled (environment CLUSTER_HEALTH_ENABLED): is false, but nodes of a cluster ` +
				`always watch each other; leave it out, and set cluster.heartbeat_interval if there are too ` +
				`many heartbeats`,
			`cluster.ca_file (default): must be set: TLS between nodes needs cluster.cert_file, ` +
				`cluster.key_file and cluster.ca_file`,
			`cluster.bind_port (environment PARLEY_CLUSTER_BIND_PORT): is 65535 with port_offset, and the ` +
				`next one is for the engine, but ports end at 65535`,
		},
	},
	{
		name:    "cluster, a secret that is too short",
		environ: []string{"PARLEY_CLUSTER_SEEDS=10.0.0.5", "PARLEY_CLUSTER_SECRET=short"},
		want: []string{
			`cluster.secret (environment PARLEY_CLUSTER_SECRET): must have 16 bytes or more; make one with: ` +
				`openssl rand -hex 32`,
		},
	},
	{
		name:    "cluster, one node",
		environ: []string{"PARLEY_CLUSTER_BOOTSTRAP_EXPECT=1", "PARLEY_CLUSTER_DOMAIN=my cluster"},
		want: []string{
			`cluster.domain (environment PARLEY_CLUSTER_DOMAIN): must be letters, digits, - _ and dots, not "my cluster"`,
			`cluster.bootstrap_expect (environment PARLEY_CLUSTER_BOOTSTRAP_EXPECT): must be 0 (only join) or 2 to 256; ` +
				`a node of its own has no cluster section, and takes its data along when it gets one: start it ` +
				`without cluster.seeds and cluster.bootstrap_expect, not "1"`,
		},
	},
	{
		name:    "ports shifted and equal",
		environ: []string{"PARLEY_PORT_OFFSET=60000", "PARLEY_METRICS_PORT=6001"},
		want: []string{
			`channels.port (default): is 66001 with port_offset, but ports end at 65535`,
			`metrics.port (environment PARLEY_METRICS_PORT): is 66001 with port_offset, ` +
				`but ports end at 65535`,
			`metrics.port (environment PARLEY_METRICS_PORT): must differ from channels.port, ` +
				`which is 6001 as well`,
		},
	},
	{
		name:    "no conflict with an option that is wrong itself",
		environ: []string{"PARLEY_HTTP_TRUSTED_PROXIES=10.0.0.1,example.com"},
		flags:   []string{"--http.proxy_protocol"},
		want: []string{
			`http.trusted_proxies (environment PARLEY_HTTP_TRUSTED_PROXIES): holds "example.com", ` +
				`which is no address such as 10.0.0.1 or 10.0.0.0/8`,
		},
	},
	{
		name: "single values",
		environ: []string{
			"PARLEY_CHANNELS_PORT=65536", "PARLEY_CHANNELS_HOST=0.0.0.0:6001",
			"PARLEY_CHANNELS_PATH_PREFIX=x", "PARLEY_CHANNELS_ACTIVITY_TIMEOUT=1500ms",
			"PARLEY_CHANNELS_PONG_TIMEOUT=-1s", "PARLEY_UNIX_SOCKET_PATH=run/p.sock",
			"PARLEY_METRICS_PREFIX=9x", "PARLEY_ENGINE_SYNC=0", "PARLEY_LIMITS_MAX_EVENT_BATCH=0",
			"PARLEY_HTTP_USAGE_ENABLED=maybe", "PARLEY_HTTP_MAX_BODY=1.5MiB",
		},
		want: []string{
			`channels.host (environment PARLEY_CHANNELS_HOST): must be a plain host name or ` +
				`address, without brackets or port, not "0.0.0.0:6001"`,
			`channels.port (environment PARLEY_CHANNELS_PORT): must be between 0 and 65535, ` +
				`not "65536"`,
			`channels.path_prefix (environment PARLEY_CHANNELS_PATH_PREFIX): must start with "/", ` +
				`not "x"`,
			`channels.activity_timeout (environment PARLEY_CHANNELS_ACTIVITY_TIMEOUT): must be a ` +
				`whole number of seconds, not "1500ms"`,
			`channels.pong_timeout (environment PARLEY_CHANNELS_PONG_TIMEOUT): must not be ` +
				`negative, not "-1s"`,
			`http.max_body (environment PARLEY_HTTP_MAX_BODY): must be a whole number with one ` +
				`of the units B, KB, KiB, MB, MiB, GB, GiB, not "1.5MiB"`,
			`http.usage_enabled (environment PARLEY_HTTP_USAGE_ENABLED): must be true or false, ` +
				`not "maybe"`,
			`unix_socket.path (environment PARLEY_UNIX_SOCKET_PATH): must be an absolute path, ` +
				`not "run/p.sock"`,
			`limits.max_event_batch (environment PARLEY_LIMITS_MAX_EVENT_BATCH): must be at ` +
				`least 1, not "0"`,
			`metrics.prefix (environment PARLEY_METRICS_PREFIX): must consist of letters, digits ` +
				`and underscores, no digit first, not "9x"`,
			`engine.sync (environment PARLEY_ENGINE_SYNC): must be "always" or an interval such ` +
				`as "2m", not "0"`,
		},
	},
	{
		name: "variables of Kubernetes",
		environ: []string{
			"PARLEY_SERVICE_HOST=10.0.0.1", "PARLEY_PORT=tcp://10.0.0.1:6001",
		},
		want: []string{
			`PARLEY_PORT (environment PARLEY_PORT): no such option; Kubernetes sets this for a ` +
				`service of that name, unless the pod has enableServiceLinks: false`,
			`PARLEY_SERVICE_HOST (environment PARLEY_SERVICE_HOST): no such option; Kubernetes ` +
				`sets this for a service of that name, unless the pod has enableServiceLinks: false`,
		},
	},
	{
		name:    "a file that is no TOML hides no other mistake, and no conflict is guessed",
		file:    "[channels]\nport = \n",
		environ: []string{"PARLEY_PORT=1"},
		flags:   []string{"--http.proxy_protocol"},
		want: []string{
			`config (FILE:2): not valid TOML: unexpected character at start of value (column 8)`,
			`PARLEY_PORT (environment PARLEY_PORT): no such option; the nearest is ` +
				`PARLEY_CHANNELS_PORT`,
		},
	},
}

func TestProblems(t *testing.T) {
	for _, test := range failures {
		t.Run(test.name, func(t *testing.T) {
			sources := Sources{Environ: test.environ, Flags: given(t, test.flags...)}
			if test.file != "" {
				sources.File = write(t, test.file)
			}
			c, err := Load(sources)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v", err)
			}
			if !reflect.DeepEqual(c, Config{}) {
				t.Error("a refused configuration was returned")
			}
			text := err.Error()
			if sources.File != "" {
				text = strings.ReplaceAll(text, sources.File, "FILE")
			}
			got := strings.Split(text, "\n")
			for i := range max(len(got), len(test.want)) {
				if i >= len(got) || i >= len(test.want) || got[i] != test.want[i] {
					t.Fatalf("problem %d:\ngot\n%s\nwant\n%s", i, text, strings.Join(test.want, "\n"))
				}
			}
		})
	}
}

// A node that serves needs the secret of its cluster; who looks for the node does not.
func TestSecretOfWhoServes(t *testing.T) {
	for _, test := range []struct {
		environ []string
		serve   bool
		refused bool
	}{
		{[]string{"PARLEY_CLUSTER_SEEDS=10.0.0.5"}, true, true},
		{[]string{"PARLEY_CLUSTER_BOOTSTRAP_EXPECT=3"}, true, true},
		{[]string{"PARLEY_CLUSTER_SEEDS=10.0.0.5", "PARLEY_CLUSTER_SECRET=0123456789abcdef"}, true, false},
		{[]string{"PARLEY_CLUSTER_SEEDS=10.0.0.5", "PARLEY_FABRIC_DRIVER=memory"}, true, false},
		{[]string{"PARLEY_CLUSTER_SEEDS=10.0.0.5"}, false, false},
		{nil, true, false},
	} {
		_, err := Load(Sources{Environ: test.environ, Serve: test.serve})
		var problem Problem
		if refused := errors.As(err, &problem) && problem.Key == "cluster.secret"; refused != test.refused || !refused && err != nil {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	_, err := Load(Sources{File: filepath.Join(t.TempDir(), "none.toml")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	var problem Problem
	if !errors.As(err, &problem) || problem.Key != "config" {
		t.Errorf("got %+v", problem)
	}
}

func TestApps(t *testing.T) {
	c, err := Load(Sources{File: write(t, `
[[apps]]
id = "a"
name = "Shop"
key = "a-key"
secret = "s"
max_connections = 0
enable_client_messages = true
max_client_events_per_second = 5
max_event_payload = "64KiB"
allowed_origins = ["*", "https://*.example.com", "pre*post", "example.com:8080"]

[[apps.webhooks]]
url = "https://user:pass@example.com/hook"
event_types = ["member_added"]
channel_prefix = "presence-"
channel_suffix = "-x"
channel_pattern = "^presence-.*$"

[apps.webhooks.headers]
Authorization = "Bearer x"

[[apps.webhooks]]
url = "http://[::1]:80/"

[[apps]]
id = "b"
key = "b_key"
secret = "s"
enabled = false
`)})
	if err != nil {
		t.Fatal(err)
	}
	none, five, payload := 0, 5, int64(64<<10)
	want := []App{
		{
			ID: "a", Name: "Shop", Key: "a-key", Secret: "s", Enabled: true,
			MaxConnections: &none, EnableClientMessages: true, MaxClientEventsPerSecond: &five,
			MaxEventPayload: &payload,
			AllowedOrigins:  []string{"*", "https://*.example.com", "pre*post", "example.com:8080"},
			Webhooks: []Webhook{
				{
					URL:        "https://user:pass@example.com/hook",
					EventTypes: []string{"member_added"}, ChannelPrefix: "presence-",
					ChannelSuffix: "-x", ChannelRegexp: "^presence-.*$",
					Headers: map[string]string{"Authorization": "Bearer x"},
				},
				{URL: "http://[::1]:80/"},
			},
		},
		{ID: "b", Key: "b_key", Secret: "s"},
	}
	if !reflect.DeepEqual(c.Apps, want) {
		t.Errorf("got  %+v\nwant %+v", c.Apps, want)
	}
}

// TestSecretsStayOutOfErrors puts one secret everywhere a secret can be wrong.
func TestSecretsStayOutOfErrors(t *testing.T) {
	const secret = "Zq7 é"
	quoted := quote(secret)
	app := "[[apps]]\nid = \"a\"\nkey = \"k\"\n"
	tests := []Sources{
		{File: write(t, "[admin]\ntoken = "+quoted)},
		{File: write(t, "[admin]\ntoken = ["+quoted+"]")},
		{File: write(t, "[admin]\ntoken = Zq7")},
		{File: write(t, "[admin]\ntoken = \"Zq7")},
		{File: write(t, "[admin]\ntoken = \"\"Zq7")},
		{File: write(t, "[admin]\ntokn = "+quoted)},
		{File: write(t, "[admin]\ntoken = 777e999999")},
		{File: write(t, "[admin]\ntoken = 777777777777777777777777777")},
		{File: write(t, app+"secret = ["+quoted+"]")},
		{File: write(t, app+"secret = 777")},
		{File: write(t, app+"secret = {"+quoted+" = 777}")},
		{File: write(t, app+"sceret = "+quoted)},
		{File: write(t, app+"secret = \"s\"\nwebhooks = [{url = \"http://x:Zq7@ /\"}]")},
		{File: write(t, app+"secret = \"s\"\nwebhooks = [{url = \"http://x\", "+
			"headers = {A = \"Zq7\\u0000\"}}]")},
		{Environ: []string{"PARLEY_ADMIN_TOKEN=" + secret}},
		{Environ: []string{"PARLEY_ADMIN_TOKN=" + secret}},
		{Flags: given(t, "--admin.token="+secret)},
	}
	for i, sources := range tests {
		_, err := Load(sources)
		if err == nil {
			t.Errorf("test %d: no error", i)
			continue
		}
		text := strings.ReplaceAll(err.Error(), sources.File, "")
		for _, part := range []string{"Zq7", "'Z'", "'q'", "777", "é"} {
			if strings.Contains(text, part) {
				t.Errorf("test %d: the error holds %q: %v", i, part, err)
			}
		}
	}
}

func TestLines(t *testing.T) {
	d, err := parseDocument("x", []byte("\ufeff# comment\na.b = 1\r\n[t.\"u v\"]\n"+
		"c = [\n  1,\n  {d = 2},\n]\n[[e]]\n[[e]]\n[[e.f]]\ng = '''\n\n'''\nh = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"a": 2, "a.b": 2, "t": 3, `t."u v"`: 3, `t."u v".c`: 4, `t."u v".c[0]`: 5,
		`t."u v".c[1]`: 6, `t."u v".c[1].d`: 6, "e": 8, "e[0]": 8, "e[1]": 9, "e[1].f[0]": 10,
		"e[1].f[0].g": 11, "e[1].f[0].h": 14, "e[1].missing": 9, "missing": 0,
	} {
		if got := d.line(path); got != want {
			t.Errorf("%s is on line %d, want %d", path, got, want)
		}
	}
}
