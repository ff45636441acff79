package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/test/process"
)

const (
	appID, appKey, appSecret = "7", "app-key", "app-secret"
	adminToken               = "0123456789abcdef"
)

// launch starts a program. Its environment has no options of Parley.
func launch(t *testing.T, in io.Reader, args ...string) *process.Process {
	t.Helper()
	return process.Start(t, process.Command{Args: args, Input: in})
}

// node is one of a cluster.
type node struct {
	*process.Process
	name    string
	port    int // of its channels
	admin   *admin.Client
	cluster *nodes
	number  int
}

// nodes are a cluster of three.
type nodes struct {
	*testing.T
	dir  string
	file string
	base int
	list []*node
}

const count = 3

// Ports of messaging, from those of channels on.
const (
	imTCP  = 40
	imWS   = 44
	imHTTP = 48
)

// ports is how many a cluster of a test takes, from its base on.
const ports = 60

// start starts three nodes, with further tables of the configuration, and waits until they are
// ready and see each other.
func start(t *testing.T, further ...string) *nodes {
	t.Helper()
	c := &nodes{T: t, dir: t.TempDir(), base: process.FreePorts(t, ports)}
	c.file = filepath.Join(c.dir, "parley.toml")
	var seeds []string
	for i := range count {
		seeds = append(seeds, fmt.Sprintf("%q", process.Address(c.clusterPort(i))))
	}
	text := fmt.Sprintf(`
[channels]
host = "127.0.0.1"
[metrics]
host = "127.0.0.1"
[admin]
token = %q
[cluster]
secret = "fedcba9876543210fedcba9876543210"
bootstrap_expect = %d
bind_host = "127.0.0.1"
seeds = [%s]
[http]
trusted_proxies = ["127.0.0.1"]
[[apps]]
id = %q
key = %q
secret = %q
%s`, adminToken, count, strings.Join(seeds, ", "), appID, appKey, appSecret, strings.Join(further, ""))
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		n := c.node(i)
		n.start()
		c.list = append(c.list, n)
	}
	for _, n := range c.list {
		eventually(t, n.name+" is ready", func() bool { return n.ready() && n.sees("ready") == count })
	}
	return c
}

// node is one that is not started yet.
func (c *nodes) node(i int) *node {
	n := &node{name: fmt.Sprintf("node%d", i+1), port: c.base + i, cluster: c, number: i}
	n.admin = &admin.Client{Server: n.url(), Token: adminToken}
	return n
}

func (c *nodes) clusterPort(i int) int { return c.base + 30 + 2*i }

// start starts the process of the node.
func (n *node) start() {
	c := n.cluster
	n.Process = launch(c.T, nil, parley, "serve", "-c", c.file, "--node.name", n.name,
		"--node.data_dir", filepath.Join(c.dir, n.name),
		"--channels.port", strconv.Itoa(n.port), "--metrics.port", strconv.Itoa(n.port+10),
		"--im.tcp_port", strconv.Itoa(n.port+imTCP), "--im.ws_port", strconv.Itoa(n.port+imWS),
		"--im.http_port", strconv.Itoa(n.port+imHTTP),
		"--cluster.bind_port", strconv.Itoa(c.clusterPort(n.number)))
}

func (n *node) url() string { return "http://" + process.Address(n.port) }

func (n *node) ready() bool {
	response, err := http.Get(n.url() + "/ready")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// view is what the node knows of the cluster.
func (n *node) view() admin.ClusterView {
	n.cluster.Helper()
	view, err := n.admin.Cluster(n.cluster.Context())
	if err != nil {
		n.cluster.Fatal(err)
	}
	return view
}

// member returns how the node sees the one with the name.
func (n *node) member(name string) admin.ClusterMember {
	n.cluster.Helper()
	for _, m := range n.view().Members {
		if m.Name == name {
			return m
		}
	}
	return admin.ClusterMember{}
}

// sees counts the members in a state.
func (n *node) sees(state string) int {
	found := 0
	view, err := n.admin.Cluster(n.cluster.Context())
	if err != nil {
		return 0
	}
	for _, m := range view.Members {
		if m.State == state {
			found++
		}
	}
	return found
}

// clients counts those that are connected to the node.
func (n *node) clients() int { return n.member(n.name).Connections }

// command runs a command of parley for the first node.
func (c *nodes) command(args ...string) (string, error) {
	c.Helper()
	args = append(args, "--token", adminToken)
	if !strings.Contains(strings.Join(args, " "), "--server") {
		args = append(args, "--server", c.list[0].url())
	}
	cmd := exec.Command(parley, args...)
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, &errout)
	}
	return out.String(), nil
}

// publish sends an event through the HTTP API at an address.
func publish(client *http.Client, server, channel, event, data string) error {
	body, err := json.Marshal(map[string]any{"name": event, "channels": []string{channel}, "data": data})
	if err != nil {
		return err
	}
	path, query := "/apps/"+appID+"/events", url.Values{}
	protocol.SignRequest(appKey, appSecret, http.MethodPost, path, query, body, time.Now().Unix())
	response, err := client.Post(server+path+"?"+query.Encode(), "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, text)
	}
	return err
}
