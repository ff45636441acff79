package growth

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
)

const (
	adminToken = "0123456789abcdef"
	secret     = "fedcba9876543210fedcba9876543210"
)

// output is what a process has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// site is where the nodes of a test live: ports and directories for up to six.
type site struct {
	*testing.T
	dir   string
	base  int
	file  string // of the nodes of the cluster
	alone string // the same without a cluster section
	nodes []*node
}

// node is one of them, running or not.
type node struct {
	site  *site
	name  string
	dir   string // its data directory
	port  int    // of its channels
	hello int
	admin *admin.Client
	cmd   *exec.Cmd
	out   *output       // of the present run
	ended chan struct{} // closed when the process is gone
}

// build prepares nodes that found a cluster when expect of them are there.
func build(t *testing.T, count, expect int) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir(), base: freeBase(t)}
	var seeds []string
	for i := range count {
		n := &node{site: s, name: fmt.Sprintf("node%d", i+1), port: s.base + i, hello: s.base + 30 + 2*i}
		n.dir = filepath.Join(s.dir, n.name)
		n.admin = &admin.Client{Server: n.url(), Token: adminToken}
		s.nodes = append(s.nodes, n)
		seeds = append(seeds, strconv.Quote(address(n.hello)))
	}
	common := fmt.Sprintf(`
[channels]
host = "127.0.0.1"
[metrics]
host = "127.0.0.1"
[admin]
token = %q
[webhooks]
retry_initial = "1s"
retry_max = "1s"
`, adminToken)
	s.alone = s.write("alone.toml", common)
	s.file = s.write("cluster.toml", common+fmt.Sprintf(`
[cluster]
secret = %q
bootstrap_expect = %d
bind_host = "127.0.0.1"
seeds = [%s]
`, secret, expect, strings.Join(seeds, ", ")))
	return s
}

func (s *site) write(name, text string) string {
	s.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	return path
}

func address(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// freeBase returns a port that is free like the 59 after it, and below those that the system
// gives to clients.
func freeBase(t *testing.T) int {
	t.Helper()
	for range 100 {
		base := 12000 + 100*rand.IntN(180)
		free := true
		for port := base; port < base+60 && free; port++ {
			l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
			if err != nil {
				free = false
				continue
			}
			_ = l.Close()
		}
		if free {
			return base
		}
	}
	t.Fatal("there are no free ports")
	return 0
}

func (n *node) url() string { return "http://" + address(n.port) }

// launch starts the process with a configuration.
func (n *node) launch(file string, flags ...string) {
	n.site.Helper()
	args := append([]string{"serve", "-c", file, "--node.name", n.name, "--node.data_dir", n.dir,
		"--channels.port", strconv.Itoa(n.port), "--metrics.port", strconv.Itoa(n.port + 10)}, flags...)
	if file == n.site.file {
		args = append(args, "--cluster.bind_port", strconv.Itoa(n.hello))
	}
	cmd, out, ended := exec.Command(parley, args...), &output{}, make(chan struct{})
	cmd.Stdout, cmd.Stderr, cmd.Env = out, out, environment()
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		n.site.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // ProcessState tells
		close(ended)
	}()
	n.site.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		<-ended
		if n.site.Failed() {
			n.site.Logf("%s %s\n%s", n.name, strings.Join(args, " "), out)
		}
	})
	n.cmd, n.out, n.ended = cmd, out, ended
}

// environment is that of this process without options of Parley.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PARLEY_") })
}

// join starts the node with the cluster section.
func (n *node) join(flags ...string) { n.site.Helper(); n.launch(n.site.file, flags...) }

// kill ends the process as a crash does.
func (n *node) kill() {
	_ = n.cmd.Process.Kill() // it may have ended already
	<-n.ended
}

// stop ends the process as a process manager does.
func (n *node) stop() {
	n.site.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		n.site.Fatal(err)
	}
	n.awaitEnd()
}

// awaitEnd waits for the end of the process and returns its exit code.
func (n *node) awaitEnd() int {
	n.site.Helper()
	select {
	case <-n.ended:
	case <-time.After(patience):
		n.site.Fatalf("%s does not end", n.name)
	}
	return n.cmd.ProcessState.ExitCode()
}

// empty takes the node's data away.
func (n *node) empty() {
	n.site.Helper()
	if err := os.RemoveAll(n.dir); err != nil {
		n.site.Fatal(err)
	}
}

// get asks the node; status 0 when there is no answer.
func (n *node) get(path string) (status int, body string, header http.Header) {
	client := &http.Client{Timeout: 5 * time.Second}
	response, err := client.Get(n.url() + path)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body) // what came tells enough
	return response.StatusCode, string(text), response.Header
}

func (n *node) ready() bool { status, _, _ := n.get("/ready"); return status == http.StatusOK }

// awaitReady waits until the nodes are ready and see each other.
func (s *site) awaitReady(nodes ...*node) {
	s.Helper()
	for _, n := range nodes {
		eventually(s.T, n.name+" is ready with the others", func() bool {
			select {
			case <-n.ended:
				s.Fatalf("%s has ended", n.name)
			default:
			}
			view, err := n.admin.Cluster(s.Context())
			return err == nil && n.ready() && len(view.Members) >= len(nodes)
		})
	}
}

// view is what the node knows of the cluster.
func (n *node) view() admin.ClusterView {
	n.site.Helper()
	view, err := n.admin.Cluster(n.site.Context())
	if err != nil {
		n.site.Fatal(err)
	}
	return view
}

// says waits until the node has written something in its present run.
func (n *node) says(text string) {
	n.site.Helper()
	eventually(n.site.T, n.name+" says "+text, func() bool { return strings.Contains(n.out.String(), text) })
}

// has says whether there is something in the data directory.
func (n *node) has(name string) bool {
	_, err := os.Lstat(filepath.Join(n.dir, name))
	return err == nil
}

// command runs a command of parley against the node.
func (n *node) command(args ...string) (string, error) {
	cmd := exec.Command(parley, append(args, "--token", adminToken, "--server", n.url())...)
	cmd.Env = environment()
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, &errout)
	}
	return out.String(), nil
}
