package importer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// TestDriversGoTogether imports every combination of drivers. That a result loads is checked by the import
// itself; nothing that was chosen may vanish without a note.
func TestDriversGoTogether(t *testing.T) {
	for _, system := range []struct {
		format                            string
		variables                         [4]string
		adapters, caches, queues, limiter []string
	}{
		{"sockudo", [4]string{"ADAPTER_DRIVER", "CACHE_DRIVER", "QUEUE_DRIVER", "RATE_LIMITER_DRIVER"},
			[]string{"", "redis", "redis-cluster", "nats", "kafka"}, []string{"", "memory", "redis", "redis-cluster"},
			[]string{"", "memory", "redis", "redis-cluster", "nats", "rabbitmq"}, []string{"", "memory", "redis", "redis-cluster"}},
		{"soketi", [4]string{"SOKETI_ADAPTER_DRIVER", "SOKETI_CACHE_DRIVER", "SOKETI_QUEUE_DRIVER", "SOKETI_RATE_LIMITER_DRIVER"},
			[]string{"local", "cluster", "redis", "nats"}, []string{"", "memory", "redis"}, []string{"", "sync", "redis", "sqs"},
			[]string{"", "local", "redis"}},
		{"nocobase", [4]string{"PUBSUB_ADAPTER_REDIS_URL", "CACHE_DEFAULT_STORE", "QUEUE_ADAPTER", "LOCK_ADAPTER_DEFAULT"},
			[]string{"", "redis://redis:6379/1"}, []string{"", "memory", "redis"}, []string{"", "memory", "redis", "rabbitmq"},
			[]string{"", "local", "redis"}},
	} {
		for _, adapter := range system.adapters {
			for _, cache := range system.caches {
				for _, queue := range system.queues {
					for _, limiter := range system.limiter {
						checkDrivers(t, system.format, system.variables, [4]string{adapter, cache, queue, limiter})
					}
				}
			}
		}
	}
}

// checkDrivers imports one combination of drivers.
func checkDrivers(t *testing.T, format string, variables, drivers [4]string) {
	t.Helper()
	env, given := "", 0
	for i, driver := range drivers {
		if driver != "" {
			env, given = env+variables[i]+"="+driver+"\n", given+1
		}
	}
	r, err := Import([]File{text(".env", env)}, Options{Format: format})
	if err != nil {
		t.Errorf("%s %q: %v", format, drivers, err)
		return
	}
	for _, variable := range variables {
		noted := slices.ContainsFunc(r.Notes, func(n Note) bool { return n.Name == variable })
		if strings.Contains(env, variable+"=") && !noted {
			t.Errorf("%s %q: nothing is said about %s", format, drivers, variable)
		}
	}
	c, err := config.Load(config.Sources{Imported: r.Imported()})
	if err != nil {
		t.Errorf("%s %q: %v", format, drivers, err)
	}
	// Who shares a broker shares all that must be shared.
	f := c.Fabric.Chosen()
	for _, driver := range []string{f.Lock, f.Documents} {
		if c.OverBroker() && (driver == config.DriverEmbedded || driver == config.DriverMemory) {
			t.Errorf("%s %q: signals go over %s, and others over %s", format, drivers, f.Signal, driver)
		}
	}
}

func TestRedis(t *testing.T) {
	const unset = "(unset)"
	redis := func(inside string) File {
		return text("config.json", `{"adapter": {"driver": "redis"}, "database": {"redis": {`+inside+`}}}`)
	}
	for _, c := range []conversionCase{
		{name: "an address wins", files: []File{text(".env", "ADAPTER_DRIVER=redis\nREDIS_URL=redis://:a%2Fb@r:6380/3?x=1\n"+
			"DATABASE_REDIS_HOST=other\nDATABASE_REDIS_PASSWORD=p\nDATABASE_REDIS_DB=1\n")},
			want: map[string]string{"redis.servers": "redis://:a%2Fb@r:6380/3", "redis.password": unset, "redis.database": unset}},
		{name: "a part has another server", files: []File{text("config.json", `{"adapter": {"driver": "redis"}, "cache": {"driver": "redis",
			"redis": {"url_override": "redis://:c@cache:6379/1"}}, "database": {"redis": {"host": "r", "password": "p"}}}`)},
			want: map[string]string{"redis.servers": "r:6379", "redis.password": "p", "redis.cache": "redis://:c@cache:6379/1",
				"redis.signal": unset}},
		{name: "a part has another database", files: []File{text(".env", "SOKETI_ADAPTER_DRIVER=redis\nSOKETI_CACHE_DRIVER=redis\n"+
			"SOKETI_DB_REDIS_HOST=r\nSOKETI_CACHE_REDIS_OPTIONS='{\"db\": 4}'\n")},
			want: map[string]string{"redis.servers": "r:6379", "redis.cache": "4", "fabric.cache": "redis"}},
		{name: "soketi's options of a part", files: []File{text(".env", "SOKETI_ADAPTER_DRIVER=redis\nSOKETI_DB_REDIS_HOST=r\n"+
			"SOKETI_DB_REDIS_PASSWORD=p\nSOKETI_ADAPTER_REDIS_PUB_OPTIONS='{\"host\": \"s\", \"db\": 2}'\n")},
			want: map[string]string{"redis.servers": "r:6379", "redis.password": "p", "redis.signal": "redis://:p@s:6379/2"}},
		{name: "one node of Redis Cluster says how all are reached", files: []File{text(".env",
			"ADAPTER_DRIVER=redis-cluster\nREDIS_CLUSTER_NODES=redis://u:p@a,redis://u:p@b:7001\nDATABASE_REDIS_DB=2\n"+
				"DATABASE_REDIS_CLUSTER_USE_TLS=true\n")},
			want: map[string]string{"redis.servers": "rediss://u:p@a:6379,rediss://u:p@b:7001", "redis.database": unset, "redis.tls": "true"}},
		{name: "a Redis Cluster is one place", files: []File{testFile(t, "systems/sockudo-config.json"),
			text(".env", "ADAPTER_DRIVER=redis-cluster\nCACHE_DRIVER=redis-cluster\nREDIS_CLUSTER_NODES=a:1,b:2\n")},
			want: map[string]string{"redis.servers": "a:1,b:2", "redis.signal": unset, "redis.database": unset,
				"redis.password": "redis-password", "fabric.cache": "redis-cluster"}},
		{name: "cluster mode", files: []File{text(".env", "SOKETI_ADAPTER_DRIVER=redis\nSOKETI_ADAPTER_REDIS_CLUSTER_MODE=true\n"+
			"SOKETI_DB_REDIS_CLUSTER_NODES='[{\"host\": \"a\", \"port\": 7000}, {\"host\": \"b\"}]'\nSOKETI_DB_REDIS_PASSWORD=p\n")},
			want: map[string]string{"fabric.driver": "redis-cluster", "redis.servers": "a:7000,b:6379", "redis.password": "p"}},
		{name: "who one is at the Sentinels", files: []File{redis(`"sentinels": "redis://w:s@s1,redis://w:s@s2:9", "password": "p"`)},
			want: map[string]string{"redis.servers": "s1:26379,s2:9", "redis.password": "p", "redis.sentinel_username": "w",
				"redis.sentinel_password": "s", "redis.sentinel_master": "mymaster"}},
		{name: "TLS of master and Sentinels", files: []File{redis(`"sentinels": [{"host": "s1"}],
			"master_tls": {"enabled": true, "ca_path": "ca.pem", "client_cert_path": "c.pem", "client_key_path": "k.pem"},
			"sentinel_tls": {"enabled": true}`)},
			want: map[string]string{"redis.tls": "true", "redis.ca_file": "ca.pem", "redis.cert_file": "c.pem", "redis.key_file": "k.pem"}},
		{name: "limits of each node", files: []File{text(".env", "ADAPTER_DRIVER=redis\nRATE_LIMITER_DRIVER=memory\n")},
			want: map[string]string{"fabric.rate_limit": "memory"}},
		{name: "Reverb's Redis", files: []File{text(".env", "REVERB_SCALING_ENABLED=true\nREDIS_URL=redis://r:6380\n"+
			"REDIS_PASSWORD=p\nREDIS_DB=2\n")},
			want: map[string]string{"fabric.driver": "redis", "redis.servers": "redis://r:6380", "redis.password": "p", "redis.database": "2"}},
		{name: "Reverb alone", files: []File{text(".env", "REVERB_SCALING_ENABLED=false\nREDIS_HOST=r\n")},
			want: map[string]string{"fabric.driver": unset, "redis.servers": unset}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestQueuesAndNATS(t *testing.T) {
	const unset = "(unset)"
	for _, c := range []conversionCase{
		{name: "events over NATS, queues over RabbitMQ", files: []File{text("config.json", `{"adapter": {"driver": "nats", "nats": {
			"servers": ["a:4222", "tls://b:4222"], "username": "u", "password": "p", "token": "t", "prefix": "shop:"}},
			"queue": {"driver": "rabbitmq", "rabbitmq": {"url": "amqp://q:p@r/", "prefix": "jobs."}}}`)},
			want: map[string]string{"fabric.driver": "nats", "fabric.queue": "rabbitmq", "nats.servers": "nats://a:4222,tls://b:4222",
				"nats.username": "u", "nats.password": "p", "nats.token": unset, "nats.prefix": "shop",
				"rabbitmq.servers": "amqp://q:p@r/", "rabbitmq.prefix": "jobs"}},
		{name: "queues alone over NATS", files: []File{text("config.json", `{"adapter": {"driver": "redis", "nats": {"servers": ["x"]}},
			"queue": {"driver": "nats", "nats": {"servers": ["a:4222"], "token": "t"}}}`)},
			want: map[string]string{"fabric.driver": "redis", "fabric.queue": "nats", "nats.servers": "nats://a:4222", "nats.token": "t"}},
		{name: "NATS that nothing uses", files: []File{text(".env", "ADAPTER_DRIVER=redis\nNATS_SERVERS=a:4222\nNATS_PASSWORD=p\n")},
			want: map[string]string{"nats.servers": unset, "nats.password": unset}},
		{name: "NocoBase's RabbitMQ that nothing uses", files: []File{text(".env",
			"CACHE_DEFAULT_STORE=redis\nQUEUE_ADAPTER=redis\nQUEUE_ADAPTER_RABBITMQ_URL=amqp://u:p@r/\n")},
			want: map[string]string{"rabbitmq.servers": unset, "fabric.queue": "redis"}},
		{name: "NocoBase's worker", files: []File{text(".env", "WORKER_MODE=workflow:process\nQUEUE_ADAPTER=redis\n"+
			"REDIS_URL=redis://:p@r:6379/0\n")},
			want: map[string]string{"node.worker_mode": "workflow:process", "fabric.queue": "redis", "redis.servers": "redis://:p@r:6379/0"}},
	} {
		t.Run(c.name, c.run)
	}
}

func TestBrokersRefused(t *testing.T) {
	for _, c := range []struct{ env, want string }{
		{"REDIS_URL=redis://:hidden@r:6379/shop\n",
			"REDIS_URL (.env:2): must end with the number of a database, such as redis://host:6379/0"},
		{"REDIS_URL=redis://:hid den@[r\n", "REDIS_URL (.env:2): must be an address such as redis://user:password@host:6379/0"},
		{"DATABASE_REDIS_SENTINELS=redis://:hidden@a,b\n", "DATABASE_REDIS_SENTINELS (.env:2): must be alike but for host and port: " +
			"one user and password, TLS for all or none"},
		{"DATABASE_REDIS_PORT=hidden\nDATABASE_REDIS_HOST=r\n", `DATABASE_REDIS_PORT (.env:2): must be a port between 1 and 65535, not "hidden"`},
		{"QUEUE_DRIVER=rabbitmq\nRABBITMQ_URL=http://:hidden@r\n",
			"RABBITMQ_URL (.env:3): must be an address such as amqp://user:password@host:5672/"},
	} {
		if got := refused(t, Options{}, text(".env", "ADAPTER_DRIVER=redis\n"+c.env)); len(got) != 1 || got[0] != c.want {
			t.Errorf("got %q\nnot %q", got, c.want)
		}
	}
}

// A password that stands in a variable which nobody defines is missed aloud, once.
func TestUndefinedPassword(t *testing.T) {
	for env, want := range map[string]string{
		"ADAPTER_DRIVER=redis\nDATABASE_REDIS_HOST=r\nDATABASE_REDIS_PASSWORD=${NOWHERE}\n": "redis.password: DATABASE_REDIS_PASSWORD " +
			"refers to ${NOWHERE}, which neither the files nor the environment define",
		"ADAPTER_DRIVER=redis\nREDIS_URL=redis://:${NOWHERE}@r\n": "redis.servers: REDIS_URL says nothing that Parley can use, and " +
			"without it Parley looks on its own machine",
	} {
		if got := notes(imported(t, Options{}, text(".env", env)), Missing); len(got) != 1 || got[0] != want {
			t.Errorf("got %q\nnot %q", got, want)
		}
	}
}

// What has no effect says why, and shows no password.
func TestBrokerNotes(t *testing.T) {
	for _, c := range []struct{ env, want string }{
		{"ADAPTER_DRIVER=redis\nREDIS_URL=redis://r\nDATABASE_REDIS_SENTINEL_PASSWORD=hush\n",
			"DATABASE_REDIS_SENTINEL_PASSWORD (.env:3): REDIS_URL says where Redis is"},
		{"ADAPTER_DRIVER=redis\nREDIS_URL=redis://r?password=hush\n", "REDIS_URL (.env:2): what stands behind the ? of the address"},
		{"ADAPTER_DRIVER=redis\nCACHE_DRIVER=redis-cluster\n", "CACHE_DRIVER (.env:2): Parley has one kind of Redis for all, here redis"},
		{"ADAPTER_DRIVER=nats\nNATS_USERNAME=u\nNATS_PASSWORD=hush\nNATS_TOKEN=hush\n",
			"NATS_TOKEN (.env:4): name and password count before a token"},
		{"ADAPTER_DRIVER=redis-cluster\nREDIS_CLUSTER_NODES=redis://a:1/5\n", "REDIS_CLUSTER_NODES (.env:2): what stands behind the ports"},
		{"ADAPTER_DRIVER=local\nQUEUE_DRIVER=sqs\n", "QUEUE_DRIVER (.env:2): Amazon's queues are not among Parley's drivers"},
		{"ADAPTER_DRIVER=rabbitmq\nRABBITMQ_URL=amqp://u:hush@r\n", "RABBITMQ_URL (.env:2): RabbitMQ carries queues alone"},
		{"LOCK_ADAPTER_DEFAULT=redis\nQUEUE_ADAPTER_RABBITMQ_URL=amqp://u:hush@r\n",
			"QUEUE_ADAPTER_RABBITMQ_URL (.env:2): QUEUE_ADAPTER is not rabbitmq"},
	} {
		r := imported(t, Options{}, text(".env", c.env))
		got := strings.Join(notes(r, NoEffect), "\n")
		if !strings.Contains(got, c.want) {
			t.Errorf("no note with %q:\n%s", c.want, got)
		}
		if strings.Contains(got, "hush") || strings.Contains(comments(r), "hush") {
			t.Errorf("a password is shown:\n%s\n%s", got, comments(r))
		}
	}
}

// comments returns the lines of the written file that have no effect.
func comments(r *Result) string {
	var lines []string
	for line := range strings.Lines(string(r.TOML())) {
		if strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// TestSameEachTime imports files again and again.
func TestSameEachTime(t *testing.T) {
	for _, files := range [][]File{
		{testFile(t, "systems/sockudo-config.json"), testFile(t, "systems/sockudo-all.env")},
		{testFile(t, "systems/soketi.json"), testFile(t, "systems/soketi.env")},
		{testFile(t, "systems/reverb.env")}, {testFile(t, "reference/nocobase-middleware.env")},
		{testFile(t, "reference/wso2-worker2-axis2.xml"), testFile(t, "reference/wso2-carbon.xml")},
		{testFile(t, "systems/wukongim-all.yaml")},
		{text(".env", "SOKETI_ADAPTER_DRIVER=redis\nSOKETI_DB_REDIS_HOST=r\nSOKETI_DB_REDIS_PASSWORD=p\nSOKETI_CACHE_DRIVER=redis\n"+
			"SOKETI_ADAPTER_REDIS_PUB_OPTIONS='{\"port\": 1, \"db\": 2}'\nSOKETI_CACHE_REDIS_OPTIONS='{\"host\": \"c\"}'\n")},
	} {
		first := ""
		for range 8 {
			r := imported(t, Options{}, files...)
			said := fmt.Sprintf("%s%v", r.TOML(), r.Notes)
			if first == "" {
				first = said
			}
			if said != first {
				t.Fatalf("%s: once\n%s\nand then\n%s", files[0].Name, first, said)
			}
		}
	}
}

// TestNothingIsLost reads files with all settings of a system under several drivers: each setting is noted,
// whatever becomes of it.
func TestNothingIsLost(t *testing.T) {
	for _, c := range []struct {
		file      string
		variables string // %s stands for the driver
		drivers   []string
	}{
		{"systems/sockudo-config.json", "ADAPTER_DRIVER=%s\nCACHE_DRIVER=%[1]s\nQUEUE_DRIVER=%[1]s\n",
			[]string{"local", "redis", "redis-cluster", "nats", "rabbitmq"}},
		{"systems/sockudo-all.env", "ADAPTER_DRIVER=%s\nCACHE_DRIVER=%[1]s\nQUEUE_DRIVER=%[1]s\n",
			[]string{"local", "redis", "redis-cluster", "nats", "rabbitmq"}},
		{"systems/soketi.json", "SOKETI_ADAPTER_DRIVER=%s\nSOKETI_QUEUE_DRIVER=%[1]s\n", []string{"local", "cluster", "redis", "nats"}},
		{"systems/soketi.env", "SOKETI_ADAPTER_DRIVER=%s\nSOKETI_QUEUE_DRIVER=%[1]s\n", []string{"local", "cluster", "redis", "nats"}},
		{"systems/reverb.env", "REVERB_SCALING_ENABLED=%s\n", []string{"true", "false"}},
		{"reference/nocobase-middleware.env", "QUEUE_ADAPTER=%s\n", []string{"memory", "redis", "rabbitmq"}},
		{"reference/nocobase-cluster.env", "CACHE_DEFAULT_STORE=%s\nLOCK_ADAPTER_DEFAULT=%[1]s\n", []string{"memory", "redis"}},
	} {
		for _, driver := range c.drivers {
			files := []File{testFile(t, c.file), text("driver.env", fmt.Sprintf(c.variables, driver))}
			r := imported(t, Options{}, files...)
			noted := map[string]bool{}
			for _, n := range r.Notes {
				for name := range strings.SplitSeq(n.Name, ", ") {
					noted[name] = true
				}
			}
			sys, sources, err := recognise(files, Options{})
			if err != nil {
				t.Fatal(err)
			}
			all := &run{system: sys}
			for _, s := range sources {
				for _, e := range all.entriesFor(s) {
					if !noted[e.shown()] {
						t.Errorf("%s with %s: nothing is said about %s (%s)", c.file, driver, e.shown(), e.source())
					}
				}
			}
		}
	}
}
