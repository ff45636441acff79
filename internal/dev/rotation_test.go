package dev

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"testing"
)

// What is typed in asks that very node, and its answer is told.
func TestRotate(t *testing.T) {
	var answer string
	var status int
	var asked string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	var out bytes.Buffer
	c := &cluster{
		out: newTerminal(&out), nodes: []*process{{number: 1, cmd: &exec.Cmd{}}}, ctx: t.Context(),
		setup: setup{token: "secret", offset: server.Listener.Addr().(*net.TCPAddr).Port - channelsPort - portStep},
	}
	for _, test := range []struct {
		typed  string
		answer string
		status int
		asked  string
		want   string
	}{
		{"drain 1", `{"name": "node1", "was": "ready"}`, http.StatusAccepted,
			`POST /admin/v1/cluster/drain Bearer secret {"delay_ms": 1000}`, "node1 is draining"},
		{"undrain 1", `{"name": "node1", "was": "draining"}`, http.StatusOK,
			"POST /admin/v1/cluster/undrain Bearer secret {}", "node1 is back in the rotation"},
		{"undrain node1", `{"name": "node1", "was": "ready"}`, http.StatusOK,
			"POST /admin/v1/cluster/undrain Bearer secret {}", "node1 was not draining"},
		{"drain 1", `{"error": "the node is starting"}`, http.StatusServiceUnavailable,
			`POST /admin/v1/cluster/drain Bearer secret {"delay_ms": 1000}`,
			"drain node1: 503 Service Unavailable: the node is starting"},
		{"drain 2", "", 0, "", `drain which node, 1 to 1?; ` + help},
	} {
		out.Reset()
		asked, answer, status = "", test.answer, test.status
		c.obey(test.typed)
		c.asking.Wait()
		if asked != test.asked || out.String() != "===== | "+test.want+"\n" {
			t.Errorf("%s: asked %q, told %q", test.typed, asked, out.String())
		}
	}
}
