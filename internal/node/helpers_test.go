package node

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// patience bounds every wait for something that must happen.
const patience = time.Minute

// buffer is a log that is written and read at the same time.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// running is a node under test.
type running struct {
	*testing.T
	*Node
	log     *buffer
	stopped bool
}

// testApp is an app of the configuration file.
func testApp() config.App {
	return config.App{ID: "7", Key: "app-key", Secret: "app-secret", Enabled: true, EnableClientMessages: true}
}

// options returns a configuration with free ports on this machine, everything in memory
// and one app.
func options(t *testing.T) config.Config {
	t.Helper()
	c := config.Default()
	c.Node.DataDir = filepath.Join(t.TempDir(), "data")
	c.Channels.Host, c.Channels.Port = "127.0.0.1", 0
	c.Metrics.Host, c.Metrics.Port = "127.0.0.1", 0
	c.Fabric.Driver = "memory"
	c.Shutdown.Grace = 5 * time.Second
	c.Apps = []config.App{testApp()}
	return c
}

// start starts a node that is stopped at the end of the test.
func start(t *testing.T, c config.Config) *running {
	t.Helper()
	log := &buffer{}
	n, err := Start(t.Context(), c, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	r := &running{T: t, Node: n, log: log}
	t.Cleanup(func() {
		if !r.stopped {
			r.stop()
		}
		if t.Failed() {
			t.Logf("log of the node:\n%s", log)
		}
	})
	return r
}

// stop stops the node as the command does and returns how long that took.
func (r *running) stop() time.Duration {
	r.Helper()
	r.stopped = true
	ctx, cancel := context.WithTimeout(context.Background(), r.config.Shutdown.Grace)
	defer cancel()
	begin := time.Now()
	if err := r.Stop(ctx); err != nil {
		r.Errorf("stop: %v", err)
	}
	return time.Since(begin)
}

// get asks one of the ports.
func (r *running) get(port, path string) (status int, body string) {
	r.Helper()
	status, body, _ = r.request(http.DefaultClient, http.MethodGet, r.url(port)+path, "")
	return status, body
}

func (r *running) url(port string) string {
	scheme := "http"
	if port == "channels" {
		scheme = r.Scheme()
	}
	return scheme + "://" + r.Address(port)
}

func (r *running) request(client *http.Client, method, url, body string, header ...string) (int, string, http.Header) {
	r.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return response.StatusCode, string(text), response.Header
}

func hexHMAC(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// signed returns the address of a signed POST to a path of an app, and its signature.
func (r *running) signed(id, key, secret, path, body string) (url, signature string) {
	sum := md5.Sum([]byte(body))
	full := "/apps/" + id + path
	query := fmt.Sprintf("auth_key=%s&auth_timestamp=%d&auth_version=1.0&body_md5=%s", key, time.Now().Unix(), hex.EncodeToString(sum[:]))
	signature = hexHMAC(secret, "POST\n"+full+"\n"+query)
	return r.url("channels") + full + "?" + query + "&auth_signature=" + signature, signature
}

// publish sends an event as the app of the file.
func (r *running) publish(channel, name, data string) {
	r.Helper()
	body, err := json.Marshal(map[string]any{"name": name, "channels": []string{channel}, "data": data})
	if err != nil {
		r.Fatal(err)
	}
	url, _ := r.signed("7", "app-key", "app-secret", "/events", string(body))
	if status, text, _ := r.request(http.DefaultClient, http.MethodPost, url, string(body)); status != 200 || text != "{}" {
		r.Fatalf("publish: %d %s", status, text)
	}
}

// socket is a client's end of a WebSocket.
type socket struct {
	net.Conn
	t     *testing.T
	early io.Reader
	id    string
}

func (s *socket) Read(p []byte) (int, error) {
	if s.early != nil {
		if n, err := s.early.Read(p); n > 0 || err != io.EOF {
			return n, err
		}
		s.early = nil
	}
	return s.Conn.Read(p)
}

// dial opens a WebSocket; open, when set, makes its connection.
func (r *running) dial(key string, open func(ctx context.Context, network, address string) (net.Conn, error), config *tls.Config) *socket {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	dialer := ws.Dialer{NetDial: open, TLSConfig: config}
	address := "ws" + strings.TrimPrefix(r.url("channels"), "http") + "/app/" + key + "?protocol=7"
	conn, early, _, err := dialer.Dial(ctx, address)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = conn.Close() })
	s := &socket{Conn: conn, t: r.T}
	if early != nil {
		s.early = io.LimitReader(early, int64(early.Buffered()))
	}
	return s
}

// connect opens a WebSocket of the app of the file, until it is served.
func (r *running) connect() *socket {
	r.Helper()
	s := r.dial("app-key", nil, nil)
	s.established()
	return s
}

func (s *socket) established() {
	s.t.Helper()
	var data struct {
		SocketID string `json:"socket_id"`
	}
	if err := json.Unmarshal([]byte(s.next("pusher:connection_established")), &data); err != nil {
		s.t.Fatal(err)
	}
	s.id = data.SocketID
}

// next reads the next message, which must be the event, and returns its data.
func (s *socket) next(event string) string {
	s.t.Helper()
	got, data, err := s.read()
	if err != nil || got != event {
		s.t.Fatalf("got %q %s (%v), want %q", got, data, err, event)
	}
	return data
}

// read returns the next message; the error tells the close code.
func (s *socket) read() (event, data string, err error) {
	_ = s.SetReadDeadline(time.Now().Add(patience))
	text, err := wsutil.ReadServerText(s)
	if err != nil {
		return "", "", err
	}
	var m struct {
		Event string          `json:"event"`
		Data  json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return "", "", err
	}
	if json.Unmarshal(m.Data, &data) != nil { // pusher:error has an object
		data = string(m.Data)
	}
	return m.Event, data, nil
}

// untilClosed reads up to the close frame, which it answers, and returns its code.
func (s *socket) untilClosed() (int, error) {
	for {
		_, _, err := s.read()
		var closed wsutil.ClosedError
		if errors.As(err, &closed) {
			return int(closed.Code), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (s *socket) send(event string, data any) {
	s.t.Helper()
	text, err := json.Marshal(map[string]any{"event": event, "data": data})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := wsutil.WriteClientText(s, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *socket) subscribe(channel string) {
	s.t.Helper()
	s.send("pusher:subscribe", map[string]string{"channel": channel})
	s.next("pusher_internal:subscription_succeeded")
}

// eventually waits for something that is seen only by looking.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// credentials are an app's id, key and secret.
func credentials(app *apps.App) [3]string { return [3]string{app.ID, app.Key, app.Secret} }
