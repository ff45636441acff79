//go:build linux

package faults

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/servers"
)

// broker is what the nodes of a cluster share instead of a cluster of engines.
type broker interface {
	// config is the part of the nodes' configuration that names it.
	config() string
	// kill ends all of it as a crash does, and start starts it again with what it has stored.
	kill()
	start()
	// crash ends the part of it that others take the place of; false if there is none.
	crash() bool
}

// brokers start each kind, listening on an address.
var brokers = map[string]func(t *testing.T, host string) broker{
	"redis":         newRedisBroker,
	"redis-cluster": newRedisClusterBroker,
	"nats":          newNATSBroker,
}

// brokerNames are those that PARLEY_FAULTS_BROKER names, or all.
func brokerNames() []string {
	if name := os.Getenv("PARLEY_FAULTS_BROKER"); name != "" {
		return strings.Split(name, ",")
	}
	return []string{"redis", "redis-cluster", "nats"}
}

// TestBrokers has nodes share a broker, and demands of them what is demanded of a cluster of
// engines: they are killed, paused, cut off from the broker, stopped, and the broker goes away.
func TestBrokers(t *testing.T) {
	for _, name := range brokerNames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testBroker(t, name)
		})
	}
}

func testBroker(t *testing.T, name string) {
	w, err := newNamespaces(t)
	host, seen := "127.0.0.1", "127.0.0.1"
	if err != nil {
		t.Logf("no node is cut off, as network namespaces are not to be had: %v", err)
	} else {
		host, seen = w.brokerHost(), w.host()
		w.must("addr", "add", host+"/24", "dev", w.prefix+"m")
	}
	b := brokers[name](t, host)
	hooks := newReceiver(t, seen)
	c := newCluster(t, options{webhooks: hooks.server.URL, broker: b, node: pauseFlags})
	if w != nil {
		w.attachToBroker(c)
	}
	figure(t, "three new nodes over "+name+", ready", c.startAll())
	p := populate(t, c)
	p.settle(settleLimit, c.nodes...)
	hooks.everybodyCame(p)
	tr := startTraffic(t, c)
	excuses := []excuse{p.crash(c.nodes[0], hooks)}
	p.comeBack(c.nodes[0], hooks)
	p.shortPause(c.nodes[1], pauseTimeout/3, hooks)
	excuses = append(excuses, p.longPause(c.nodes[2], pauseTimeout+3*quickBeat, hooks))
	tr.check(append(p.clients, p.past...), excuses...)
	if w != nil {
		p.forget()
		tr = startTraffic(t, c)
		tr.check(p.clients, p.loss(w, lossKind{"cut off from " + name, network.cut}, 1, hooks))
	}
	p.forget()
	p.stop(c.nodes[1], hooks)
	p.comeBack(c.nodes[1], hooks)
	if at := time.Now(); b.crash() {
		p.healthy("a part of "+name+" killed", at)
		p.quiet("after a part of "+name+" was killed", hooks)
	}
	p.brokerGone(name, b, hooks)
}

// brokerGone kills the broker and starts it again: the nodes say what they miss, count what they
// could not send, keep their clients, and all is as before afterwards, with no webhook for what
// did not happen.
func (p *population) brokerGone(name string, b broker, hooks *receiver) {
	p.t.Helper()
	channel := fmt.Sprintf("away-%d", probes.Add(1))
	var clients []*client
	for _, n := range p.cluster.nodes {
		one := connect(p.t, n, probeApp, "listens at "+n.name, "")
		if err := one.subscribe(channel); err != nil {
			p.t.Fatal(err)
		}
		clients = append(clients, one)
	}
	var unsent []int
	for _, n := range p.cluster.nodes {
		unsent = append(unsent, n.unsent())
	}
	webhooks, at := hooks.mark(), time.Now()
	b.kill()
	for _, n := range p.cluster.nodes {
		var status int
		var failed string
		if !eventually(settleLimit, func() bool {
			status, failed = n.health()
			return status == http.StatusOK && strings.Contains(failed, "signal") && strings.Contains(failed, "queue")
		}) {
			p.t.Errorf("%s answers %d under /ready without %s, and misses %q", n.name, status, name, failed)
		}
		for k := range awayEvents {
			ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
			if err := n.publish(ctx, probeApp, "meanwhile", fmt.Sprint(n.name, " ", k), channel); err != nil {
				p.t.Errorf("publish through %s without %s: %v", n.name, name, err)
			}
			cancel()
		}
	}
	figure(p.t, name+" gone, all nodes say so", time.Since(at))
	p.connected()
	b.start()
	p.healthy(name+" is back", time.Now())
	p.settle(settleLimit, p.cluster.nodes...)
	hooks.exactly("while "+name+" was away", webhooks, 0)
	for j, n := range p.cluster.nodes {
		p.accounted(clients, j, n.unsent()-unsent[j])
	}
	for _, one := range clients {
		one.close()
	}
	p.connected()
	p.probe()
}

// awayEvents is how many events are published through each node while the broker is away.
const awayEvents = 5

// accounted demands that clients of the node heard all that was published through it meanwhile, and
// those of the others what it does not count as unsent, no more than it had to send.
func (p *population) accounted(clients []*client, node, unsent int) {
	p.t.Helper()
	publisher := p.cluster.nodes[node].name
	if most := awayEvents * (len(clients) - 1); unsent > most {
		p.t.Errorf("%s counts %d events as unsent, and had %d to send", publisher, unsent, most)
	}
	for i, one := range clients {
		heard := func() int {
			return len(slices.DeleteFunc(slices.Clone(one.texts("meanwhile")), func(text string) bool {
				return !strings.HasPrefix(text, publisher+" ")
			}))
		}
		want := awayEvents
		if i != node {
			want = max(0, want-unsent)
		}
		if !one.wait(settleLimit, func() bool { return heard() >= want }) {
			p.t.Errorf("%s heard %d of %d events of %s, which counts %d as unsent",
				one.name, heard(), awayEvents, publisher, unsent)
		}
	}
}

// healthy waits until no node misses anything.
func (p *population) healthy(what string, since time.Time) {
	p.t.Helper()
	for _, n := range p.cluster.nodes {
		status, failed := 0, ""
		if !eventually(patience, func() bool {
			status, failed = n.health()
			return status == http.StatusOK && failed == ""
		}) {
			p.t.Errorf("%s: %s answers %d under /ready and misses %q", what, n.name, status, failed)
		}
	}
	figure(p.t, what+", all nodes are well", time.Since(since))
}

// quiet demands that all is as it should be and no webhook tells of anything.
func (p *population) quiet(what string, hooks *receiver) {
	p.t.Helper()
	webhooks := hooks.mark()
	p.settle(settleLimit, p.cluster.nodes...)
	hooks.exactly(what, webhooks, 0)
	p.connected()
	p.probe()
}

// health is the status of /ready and the parts that are not well.
func (n *node) health() (status int, failed string) {
	answer, err := probe.Get("http://" + n.address() + "/ready")
	if err != nil {
		return 0, err.Error()
	}
	_ = answer.Body.Close() // its header is all
	return answer.StatusCode, answer.Header.Get("X-Health-Failed")
}

// unsent is how many events the node could not send to others.
func (n *node) unsent() int {
	n.t.Helper()
	for _, line := range n.metricLines(n.t, "parley_horizontal_broadcast_unsent_total ") {
		return number(n.t, line)
	}
	return 0
}

// redisBroker is one Redis that has each write on disk.
type redisBroker struct{ server *servers.Redis }

func newRedisBroker(t *testing.T, host string) broker {
	return redisBroker{servers.StartRedis(t, servers.RedisConfig{Host: host, AppendOnly: true})}
}

func (b redisBroker) config() string {
	return fmt.Sprintf("[fabric]\ndriver = \"redis\"\n[redis]\nservers = [%q]\n", b.server.Address())
}
func (b redisBroker) kill()       { b.server.Kill() }
func (b redisBroker) start()      { b.server.Restart() }
func (b redisBroker) crash() bool { return false }

// redisClusterBroker is a Redis Cluster of six.
type redisClusterBroker struct {
	t      *testing.T
	server *servers.RedisCluster
}

func newRedisClusterBroker(t *testing.T, host string) broker {
	return redisClusterBroker{t, servers.StartRedisCluster(t, servers.RedisConfig{Host: host, AppendOnly: true, Failover: true})}
}

func (b redisClusterBroker) config() string {
	return fmt.Sprintf("[fabric]\ndriver = \"redis-cluster\"\n[redis]\nservers = %s\n", list(b.server.Addresses()))
}

func (b redisClusterBroker) kill() {
	for _, node := range b.server.Nodes {
		node.Kill()
	}
}

func (b redisClusterBroker) start() {
	for _, node := range b.server.Nodes {
		node.Start()
	}
	for _, node := range b.server.Nodes {
		node.AwaitReady()
	}
}

// crash kills a master; its replica takes its place, and it comes back as the replica of that.
func (b redisClusterBroker) crash() bool {
	master, _ := b.server.MasterOf("any")
	master.Kill()
	b.server.MasterOf("any")
	master.Start()
	return true
}

// natsBroker is three nats-servers of the version that the engine has.
type natsBroker struct{ list []*servers.NATS }

func newNATSBroker(t *testing.T, host string) broker {
	program, err := servers.BuildNATS(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return natsBroker{servers.StartNATS(t, 3, servers.NATSConfig{Host: host, Program: program})}
}

func (b natsBroker) config() string {
	var urls []string
	for _, server := range b.list {
		urls = append(urls, server.URL())
	}
	return fmt.Sprintf("[fabric]\ndriver = \"nats\"\n[nats]\nservers = %s\n", list(urls))
}

func (b natsBroker) kill() {
	for _, server := range b.list {
		server.Kill()
	}
}

func (b natsBroker) start() {
	for _, server := range b.list {
		server.Start()
	}
	for _, server := range b.list {
		server.AwaitReady()
	}
}

// crash kills one server and starts it again. Until streams that it led have another leader, which takes
// a NATS server up to 9 s, clients who come to a cache channel may begin without its last event.
func (b natsBroker) crash() bool {
	b.list[0].Kill()
	b.list[0].Start()
	for _, server := range b.list {
		server.AwaitReady()
	}
	return true
}

// list is a list of texts in TOML.
func list(texts []string) string {
	var quoted []string
	for _, text := range texts {
		quoted = append(quoted, strconv.Quote(text))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// brokerHost is an address of this machine that the nodes reach over the way that can be cut.
func (w *namespaces) brokerHost() string { return w.member(252) }

// attachToBroker puts the nodes of a cluster that was not started into their namespaces.
func (w *namespaces) attachToBroker(c *cluster) {
	for i, n := range c.nodes {
		n.host, n.inside = w.client(i), []string{"ip", "netns", "exec", w.space(i)}
		n.args = append(n.args, "--channels.host=0.0.0.0", "--metrics.host=0.0.0.0", "--cluster.advertise_host="+w.client(i))
	}
}

// configOf is the part of a configuration that joins the nodes.
func (c *cluster) configOf(o options, base int, seeds []string) string {
	if o.broker != nil {
		return o.broker.config()
	}
	return `[cluster]
domain = "faults-` + strconv.Itoa(base) + `"
secret = "0123456789abcdef0123456789abcdef"
bootstrap_expect = 3
bind_host = "127.0.0.1"
seeds = [` + strings.Join(seeds, ", ") + `]
`
}
