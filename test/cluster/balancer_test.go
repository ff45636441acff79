package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
)

// balancer is a real nginx or HAProxy in front of a cluster, with the configuration that
// "parley cluster lb" writes.
type balancer struct {
	*nodes
	format, sticky   string
	http, https, tcp int // ports
	trust            *tls.Config
	client           *http.Client
}

func TestNGINX(t *testing.T) {
	t.Parallel()
	program := installed(t, "nginx", "/usr/sbin/nginx")
	if os.Geteuid() != 0 {
		t.Skip("Debian's nginx writes below /var/lib/nginx: only root can run it")
	}
	c := start(t)
	for _, sticky := range []string{"ip", "cookie"} {
		t.Run(sticky, func(t *testing.T) {
			b := &balancer{nodes: c.of(t), sticky: sticky}
			config := b.configure("nginx")
			server := launch(t, nil, program, "-e", "stderr", "-c", config,
				"-g", "daemon off; error_log stderr; pid "+config+".pid;")
			t.Cleanup(func() { server.Terminate() }) // its workers with it
			b.try()
		})
	}
}

func TestHAProxy(t *testing.T) {
	t.Parallel()
	program := installed(t, "haproxy", "/usr/sbin/haproxy")
	c := start(t)
	for _, sticky := range []string{"ip", "cookie"} {
		t.Run(sticky, func(t *testing.T) {
			b := &balancer{nodes: c.of(t), sticky: sticky}
			launch(t, nil, program, "-db", "-f", b.configure("haproxy"))
			b.try()
		})
	}
}

// installed returns the path of a program. Who can install it has to: a test that is left
// out proves nothing.
func installed(t *testing.T, name, path string) string {
	t.Helper()
	if found, err := exec.LookPath(name); err == nil {
		return found
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if os.Geteuid() == 0 {
		t.Fatalf("%s is not installed: make test-deps installs it", name)
	}
	t.Skipf("%s is not installed, and only root can do that: sudo make test-deps", name)
	return ""
}

// of returns the same nodes for a sub-test.
func (c *nodes) of(t *testing.T) *nodes {
	same := *c
	same.T = t
	return &same
}

// configure writes the configuration and returns its path.
func (b *balancer) configure(format string) string {
	b.Helper()
	b.format = format
	dir := b.TempDir()
	base := process.FreePorts(b.T, ports)
	b.http, b.https, b.tcp = base, base+1, base+2
	cert, key := b.certificate(dir)
	args := []string{"cluster", "lb", "--format", format, "--sticky", b.sticky, "--cert", cert, "--key", key}
	for flag, port := range map[string]int{"--http-port": b.http, "--https-port": b.https, "--tcp-port": b.tcp} {
		args = append(args, flag, strconv.Itoa(port))
	}
	text, err := b.command(args...)
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(dir, format+".conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return path
}

// certificate makes one for this machine: the chain together with the key, as HAProxy wants
// it and nginx does not mind, and the key alone.
func (b *balancer) certificate(dir string) (chain, key string) {
	b.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "balancer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP("127.0.0.1")}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		b.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		b.Fatal(err)
	}
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
	chain, key = filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")
	for path, text := range map[string][]byte{chain: append(certText, keyText...), key: keyText} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certText)
	b.trust = &tls.Config{RootCAs: pool}
	transport := &http.Transport{TLSClientConfig: b.trust}
	b.Cleanup(transport.CloseIdleConnections)
	b.client = &http.Client{
		Timeout: patience, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return chain, key
}

func (b *balancer) url() string { return "https://" + process.Address(b.https) }

// wss is a client of the balancer with an identity to stick to; the number chooses it. The
// first time a cookie is not known.
func (b *balancer) wss(number int) dialing {
	d := dialing{url: "wss://" + process.Address(b.https), trust: b.trust}
	if b.sticky == "ip" {
		d.from = fmt.Sprintf("127.0.%d.1", number)
	}
	return d
}

// connects is must for a client that keeps its cookie.
func (b *balancer) connects(d *dialing) *socket {
	b.Helper()
	s := d.must(b.T)
	if b.sticky == "cookie" {
		d.cookie = s.cookie
	}
	return s
}

// try is what has to work with every balancer.
func (b *balancer) try() {
	eventually(b.T, "a node answers through the balancer", func() bool { return b.status("/up") == http.StatusOK })
	b.Run("paths", func(t *testing.T) { b.of(t).tryPaths() })
	b.Run("events", func(t *testing.T) { b.of(t).tryEvents() })
	b.Run("sticky", func(t *testing.T) { b.of(t).trySticky() })
	b.Run("drained", func(t *testing.T) { b.of(t).tryDrained() })
	b.Run("killed", func(t *testing.T) { b.of(t).tryKilled() })
}

// of returns the same balancer for a sub-test.
func (b *balancer) of(t *testing.T) *balancer {
	same := *b
	same.nodes = b.nodes.of(t)
	return &same
}

func (b *balancer) status(path string) int {
	response, err := b.client.Get(b.url() + path)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

func (b *balancer) tryPaths() {
	for path, want := range map[string]int{
		"/up": 200, "/admin/v1/cluster": 404, "/": 404, "/usage": 404, "/apps/" + appID + "/channels": 401,
	} {
		if got := b.status(path); got != want {
			b.Errorf("%s: status %d, want %d", path, got, want)
		}
	}
	response, err := b.client.Get("http://" + process.Address(b.http) + "/apps/x?a=b")
	if err != nil {
		b.Fatal(err)
	}
	_ = response.Body.Close()
	if got := response.Header.Get("Location"); response.StatusCode != 308 || got != b.url()+"/apps/x?a=b" {
		b.Errorf("plain HTTP: %d to %q", response.StatusCode, got)
	}
}

// tryEvents has clients on all ways in, and an event published on the one for backends.
func (b *balancer) tryEvents() {
	var clients []*socket
	for i := range 6 {
		clients = append(clients, b.wss(i).must(b.T))
	}
	plain := dialing{url: "ws://" + process.Address(b.tcp)}
	clients = append(clients, plain.must(b.T), plain.must(b.T))
	for _, s := range clients {
		s.subscribe(b.T, "news")
	}
	b.spreads(clients, "news")
	if err := publish(b.client, b.url(), "news", "e", "hello"); err != nil {
		b.Fatal(err)
	}
	for _, s := range clients {
		s.want(b.T, "e", "hello")
		_ = s.Close()
	}
	b.untilEmpty()
}

// spreads waits until clients hear what is published at any node, as the balancer may take each.
func (b *balancer) spreads(clients []*socket, channel string) {
	b.Helper()
	for _, n := range b.list {
		if n.Running() {
			spreads(b.T, clients, func(event, data string) error { return publish(b.client, n.url(), channel, event, data) })
		}
	}
}

// counts returns how many clients each node has.
func (b *balancer) counts() [count]int {
	var counts [count]int
	for i, n := range b.list {
		if n.Running() {
			counts[i] = n.clients()
		}
	}
	return counts
}

func (b *balancer) untilEmpty() {
	b.Helper()
	eventually(b.T, "the nodes have no clients", func() bool { return b.counts() == [count]int{} })
}

// home returns the node that has all of so many clients.
func (b *balancer) home(clients int) *node {
	b.Helper()
	for i, n := range b.counts() {
		if n == clients {
			return b.list[i]
		}
	}
	b.Fatalf("the clients are spread: %v", b.counts())
	return nil
}

// trySticky has one identity stay with a node, and many spread.
func (b *balancer) trySticky() {
	d := b.wss(1)
	const clients = 6
	var sockets []*socket
	for range clients {
		sockets = append(sockets, b.connects(&d))
	}
	b.home(clients)
	for i := range 12 {
		sockets = append(sockets, b.wss(20+i).must(b.T))
	}
	used := 0
	for _, n := range b.counts() {
		if n > 0 {
			used++
		}
	}
	if used < 2 {
		b.Errorf("many clients are on one node: %v", b.counts())
	}
	for _, s := range sockets {
		_ = s.Close()
	}
	b.untilEmpty()
}

// tryDrained has the clients of a drained node arrive at another one, none refused.
func (b *balancer) tryDrained() {
	d := b.wss(1)
	s := b.connects(&d)
	home := b.home(1)
	drain := func(delay string) {
		b.Helper()
		if _, err := b.command("cluster", "drain", "--server", home.url(), "--delay", delay); err != nil {
			b.Fatal(err)
		}
	}
	if b.format == "haproxy" { // it looks now and then; nginx sees that a client is refused
		drain("10m")
		eventually(b.T, "the balancer has noticed", func() bool {
			another, err := d.connect()
			if err != nil {
				return false
			}
			defer another.Close()
			return home.clients() == 1
		})
	}
	drain("0s")
	if code := s.closeCode(); code != 4200 {
		b.Fatalf("the client is closed with %d", code)
	}
	_ = s.Close()
	eventually(b.T, "the drained node has no client", func() bool { return home.clients() == 0 })
	for range 3 {
		again := b.connects(&d)
		again.subscribe(b.T, "moved")
		if n := home.clients(); n != 0 {
			b.Errorf("the drained node has %d clients", n)
		}
		_ = again.Close()
	}
	if _, err := b.command("cluster", "undrain", "--server", home.url()); err != nil {
		b.Fatal(err)
	}
	b.untilEmpty()
}

// tryKilled has the clients of a killed node arrive at another one, and get their events.
func (b *balancer) tryKilled() {
	d := b.wss(1)
	s := b.connects(&d)
	home := b.home(1)
	home.Kill()
	defer func() {
		home.start()
		eventually(b.T, "the node is back", func() bool { return home.ready() && home.sees("ready") == count })
	}()
	s.closeCode() // mostly none: the connection just ends
	began := time.Now()
	for {
		again, err := d.connect()
		if err == nil {
			s = again
			break
		}
		if time.Since(began) > patience {
			b.Fatalf("nobody takes the client: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Logf("served again after %v", time.Since(began).Round(time.Millisecond))
	defer s.Close()
	s.subscribe(b.T, "after")
	b.spreads([]*socket{s}, "after")
	if err := publish(b.client, b.url(), "after", "e", "still here"); err != nil {
		b.Fatal(err)
	}
	s.want(b.T, "e", "still here")
	for i := range 6 { // not one new client may notice
		other := b.wss(40 + i).must(b.T)
		_ = other.Close()
	}
}
