//go:build linux

package faults

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// patience bounds every wait for a process.
const patience = process.Patience

// poll is the pause between two looks at what cannot be awaited.
const poll = 20 * time.Millisecond

const adminToken = "faults-admin-token"

// node is one node of a cluster under test, running or not.
type node struct {
	t    *testing.T
	name string
	dir  string // of its data
	logs string // of its log, which is not on the node's own disk
	args []string

	host                     string
	channels, metrics, hello int      // ports
	messaging                int      // the first of its three ports of messaging, 0 for none
	inside                   []string // the command that runs the program elsewhere, nil for here
	binary                   string   // the program
	clock                    string   // the file that says how far its wall clock is off, empty for none

	mu    sync.Mutex       // guards the following fields
	run   *process.Process // of the last start, nil before the first
	state state
	turns int           // of state
	off   time.Duration // of its wall clock
}

// state is what the test has done to a node.
type state int

const (
	down     state = iota
	up             // ready and not touched since
	stopping       // SIGTERM was sent
	paused
)

func (n *node) is() state {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

func (n *node) set(s state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = s
	n.turns++
}

// turn tells how often the state has changed.
func (n *node) turn() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.turns
}

func (n *node) address() string { return net.JoinHostPort(n.host, strconv.Itoa(n.channels)) }

func (n *node) metricsAddress() string { return net.JoinHostPort(n.host, strconv.Itoa(n.metrics)) }

func (n *node) logFile() string { return filepath.Join(n.logs, "parley.log") }

// log is what the node has written so far, through all its starts.
func (n *node) log() string {
	text, err := os.ReadFile(n.logFile())
	if err != nil {
		n.t.Fatal(err)
	}
	return string(text)
}

// sound demands that the log tells of no defect of the program.
func (n *node) sound() {
	n.t.Helper()
	if _, err := os.Stat(n.logFile()); err != nil {
		return // it was not started
	}
	for line := range strings.Lines(n.log()) {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "DATA RACE") {
			n.t.Errorf("log of %s: %s", n.name, line)
		}
	}
}

// start starts the process and does not wait until it is ready.
func (n *node) start() {
	n.t.Helper()
	env := []string{"PARLEY_ADMIN_TOKEN=" + adminToken}
	if n.clock != "" {
		env = append(env, clockVariable+"="+n.clock)
	}
	run := process.Start(n.t, process.Command{
		Args: slices.Concat(n.inside, []string{n.binary}, n.args), Dir: n.dir, Env: env, Log: n.logFile(),
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.run = run
}

// process is that of the last start.
func (n *node) process() *process.Process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// probe asks a node that may not answer.
var probe = &http.Client{Timeout: time.Second}

// ready waits until the node serves.
func (n *node) ready() {
	n.t.Helper()
	served := false
	eventually(patience, func() bool {
		if !n.process().Running() {
			return true
		}
		answer, err := probe.Get("http://" + n.address() + "/ready")
		if err != nil {
			return false
		}
		_ = answer.Body.Close() // its status is all
		served = answer.StatusCode == http.StatusOK
		return served
	})
	if !served {
		n.t.Fatalf("%s ended or is not ready after %v\n%s", n.name, patience, tail(n.log()))
	}
	n.set(up)
}

// pid is that of the process, 0 before the first start.
func (n *node) pid() int {
	if run := n.process(); run != nil {
		return run.PID()
	}
	return 0
}

// kill ends the process as a crash does and returns when it is gone.
func (n *node) kill() {
	n.set(down)
	n.process().Kill()
}

// terminate ends the process as a process manager does.
func (n *node) terminate() {
	n.t.Helper()
	n.set(stopping)
	if code := n.process().Terminate(); code != 0 {
		n.t.Errorf("%s ended with %d after SIGTERM\n%s", n.name, code, tail(n.log()))
	}
	n.set(down)
}

func (n *node) pause() { n.t.Helper(); n.set(paused); n.process().Pause() }

func (n *node) resume() { n.t.Helper(); n.set(up); n.process().Resume() }

// copyIdentity makes this node's directory say what that of another says about itself.
func (n *node) copyIdentity(of *node) {
	n.t.Helper()
	for _, file := range []string{"node.id", "cluster.json"} {
		text, err := os.ReadFile(filepath.Join(of.dir, file))
		if err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(n.dir, file), text, 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
}

// nodeCount is the size of every cluster under test.
const nodeCount = 3

// cluster is three nodes of one configuration.
type cluster struct {
	t      *testing.T
	nodes  []*node
	config string
	// missing are how many events of earlier traffic a node has not received, which may have
	// been lost on the way and may still be there.
	missing map[*node]int
}

// options change a cluster under test.
type options struct {
	webhooks string               // address of a receiver, empty for none
	dirs     []string             // of the nodes, nil for new ones
	node     func(i int) []string // further flags of a node; may be nil
	broker   broker               // that the nodes share; nil for a cluster of engines

	messaging bool // serve it
}

// newCluster prepares three nodes with free ports and empty directories.
func newCluster(t *testing.T, o options) *cluster {
	t.Helper()
	c := &cluster{t: t, missing: map[*node]int{}, config: filepath.Join(t.TempDir(), "parley.toml")}
	base := process.FreePorts(t, 4*nodeCount)
	var seeds []string
	for i := range nodeCount {
		n := &node{t: t, name: fmt.Sprintf("node%d", i), binary: binary, host: "127.0.0.1",
			channels: base + 4*i, metrics: base + 4*i + 1, hello: base + 4*i + 2}
		if o.dirs != nil {
			n.dir = o.dirs[i]
		} else {
			n.dir = t.TempDir()
		}
		n.logs = t.TempDir()
		c.nodes = append(c.nodes, n)
		seeds = append(seeds, strconv.Quote("127.0.0.1:"+strconv.Itoa(n.hello)))
	}
	text := `[channels]
host = "127.0.0.1"
[metrics]
host = "127.0.0.1"
[webhooks]
leave_debounce = "0s"
` + c.configOf(o, base, seeds) + c.messagingOf(o) + apps(o.webhooks)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, n := range c.nodes {
		n.args = c.args(n)
		if o.node != nil {
			n.args = append(n.args, o.node(i)...)
		}
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.sound()
		}
		if t.Failed() {
			for _, n := range c.nodes {
				t.Logf("log of %s\n%s", n.name, tail(n.log()))
			}
		}
	})
	return c
}

// messagingOf is the part of a configuration that is about messaging, for which the nodes get ports.
func (c *cluster) messagingOf(o options) string {
	if !o.messaging {
		return ""
	}
	base := process.FreePorts(c.t, 3*nodeCount)
	for i, n := range c.nodes {
		n.messaging = base + 3*i
	}
	return fmt.Sprintf("[im]\nenabled = true\nmanager_token = %q\n", messagingToken)
}

// apps is the part of a configuration that declares the apps; webhooks of the main one go to
// a URL, unless that is empty.
func apps(webhooks string) string {
	text := ""
	for _, a := range []app{probeApp, quotaApp, mainApp} {
		text += fmt.Sprintf("[[apps]]\nid = %q\nkey = %q\nsecret = %q\nenable_client_messages = true\n"+
			"enable_user_authentication = true\nenable_watchlist_events = true\n", a, a, appSecret)
		if a == quotaApp {
			text += fmt.Sprintf("max_connections = %d\n", quotaSize)
		}
	}
	if webhooks != "" {
		text += fmt.Sprintf("[[apps.webhooks]]\nurl = %q\n", webhooks)
	}
	return text
}

// args is the command line of a node.
func (c *cluster) args(n *node) []string {
	args := []string{"serve", "-c", c.config, "--node.name", n.name, "--node.data_dir", n.dir,
		"--channels.port", strconv.Itoa(n.channels), "--metrics.port", strconv.Itoa(n.metrics),
		"--cluster.bind_port", strconv.Itoa(n.hello)}
	if n.messaging != 0 {
		args = append(args, "--im.tcp_port", strconv.Itoa(n.messaging), "--im.ws_port", strconv.Itoa(n.messaging+1),
			"--im.http_port", strconv.Itoa(n.messaging+2))
	}
	return args
}

// startAll starts all nodes and returns how long it took until all of them were ready.
func (c *cluster) startAll() time.Duration {
	c.t.Helper()
	begin := time.Now()
	for _, n := range c.nodes {
		n.start()
	}
	for _, n := range c.nodes {
		n.ready()
	}
	return time.Since(begin)
}

// living are the nodes that the test has not touched.
func (c *cluster) living() (list []*node) {
	for _, n := range c.nodes {
		if n.is() == up {
			list = append(list, n)
		}
	}
	return list
}

// except are all nodes but one.
func (c *cluster) except(not *node) (list []*node) {
	for _, n := range c.nodes {
		if n != not {
			list = append(list, n)
		}
	}
	return list
}

// eventually looks until done or the time is over, and tells which.
func eventually(limit time.Duration, done func() bool) bool { return process.Until(limit, done) }

// tail is the end of a log, without the engine's attempts to reach a dead node.
func tail(log string) string {
	var lines []string
	for line := range strings.Lines(log) {
		if !strings.Contains(line, "Error trying to connect to route") {
			lines = append(lines, line)
		}
	}
	const most = 40
	return strings.Join(lines[max(0, len(lines)-most):], "")
}

// command runs the binary to its end, within limit.
func command(t *testing.T, limit time.Duration, args ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(process.Environment(), "PARLEY_ADMIN_TOKEN="+adminToken)
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Writer(&text), &text
	err = cmd.Run()
	return text.String(), err
}
