package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// wantRefusal checks that a client is told the code and closed with it.
func (s *socket) wantRefusal(code int, reason string) {
	s.Helper()
	var data struct {
		Code    int
		Message string
	}
	m := s.next("pusher:error")
	if err := json.Unmarshal(m.Data, &data); err != nil { // an object, not a string
		s.Fatal(err)
	}
	if data.Code != code || !strings.Contains(data.Message, reason) {
		s.Errorf("got %d %q, want %d %q", data.Code, data.Message, code, reason)
	}
	if m := s.read(); m.closed != code {
		s.Errorf("got %+v, want the close code %d", m, code)
	}
}

func TestConnect(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.PathPrefix = "/realtime" })
	s := f.dial("/realtime/app/" + vectorKey + "?protocol=7&client=js&version=8.6.0&flash=false")
	m := s.next("pusher:connection_established")
	var data struct {
		SocketID        string `json:"socket_id"`
		ActivityTimeout int    `json:"activity_timeout"`
	}
	s.decode(m, &data)
	left, right, _ := strings.Cut(data.SocketID, ".")
	if data.ActivityTimeout != 120 || strings.Trim(left+right, "0123456789") != "" || left == "" || right == "" {
		t.Errorf("got %s", m.Data)
	}
}

func TestConnectRefusals(t *testing.T) {
	disabled := &apps.App{ID: "off", Key: "offkey", Secret: "s"}
	local := &apps.App{ID: "local", Key: "localkey", Secret: "s", Enabled: true, AllowedOrigins: []string{"*.example.com"}}
	small := &apps.App{ID: "small", Key: "smallkey", Secret: "s", Enabled: true, Limits: apps.Limits{MaxConnections: 1}}
	f := newFixture(t, nil, disabled, local, small)

	f.dial("/app/nokey").wantRefusal(4001, "nokey")
	f.dial("/app/a%2Fb%FF").wantRefusal(4001, "a/b?")
	f.dial("/app/"+strings.Repeat("k", 5000)).wantRefusal(4001, "does not exist")
	f.dial("/app/"+awayKey).wantRefusal(4100, "connect again later")
	f.dial("/app/offkey").wantRefusal(4003, "disabled")
	f.dial("/app/"+vectorKey+"/other").wantRefusal(4005, "Path not found")
	f.dial("/app/"+vectorKey+"/").wantRefusal(4005, "Path not found")
	f.dial("/app/localkey", "Origin", "https://example.org").wantRefusal(4009, "Origin not allowed")
	f.dial("/app/localkey").wantRefusal(4009, "Origin not allowed")
	f.dial("/app/localkey", "Origin", "https://a.Example.com").next("pusher:connection_established")
	f.dial("/app/smallkey").next("pusher:connection_established")
	f.dial("/app/smallkey").wantRefusal(4004, "quota")

	// Without strict_protocol any version will do.
	for _, query := range []string{"", "?protocol=x", "?protocol=2", "?protocol=8"} {
		f.dial("/app/" + vectorKey + query).next("pusher:connection_established")
	}
	f.wantMetrics("parley_connection_errors_total", `
parley_connection_errors_total{app_id="",error_type="app_unavailable",port="6001"} 1
parley_connection_errors_total{app_id="",error_type="path_not_found",port="6001"} 2
parley_connection_errors_total{app_id="",error_type="unknown_app",port="6001"} 3
parley_connection_errors_total{app_id="local",error_type="origin_not_allowed",port="6001"} 2
parley_connection_errors_total{app_id="off",error_type="app_disabled",port="6001"} 1
parley_connection_errors_total{app_id="small",error_type="over_quota",port="6001"} 1
`)
}

func TestConnectStrict(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.StrictProtocol = true })
	for _, version := range []string{"5", "6", "7"} {
		f.dial("/app/" + vectorKey + "?protocol=" + version).next("pusher:connection_established")
	}
	f.dial("/app/"+vectorKey+"?protocol=seven").wantRefusal(4006, "format")
	f.dial("/app/"+vectorKey+"?protocol=7.0").wantRefusal(4006, "format")
	f.dial("/app/"+vectorKey+"?protocol=8").wantRefusal(4007, "Unsupported")
	f.dial("/app/"+vectorKey+"?protocol=4").wantRefusal(4007, "Unsupported")
	f.dial("/app/"+vectorKey+"?client=js").wantRefusal(4008, "No protocol")
}

func TestConnectDraining(t *testing.T) {
	f := newFixture(t, nil)
	f.draining.Store(true)
	f.dial("/app/"+vectorKey).wantRefusal(4100, "no new clients")
	f.dial("/app/nokey").wantRefusal(4100, "no new clients")
}

func TestConnectWithoutUpgrade(t *testing.T) {
	f := newFixture(t, nil)
	for _, path := range []string{"/app/" + vectorKey, "/app/nokey", "/app/" + vectorKey + "/other"} {
		a := f.do("GET", path, "")
		a.refused(t, http.StatusUpgradeRequired, "WebSocket")
		if a.header.Get("Upgrade") != "websocket" {
			t.Errorf("%s: the Upgrade header is %q", path, a.header.Get("Upgrade"))
		}
	}
	// A handshake that is wrong is answered and counted, and not a refused connection.
	f.do("GET", "/app/"+vectorKey, "", "Connection", "Upgrade", "Upgrade", "websocket").refused(t, 400)
	f.wantMetrics("parley_upgrade_errors", `
parley_upgrade_errors_total{port="6001"} 1
`)
	f.wantMetrics("parley_connection_errors", "")
}
