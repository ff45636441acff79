package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// ready is what a node answers under /ready: the status, the parts it misses, and the text.
func ready(port int) (status int, failed, text string) {
	response, err := http.Get("http://" + process.Address(port) + "/ready")
	if err != nil {
		return 0, "", err.Error()
	}
	defer response.Body.Close()
	body := make([]byte, 1000)
	count, _ := response.Body.Read(body)
	return response.StatusCode, response.Header.Get("X-Health-Failed"), string(body[:count])
}

// TestLateBroker starts nodes before the broker that they are to use.
func TestLateBroker(t *testing.T) {
	t.Parallel()
	for driver, prepare := range map[string]func(*testing.T, *config.Config) (late func()){
		config.DriverRedis: func(t *testing.T, c *config.Config) func() {
			server := servers.StartRedis(t, servers.RedisConfig{})
			c.Redis.Servers = []string{server.Address()}
			server.Kill()
			return server.Start
		},
		config.DriverNATS: func(t *testing.T, c *config.Config) func() {
			server := servers.StartNATS(t, 1, servers.NATSConfig{})[0]
			c.NATS.Servers = []string{server.URL()}
			c.Fabric = config.Fabric{Driver: config.DriverMemory, Signal: config.DriverNATS}
			server.Kill()
			return server.Start
		},
		config.DriverRabbitMQ: func(t *testing.T, c *config.Config) func() {
			server := servers.StartRabbitMQ(t, servers.RabbitMQOptions{})
			c.Rabbitmq.Servers = []string{server.URL("/")}
			c.Fabric = config.Fabric{Driver: config.DriverMemory, Queue: config.DriverRabbitMQ}
			server.Kill()
			return func() { server.Start(t) }
		},
	} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			c := options(t)
			c.Channels.Port, c.Metrics.Port, c.Fabric.Driver = freePort(t), freePort(t), driver
			late := prepare(t, &c)
			log, ended := &buffer{}, make(chan error, 1)
			var n *Node
			go func() {
				var err error
				n, err = Start(t.Context(), c, slog.New(slog.NewTextHandler(log, nil)))
				ended <- err
			}()
			process.Eventually(t, "it says for what it waits", func() bool {
				status, _, text := ready(c.Channels.Port)
				return status == http.StatusServiceUnavailable && strings.Contains(text, "waiting for "+driver+", which carries")
			})
			process.Eventually(t, "a gauge says so", func() bool {
				response, err := http.Get("http://" + process.Address(c.Metrics.Port) + "/metrics")
				if err != nil {
					return false
				}
				defer response.Body.Close()
				text, err := io.ReadAll(response.Body)
				return err == nil && regexp.MustCompile(`(?m)^parley_carrier_up\{driver="`+driver+`",parts="[a-z_+]+"\} 0$`).Match(text)
			})
			late()
			if err := <-ended; err != nil {
				t.Fatalf("%v\n%s", err, log)
			}
			if got := strings.Count(log.String(), "level=WARN"); got != 1 {
				t.Errorf("it warns %d times that it waits:\n%s", got, log)
			}
			process.Eventually(t, "it is ready", func() bool {
				status, failed, _ := ready(c.Channels.Port)
				return status == http.StatusOK && failed == ""
			})
			ctx, cancel := context.WithTimeout(context.Background(), c.Shutdown.Grace)
			defer cancel()
			if err := n.Stop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBrokerThatRefuses wants no node that waits for what will not come.
func TestBrokerThatRefuses(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{Password: "right"})
	c := options(t)
	c.Fabric.Driver, c.Redis.Servers, c.Redis.Password = config.DriverRedis, []string{server.Address()}, "wrong"
	_, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "fabric.signal over redis") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("it starts, or says %v", err)
	}
}

// TestMixedCarriers has two nodes share signals over NATS and all else over two Redis servers and
// several databases, and has one of the servers go away.
func TestMixedCarriers(t *testing.T) {
	t.Parallel()
	signals := servers.StartNATS(t, 1, servers.NATSConfig{})[0]
	stores, caches := servers.StartRedis(t, servers.RedisConfig{AppendOnly: true}), servers.StartRedis(t, servers.RedisConfig{})
	var nodes []*running
	for i := range 2 {
		c := options(t)
		c.Channels.Port = freePort(t)
		c.Node.Name = fmt.Sprint("n", i+1)
		c.Fabric = config.Fabric{Driver: config.DriverRedis, Signal: config.DriverNATS}
		c.NATS.Servers = []string{signals.URL()}
		c.Redis.Servers = []string{stores.Address()}
		c.Redis.Cache, c.Redis.Documents, c.Redis.Lock = "redis://"+caches.Address()+"/5", "3", "4"
		nodes = append(nodes, start(t, c))
	}
	both := func(what string, is func(n *running) bool) {
		t.Helper()
		for _, n := range nodes {
			process.Eventually(t, n.config.Node.Name+": "+what, func() bool { return is(n) })
		}
	}
	missing := func(want string) func(*running) bool {
		return func(n *running) bool {
			status, failed, _ := ready(n.config.Channels.Port)
			return status == http.StatusOK && failed == want
		}
	}
	both("all is well", missing(""))
	both("they know each other", func(n *running) bool { return len(n.cluster.membership.View().Members) == 2 })
	client := nodes[0].connect()
	client.subscribe("cache-c")
	client.next("pusher:cache_miss")
	process.Eventually(t, "the other node knows of the subscription", func() bool {
		_, others := nodes[1].cluster.directory.Rows()
		return others > 0
	})
	nodes[1].publish("cache-c", "first", "1")
	client.next("first")
	for database, server := range map[string]*servers.Redis{"db3": stores, "db5": caches} {
		if keyspace := server.Do("INFO", "keyspace"); !strings.Contains(keyspace, database+":keys=") {
			t.Errorf("nothing is in %s:\n%s", database, keyspace)
		}
	}
	if list := nodes[0].ClusterView().Brokers; len(list) != 5 || list[0].Driver != config.DriverNATS || list[0].Error != "" {
		t.Errorf("the brokers are %+v", list)
	}
	stores.Kill()
	both("they say what they miss", missing("documents, lock, queue"))
	nodes[1].publish("cache-c", "second", "2")
	client.next("second")
	stores.Restart()
	both("all is well again", missing(""))
	nodes[0].stop()
	signals.Kill()
	nodes[1].stop() // though it cannot tell anybody
}

// TestStopWithoutBroker stops a node that has everything over a broker, which is gone.
func TestStopWithoutBroker(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	c := options(t)
	c.Fabric.Driver, c.Redis.Servers = config.DriverRedis, []string{server.Address()}
	n := start(t, c)
	server.Kill()
	if took := n.stop(); took > c.Shutdown.Grace+2*partingTime {
		t.Errorf("it took %v", took)
	}
}
