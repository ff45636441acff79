package cluster

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// Whoever knocks and must not come in is told so and ends; the cluster tells who it was, and
// its clients notice nothing.
func TestKnocks(t *testing.T) {
	t.Parallel()
	newer := futureParley(t) // first, as it takes long
	c := newTrial(t, "")
	seeds := []string{"--cluster.seeds=" + c.seed("127.0.0.5-7"), "--cluster.bootstrap_expect=3"}
	var nodes []*member
	for i, host := range []string{"127.0.0.5", "127.0.0.6", "127.0.0.7"} {
		nodes = append(nodes, c.node(fmt.Sprint("n", i+1), host, seeds...))
	}
	c.await(3, nodes...)
	var clients []*socket
	for _, m := range nodes {
		clients = append(clients, m.connect("news"))
	}
	secret := c.node("secret", "127.0.0.2", append(seeds, "--cluster.secret=0123456789abcdef0123456789abcdef")...)
	domain := c.node("domain", "127.0.0.3", append(seeds, "--cluster.domain=elsewhere")...)
	twin := c.node("twin", "127.0.0.4", seeds...)
	twin.copyIdentity(nodes[0])
	future := c.node("future", "127.0.0.8", seeds...)
	secret.start()
	domain.start()
	twin.start()
	future.start(newer)
	secret.refused("refused by the other nodes", "set the same cluster.secret on every node")
	domain.refused("refused by the other nodes", "set the same cluster.domain on both")
	twin.refused("node identity is in use", "remove node.id, cluster.json and the engine's files from the copy")
	future.refused("incompatible cluster version", "speaks cluster versions 1 to 1 and this node 2 to 2", "install a program version")
	// All of them call from 127.0.0.1, which is what the system takes here.
	nodes[0].says("127.0.0.1 is of this domain but has another secret; set the same",
		"127.0.0.1 is ignored, as it is of another domain; set the same",
		"its data directory is a copy of this node's; remove",
		"speaks cluster versions 2 to 2 and this node 1 to 1; install")
	for _, m := range nodes {
		if lines := strings.Count(m.Output(), "cluster hello refused"); lines > 4 {
			t.Errorf("%s has %d lines about refusals:\n%s", m.name, lines, m.Output())
		}
		if m.sees() != 3 {
			t.Errorf("%s sees %d nodes", m.name, m.sees())
		}
	}
	c.reaches(clients, "news", nodes...)
	for _, m := range nodes {
		routeIsClosed(m)
	}

	// The same name is no reason to refuse a node, but to tell.
	namesake := c.node("n1-too", "127.0.0.9", append(seeds, "--node.name=n1", "--node.roles=gateway")...)
	c.await(4, namesake)
	for _, m := range []*member{namesake, nodes[1]} {
		m.says("two nodes have the same name", "give each a node.name of its own")
	}
	c.reaches(clients, "news", namesake)
}

// copyIdentity makes this node's directory say what that of another says about itself, as a copy
// of all of it does. The rest changes while it would be copied.
func (m *member) copyIdentity(of *member) {
	m.Helper()
	if err := os.MkdirAll(m.data(), 0o700); err != nil {
		m.Fatal(err)
	}
	for _, file := range []string{"node.id", "cluster.json"} {
		text, err := os.ReadFile(filepath.Join(of.data(), file))
		if err != nil {
			m.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.data(), file), text, 0o600); err != nil {
			m.Fatal(err)
		}
	}
}

// futureParley builds a parley that speaks other versions of the protocol between nodes.
func futureParley(t *testing.T) string {
	t.Helper()
	const source = "../../internal/cluster/cluster.go"
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("versionOldest = 1", "versionOldest = 2", "versionNewest = 1", "versionNewest = 2").Replace(string(text))
	if changed == string(text) {
		t.Fatal("the versions are written in another way now")
	}
	dir := t.TempDir()
	real, err := filepath.Abs(source)
	if err != nil {
		t.Fatal(err)
	}
	other, overlay, program := filepath.Join(dir, "cluster.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "parley")
	files, err := json.Marshal(map[string]map[string]string{"Replace": {real: other}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{other: []byte(changed), overlay: files} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", program, "github.com/parleyio/parley/cmd/parley")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// routeIsClosed expects the engine's port to let nobody in who does not have the secret.
func routeIsClosed(m *member) {
	m.Helper()
	address := m.member(m.name).Addresses["route"]
	for _, option := range []nats.Option{nats.Name("none"), nats.UserInfo("route", trialSecret), nats.Token(trialSecret)} {
		if conn, err := nats.Connect("nats://"+address, option, nats.Timeout(2*time.Second), nats.NoReconnect()); err == nil {
			conn.Close()
			m.Errorf("a client came in at %s", address)
		}
	}
	for _, password := range []string{"", "guess", trialSecret} {
		info, answer := asRoute(m.T, address, password, nil)
		if info["auth_required"] != true || !strings.Contains(answer, "Authorization Violation") {
			m.Errorf("a route with the password %q: %v, then %q", password, info, answer)
		}
	}
	if m.sees() != 3 {
		m.Errorf("%s sees %d nodes", m.name, m.sees())
	}
}

// asRoute introduces itself at the engine's port as another engine would and returns what it is
// told: who is there, and the answer, or why there is none. Without trust it speaks in the clear.
func asRoute(t *testing.T, address, password string, trust *tls.Config) (info map[string]any, answer string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if trust != nil { // engines shake hands before anything else
		conn = tls.Client(conn, trust)
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err.Error()
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"user\":\"route\",\"pass\":%q,\"name\":\"stranger\",\"cluster\":\"parley\"}\r\nPING\r\n", password)
	for { // until an error, or the end
		line, err := in.ReadString('\n')
		if err != nil {
			return info, answer
		}
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "-ERR") || line == "PONG" {
			return info, line
		}
	}
}
