package cluster

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/test/process"
)

// trial is a cluster whose nodes differ. Each has an address of this machine of its own,
// 127.0.0.x, and the same ports there, as nodes on hosts of their own have.
type trial struct {
	*testing.T
	dir, file string
	base      int // channels port; metrics, cluster and engine have the next ones
	client    *http.Client
	trust     *tls.Config // of clients, for nodes that speak TLS
}

// member is a node of a trial.
type member struct {
	*process.Process
	*trial
	name, host string
	port       int    // of its channels
	scheme     string // http or https
	prefix     string // channels.path_prefix
	flags      []string
	admin      *admin.Client
}

const trialSecret = "fedcba9876543210fedcba9876543210"

// newTrial makes a cluster with more in the file of its nodes than all trials have.
func newTrial(t *testing.T, more string) *trial {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs several loopback addresses")
	}
	c := &trial{T: t, dir: t.TempDir(), base: process.FreePorts(t, ports), client: &http.Client{Timeout: patience}}
	c.file = filepath.Join(c.dir, "parley.toml")
	text := fmt.Sprintf("[admin]\ntoken = %q\n[[apps]]\nid = %q\nkey = %q\nsecret = %q\n%s\n",
		adminToken, appID, appKey, appSecret, more)
	if err := os.WriteFile(c.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *trial) clusterPort() int { return c.base + 2 }

// seed is where the node at an address is asked.
func (c *trial) seed(host string) string { return host + ":" + strconv.Itoa(c.clusterPort()) }

// node returns a node that is not started yet. Flags given twice count the last time.
func (c *trial) node(name, host string, flags ...string) *member {
	m := &member{trial: c, name: name, host: host, port: c.base, scheme: "http"}
	m.flags = append([]string{
		"--node.name=" + name, "--node.data_dir=" + m.data(), "--channels.host=" + host, "--metrics.host=" + host,
		"--channels.port=" + strconv.Itoa(c.base), "--metrics.port=" + strconv.Itoa(c.base+1),
		"--cluster.secret=" + trialSecret, "--cluster.bind_host=" + host,
		"--cluster.bind_port=" + strconv.Itoa(c.clusterPort()),
	}, flags...)
	m.admin = &admin.Client{Server: m.url(), Token: adminToken, HTTP: c.client}
	return m
}

// served is for a node whose channels port is not as usual.
func (m *member) served(port int, scheme, prefix string) *member {
	m.port, m.scheme, m.prefix = port, scheme, prefix
	m.flags = append(m.flags, "--channels.port="+strconv.Itoa(port), "--channels.path_prefix="+prefix)
	m.admin.Server = m.url()
	return m
}

func (m *member) data() string    { return filepath.Join(m.dir, m.name) }
func (m *member) address() string { return net.JoinHostPort(m.host, strconv.Itoa(m.port)) }
func (m *member) url() string     { return m.scheme + "://" + m.address() + m.prefix }

// start starts the process; with another program than the one under test if one is given.
func (m *member) start(program ...string) {
	m.Process = launch(m.T, nil, append([]string{append(program, parley)[0], "serve", "-c", m.file}, m.flags...)...)
}

// health is the status of /ready with its word and the parts that are not well.
func (m *member) health() (status int, word, failed string) {
	response, err := m.client.Get(m.url() + "/ready")
	if err != nil {
		return 0, err.Error(), ""
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text), response.Header.Get("X-Health-Failed")
}

// await starts nodes and waits until each is ready and sees so many that are.
func (c *trial) await(ready int, members ...*member) {
	c.Helper()
	for _, m := range members {
		if m.Process == nil {
			m.start()
		}
	}
	for _, m := range members {
		eventually(c.T, m.name+" is ready", func() bool {
			status, _, _ := m.health()
			return status == http.StatusOK && m.sees() == ready
		})
	}
}

// sees counts the members that are ready.
func (m *member) sees() int {
	view, err := m.admin.Cluster(m.Context())
	if err != nil {
		return 0
	}
	return len(slices.DeleteFunc(view.Members, func(o admin.ClusterMember) bool { return o.State != "ready" }))
}

// member returns how the node sees another.
func (m *member) member(name string) admin.ClusterMember {
	m.Helper()
	view, err := m.admin.Cluster(m.Context())
	if err != nil {
		m.Fatal(err)
	}
	for _, other := range view.Members {
		if other.Name == name {
			return other
		}
	}
	m.Fatalf("%s does not see %s: %+v", m.name, name, view)
	return admin.ClusterMember{}
}

// connect opens a client of the node that is subscribed to a channel.
func (m *member) connect(channel string) *socket {
	m.Helper()
	s := dialing{url: strings.Replace(m.url(), "http", "ws", 1), trust: m.trust}.must(m.T)
	s.subscribe(m.T, channel)
	return s
}

// publish sends an event through the HTTP API of the node.
func (m *member) publish(channel, event, data string) error {
	u, err := url.Parse(m.url())
	if err != nil {
		return err
	}
	return publishAt(m.client, u, channel, event, data)
}

// publishAt is publish with a path in front.
func publishAt(client *http.Client, server *url.URL, channel, event, data string) error {
	body, err := json.Marshal(map[string]any{"name": event, "channels": []string{channel}, "data": data})
	if err != nil {
		return err
	}
	path, query := server.Path+"/apps/"+appID+"/events", url.Values{}
	protocol.SignRequest(appKey, appSecret, http.MethodPost, path, query, body, time.Now().Unix())
	target := url.URL{Scheme: server.Scheme, Host: server.Host, Path: path, RawQuery: query.Encode()}
	response, err := client.Post(target.String(), "application/json", bytes.NewReader(body))
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

// reaches publishes through each publisher and expects all clients to get it.
func (c *trial) reaches(clients []*socket, channel string, publishers ...*member) {
	c.Helper()
	for _, m := range publishers {
		spreads(c.T, clients, func(event, data string) error { return m.publish(channel, event, data) })
		if err := m.publish(channel, "e", "from "+m.name); err != nil {
			c.Fatalf("publish at %s: %v", m.name, err)
		}
		for _, s := range clients {
			s.want(c.T, "e", "from "+m.name)
		}
	}
}

// refused waits until a node has ended by itself, with a failure, having said why.
func (m *member) refused(says ...string) {
	m.Helper()
	if code := m.Await(); code == 0 {
		m.Errorf("%s ends with 0", m.name)
	}
	m.says(says...)
}

// says waits until something is in the log of the node.
func (m *member) says(parts ...string) {
	m.Helper()
	for _, part := range parts {
		eventually(m.T, fmt.Sprintf("%s says %q", m.name, part), func() bool { return strings.Contains(m.Output(), part) })
	}
}

// parley runs a command for the node.
func (m *member) parley(args ...string) (string, error) {
	args = append(args, "--token", adminToken, "-c", m.file, "--server", m.url())
	cmd := exec.Command(parley, args...)
	out, err := cmd.Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	return string(out), err
}

// prints expects a command to print something.
func (m *member) prints(args string, parts ...string) string {
	m.Helper()
	out, err := m.parley(strings.Fields(args)...)
	if err != nil {
		m.Fatalf("parley %s: %v", args, err)
	}
	for _, part := range parts {
		if !strings.Contains(out, part) {
			m.Errorf("parley %s: no %q in\n%s", args, part, out)
		}
	}
	return out
}
