package node

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/test/process"
)

// socketPath returns a path that is short enough for a unix socket.
func socketPath(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the modes of files mean something else here")
	}
	dir, err := os.MkdirTemp("", "parley")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

func overUnix(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

func TestUnixSocket(t *testing.T) {
	c := options(t)
	c.UnixSocket = config.UnixSocket{Path: socketPath(t), Mode: 0o620}
	n := start(t, c)
	wantMode(t, c.UnixSocket.Path, 0o620)
	if status, text, _ := n.request(overUnix(c.UnixSocket.Path), "GET", "http://node/up", ""); status != 200 || text != "OK" {
		t.Errorf("got %d %s", status, text)
	}
	if status, _ := n.get("channels", "/up"); status != 200 {
		t.Errorf("the port: %d", status)
	}
	s := n.dial("app-key", func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.UnixSocket.Path)
	}, nil)
	s.established()
	s.subscribe("c")
	n.publish("c", "e", "d")
	s.next("e")
	go func() { _, _ = s.untilClosed() }()
	n.stop()
	if _, err := os.Stat(c.UnixSocket.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

func TestUnixSocketOfADeadProcess(t *testing.T) {
	c := options(t)
	c.UnixSocket = config.UnixSocket{Path: socketPath(t), Mode: 0o660}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.UnixSocket.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	n := start(t, c)
	if status, _, _ := n.request(overUnix(c.UnixSocket.Path), "GET", "http://node/up", ""); status != 200 {
		t.Errorf("got %d", status)
	}
}

func TestUnixSocketOfAnother(t *testing.T) {
	c := options(t)
	c.UnixSocket = config.UnixSocket{Path: socketPath(t), Mode: 0o660}
	start(t, c)
	refuse := func(c config.Config, part string) {
		t.Helper()
		n, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
		if err == nil {
			_ = n.Stop(t.Context())
			t.Fatal("it starts")
		}
		if !strings.Contains(err.Error(), "unix_socket.path") || !strings.Contains(err.Error(), part) {
			t.Error(err)
		}
	}
	second := options(t)
	second.UnixSocket = c.UnixSocket
	refuse(second, "another process")
	if conn, err := net.Dial("unix", c.UnixSocket.Path); err != nil {
		t.Errorf("the first lost its socket: %v", err)
	} else {
		_ = conn.Close()
	}
	// A file is not a socket of a dead process.
	second.UnixSocket.Path = socketPath(t)
	if err := os.WriteFile(second.UnixSocket.Path, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(second, second.UnixSocket.Path)
	if text, err := os.ReadFile(second.UnixSocket.Path); err != nil || string(text) != "keep" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

// writeCertificate writes a self-signed certificate with a serial number.
func writeCertificate(t *testing.T, c config.TLS, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "node"},
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		c.CertFile: {Type: "CERTIFICATE", Bytes: certificate},
		c.KeyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// serial returns the serial number of the certificate that a node shows.
func (r *running) serial() int64 { return r.serialOf("channels") }

// serialOf returns the number of the certificate that a port presents.
func (r *running) serialOf(port string) int64 {
	r.Helper()
	conn, err := tls.Dial("tcp", r.Address(port), &tls.Config{InsecureSkipVerify: true}) // it is compared
	if err != nil {
		r.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestTLS(t *testing.T) {
	c := options(t)
	dir := t.TempDir()
	c.TLS.CertFile, c.TLS.KeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	c.TLS.RedirectPort = freePort(t)
	writeCertificate(t, c.TLS, 1)
	n := start(t, c)

	trusted := x509.NewCertPool()
	text, err := os.ReadFile(c.TLS.CertFile)
	if err != nil || !trusted.AppendCertsFromPEM(text) {
		t.Fatal(err)
	}
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if status, word, _ := n.request(client, "GET", n.url("channels")+"/up", ""); status != 200 || word != "OK" {
		t.Errorf("got %d %s", status, word)
	}
	if status, _, header := n.request(client, "GET", n.url("redirect")+"/apps/7/channels?a=b%20c", ""); status != 308 ||
		header.Get("Location") != n.url("channels")+"/apps/7/channels?a=b%20c" {
		t.Errorf("the redirect is %d %v", status, header)
	}
	s := n.dial("app-key", nil, &tls.Config{RootCAs: trusted})
	s.established()

	writeCertificate(t, c.TLS, 2)
	if got := n.serial(); got != 1 {
		t.Errorf("certificate %d before it was reloaded", got)
	}
	if err := n.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	if got := n.serial(); got != 2 {
		t.Errorf("certificate %d after it was reloaded", got)
	}
	if err := os.WriteFile(c.TLS.CertFile, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.ReloadTLS(); err == nil || !strings.Contains(err.Error(), c.TLS.CertFile) {
		t.Errorf("a bad file: %v", err)
	}
	if got := n.serial(); got != 2 {
		t.Errorf("certificate %d after a bad file", got)
	}
	s.send("pusher:ping", nil) // who was connected still is
	s.next("pusher:pong")
	go func() { _, _ = s.untilClosed() }()
}

// TestWSS has messaging serve TLS by a certificate of its own, and by that of the channels port.
func TestWSS(t *testing.T) {
	c := options(t)
	c.IM.Enabled, c.IM.Host, c.IM.TCPPort, c.IM.WSPort, c.IM.HTTPPort = true, "127.0.0.1", 0, 0, 0
	c.IM.WSSPort = freePort(t)
	dir := t.TempDir()
	c.IM.WSSCertFile, c.IM.WSSKeyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	own := config.TLS{CertFile: c.IM.WSSCertFile, KeyFile: c.IM.WSSKeyFile}
	writeCertificate(t, own, 7)
	n := start(t, c)
	if got := n.serialOf("im-wss"); got != 7 {
		t.Errorf("certificate %d", got)
	}
	writeCertificate(t, own, 8)
	if err := n.ReloadTLS(); err != nil {
		t.Fatal(err)
	}
	if got := n.serialOf("im-wss"); got != 8 {
		t.Errorf("certificate %d after it was reloaded", got)
	}
	n.stop()

	c.TLS, c.IM.WSSCertFile, c.IM.WSSKeyFile = own, "", ""
	c.Node.DataDir = filepath.Join(dir, "other")
	if got := start(t, c).serialOf("im-wss"); got != 8 {
		t.Errorf("certificate %d, not that of the channels port", got)
	}
}

func TestReloadWithoutTLS(t *testing.T) {
	if err := start(t, options(t)).ReloadTLS(); err != nil {
		t.Error(err)
	}
}

// freePort returns a port that nobody else gets.
func freePort(t *testing.T) int { return process.FreePorts(t, 1) }

func TestRedirectToTLS(t *testing.T) {
	for _, test := range []struct{ host, port, path, want string }{
		{"a.example", "443", "/x?y=z", "https://a.example/x?y=z"},
		{"a.example:80", "443", "/", "https://a.example/"},
		{"a.example:8080", "6001", "/", "https://a.example:6001/"},
		{"a.example", "6001", "//evil.example/%2e", "https://a.example:6001//evil.example/%2e"},
		{"192.0.2.1:80", "443", "/", "https://192.0.2.1/"},
		{"[2001:db8::1]", "6001", "/", "https://[2001:db8::1]:6001/"},
		{"[2001:db8::1]:80", "6001", "/", "https://[2001:db8::1]:6001/"},
		{"[2001:db8::1]", "443", "/", "https://[2001:db8::1]/"},
		{"[2001:db8::1]:80", "443", "/", "https://[2001:db8::1]/"},
	} {
		for _, method := range []string{"GET", "POST"} {
			request := httptest.NewRequest(method, test.path, nil)
			request.Host = test.host
			w := httptest.NewRecorder()
			redirectToTLS(test.port).ServeHTTP(w, request)
			if got := w.Header().Get("Location"); w.Code != 308 || got != test.want {
				t.Errorf("%+v: got %d %s", test, w.Code, got)
			}
		}
	}
}

// overProxy returns a dial function that announces another address by the PROXY protocol.
func overProxy(client string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			_, err = io.WriteString(conn, "PROXY TCP4 "+client+" 127.0.0.1 4000 6001\r\n")
		}
		return conn, err
	}
}

func TestProxyProtocol(t *testing.T) {
	c := options(t)
	c.HTTP.ProxyProtocol = true
	c.HTTP.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	c.RateLimit.APIRequests = 1
	c.RateLimit.Connects = 1
	n := start(t, c)
	ask := func(client *http.Client) int {
		t.Helper()
		status, _, _ := n.request(client, "GET", n.url("channels")+"/apps/nobody/channels", "")
		return status
	}
	from := func(address string) *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: overProxy(address)}}
	}
	for _, test := range []struct {
		address string
		want    int
	}{{"192.0.2.1", 404}, {"192.0.2.1", 429}, {"192.0.2.2", 404}, {"192.0.2.2", 429}} {
		if got := ask(from(test.address)); got != test.want {
			t.Errorf("%s gets %d, want %d", test.address, got, test.want)
		}
	}
	// Without the header it is the proxy itself that counts.
	direct := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if first, second := ask(direct), ask(direct); first != 404 || second != 429 {
		t.Errorf("the proxy gets %d and %d", first, second)
	}
	// A connection is taken over with its header read.
	for _, address := range []string{"192.0.2.1", "192.0.2.2"} {
		s := n.dial("app-key", overProxy(address), nil)
		s.established()
		s.send("pusher:ping", nil)
		s.next("pusher:pong")
		go func() { _, _ = s.untilClosed() }()
	}
	conn, err := overProxy("192.0.2.2")(t.Context(), "tcp", n.Address("channels"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := handshake(t, conn); got != 429 {
		t.Errorf("a second connection gets %d", got)
	}
}

// A stranger cannot choose its address: what it sends is no HTTP.
func TestProxyProtocolOfAStranger(t *testing.T) {
	c := options(t)
	c.HTTP.ProxyProtocol = true
	c.HTTP.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	n := start(t, c)
	conn, err := overProxy("192.0.2.1")(t.Context(), "tcp", n.Address("channels"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := handshake(t, conn); got != 400 {
		t.Errorf("got %d", got)
	}
	if status, _ := n.get("channels", "/up"); status != 200 {
		t.Errorf("without the header: %d", status)
	}
}

// handshake asks for an upgrade and returns the status of the answer.
func handshake(t *testing.T, conn net.Conn) int {
	t.Helper()
	var request bytes.Buffer
	request.WriteString("GET /app/app-key HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if _, err := request.WriteTo(conn); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}
