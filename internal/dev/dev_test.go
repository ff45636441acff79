package dev

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen.
const patience = 10 * time.Second

// node is what the balancer sees of one: it answers /ready, and who it is elsewhere.
func node(t *testing.T, name string) (server *httptest.Server, ready *atomic.Bool) {
	t.Helper()
	ready = &atomic.Bool{}
	ready.Store(true)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ready" && !ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, name)
	}))
	t.Cleanup(server.Close)
	return server, ready
}

func address(server *httptest.Server) string { return server.Listener.Addr().String() }

// ask tells who answers through the balancer; empty for nobody.
func ask(t *testing.T, b *balancer) string {
	t.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + b.listener.Addr().String() + "/")
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// until waits for a change of the balancer after which something is true.
func until(t *testing.T, b *balancer, what string, check func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for !check() {
		select {
		case <-b.changed:
		case <-timeout:
			t.Fatalf("it does not come about: %s", what)
		}
	}
}

func TestBalancer(t *testing.T) {
	first, ready := node(t, "first")
	second, _ := node(t, "second")
	b, err := listen("127.0.0.1:0", []string{address(first), address(second)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	until(t, b, "both are ready", func() bool { return b.ready(0) && b.ready(1) })
	answers := map[string]int{}
	for range 6 {
		answers[ask(t, b)]++
	}
	if answers["first"] != 3 || answers["second"] != 3 {
		t.Errorf("not in turn: %v", answers)
	}
	ready.Store(false)
	until(t, b, "one is not ready", func() bool { return !b.ready(0) })
	for range 3 {
		if got := ask(t, b); got != "second" {
			t.Errorf("%q answers", got)
		}
	}
	ready.Store(true)
	until(t, b, "it is ready again", func() bool { return b.ready(0) })
	second.Close() // and the very next clients do not notice
	for range 4 {
		if got := ask(t, b); got != "first" {
			t.Errorf("%q answers", got)
		}
	}
	first.Close()
	until(t, b, "nobody is ready", func() bool { return !b.ready(0) && !b.ready(1) })
	if got := ask(t, b); got != "" {
		t.Errorf("%q answers", got)
	}
}

// A connection that nobody ends does not keep the balancer from closing.
func TestBalancerCloses(t *testing.T) {
	server, _ := node(t, "node")
	b, err := listen("127.0.0.1:0", []string{address(server)})
	if err != nil {
		t.Fatal(err)
	}
	until(t, b, "it is ready", func() bool { return b.ready(0) })
	client, err := net.Dial("tcp", b.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != nil { // so it is through
		t.Fatal(err)
	}
	b.close()
	if _, err := io.Copy(io.Discard, client); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Logf("the client's end: %v", err)
	}
	if _, err := listen("127.0.0.1:-1", nil); err == nil {
		t.Error("it listens on port -1")
	}
}

func TestPrefixedLines(t *testing.T) {
	var out bytes.Buffer
	w := newTerminal(&out).prefixed("n | ")
	for _, part := range []string{"one\ntw", "o\r\n", "\n", "rest"} {
		if n, err := io.WriteString(w, part); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got, want := out.String(), "n | one\nn | two\nn | \n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	out.Reset()
	_, _ = io.WriteString(w, strings.Repeat("x", maxLine))
	if got := strings.Count(out.String(), "\n"); got != 1 {
		t.Errorf("a line without an end is written as %d", got)
	}
}

func TestRunRefuses(t *testing.T) {
	for _, o := range []Options{{Nodes: 1}, {Nodes: 10}, {Nodes: 3, PortOffset: -1}, {Nodes: 3, PortOffset: 60000}} {
		if err := Run(t.Context(), o); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// The same directory gives the same secrets, another one others, and nobody else may read
// them.
func TestPrepare(t *testing.T) {
	o := Options{Nodes: 3, PortOffset: 7, DataDir: t.TempDir()}
	first, err := prepare(o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := prepare(o)
	if err != nil || again != first {
		t.Errorf("got %+v, %v", again, err)
	}
	o.DataDir = t.TempDir()
	other, err := prepare(o)
	if err != nil || other.key == first.key || other.secret == first.secret {
		t.Errorf("got %+v, %v", other, err)
	}
	text, err := os.ReadFile(first.file)
	if err != nil || !strings.Contains(string(text), `seeds = ["127.0.0.1:11217", "127.0.0.1:11317", "127.0.0.1:11417"]`) {
		t.Errorf("%v in\n%s", err, text)
	}
	if info, err := os.Stat(first.file); err != nil || info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A node that was told to end gets no new clients from then on, whatever its last answer was, and
// the status line does not say so either.
func TestEndingNode(t *testing.T) {
	for command, state := range map[string]string{"kill": "killed", "stop": "stopping", "restart": "stopping"} {
		b := &balancer{nodes: make([]backend, 2), changed: make(chan struct{}, 1)}
		c := &cluster{balancer: b, out: newTerminal(io.Discard)}
		for i := range b.nodes {
			b.nodes[i].ready.Store(true)
			c.nodes = append(c.nodes, &process{number: i + 1, cmd: sleeping(t)})
		}
		c.obey(command + " 2")
		if b.ready(1) {
			t.Errorf("%s: the balancer still sends clients there", command)
		}
		b.nodes[1].ready.Store(true) // by a look that was under way
		if got, want := c.status(), "node1 ready, node2 "+state+"; new clients go to node1"; got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// sleeping returns a process that does nothing, for the test to end.
func sleeping(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSleep$")
	cmd.Env = append(os.Environ(), "PARLEY_TEST_SLEEP=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// TestSleep is what the processes of sleeping run.
func TestSleep(*testing.T) {
	if os.Getenv("PARLEY_TEST_SLEEP") != "" {
		time.Sleep(time.Minute)
	}
}
