package servers

import (
	"cmp"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/parleyio/parley/test/process"
)

// NATS is a nats-server that was started. All methods may be called at any time, by one goroutine
// at a time.
type NATS struct {
	*process.Process
	Port int

	t    testing.TB
	host string
	args []string
}

// NATSConfig says which nats-server is started and how.
type NATSConfig struct {
	Host string // the address that it listens on; empty is 127.0.0.1
	// Program is the path of another nats-server than Debian's; see BuildNATS.
	Program string
	// Settings are further arguments.
	Settings []string
}

// BuildNATS builds the nats-server of the version that Parley embeds, in dir.
func BuildNATS(dir string) (program string, err error) {
	program = dir + "/nats-server"
	if out, err := exec.Command("go", "build", "-o", program, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build nats-server: %w\n%s", err, out)
	}
	return program, nil
}

// StartNATS starts as many servers as are asked for, with JetStream, as a cluster if they are
// several. They serve when StartNATS returns.
func StartNATS(t testing.TB, count int, config NATSConfig) []*NATS {
	t.Helper()
	program := config.Program
	if program == "" {
		var err error
		if program, err = exec.LookPath("nats-server"); err != nil {
			missing(t, "there is no nats-server; on Debian: apt-get install nats-server")
		}
	}
	first, host := process.FreePorts(t, 3*count), cmp.Or(config.Host, "127.0.0.1")
	var routes []string
	for i := range count {
		routes = append(routes, "nats://"+process.Address(first+3*i+1))
	}
	var servers []*NATS
	for i := range count {
		n := &NATS{Port: first + 3*i, host: host, t: t}
		n.args = append([]string{program, "-a", host, "-p", strconv.Itoa(n.Port), "-js", "-sd", t.TempDir(),
			"-n", fmt.Sprint("n", i+1), "-m", strconv.Itoa(n.Port + 2)}, config.Settings...)
		if count > 1 {
			n.args = append(n.args, "--cluster_name", "c", "--cluster", routes[i], "--routes", strings.Join(routes, ","))
		}
		n.Start()
		servers = append(servers, n)
	}
	for _, n := range servers {
		n.AwaitReady()
	}
	if count > 1 {
		process.Eventually(t, "the leader of the nats-servers counts on all of them", func() bool {
			return slices.ContainsFunc(servers, func(n *NATS) bool { return n.followers() == count-1 })
		})
	}
	return servers
}

// followers returns how many others follow the server as the leader of the cluster's metadata.
func (n *NATS) followers() (current int) {
	var state struct {
		Meta struct {
			Replicas []struct{ Current bool } `json:"replicas"`
		} `json:"meta_cluster"`
	}
	if err := fetch("http://"+n.monitor()+"/jsz", &state); err != nil {
		return 0
	}
	for _, replica := range state.Meta.Replicas {
		if replica.Current {
			current++
		}
	}
	return current
}

// Start starts the process, also after it was killed, and does not wait until it serves.
func (n *NATS) Start() {
	n.t.Helper()
	n.Process = process.Start(n.t, process.Command{Args: n.args})
}

// URL is where clients connect.
func (n *NATS) URL() string { return "nats://" + net.JoinHostPort(n.host, strconv.Itoa(n.Port)) }

// monitor is where it tells of itself.
func (n *NATS) monitor() string { return net.JoinHostPort(n.host, strconv.Itoa(n.Port+2)) }

// AwaitReady waits until the server and what it stores can be used.
func (n *NATS) AwaitReady() {
	n.t.Helper()
	process.Eventually(n.t, "nats-server on port "+strconv.Itoa(n.Port)+" is ready", func() bool {
		if !n.Running() {
			n.t.Fatalf("nats-server ended:\n%s", n.Output())
		}
		status, err := probe("http://" + n.monitor() + "/healthz")
		return err == nil && status == 200
	})
}
