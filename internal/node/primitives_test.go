package node

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/pusher/admin"
)

const primitiveToken = "primitive-token-0123456789"

// withKey returns a configuration with a key that may do everything.
func withKey(t *testing.T) config.Config {
	c := options(t)
	c.Primitives.Keys = []config.PrimitiveKey{{ID: "file", Namespace: "test", Token: primitiveToken, Scopes: []string{"*"}}}
	return c
}

// v1 sends a request to the primitives.
func (r *running) v1(method, path, token, body string) (status int, answer string) {
	r.Helper()
	request, err := http.NewRequest(method, r.url("channels")+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		r.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// A node serves the primitives beside the channels, to keys of the file and of the store.
func TestPrimitives(t *testing.T) {
	c := withKey(t)
	c.Channels.PathPrefix = "/parley"
	c.Admin.Token = "the-admin-token-0123456789"
	r := start(t, c)
	if status, body := r.v1("PUT", "/parley/v1/cache/a%2Fb", primitiveToken, "x"); status != 204 {
		t.Errorf("set: %d %s", status, body)
	}
	if status, body := r.v1("GET", "/parley/v1/cache/a%2Fb", primitiveToken, ""); status != 200 || body != "x" {
		t.Errorf("get: %d %s", status, body)
	}
	if status, body := r.v1("GET", "/parley/v1/ids", "wrong", ""); status != 401 || !strings.Contains(body, `"unauthorized"`) {
		t.Errorf("without a key: %d %s", status, body)
	}
	client := &admin.Client{Server: r.url("channels") + "/parley", Token: c.Admin.Token}
	created, err := client.CreateKey(t.Context(), admin.NewKey{ID: "stored", Namespace: "test", Scopes: []string{"ids"}})
	if err != nil {
		t.Fatal(err)
	}
	if status, body := r.v1("GET", "/parley/v1/ids", created.Token, ""); status != 200 {
		t.Errorf("with a stored key: %d %s", status, body)
	}
	list, err := client.ListKeys(t.Context())
	if err != nil || len(list) != 2 || !list[0].Static || list[1].ID != "stored" || list[1].CreatedAt.IsZero() {
		t.Errorf("keys are %+v, %v", list, err)
	}
	fails := func(what string, err error, code string) {
		t.Helper()
		var failure *admin.Failure
		if !errors.As(err, &failure) || failure.Code != code {
			t.Errorf("%s: got %v, want %s", what, err, code)
		}
	}
	fails("revoke a static key", client.RevokeKey(t.Context(), "file"), admin.CodeStatic)
	fails("revoke none", client.RevokeKey(t.Context(), "none"), admin.CodeNotFound)
	if err := client.RevokeKey(t.Context(), "stored"); err != nil {
		t.Error(err)
	}
	_, err = client.CreateKey(t.Context(), admin.NewKey{Namespace: "test", Scopes: []string{"everything"}})
	fails("a bad scope", err, admin.CodeInvalid)
	if n := strings.Count(err.Error(), "invalid key"); n != 1 {
		t.Errorf("it says %d times that the key is invalid: %v", n, err)
	}
	if status, _ := r.v1("GET", "/parley/v1/ids", created.Token, ""); status != 401 {
		t.Errorf("with a revoked key: %d", status)
	}
	if log := r.log.String(); strings.Contains(log, created.Token) || strings.Contains(log, primitiveToken) {
		t.Error("a token is in the log")
	}
	if status, body := r.get("metrics", "/metrics"); status != 200 ||
		!strings.Contains(body, `parley_primitives_requests_total{route="GET ids",status="200"} 1`) {
		t.Errorf("metrics: %d", status)
	}
}

// Who follows signals, or waits for a job, does not hold up the end of the node.
func TestPrimitivesStop(t *testing.T) {
	c := withKey(t)
	c.Shutdown.Grace = 30 * time.Second
	r := start(t, c)
	request, err := http.NewRequest(http.MethodGet, r.url("channels")+"/v1/signals/subscribe?subject=s", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+primitiveToken)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	lines := bufio.NewScanner(answer.Body)
	if !lines.Scan() || lines.Text() != "event: ready" {
		t.Fatalf("got %q", lines.Text())
	}
	waited := make(chan string, 1)
	go func() {
		_, body := r.v1("POST", "/v1/queues/q/lease", primitiveToken, `{"wait_ms":60000}`)
		waited <- body
	}()
	eventually(t, "somebody waits", func() bool {
		_, body := r.v1("GET", "/v1/queues/q", primitiveToken, "")
		var state struct {
			Waiting int `json:"waiting_here"`
		}
		return json.Unmarshal([]byte(body), &state) == nil && state.Waiting == 1
	})
	if took := r.stop(); took > c.Shutdown.Grace {
		t.Errorf("it took %v", took)
	}
	if body := strings.TrimSpace(<-waited); body != `{"jobs":[],"serves":true}` {
		t.Errorf("who waited was answered %s", body)
	}
	text := ""
	for lines.Scan() {
		text += lines.Text() + "\n"
	}
	if !strings.Contains(text, "event: end") || !strings.Contains(text, "node_stops") {
		t.Errorf("the subscriber was told %s", text)
	}
}

func TestPrimitivesDisabled(t *testing.T) {
	c := withKey(t)
	c.Primitives.Enabled = false
	r := start(t, c)
	if status, _ := r.v1("GET", "/v1/ids", primitiveToken, ""); status != 404 {
		t.Errorf("status %d", status)
	}
}

// What the primitives refuse in a key the configuration refuses first.
func TestKeyRulesOfConfiguration(t *testing.T) {
	for _, scope := range []string{"x", "cache:delete", "locks:read", "cache=", "cache=a*b", "ids=x", "*=x", strings.Repeat("c", 400)} {
		c := withKey(t)
		c.Primitives.Keys[0].Scopes = []string{scope}
		if _, err := Start(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "scope") {
			t.Errorf("the node says of %.50q: %v", scope, err)
		}
		var check func(any) error
		for _, d := range config.Declarations() {
			if d.Table == config.KeysTable && d.Key == "scopes" {
				check = d.Check
			}
		}
		if err := check([]string{scope}); err == nil {
			t.Errorf("the configuration accepts %.50q", scope)
		}
	}
}

// By its roles a node sends webhooks, or because nobody else is there who does.
func TestWhoSendsWebhooks(t *testing.T) {
	member := func(state cluster.State, roles ...string) cluster.Member {
		return cluster.Member{State: state, Roles: roles}
	}
	gateway := member(cluster.StateReady, "gateway", "store")
	for _, test := range []struct {
		name    string
		mode    string
		members []cluster.Member
		want    bool
	}{
		{"all", "", nil, true},
		{"nobody else", "!", []cluster.Member{gateway, gateway}, true},
		{"a worker is there", "!", []cluster.Member{gateway, member(cluster.StateReady, "worker")}, false},
		{"a worker starts", "!", []cluster.Member{gateway, member(cluster.StateStarting, "worker")}, true},
		{"one for just that", "!", []cluster.Member{gateway, member(cluster.StateReady, workWebhooks)}, false},
		{"this is that one", "!," + workWebhooks, []cluster.Member{member(cluster.StateReady, "worker")}, true},
		{"a worker", "*", []cluster.Member{gateway}, true},
		{"another key", "!,a:b", []cluster.Member{member(cluster.StateReady, "worker")}, false},
	} {
		node := config.Node{Roles: config.WorkerModeRoles(test.mode)}
		if got := sendsAmong(node, test.members); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
