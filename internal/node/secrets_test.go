package node

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// Nothing of what must stay secret reaches the log, not even at the level of debug and when
// things go wrong: the test walks through all of it and then searches.
func TestNoSecretInLog(t *testing.T) {
	t.Parallel()
	const body = "tell-nobody" // what people say to each other
	receiver := newReceiver(t)
	receiver.status.Store(http.StatusInternalServerError)
	c := options(t)
	c.Fabric.Driver = "embedded"
	c.Webhooks.LeaveDebounce = 0
	c.Apps[0].EnableUserAuthentication = true
	address := strings.Replace(receiver.URL, "://", "://hook-user:hook-password@", 1)
	c.Apps[0].Webhooks = []config.Webhook{{URL: address + "/?token=hook-token", Headers: map[string]string{"X-Api-Key": "hook-header"}}}
	n := start(t, c)
	token, err := os.ReadFile(filepath.Join(c.Node.DataDir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	secret := map[string]string{ // what it is, by its text
		"app-secret": "the secret of an app", strings.TrimSpace(string(token)): "the admin token", body: "a message",
		"hook-password": "the password of a webhook", "hook-token": "the token of a webhook", "hook-header": "the header of a webhook",
		"guessed-secret": "a wrong secret", "guessed-token": "a wrong token",
	}
	post := func(key, secretOfApp, path, text string) int {
		t.Helper()
		url, signature := n.signed("7", key, secretOfApp, path, text)
		secret[signature] = "the signature of a request"
		status, _, _ := n.request(http.DefaultClient, http.MethodPost, url, text)
		return status
	}
	event := `{"name":"e","channel":"private-room","data":"` + body + `"}`
	wantStatus(t, 200, post("app-key", "app-secret", "/events", event))
	wantStatus(t, 401, post("app-key", "guessed-secret", "/events", event))
	wantStatus(t, 401, post("other-key", "app-secret", "/events", event))
	wantStatus(t, 400, post("app-key", "app-secret", "/events", event+body))
	wantStatus(t, 400, post("app-key", "app-secret", "/batch_events", `{"batch":"`+body+`"}`))
	n.scenarioOfAdmin(secret)
	n.scenarioOfClient(secret, body)
	handshakeOf(t, n, "app-secret") // some put it where the key belongs
	eventually(t, "a webhook is tried", func() bool { return receiver.calls.Load() > 0 })
	n.stop()

	text := n.log.String()
	for part, what := range secret {
		if i := strings.Index(text, part); i >= 0 {
			t.Errorf("%s is in the log: …%s…", what, text[max(0, i-200):min(len(text), i+len(part)+50)])
		}
	}
	if !strings.Contains(text, "level=DEBUG") || !strings.Contains(text, "part=webhooks") {
		t.Errorf("this is not the log that was looked for:\n%s", text)
	}
}

func wantStatus(t *testing.T, want, got int) {
	t.Helper()
	if got != want {
		t.Errorf("got the status %d, want %d", got, want)
	}
}

// scenarioOfAdmin makes an app with a secret and fails to.
func (r *running) scenarioOfAdmin(secret map[string]string) {
	r.Helper()
	token, err := os.ReadFile(filepath.Join(r.config.Node.DataDir, "admin.token"))
	if err != nil {
		r.Fatal(err)
	}
	call := func(token, method, path, body string) (int, string) {
		status, text, _ := r.request(http.DefaultClient, method, r.url("channels")+"/admin/v1"+path, body,
			"Authorization", "Bearer "+token, "Content-Type", "application/json")
		return status, text
	}
	good := strings.TrimSpace(string(token))
	status, _ := call("guessed-token", "GET", "/apps", "")
	wantStatus(r.T, 401, status)
	status, _ = call(good, "POST", "/apps", `{"id":"new","secret":"chosen-secret"}`)
	wantStatus(r.T, 201, status)
	secret["chosen-secret"] = "the secret of a new app"
	status, _ = call(good, "POST", "/apps", `{"id":"new","secret":"chosen-secret"}`)
	wantStatus(r.T, 409, status)
	status, _ = call(good, "POST", "/apps", `{"id":"new","secret":["chosen-secret"]}`)
	wantStatus(r.T, 400, status)
	status, text := call(good, "POST", "/apps/new/rotate", "")
	wantStatus(r.T, 200, status)
	var app struct{ Secret string }
	if err := json.Unmarshal([]byte(text), &app); err != nil || app.Secret == "" {
		r.Fatalf("%v: %s", err, text)
	}
	secret[app.Secret] = "the rotated secret"
}

// scenarioOfClient signs in, subscribes and speaks, rightly and wrongly.
func (r *running) scenarioOfClient(secret map[string]string, body string) {
	r.Helper()
	auth := func(text string) string {
		signature := hexHMAC("app-secret", text)
		secret[signature] = "the signature of a client"
		return "app-key:" + signature
	}
	s := r.connect()
	s.send("pusher:subscribe", map[string]string{"channel": "private-room", "auth": "app-key:" + strings.Repeat("0", 63) + "7"})
	secret[strings.Repeat("0", 63)+"7"] = "a wrong signature"
	s.next("pusher:error")
	s.next("pusher:subscription_error")
	s.send("pusher:subscribe", map[string]string{"channel": "private-room", "auth": auth(s.id + ":private-room")})
	s.next("pusher_internal:subscription_succeeded")
	s.send("client-"+body, body) // to no channel
	s.next("pusher:error")
	user := `{"id":"u","user_info":{"note":"` + body + `"}}`
	s.send("pusher:signin", map[string]string{"auth": auth(s.id + "::user::" + user), "user_data": user})
	s.next("pusher:signin_success")
	r.publish("private-room", "e", body)
	if got := s.next("e"); got != body {
		r.Errorf("got %q", got)
	}
	s.send("pusher:subscribe", body)
	s.next("pusher:error")
	go func() { _, _ = s.untilClosed() }()

	other := r.connect()
	other.send("pusher:signin", map[string]string{"auth": "app-key:" + body, "user_data": user})
	if code, err := other.untilClosed(); code != 4009 {
		r.Errorf("a wrong sign-in is closed with %d, %v", code, err)
	}
	broken := r.connect()
	if _, err := broken.Write([]byte(body)); err != nil { // no frame
		r.Fatal(err)
	}
	_, _ = broken.untilClosed()
}

// handshakeOf sends what is nearly a handshake, with the key given.
func handshakeOf(t *testing.T, n *running, key string) {
	t.Helper()
	status, _, _ := n.request(http.DefaultClient, "GET", n.url("channels")+"/app/"+key+"?auth=hook-token", "",
		"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Key", "x")
	wantStatus(t, 400, status)
	s := n.dial(key, nil, nil)
	s.next("pusher:error")
	go func() { _, _ = s.untilClosed() }()
}

// The log of a start tells no credentials: the command prints those, once.
func TestFirstAppIsNotLogged(t *testing.T) {
	c := options(t)
	c.Apps = nil
	n := start(t, c)
	n.stop()
	if text := n.log.String(); strings.Contains(text, n.FirstApp.Secret) {
		t.Errorf("the secret is in the log:\n%s", text)
	}
	if !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(n.FirstApp.Secret) {
		t.Errorf("the secret has %d characters", len(n.FirstApp.Secret))
	}
}

func TestVersion(t *testing.T) {
	if Version() == "" {
		t.Error("no version")
	}
	defer func(before string) { version = before }(version)
	version = "v9.9.9"
	if Version() != "v9.9.9" {
		t.Errorf("got %s", Version())
	}
}
