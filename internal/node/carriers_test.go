package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
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

// TestBrokerThatRefuses wants no node that waits for what will not come, and the options to change.
func TestBrokerThatRefuses(t *testing.T) {
	t.Parallel()
	redis := servers.StartRedis(t, servers.RedisConfig{Password: "right"})
	nats := servers.StartNATS(t, 1, servers.NATSConfig{Settings: []string{"--user", "parley", "--pass", "right"}})[0]
	place := "redis://:wrong@" + redis.Address()
	for name, test := range map[string]struct {
		prepare func(*config.Config)
		want    []string
	}{
		"a password": {func(c *config.Config) {
			c.Fabric.Driver, c.Redis.Servers, c.Redis.Password = config.DriverRedis, []string{redis.Address()}, "wrong"
		}, []string{"fabric.signal over redis", "WRONGPASS", "(options redis.username, redis.password, redis.servers)"}},
		"a password of a place": {func(c *config.Config) {
			c.Fabric.Driver, c.Redis.Servers, c.Redis.Password = config.DriverRedis, []string{redis.Address()}, "right"
			c.Redis.Cache = place
		}, []string{"fabric.cache over redis", "WRONGPASS", "(option redis.cache)"}},
		"a password at the place of signals": {func(c *config.Config) {
			c.Fabric.RateLimit, c.Redis.Signal = config.DriverRedis, place
		}, []string{"fabric.rate_limit over redis", "(option redis.signal)"}},
		"a server of another kind": {func(c *config.Config) {
			c.Fabric.Driver, c.Redis.Servers, c.Redis.Password = config.DriverRedisCluster, []string{redis.Address()}, "right"
		}, []string{"fabric.signal over redis-cluster", "(options fabric.signal, fabric.driver, redis.servers, "}},
		"a login of NATS": {func(c *config.Config) {
			c.Fabric.Signal, c.NATS.Servers, c.NATS.Username, c.NATS.Password = config.DriverNATS, []string{nats.URL()}, "parley", "wrong"
		}, []string{"fabric.signal over nats", "Authorization Violation", "nats.username, nats.password, nats.token, "}},
	} {
		c := options(t)
		c.Fabric.Driver = config.DriverMemory
		test.prepare(&c)
		_, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%s: it starts, or says %v", name, err)
			continue
		}
		for _, part := range test.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q is missing in %v", name, part, err)
			}
		}
	}
}

// TestRefused has the Sentinels refuse a login, or what cannot be mended.
func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"NOAUTH HELLO must be called": "redis.sentinel_password)", "no PEM (option redis.ca_file)": "no PEM (option redis.ca_file)",
	} {
		got := withOptions(errors.New(text), config.Redis{SentinelMaster: "main"}, "signal", config.DriverRedis, "").Error()
		if !strings.HasPrefix(got, text) || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %s", text, got)
		}
	}
	old := fmt.Errorf("version 6: %w", fabric.ErrUnsupported)
	if got := withOptions(old, config.Redis{}, "signal", config.DriverRedis, ""); got.Error() != old.Error() {
		t.Error(got)
	}
	foreign := fmt.Errorf("handshake: %w", &tls.CertificateVerificationError{Err: errors.New("unknown authority")})
	if got := withOptions(foreign, config.Redis{}, "signal", config.DriverNATS, ""); !strings.HasSuffix(got.Error(), "(option nats.ca_file)") {
		t.Error(got)
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
