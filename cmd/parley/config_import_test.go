package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/servers"
)

// writeFile writes a file into a new directory.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const foreignEnv = `PORT=0
METRICS_PORT=0
ADAPTER_DRIVER=local
INSTANCE_PROCESS_ID=node-from-sockudo
SOCKUDO_DEFAULT_APP_ID=4711
SOCKUDO_DEFAULT_APP_KEY=imported-key
SOCKUDO_DEFAULT_APP_SECRET=imported-secret
DATABASE_MYSQL_PASSWORD=mysql-secret
CLEANUP_BATCH_SIZE=25
`

func TestConfigImportWritesWhatCheckAccepts(t *testing.T) {
	env := writeFile(t, ".env", foreignEnv)
	toml := filepath.Join(t.TempDir(), "parley.toml")
	out, err := runConfig(t, "import", env, "--output", toml)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out, "Sockudo: 6 carried over, ") || strings.Contains(out, "secret") {
		t.Errorf("printed %q", out)
	}
	if info, err := os.Stat(toml); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	text, err := os.ReadFile(toml)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`secret = "imported-secret" # SOCKUDO_DEFAULT_APP_SECRET, .env:7`,
		`name = "node-from-sockudo" # INSTANCE_PROCESS_ID, .env:4`,
		`# CLEANUP_BATCH_SIZE = "25" (.env:9): Parley takes a closed connection out of its channels at once, ` +
			`with no queue between`,
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("%q is missing in\n%s", line, text)
		}
	}
	if out, err := runConfig(t, "check", "-c", toml); err != nil ||
		out != "configuration is valid: 3 options set by file, 0 by environment, 0 by flags; 1 apps\n" {
		t.Errorf("check: %q, %v", out, err)
	}
	if out, err := runConfig(t, "check", "-c", env); err != nil ||
		out != "configuration is valid: 3 options set by file, 0 by environment, 0 by flags; 1 apps\n" {
		t.Errorf("check of the foreign file: %q, %v", out, err)
	}
	if _, err := runConfig(t, "import", env, "--output", toml); err == nil {
		t.Error("an existing file was overwritten")
	}
}

func TestConfigImportOfSeveralFiles(t *testing.T) {
	axis2 := writeFile(t, "axis2.xml", `<axisconfig><clustering enable="true"><parameter name="domain">d</parameter>
		<parameter name="localMemberPort">4200</parameter></clustering></axisconfig>`)
	carbon := writeFile(t, "carbon.xml", `<Server><Ports><Offset>2</Offset></Ports></Server>`)
	out, err := runConfig(t, "import", axis2, carbon)
	if err != nil || !strings.Contains(out, "\nport_offset = 2 #") || !strings.Contains(out, "\nbind_port = 4198 #") ||
		!strings.Contains(out, "imported from WSO2: axis2.xml, carbon.xml.") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestConfigImportRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"mistake":        {[]string{writeFile(t, ".env", "ADAPTER_DRIVER=local\nPORT=x\n")}, "PORT (.env:2): must be a whole number"},
		"unknown system": {[]string{writeFile(t, "config.json", `{"a": 1}`)}, "no configuration of a known system"},
		"no file":        {[]string{filepath.Join(t.TempDir(), "none.env")}, "no such file"},
		"format":         {[]string{writeFile(t, ".env", "PORT=1"), "--format", "x"}, "none of sockudo, soketi, reverb"},
		"service":        {[]string{writeFile(t, "c.yml", "services: {a: {environment: {ADAPTER_DRIVER: local}}}"), "--service", "b"}, `no service "b"`},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && name == "no file" {
				t.Skip("the system's own words")
			}
			_, err := runConfig(t, append([]string{"import"}, c.args...)...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The mistakes of a foreign file are reported with its own names and lines, whichever command
// reads it.
func TestForeignConfigMistakes(t *testing.T) {
	env := writeFile(t, ".env", "ADAPTER_DRIVER=local\nPORT=70000\n")
	_, err := runConfig(t, "check", "-c", env)
	if err == nil || !strings.Contains(err.Error(), `PORT (.env:2): must be between 0 and 65535, not "70000"`) {
		t.Errorf("got %v", err)
	}
	broken := writeFile(t, "config.json", "{\n\"port\": ")
	if _, err := runConfig(t, "check", "-c", broken); err == nil || !strings.Contains(err.Error(), "config.json:2): not valid JSON") {
		t.Errorf("got %v", err)
	}
}

func TestGivenBesides(t *testing.T) {
	cmd := newServeCommand()
	if err := cmd.ParseFlags([]string{"--cluster.seeds=10.0.0.5"}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PARLEY_CLUSTER_SECRET", "0123456789abcdef")
	for option, want := range map[string]bool{
		"cluster.seeds": true, "cluster.secret": true, "cluster.bootstrap_expect": false,
	} {
		if got := givenBesides(cmd, option); got != want {
			t.Errorf("%s: %v", option, got)
		}
	}
}

// A node that is started with a foreign file serves its app, and says once what has no effect.
func TestServeForeignConfig(t *testing.T) {
	t.Parallel()
	env := writeFile(t, ".env", foreignEnv)
	p := serving(t, filepath.Join(t.TempDir(), "data"), "-c", env, "--fabric.driver=memory")
	if text := p.out.String(); !strings.Contains(text, "?key=imported-key") {
		t.Errorf("the app is missing:\n%s", text)
	}
	p.terminate() // all is written then
	log := p.errout.String()
	for _, part := range []string{
		"configuration imported", "setting=CLEANUP_BATCH_SIZE source=.env:9", "setting=DATABASE_MYSQL_PASSWORD",
	} {
		if strings.Count(log, part) != 1 {
			t.Errorf("%q is not once in\n%s", part, log)
		}
	}
	if strings.Contains(log, "imported-secret") || strings.Contains(log, "mysql-secret") {
		t.Errorf("the log shows a secret:\n%s", log)
	}
}

// A foreign file that does not suffice is refused after what it lacks and what has no effect in it.
func TestServeInsufficientForeignConfig(t *testing.T) {
	t.Parallel()
	axis2 := writeFile(t, "axis2.xml", `<axisconfig><clustering class="c" enable="true"><parameter name="membershipScheme">wka</parameter>
		<members><member><hostName>127.0.0.1</hostName><port>4000</port></member></members></clustering></axisconfig>`)
	code, _, errout := run(t, "serve", "-c", axis2)
	if code != 1 || !strings.Contains(errout, "option=cluster.bootstrap_expect") || !strings.Contains(errout, "setting=axisconfig.clustering.membershipScheme") ||
		strings.Index(errout, "the configuration is not valid") < strings.LastIndex(errout, "level=WARN") {
		t.Errorf("%d\n%s", code, errout)
	}
}

// A node that is started with Sockudo's configuration shares what it has over Sockudo's Redis.
func TestServeForeignConfigOverRedis(t *testing.T) {
	t.Parallel()
	redis := servers.StartRedis(t, servers.RedisConfig{Password: "redis-password"})
	file := writeFile(t, "config.json", fmt.Sprintf(`{
		"adapter": {"driver": "redis", "redis": {"prefix": "sockudo:", "requests_timeout": 5000}},
		"cache": {"driver": "redis"}, "queue": {"driver": "redis"}, "rate_limiter": {"driver": "redis"},
		"database": {"redis": {"host": "127.0.0.1", "port": %d, "password": "redis-password"}},
		"instance": {"process_id": "node-from-sockudo"},
		"app_manager": {"array": {"apps": [{"id": "4711", "key": "imported-key", "secret": "imported-secret"}]}}}`, redis.Port))
	p := serving(t, filepath.Join(t.TempDir(), "data"), "-c", file)
	if !strings.Contains(p.out.String(), "?key=imported-key") {
		t.Error("the app is missing")
	}
	if clients := redis.Do("client", "list"); !strings.Contains(clients, "name=node-from-sockudo") {
		t.Errorf("the node is not connected to Redis:\n%s", clients)
	}
	if keys := redis.Do("keys", "sockudo:*"); strings.TrimSpace(keys) == "" {
		t.Error("nothing is kept in Redis")
	}
	p.terminate() // all is written then
	log := p.errout.String()
	if part := "setting=adapter.redis.requests_timeout source=config.json:2"; strings.Count(log, part) != 1 {
		t.Errorf("%q is not once in the log", part)
	}
	if strings.Contains(log, "redis-password") || strings.Contains(log, "imported-secret") {
		t.Error("the log shows a secret")
	}
}
