package importer

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// pages are the reference pages, by what the names of their configurations begin with, and
// the system that each is of. The page about WSO2's IoT Server has no configuration but the
// offsets of its profiles.
var pages = map[string]string{
	"sockudo-": "Sockudo", "nocobase-": "NocoBase", "wso2-": "WSO2", "wso2-iot-": "WSO2", "wukongim-": "WuKongIM",
}

// TestReferencePages reads every configuration in the reference pages.
func TestReferencePages(t *testing.T) {
	entries, err := os.ReadDir("testdata/reference")
	if err != nil {
		t.Fatal(err)
	}
	read := map[string]int{}
	for _, entry := range entries {
		for prefix := range pages {
			if strings.HasPrefix(entry.Name(), prefix) {
				read[prefix]++
			}
		}
		t.Run(entry.Name(), func(t *testing.T) { readReference(t, entry.Name()) })
	}
	for prefix := range pages {
		if read[prefix] == 0 {
			t.Errorf("no configuration of the page %s*", prefix)
		}
	}
}

func readReference(t *testing.T, name string) {
	file := testFile(t, "reference/"+name)
	r := imported(t, Options{}, file)
	want := "the software around a server"
	if r.System != want {
		want = pages[name[:strings.IndexByte(name, '-')+1]]
	}
	if r.System != want {
		t.Errorf("taken for %s", r.System)
	}
	if balancer := syntaxOf(name, file.Data) == syntaxBalancer; balancer != (strings.HasSuffix(name, ".conf") ||
		strings.HasSuffix(name, ".cfg")) {
		t.Errorf("taken for a load balancer: %v", balancer)
	}
	if lines := notes(r, Unknown); len(lines) > 0 {
		t.Errorf("unknown settings:\n%s", strings.Join(lines, "\n"))
	}
	if len(r.Notes) == 0 {
		t.Error("nothing was read")
	}
	roundTrip(t, r)
	if chosen := choices(r); chosen != referenceChoices[name] {
		t.Errorf("it chooses %s\nnot %s", chosen, referenceChoices[name])
	}
}

// referenceChoices are what the configurations of the pages choose, and where it is. The others choose
// nothing.
var referenceChoices = map[string]string{
	"sockudo-redis.yml": "fabric.driver=redis redis.password=redis-password redis.servers=redis:6379",
	"sockudo-compose.yml": "fabric.cache=redis fabric.driver=redis fabric.queue=redis fabric.rate_limit=redis " +
		"redis.password=redis-password redis.servers=redis:6379",
	"sockudo-redis-cluster.yml": "fabric.driver=redis-cluster redis.servers=redis-1:6379,redis-2:6379,redis-3:6379," +
		"redis-4:6379,redis-5:6379,redis-6:6379",
	"sockudo-all-redis-cluster.yml": "fabric.cache=redis-cluster fabric.driver=redis-cluster fabric.queue=redis-cluster " +
		"fabric.rate_limit=redis-cluster redis.servers=redis-1:6379,redis-2:6380,redis-3:6381,redis-4:6382,redis-5:6383,redis-6:6384",
	"sockudo-nats.yml":         "fabric.driver=nats nats.servers=nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222",
	"sockudo-nats-cluster.yml": "fabric.driver=nats nats.servers=nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222",
	"nocobase-cluster.env": "fabric.cache=redis fabric.driver=redis fabric.lock=redis fabric.queue=redis " +
		"redis.cache=redis://redis:6379/0 redis.lock=redis://redis:6379/2 redis.queue=redis://redis:6379/3 " +
		"redis.servers=redis://redis:6379/4 redis.signal=redis://redis:6379/1",
	"nocobase-middleware.env": "fabric.cache=redis fabric.lock=redis fabric.queue=rabbitmq " +
		"rabbitmq.servers=amqp://parley:queue-password@rabbitmq:5672/",
}

// choices returns the drivers that a result chooses, and where they are.
func choices(r *Result) string {
	var chosen []string
	for _, path := range sortedPaths(r.set) {
		switch section, _, _ := strings.Cut(path, "."); section {
		case "fabric", "redis", "nats", "rabbitmq":
			chosen = append(chosen, path+"="+value(r, path))
		}
	}
	return strings.Join(chosen, " ")
}

// roundTrip checks that the written file says the same as the import in memory.
func roundTrip(t *testing.T, r *Result) {
	t.Helper()
	fromMemory, err := config.Load(config.Sources{Imported: r.Imported()})
	if err != nil {
		t.Fatal(err)
	}
	if fromFile := reload(t, r); !reflect.DeepEqual(fromFile, fromMemory) {
		t.Errorf("file and memory differ:\n%+v\n%+v", fromFile, fromMemory)
	}
	for _, n := range r.Notes {
		if n.Text == "" || n.Name == "" || n.Source == "" && n.Outcome != Missing {
			t.Errorf("note without reason or place: %+v", n)
		}
	}
}

// TestSystemsKnowTheirSettings reads files with all documented settings of each system.
func TestSystemsKnowTheirSettings(t *testing.T) {
	entries, err := os.ReadDir("testdata/systems")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Run(entry.Name(), func(t *testing.T) {
			r := imported(t, Options{}, testFile(t, "systems/"+entry.Name()))
			if lines := notes(r, Unknown); len(lines) > 0 {
				t.Errorf("unknown settings:\n%s", strings.Join(lines, "\n"))
			}
			if r.Count(Carried) == 0 {
				t.Error("nothing was carried over")
			}
			roundTrip(t, r)
		})
	}
}

// TestSeveralFiles imports what one WSO2 server is configured by.
func TestSeveralFiles(t *testing.T) {
	r := imported(t, Options{}, testFile(t, "reference/wso2-worker2-axis2.xml"),
		testFile(t, "reference/wso2-carbon.xml"), testFile(t, "reference/wso2-catalina-server.xml"))
	want := config.Default()
	want.PortOffset = 1
	want.Node.SubDomain = "worker"
	want.Cluster.Domain = "wso2.as.domain"
	want.Cluster.Seeds = []string{"10.0.0.4-9:4100"}
	want.Cluster.AdvertiseHost = "10.0.0.6"
	want.Cluster.Properties = map[string]string{ // the node fills them in
		"backendServerURL": "https://${hostName}:${httpsPort}/services/", "mgtConsoleURL": "https://${hostName}:${httpsPort}/",
	}
	want.Cluster.BindPort = 4299 // shifted to localMemberPort, which WSO2's offset leaves alone
	if got := reload(t, r); !reflect.DeepEqual(got.Cluster, want.Cluster) || got.PortOffset != 1 ||
		got.Node.SubDomain != "worker" || got.Port(got.Cluster.BindPort) != 4300 {
		t.Errorf("got %+v", got)
	}
	roundTrip(t, r)
}
