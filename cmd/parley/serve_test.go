package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/config"
)

// address returns where a node says that it serves.
func (p *process) address() *url.URL {
	p.Helper()
	match := regexp.MustCompile(`(?m)^Parley serves the Pusher protocol on (\S+)$`).FindStringSubmatch(p.out.String())
	if match == nil {
		p.Fatalf("no address in\n%s", p.out)
	}
	u, err := url.Parse(match[1])
	if err != nil {
		p.Fatal(err)
	}
	return u
}

// The first start makes an app and shows its secret, once; what the greeting advises works.
func TestServeFirstStart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	p := serving(t, dir)
	match := regexp.MustCompile(`(?m)^  app id  (\S+)\n  key     (\S+)\n  secret  (\S+)$`).FindStringSubmatch(p.out.String())
	if match == nil {
		t.Fatalf("no credentials in\n%s", p.out)
	}
	id, key, secret := match[1], match[2], match[3]
	if strings.Contains(p.errout.String(), secret) {
		t.Error("the secret is in the log")
	}
	page := regexp.MustCompile(`(?m)^Open +(\S+)$`).FindStringSubmatch(p.out.String())
	if page == nil || !strings.HasSuffix(page[1], "?key="+key) {
		t.Errorf("no page in\n%s", p.out)
	} else if response, err := http.Get(page[1]); err != nil || response.StatusCode != 200 {
		t.Errorf("the page: %v, %v", response, err)
	} else {
		_ = response.Body.Close()
	}
	advice := regexp.MustCompile(`(?m)^Then run +(.*)$`).FindStringSubmatch(p.out.String())
	cmd := exec.Command("sh", "-c", advice[1])
	cmd.Env = environment()
	if text, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(text), "published my-event to my-channel") {
		t.Errorf("%s: %v\n%s", advice[1], err, text)
	}
	code, out, errout := run(t, "app", "show", "--secret", id, "--server", p.address().String(), "--node.data_dir", dir)
	if code != 0 || !strings.Contains(out, secret) {
		t.Errorf("app show: %d %s%s", code, out, errout)
	}
	p.terminate()

	p = serving(t, dir)
	if text := p.out.String(); strings.Contains(text, secret) || strings.Contains(text, "was no app") {
		t.Errorf("the second start prints\n%s", text)
	}
	if text := p.out.String(); !strings.Contains(text, "?key="+key) {
		t.Errorf("the app is gone:\n%s", text)
	}
	p.terminate()
}

func TestServeSecondSignal(t *testing.T) {
	t.Parallel()
	app := filepath.Join(t.TempDir(), "parley.toml")
	if err := os.WriteFile(app, []byte("[[apps]]\nid = \"a\"\nkey = \"k\"\nsecret = \"s\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serving(t, t.TempDir(), "-c", app, "--fabric.driver=memory", "--shutdown.grace=60s")
	// A client that reads nothing keeps the node waiting for its goodbye.
	conn, err := net.Dial("tcp", p.address().Host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /app/k HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 200)); err != nil { // up to its first message
		t.Fatal(err)
	}
	p.signal(syscall.SIGTERM)
	p.waitFor(p.errout, "asked to stop")
	begin := time.Now()
	p.signal(os.Interrupt)
	if code := p.exit(); code != 1 {
		t.Errorf("it ends with %d", code)
	}
	if took := time.Since(begin); took > 30*time.Second { // the client is waited for longer
		t.Errorf("it took %v", took)
	}
	p.waitFor(p.errout, "second signal")
}

// writeCertificate writes a self-signed certificate with a serial number.
func writeCertificate(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: certificate},
		keyFile:  {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServeReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeCertificate(t, certFile, keyFile, 1)
	p := serving(t, dir, "--fabric.driver=memory", "--tls.cert_file="+certFile, "--tls.key_file="+keyFile)
	if p.address().Scheme != "https" {
		t.Errorf("it serves on %s", p.address())
	}
	wantSerial := func(want int64) {
		t.Helper()
		conn, err := tls.Dial("tcp", p.address().Host, &tls.Config{InsecureSkipVerify: true}) // it is compared
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(); got != want {
			t.Errorf("the certificate is number %d, want %d", got, want)
		}
	}
	wantSerial(1)
	writeCertificate(t, certFile, keyFile, 2)
	p.signal(syscall.SIGHUP)
	p.waitFor(p.errout, "certificate reloaded")
	wantSerial(2)
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	p.signal(syscall.SIGHUP)
	p.waitFor(p.errout, "certificate not reloaded")
	wantSerial(2)
	p.terminate()
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, test := range []struct {
		args  []string
		parts []string
	}{
		{[]string{"serve", "--chanels.port=1"}, []string{"unknown flag", "--channels.port"}},
		{[]string{"serve", "--channels.port=high"}, []string{"channels.port"}},
		{[]string{"serve", "--fabric.driver=rabbitmq"}, []string{"fabric.driver", "embedded"}},
		{[]string{"serve", "more"}, []string{"more"}},
		{[]string{"serve", "-c", "missing.toml"}, []string{"missing.toml"}},
		{[]string{"serve", "--channels.host=127.0.0.1", "--channels.port=" + port}, []string{"in use", "channels.port", "PARLEY_CHANNELS_PORT"}},
		{[]string{"srve"}, []string{"unknown command", "serve"}},
	} {
		code, out, errout := run(t, test.args...)
		if code != 1 || out != "" || !strings.HasPrefix(errout, "parley: ") || strings.Contains(errout, "Usage:") {
			t.Errorf("%v: %d %q %q", test.args, code, out, errout)
		}
		for _, part := range test.parts {
			if !strings.Contains(errout, part) {
				t.Errorf("%v: %q does not tell %q", test.args, errout, part)
			}
		}
	}
}

// Who asks for the end while the node starts has what it wants.
func TestServeStoppedWhileStarting(t *testing.T) {
	c := config.Default()
	c.Node.DataDir = t.TempDir()
	c.Channels.Host, c.Channels.Port, c.Metrics.Enabled = "127.0.0.1", 0, false
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var log, out bytes.Buffer
	if err := serve(ctx, c, "", slog.New(slog.NewTextHandler(&log, nil)), &out); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "stopped before") || out.Len() > 0 {
		t.Errorf("it writes %q and logs %s", &out, &log)
	}
}

// A signal asks for the end once, and SIGHUP never does.
func TestFollow(t *testing.T) {
	signals, reload := make(chan os.Signal, 4), make(chan struct{}, 1)
	stops := 0
	signals <- syscall.SIGHUP
	signals <- syscall.SIGHUP // nobody has taken the first: one is enough
	signals <- syscall.SIGTERM
	signals <- syscall.SIGHUP
	close(signals)
	follow(signals, slog.New(slog.DiscardHandler), func() { stops++ }, reload)
	if stops != 1 || len(reload) != 1 {
		t.Errorf("%d stops, %d reloads", stops, len(reload))
	}
}
