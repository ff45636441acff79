package node

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/test/process"
)

func TestFirstAppOutlivesRestart(t *testing.T) {
	c := options(t)
	c.Fabric.Driver, c.Apps = "embedded", nil
	n := start(t, c)
	if n.FirstApp == nil || n.FirstApp.Key == "" || n.FirstApp.Secret == "" {
		t.Fatalf("the first app is %+v", n.FirstApp)
	}
	app := credentials(n.FirstApp)
	if runtime.GOOS != "windows" {
		wantMode(t, c.Node.DataDir, 0o700)
		wantMode(t, filepath.Join(c.Node.DataDir, "admin.token"), 0o600)
	}
	token, err := os.ReadFile(filepath.Join(c.Node.DataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	n.stop()

	n = start(t, c)
	if n.FirstApp != nil {
		t.Error("the first app was made or shown again")
	}
	if keys := n.Keys(); len(keys) != 1 || keys[0] != app[1] {
		t.Errorf("the keys are %v, want %s", keys, app[1])
	}
	body := `{"name":"e","channel":"c","data":"d"}`
	url, _ := n.signed(app[0], app[1], app[2], "/events", body)
	if status, text, _ := n.request(http.DefaultClient, "POST", url, body); status != 200 {
		t.Errorf("the old secret: %d %s", status, text)
	}
	if again, err := os.ReadFile(filepath.Join(c.Node.DataDir, "admin.token")); err != nil || string(again) != string(token) {
		t.Errorf("the admin token changed: %v", err)
	}
	s := n.dial(app[1], nil, nil)
	s.established()
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %o, want %o", path, got, want)
	}
}

func TestAppsOfTheFile(t *testing.T) {
	c := options(t)
	disabled := testApp()
	disabled.ID, disabled.Key, disabled.Enabled = "8", "off-key", false
	c.Apps = append(c.Apps, disabled)
	n := start(t, c)
	if n.FirstApp != nil {
		t.Error("an app was made although there are some")
	}
	if keys := n.Keys(); len(keys) != 1 || keys[0] != "app-key" {
		t.Errorf("the keys are %v", keys)
	}
	for path, want := range map[string]string{
		"/up": "200 OK", "/ready": "200 OK", "/live": "200 OK",
		"/up/7": "200 OK", "/up/8": "404 NOT_FOUND", "/up/9": "404 NOT_FOUND",
	} {
		if status, text := n.get("channels", path); strconv.Itoa(status)+" "+text != want {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
}

func TestEventInBothModes(t *testing.T) {
	for _, mode := range []string{"auto", "goroutine"} {
		t.Run(mode, func(t *testing.T) {
			c := options(t)
			c.Transport.Mode = mode
			n := start(t, c)
			if mode == "goroutine" && n.Mode() != mode {
				t.Errorf("the mode is %s", n.Mode())
			}
			s := n.connect()
			s.subscribe("my-channel")
			n.publish("my-channel", "my-event", "hello")
			if data := s.next("my-event"); data != "hello" {
				t.Errorf("got %q", data)
			}
		})
	}
}

func TestPathPrefix(t *testing.T) {
	c := options(t)
	c.Channels.PathPrefix = "/realtime/"
	n := start(t, c)
	for path, want := range map[string]int{
		"/realtime/up": 200, "/realtime/usage": 200, "/realtime/app/app-key": 426, "/realtime/apps/7/channels": 401,
		"/realtime/admin/v1/apps": 401, "/realtime/": 200,
		"/up": 404, "/app/app-key": 404, "/apps/7/channels": 404, "/admin/v1/apps": 404, "/": 404,
	} {
		if status, _ := n.get("channels", path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
	if status, _ := n.get("metrics", "/up"); status != 200 {
		t.Errorf("the metrics port has the prefix: %d", status)
	}
}

func TestSwitchedOff(t *testing.T) {
	c := options(t)
	c.Admin.Enabled, c.Metrics.Enabled, c.HTTP.UsageEnabled, c.HTTP.CORSOrigins = false, false, false, nil
	n := start(t, c)
	for _, path := range []string{"/admin/v1/apps", "/usage", "/metrics", "/debug/pprof/"} {
		if status, _ := n.get("channels", path); status != 404 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if n.Address("metrics") != "" {
		t.Errorf("metrics on %s", n.Address("metrics"))
	}
	if _, err := os.Stat(filepath.Join(c.Node.DataDir, "admin.token")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a token for nothing: %v", err)
	}
	_, _, header := n.request(http.DefaultClient, "GET", n.url("channels")+"/up", "", "Origin", "https://a.example")
	if header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("got %v", header)
	}
}

func TestMetricsPort(t *testing.T) {
	c := options(t)
	c.Metrics.Prefix = "mine_"
	n := start(t, c)
	n.connect().subscribe("presence") // a public channel in spite of its name
	n.publish("presence", "e", "d")
	n.dial("unknown", nil, nil).next("pusher:error")
	_, text := n.get("metrics", "/metrics")
	for _, line := range []string{
		`mine_connected{app_id="7",port="0"} 1`,
		`mine_new_connections_total{app_id="7",port="0"} 1`,
		`mine_new_disconnections_total{app_id="7",port="0"} 0`,
		`mine_socket_received_bytes{app_id="7",port="0"} `,
		`mine_socket_transmitted_bytes{app_id="7",port="0"} `,
		`mine_ws_messages_received_total{app_id="7",port="0"} 1`,
		`mine_ws_messages_sent_total{app_id="7",port="0"} 3`,
		`mine_connection_errors_total{app_id="",error_type="unknown_app",port="0"} 1`,
		`mine_channel_subscriptions_total{app_id="7",channel_type="public",port="0"} 1`,
		`mine_channel_unsubscriptions_total{app_id="7",channel_type="public",port="0"} 0`,
		`mine_active_channels{app_id="7",channel_type="public",port="0"} 1`,
		`mine_broadcast_latency_ms_count{app_id="7",channel_type="public",port="0",recipient_count_bucket="xs"} 1`,
		`mine_http_calls_received_total{app_id="7",port="0"} 1`,
		`mine_http_received_bytes{app_id="7",port="0"} `,
		`mine_http_transmitted_bytes{app_id="7",port="0"} 2`,
		`mine_outgoing_bytes `,
		`mine_build_info{version="` + Version() + `"} 1`,
		`go_goroutines `,
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("%s is missing in\n%s", line, text)
		}
	}
	if strings.Contains(text, "parley_") {
		t.Error("a family has another prefix")
	}
	for path, want := range map[string]int{"/ready": 200, "/live": 200, "/usage": 404, "/debug/pprof/": 404, "/app/app-key": 404, "/": 404} {
		if status, _ := n.get("metrics", path); status != want {
			t.Errorf("%s: %d, want %d", path, status, want)
		}
	}
}

func TestPprofWhenAskedFor(t *testing.T) {
	c := options(t)
	c.Metrics.Pprof = true
	n := start(t, c)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/heap"} {
		if status, _ := n.get("metrics", path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
		if status, _ := n.get("channels", path); status != 404 {
			t.Errorf("%s on the channels port: %d", path, status)
		}
	}
}

// taken returns a port that somebody else listens on.
func taken(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestPortInUse(t *testing.T) {
	for option, set := range map[string]func(c *config.Config, port int){
		"channels.port": func(c *config.Config, port int) { c.Channels.Port = port },
		"metrics.port":  func(c *config.Config, port int) { c.Metrics.Port = port },
	} {
		c := options(t)
		set(&c, taken(t)-1)
		c.PortOffset = 1
		n, err := Start(t.Context(), c, slog.New(slog.DiscardHandler))
		if err == nil {
			_ = n.Stop(t.Context())
			t.Fatalf("%s: it starts", option)
		}
		for _, part := range []string{option, "PARLEY_" + strings.ToUpper(strings.ReplaceAll(option, ".", "_")), "in use", "port_offset"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not tell %q", err, part)
			}
		}
		if _, err := os.Stat(c.Node.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the data directory was touched: %v", err)
		}
	}
}

// What a failed start had opened is closed again.
func TestFailedStart(t *testing.T) {
	for name, spoil := range map[string]func(c *config.Config){
		"data_dir is a file": func(c *config.Config) {
			c.Fabric.Driver = "embedded"
			if err := os.WriteFile(c.Node.DataDir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"no certificate": func(c *config.Config) {
			c.TLS.CertFile, c.TLS.KeyFile = "missing.pem", "missing.key"
		},
		"no place for the token": func(c *config.Config) { c.Node.DataDir += "\x00" },
		"metrics.port is taken":  func(c *config.Config) { c.Metrics.Port = taken(t) },
	} {
		t.Run(name, func(t *testing.T) {
			c := options(t)
			c.Channels.Port = freePort(t)
			spoil(&c)
			if _, err := Start(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil {
				t.Fatal("it starts")
			} else if name == "no certificate" && !strings.Contains(err.Error(), "tls.cert_file") {
				t.Error(err)
			}
			l, err := net.Listen("tcp", process.Address(c.Channels.Port))
			if err != nil {
				t.Fatalf("the channels port is still open: %v", err)
			}
			_ = l.Close()
		})
	}
}

// A part that stops by itself is told to the command.
func TestFailed(t *testing.T) {
	n := start(t, options(t))
	for _, l := range n.listeners {
		if l.name == "metrics" {
			_ = l.Listener.Close()
		}
	}
	if err := <-n.Failed(); !strings.Contains(err.Error(), "metrics") {
		t.Error(err)
	}
}
