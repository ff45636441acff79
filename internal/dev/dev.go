// Package dev runs a whole cluster on one machine, for trying it out: real node processes
// with shifted ports, a small balancer in front of them, and one terminal for all.
//
// It may import the standard library. It must never import another room of Parley: it knows
// nodes as everybody outside does, as processes with ports.
package dev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ErrInvalid says that Options cannot be used.
var ErrInvalid = errors.New("invalid options")

// Bounds of Options.Nodes. One node needs no cluster; a laptop has no use for more than nine.
const (
	MinNodes = 2
	MaxNodes = 9
)

// stopTimeout is how long a node may take to stop before it is killed. A node's own
// shutdown.grace is 10 s by default.
const stopTimeout = 15 * time.Second

// Options configure Run.
type Options struct {
	Nodes      int
	PortOffset int       // of the balancer; node n listens 100 n above it
	DataDir    string    // keeps the data of all nodes; empty for a directory that is removed at the end
	Program    string    // the parley to run
	Args       []string  // more flags for every node
	In         io.Reader // commands; a line each
	Out        io.Writer
}

// cluster is a running one. Its fields belong to the goroutine of Run.
type cluster struct {
	options  Options
	setup    setup
	out      *terminal
	balancer *balancer
	nodes    []*process
	exited   chan *process
	shown    string          // the status line that was printed last
	ctx      context.Context // of the calls of nodes; ends when the nodes are to stop
	asking   sync.WaitGroup  // calls of nodes
	greeted  bool
}

// Run starts the nodes and the balancer and does what is typed in until ctx ends, "quit", or Out
// takes nothing more. Who gives the standard output must catch SIGPIPE.
// All processes have ended when it returns. Errors: ErrInvalid, those of the disk and of
// the balancer's port.
func Run(ctx context.Context, o Options) error {
	if o.Nodes < MinNodes || o.Nodes > MaxNodes {
		return fmt.Errorf("%w: %d nodes, it must be %d to %d", ErrInvalid, o.Nodes, MinNodes, MaxNodes)
	}
	if o.PortOffset < 0 || 11110+o.PortOffset+100*o.Nodes+10 > 65535 {
		return fmt.Errorf("%w: port offset %d", ErrInvalid, o.PortOffset)
	}
	if o.DataDir == "" {
		temporary, remove, err := temporaryDir()
		if err != nil {
			return err
		}
		defer remove()
		o.DataDir = temporary
	}
	c := &cluster{options: o, out: newTerminal(o.Out), exited: make(chan *process)}
	var err error
	if c.setup, err = prepare(o); err != nil {
		return err
	}
	var addresses []string
	for n := 1; n <= o.Nodes; n++ {
		addresses = append(addresses, c.setup.nodeAddress(n))
	}
	if c.balancer, err = listen(c.setup.address(), addresses); err != nil {
		return err
	}
	defer c.balancer.close()
	return c.run(ctx)
}

func (c *cluster) run(ctx context.Context) error {
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithCancel(ctx)
	defer c.asking.Wait()
	defer cancel()
	for n := 1; n <= c.options.Nodes; n++ {
		node := &process{
			number: n, program: c.options.Program,
			args: append(c.setup.nodeArgs(n), c.options.Args...),
			out:  c.out.prefixed(fmt.Sprintf("node%d | ", n)),
		}
		c.nodes = append(c.nodes, node)
		c.start(node)
	}
	ending := make(chan struct{})
	defer close(ending)
	commands := readLines(c.options.In, ending)
	for {
		c.show()
		select {
		case <-ctx.Done():
			c.stopAll()
			return nil
		case <-c.out.gone: // nobody reads, as behind "| head"
			c.stopAll()
			return nil
		case node := <-c.exited:
			c.ended(node)
		case <-c.balancer.changed:
		case line := <-commands:
			if quit := c.obey(line); quit {
				c.stopAll()
				return nil
			}
		}
	}
}

// readLines delivers the lines of in until ending is closed. A reader that blocks, as a
// terminal does, is left behind: the program ends soon after.
func readLines(in io.Reader, ending <-chan struct{}) <-chan string {
	lines := make(chan string)
	if in == nil {
		return lines
	}
	go func() {
		scanner := bufio.NewScanner(in)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-ending:
				return
			}
		}
	}()
	return lines
}

func (c *cluster) start(node *process) {
	if err := node.start(c.exited); err != nil {
		node.state = "failed: " + err.Error()
		return
	}
	c.out.say("node%d is process %d", node.number, node.cmd.Process.Pid)
}

// ended takes note of a process that has ended and starts it again if that was asked for.
func (c *cluster) ended(node *process) {
	node.finish()
	if node.again {
		node.again = false
		c.start(node)
	}
}

const help = "commands: kill N, stop N, restart N, drain N, undrain N, status, quit"

// obey does a command and tells whether it is the last one.
func (c *cluster) obey(line string) (quit bool) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return false
	}
	switch words[0] {
	case "quit", "exit", "q":
		return true
	case "status":
		c.out.say("%s", c.status())
		return false
	}
	node, err := c.named(words)
	if err != nil {
		c.out.say("%v; %s", err, help)
		return false
	}
	switch {
	case words[0] == "restart" && node.running():
		node.again = true
		c.balancer.leave(node.number - 1)
		node.stop()
	case words[0] == "restart":
		c.start(node)
	case !node.running():
		c.out.say("node%d does not run", node.number)
	case words[0] == "kill":
		c.balancer.leave(node.number - 1)
		node.kill()
	case words[0] == "stop":
		c.balancer.leave(node.number - 1)
		node.stop()
	default:
		c.rotate(node, words[0])
	}
	return false
}

// named returns the node of a command such as "kill 2".
func (c *cluster) named(words []string) (*process, error) {
	if !slices.Contains([]string{"kill", "stop", "restart", "drain", "undrain"}, words[0]) {
		return nil, fmt.Errorf("%q is no command", words[0])
	}
	if len(words) == 2 {
		if n, err := strconv.Atoi(strings.TrimPrefix(words[1], "node")); err == nil && n >= 1 && n <= len(c.nodes) {
			return c.nodes[n-1], nil
		}
	}
	return nil, fmt.Errorf("%s which node, 1 to %d?", words[0], len(c.nodes))
}

// stopAll stops all nodes at once and waits until they have ended.
func (c *cluster) stopAll() {
	c.out.say("stopping")
	running := 0
	for _, node := range c.nodes {
		node.again = false
		if node.running() {
			running++
			node.stop()
		}
	}
	timeout := time.After(stopTimeout)
	for running > 0 {
		select {
		case node := <-c.exited:
			node.finish()
			running--
		case <-timeout:
			for _, node := range c.nodes {
				if node.running() {
					node.kill()
				}
			}
		}
	}
}

// status is one line: every node, and where the balancer sends new connections.
func (c *cluster) status() string {
	var parts, ready []string
	for i, node := range c.nodes {
		if node.running() && node.state == "" && c.balancer.ready(i) {
			node.wasReady = true
			ready = append(ready, fmt.Sprintf("node%d", node.number))
		}
		state := node.state
		switch {
		case state != "":
		case c.balancer.ready(i):
			state = "ready"
		case node.draining:
			state = "draining"
		case node.wasReady:
			state = "not ready"
		default:
			state = "starting"
		}
		parts = append(parts, fmt.Sprintf("node%d %s", node.number, state))
	}
	to := "nobody"
	if len(ready) > 0 {
		to = strings.Join(ready, ", ")
	}
	return strings.Join(parts, ", ") + "; new clients go to " + to
}

// show prints the status line when it has changed, and the greeting once all are ready.
func (c *cluster) show() {
	status := c.status()
	if status == c.shown {
		return
	}
	c.shown = status
	c.out.say("%s", status)
	for _, node := range c.nodes {
		if !node.wasReady {
			return
		}
	}
	if !c.greeted {
		c.greeted = true
		c.greet()
	}
}

func (c *cluster) greet() {
	s := c.setup
	c.out.raw(fmt.Sprintf(`
%d nodes are one server on http://%s

  app id  %s
  key     %s
  secret  %s

Open        http://%s/?key=%s
Then run    %s publish -c %s my-channel my-event '{"hello":"world"}'
Look        %s cluster status -c %s
One node    %s cluster drain -c %s --server http://%s
Type        %s

`, c.options.Nodes, s.public(), appID, s.key, s.secret, s.public(), s.key,
		shown(c.options.Program), s.file, shown(c.options.Program), s.file,
		shown(c.options.Program), s.file, s.nodeAddress(2), strings.TrimPrefix(help, "commands: ")))
}

// shown returns how a program is called from here.
func shown(program string) string {
	here, err := os.Getwd()
	if err != nil {
		return program
	}
	if relative, err := filepath.Rel(here, program); err == nil && filepath.IsLocal(relative) {
		return "." + string(filepath.Separator) + relative
	}
	return program
}
