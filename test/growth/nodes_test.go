package growth

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/test/process"
)

const (
	adminToken = "0123456789abcdef"
	secret     = "fedcba9876543210fedcba9876543210"
)

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
	site             *site
	name             string
	dir              string // its data directory
	port             int    // of its channels
	hello            int
	admin            *admin.Client
	*process.Process // of the present run
}

// build prepares nodes that found a cluster when expect of them are there.
func build(t *testing.T, count, expect int) *site {
	t.Helper()
	s := &site{T: t, dir: t.TempDir(), base: process.FreePorts(t, 60)}
	var seeds []string
	for i := range count {
		n := &node{site: s, name: fmt.Sprintf("node%d", i+1), port: s.base + i, hello: s.base + 30 + 2*i}
		n.dir = filepath.Join(s.dir, n.name)
		n.admin = &admin.Client{Server: n.url(), Token: adminToken}
		s.nodes = append(s.nodes, n)
		seeds = append(seeds, strconv.Quote(process.Address(n.hello)))
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

func (n *node) url() string { return "http://" + process.Address(n.port) }

// launch starts the process with a configuration.
func (n *node) launch(file string, flags ...string) {
	n.site.Helper()
	args := append([]string{"serve", "-c", file, "--node.name", n.name, "--node.data_dir", n.dir,
		"--channels.port", strconv.Itoa(n.port), "--metrics.port", strconv.Itoa(n.port + 10)}, flags...)
	if file == n.site.file {
		args = append(args, "--cluster.bind_port", strconv.Itoa(n.hello))
	}
	n.Process = process.Start(n.site, process.Command{Args: append([]string{parley}, args...)})
}

// join starts the node with the cluster section.
func (n *node) join(flags ...string) { n.site.Helper(); n.launch(n.site.file, flags...) }

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
			case <-n.Ended():
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
	eventually(n.site.T, n.name+" says "+text, func() bool { return strings.Contains(n.Output(), text) })
}

// has says whether there is something in the data directory.
func (n *node) has(name string) bool {
	_, err := os.Lstat(filepath.Join(n.dir, name))
	return err == nil
}

// command runs a command of parley against the node.
func (n *node) command(args ...string) (string, error) {
	cmd := exec.Command(parley, append(args, "--token", adminToken, "--server", n.url())...)
	cmd.Env = process.Environment()
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, &errout)
	}
	return out.String(), nil
}
