package config

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "rewrite the generated reference page")

// page is the generated reference page.
const page = "../../docs/reference/configuration.md"

//go:generate go test . -run TestReferencePageIsFresh -update

func TestReferencePageIsFresh(t *testing.T) {
	if *update {
		if err := os.MkdirAll(filepath.Dir(page), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(page, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if strings.ReplaceAll(string(data), "\r\n", "\n") != Reference() {
		t.Errorf("%s is stale: run go generate ./internal/config", page)
	}
}

func TestReferenceNamesEveryOption(t *testing.T) {
	reference := Reference()
	for _, f := range options {
		row := "| `" + f.key + "` | `" + f.environment() + "` |"
		if strings.Count(reference, row) != 1 {
			t.Errorf("%s has no row of its own", f.key)
		}
	}
	for _, key := range slices.Concat(keysOf(appFields), keysOf(webhookFields), keysOf(keyFields)) {
		if !strings.Contains(reference, "| `"+key+"` |") {
			t.Errorf("%s has no row", key)
		}
	}
}

// leaves returns the addresses of all leaves of a struct by snake case path.
func leaves(v reflect.Value, path string, into map[string]any) {
	for i := range v.NumField() {
		field, name := v.Field(i), snake(v.Type().Field(i).Name)
		if path != "" {
			name = path + "." + name
		}
		if field.Kind() == reflect.Struct {
			leaves(field, name, into)
		} else {
			into[name] = field.Addr().Interface()
		}
	}
}

var humps = regexp.MustCompile(`([a-z])([A-Z])|([A-Z])([A-Z][a-z])`)

func snake(name string) string {
	name = strings.NewReplacer("CORSO", "CorsO", "MySQL", "Mysql").Replace(name)
	return strings.ToLower(humps.ReplaceAllString(name, "${1}${3}_${2}${4}"))
}

// TestEveryFieldHasItsOption sets each field through its option alone and expects exactly
// the field of that name to change.
func TestEveryFieldHasItsOption(t *testing.T) {
	var c Config
	fields := map[string]any{}
	leaves(reflect.ValueOf(&c).Elem(), "", fields)
	delete(fields, "apps")
	delete(fields, "primitives.keys")
	for _, f := range options {
		pointer, ok := fields[f.key]
		if !ok {
			t.Errorf("%s: no such field", f.key)
			continue
		}
		delete(fields, f.key)
		c = Config{}
		if err := f.set(&c, raw{value: sample(f), plain: true}); err != nil {
			t.Errorf("%s: %v", f.key, err)
			continue
		}
		if reflect.ValueOf(pointer).Elem().IsZero() {
			t.Errorf("%s does not set its field", f.key)
		}
		reflect.ValueOf(pointer).Elem().SetZero()
		if !reflect.DeepEqual(c, Config{}) {
			t.Errorf("%s sets a field that is not its own", f.key)
		}
	}
	for name := range fields {
		t.Errorf("field %s has no option", name)
	}
}

// sample returns a value other than zero that the field accepts.
func sample(f field[Config]) string {
	switch f.key {
	case "node.roles":
		return "gateway"
	case "node.worker_mode":
		return "!"
	case "node.sub_domain":
		return "worker"
	case "rabbitmq.servers":
		return "amqp://rabbit-1.example.com,amqps://rabbit-2.example.com:5671/name"
	case "nats.replicas":
		return "3"
	case "im.retention":
		return "2:720h:100:0"
	case "im.webhook_url", "im.agent_webhook_url", "im.datasource_url":
		return "https://app.example.com/hook"
	case "console.users":
		return "admin:password:*"
	case "im.webhook_grpc_addr":
		return "app.example.com:6979"
	case "redis.signal", "redis.cache", "redis.queue", "redis.lock", "redis.documents":
		return "redis://redis.example.com/7"
	}
	if first, _, choice := strings.Cut(f.kind, "|"); choice {
		return first
	}
	switch f.kind {
	case propertiesKind.name:
		return "key=value"
	case intKind.name:
		return "7"
	case boolKind.name:
		return "yes"
	case durationKind.name:
		return "7s"
	case sizeKind.name:
		return "7MiB"
	case prefixKind.name:
		return "10.0.0.0/8"
	case listKind.name:
		return "a.example.com"
	case stringKind.name:
		if strings.HasSuffix(f.key, "host") {
			return "seven.example.com"
		}
		if f.preset == "" {
			return "/seven"
		}
	}
	return f.preset
}

func TestDeclarations(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range options {
		if seen[f.environment()] {
			t.Errorf("%s is declared twice", f.environment())
		}
		seen[f.environment()] = true
		if !strings.HasSuffix(f.doc, ".") || strings.Contains(f.doc, "`") {
			t.Errorf("%s: doc must be a sentence without back quotes: %q", f.key, f.doc)
		}
	}
}

func TestDefault(t *testing.T) {
	c := Default()
	host, err := os.Hostname()
	if err != nil {
		t.Skip(err)
	}
	checks := []struct {
		name      string
		got, want any
	}{
		{"node.name", c.Node.Name, host},
		{"channels.port", c.Channels.Port, 6001},
		{"channels.activity_timeout", c.Channels.ActivityTimeout, 2 * time.Minute},
		{"http.max_body", c.HTTP.MaxBody, int64(10 << 20)},
		{"http.cors_origins", c.HTTP.CORSOrigins, []string{"*"}},
		{"unix_socket.mode", c.UnixSocket.Mode, os.FileMode(0o660)},
		{"presence.max_member_size", c.Presence.MaxMemberSize, int64(1024)},
		{"webhooks.batch_interval", c.Webhooks.BatchInterval, 50 * time.Millisecond},
		{"metrics.port", c.Metrics.Port, 9601},
		{"engine.sync", c.Engine.Sync, "always"},
	}
	for _, check := range checks {
		if !reflect.DeepEqual(check.got, check.want) {
			t.Errorf("%s is %v, want %v", check.name, check.got, check.want)
		}
	}
	c.HTTP.CORSOrigins[0] = "changed"
	if Default().HTTP.CORSOrigins[0] != "*" {
		t.Error("two defaults share a list")
	}
}

func TestDefaultFileLoadsToDefault(t *testing.T) {
	c, summary, err := LoadSummary(Sources{File: write(t, DefaultFile())})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, Default()) {
		t.Errorf("got  %+v\nwant %+v", c, Default())
	}
	if summary.File != len(options) {
		t.Errorf("the file sets %d options of %d", summary.File, len(options))
	}
}

func TestExampleLoads(t *testing.T) {
	c, err := Load(Sources{File: write(t, appsExample)})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Apps) != 1 || len(c.Apps[0].Webhooks) != 1 {
		t.Errorf("got %+v", c.Apps)
	}
}

func TestPort(t *testing.T) {
	c := Config{PortOffset: 10}
	if c.Port(0) != 0 || c.Port(6001) != 6011 {
		t.Errorf("got %d and %d", c.Port(0), c.Port(6001))
	}
}

// write puts text into a file named parley.toml and returns its path.
func write(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "parley.toml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// given returns the flags as they are after args were parsed.
func given(t testing.TB, args ...string) *pflag.FlagSet {
	t.Helper()
	flags := pflag.NewFlagSet("parley", pflag.ContinueOnError)
	RegisterFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return flags
}

func TestOrderOfSources(t *testing.T) {
	file := write(t, `
[channels]
port = 1
host = "127.0.0.1"
path_prefix = "/file"
[http]
trusted_proxies = ["10.1.2.3/8", "::1", "::ffff:192.0.2.1"]
`)
	environ := []string{
		"PARLEY_CHANNELS_PORT=2", "PARLEY_CHANNELS_PATH_PREFIX=/env", "HOME=/root",
		"PARLEY_CONFIG=" + file, "PARLEY_HTTP_CORS_ORIGINS=a.example.com , b.example.com",
		"PARLEY_HTTP_USAGE_ENABLED=off",
	}
	flags := given(t, "--channels.port", "3", "--transport.compression", "--metrics.enabled=no",
		"--http.cors_origins=c.example.com", "--http.cors_origins", "d.example.com")
	c, summary, err := LoadSummary(Sources{Environ: environ, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Channels.Port = 3
	want.Channels.Host = "127.0.0.1"
	want.Channels.PathPrefix = "/env"
	want.HTTP.TrustedProxies = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"),
		netip.MustParsePrefix("192.0.2.1/32"),
	}
	want.HTTP.CORSOrigins = []string{"c.example.com", "d.example.com"}
	want.HTTP.UsageEnabled = false
	want.Transport.Compression = true
	want.Metrics.Enabled = false
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	counts := Summary{FileName: file, File: 4, Environment: 4, Flags: 4}
	if summary != counts {
		t.Errorf("got %+v, want %+v", summary, counts)
	}
}

func TestFileNamedBySourcesWins(t *testing.T) {
	c, err := Load(Sources{
		File:    write(t, "port_offset = 1"),
		Environ: []string{"PARLEY_CONFIG=" + write(t, "port_offset = 2")},
	})
	if err != nil || c.PortOffset != 1 {
		t.Errorf("got %d, %v", c.PortOffset, err)
	}
}
