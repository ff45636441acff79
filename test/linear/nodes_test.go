//go:build linux

package linear

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

const (
	nodeCount = 3
	token     = "linear-token-0123456789"
)

// node is one node of the cluster under test.
type node struct {
	t       *testing.T
	name    string
	dir     string
	binary  string
	config  string
	port    int // the first of four: channels, metrics, the cluster and its engine
	process *process.Process
}

// cluster is three nodes of one configuration.
type cluster struct {
	t     *testing.T
	nodes []*node
}

// newCluster starts three nodes and returns when all are ready.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	scratch := t.TempDir()
	var flags []string
	if os.Getenv("PARLEY_LINEAR_RACE") == "1" {
		flags = []string{"-race"}
	}
	binary, err := process.Parley(scratch, flags...)
	if err != nil {
		t.Fatal(err)
	}
	base := process.FreePorts(t, 4*nodeCount)
	var seeds []string
	for i := range nodeCount {
		seeds = append(seeds, strconv.Quote(process.Address(base+4*i+2)))
	}
	config := filepath.Join(scratch, "parley.toml")
	text := fmt.Sprintf(`[channels]
host = "127.0.0.1"
[metrics]
host = "127.0.0.1"
[cluster]
domain = "linear-%d"
secret = "0123456789abcdef0123456789abcdef"
bootstrap_expect = 3
bind_host = "127.0.0.1"
seeds = [%s]
[[primitives.keys]]
id = "linear"
namespace = "linear"
token = %q
scopes = ["*"]
`, base, strings.Join(seeds, ", "), token)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t}
	for i := range nodeCount {
		n := &node{
			t: t, name: fmt.Sprint("node", i), dir: filepath.Join(scratch, fmt.Sprint("node", i)), binary: binary, config: config,
			port: base + 4*i,
		}
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		c.nodes = append(c.nodes, n)
		n.start()
	}
	for _, n := range c.nodes {
		n.ready()
	}
	return c
}

// start starts the process.
func (n *node) start() {
	n.t.Helper()
	n.process = process.Start(n.t, process.Command{
		Args: []string{n.binary, "serve", "-c", n.config, "--node.name", n.name, "--node.data_dir", n.dir,
			"--channels.port", strconv.Itoa(n.port), "--metrics.port", strconv.Itoa(n.port + 1),
			"--cluster.bind_port", strconv.Itoa(n.port + 2)},
		Dir: n.dir, Log: filepath.Join(n.dir, "parley.log"),
	})
}

func (n *node) url() string { return "http://" + process.Address(n.port) }

// probe asks a node that may not answer.
var probe = &http.Client{Timeout: time.Second}

// ready waits until the node serves.
func (n *node) ready() {
	n.t.Helper()
	process.Eventually(n.t, n.name+" is ready", func() bool {
		answer, err := probe.Get(n.url() + "/ready")
		if err != nil {
			return false
		}
		_ = answer.Body.Close() // its status is all
		return answer.StatusCode == http.StatusOK
	})
}

// sound demands that the logs tell of no defect of the program.
func (c *cluster) sound() {
	c.t.Helper()
	for _, n := range c.nodes {
		for line := range strings.Lines(n.process.Output()) {
			if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE") {
				c.t.Errorf("log of %s: %s", n.name, line)
			}
		}
	}
}
