package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

const testToken = "0123456789abcdef"

// oneDead has one dead letter until it is replayed or discarded.
type oneDead struct{ gone bool }

func (d *oneDead) ListDead(context.Context, string, int) ([]webhook.Dead, error) {
	if d.gone {
		return nil, nil
	}
	return []webhook.Dead{{
		ID: "d1", AppID: "7", URL: "https://example.com/\x1b[2J", Reason: "status 500", Attempts: 9,
		Events: []string{"cache_miss", "member_added", "cache_miss"}, FailedAt: time.Unix(1e9, 0),
	}}, nil
}

func (d *oneDead) Replay(ctx context.Context, id string) error { return d.Discard(ctx, id) }

func (d *oneDead) Discard(_ context.Context, id string) error {
	if d.gone || id != "d1" {
		return fmt.Errorf("dead webhook %q: %w", id, fabric.ErrNotFound)
	}
	d.gone = true
	return nil
}

// adminHandler returns the admin API of a node with one static app.
func adminHandler(t *testing.T) http.Handler {
	t.Helper()
	documents, err := memory.New().Documents(t.Context(), apps.Collection)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	registry := apps.New([]*apps.App{{ID: "fixed", Key: "k", Secret: "hush"}}, apps.NewDocuments(documents, log), log)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() { stop(); registry.Wait() })
	if err := registry.Start(ctx); err != nil {
		t.Fatal(err)
	}
	return admin.New(registry, &oneDead{}, testToken, log)
}

func startAdmin(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(adminHandler(t))
	t.Cleanup(server.Close)
	return server
}

// command runs the command tree and returns what it prints.
func command(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := &cobra.Command{Use: "parley", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(newAppCommand(), newWebhookCommand(), newKeyCommand())
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// expect runs a command that must succeed and print a match of each pattern.
func expect(t *testing.T, args string, patterns ...string) string {
	t.Helper()
	out, err := command(t, strings.Fields(args)...)
	if err != nil {
		t.Fatalf("%s: %v", args, err)
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("%s prints no %s:\n%s", args, pattern, out)
		}
	}
	return out
}

// expectError runs a command that must fail with an error that has every text.
func expectError(t *testing.T, args string, texts ...string) {
	t.Helper()
	out, err := command(t, strings.Fields(args)...)
	if err == nil {
		t.Fatalf("%s: succeeds", args)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: error %q, want one with %q", args, err, text)
		}
	}
	if out != "" {
		t.Errorf("%s prints %q beside its error", args, out)
	}
}

func TestAppCommands(t *testing.T) {
	at := " --server " + startAdmin(t).URL + " --token " + testToken
	expect(t, "app create --id 1 --key k1 --secret hush1 --name chat --client-messages --max-connections 5"+
		" --allowed-origin a.example --allowed-origin b.example"+
		" --webhook http://a.example/x --webhook http://b.example"+at,
		`(?m)^id +1$`, `(?m)^key +k1$`, `(?m)^secret +hush1$`, `client messages +yes`, `watchlist events +no`,
		`max connections +5`, `allowed origins +a.example b.example`, `webhook +http://a.example/x`, `http://b.example`)
	expect(t, "app create --user-authentication --watchlist --subscription-count"+at,
		`id +\d{7}\n`, `key +[0-9a-f]{20}\n`, `secret +[0-9a-f]{40}\n`,
		`user authentication +yes`, `watchlist events +yes`, `subscription count +yes`)
	list := expect(t, "app list"+at, `fixed +k +no +configuration file`, `1 +chat +k1 +yes +store`)
	if strings.Contains(list, "hush") {
		t.Errorf("the list has a secret:\n%s", list)
	}
	if out := expect(t, "app show 1"+at, `name +chat`); strings.Contains(out, "hush") {
		t.Errorf("show without --secret has a secret:\n%s", out)
	}
	expect(t, "app show 1 --secret"+at, `secret +hush1`)
	expect(t, "app rotate 1"+at, `key +k1\n`, `secret +[0-9a-f]{40}\n`)
	expect(t, "app rotate 1 --key"+at, `key +[0-9a-f]{20}\n`)
	expect(t, "app delete 1"+at, `deleted app 1`)
	expectError(t, "app show 1"+at, "app not found")
	expectError(t, "app delete fixed"+at, "configuration file")
	expectError(t, "app create --max-connections -1"+at, "limits.max_connections")
}

func TestAppUpdateChangesOnlyWhatIsNamed(t *testing.T) {
	at := " --server " + startAdmin(t).URL + " --token " + testToken
	expect(t, "app create --id 1 --name chat --client-messages --max-connections 5 --webhook http://a.example"+at)
	expect(t, "app update 1 --watchlist"+at, `name +chat`, `client messages +yes`, `watchlist events +yes`,
		`max connections +5`, `webhook +http://a.example`)
	expect(t, "app update 1 --enabled=false --client-messages=false --max-connections 6 --webhook http://b.example"+at,
		`enabled +no`, `client messages +no`, `watchlist events +yes`, `max connections +6`, `webhook +http://b.example`)
	expect(t, "app update 1 --allowed-origin a.example"+at, `allowed origins +a.example`, `enabled +no`)
	if out := expect(t, "app update 1 --webhook= --allowed-origin="+at, `name +chat`); strings.Contains(out, "example") {
		t.Errorf("webhooks or origins are left:\n%s", out)
	}
	expectError(t, "app update 1"+at, "nothing to change")
}

func TestJSONOutput(t *testing.T) {
	at := " --json --server " + startAdmin(t).URL + " --token " + testToken
	var created, shown admin.AppView
	if err := json.Unmarshal([]byte(expect(t, "app create --id 1"+at)), &created); err != nil || created.Secret == "" {
		t.Errorf("created %+v, error %v", created, err)
	}
	if err := json.Unmarshal([]byte(expect(t, "app show 1"+at)), &shown); err != nil || shown.Secret != "" || shown.ID != "1" {
		t.Errorf("shown %+v, error %v", shown, err)
	}
	var list []admin.AppView
	if err := json.Unmarshal([]byte(expect(t, "app list"+at)), &list); err != nil || len(list) != 2 {
		t.Errorf("list %+v, error %v", list, err)
	}
	var deleted struct{ ID string }
	if err := json.Unmarshal([]byte(expect(t, "app delete 1"+at)), &deleted); err != nil || deleted.ID != "1" {
		t.Errorf("deleted %+v, error %v", deleted, err)
	}
	var dead admin.DeadList
	if err := json.Unmarshal([]byte(expect(t, "webhook dead-letters list"+at)), &dead); err != nil || len(dead.DeadLetters) != 1 {
		t.Errorf("dead letters %+v, error %v", dead, err)
	}
}

func TestWebhookCommands(t *testing.T) {
	at := " --server " + startAdmin(t).URL + " --token " + testToken
	out := expect(t, "webhook dead-letters list --limit 1"+at, `d1 +2001-09-09T01:46:40Z +7`,
		`cache_miss x2, member_added +9 +status 500`, `--after d1`)
	if strings.Contains(out, "\x1b") {
		t.Error("a control character reaches the terminal")
	}
	expectError(t, "webhook dead-letters list --limit 0"+at, "limit must be")
	expectError(t, "webhook dead-letters discard x"+at, "not found")
	expect(t, "webhook dead-letters replay d1"+at, `replayed dead letter d1`)
	expectError(t, "webhook dead-letters discard d1"+at, "not found")
	other := " --server " + startAdmin(t).URL + " --token " + testToken
	expect(t, "webhook dead-letters discard d1"+other, `discarded dead letter d1`)
}

// write writes a file and returns its path.
func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestWhereTheTokenComesFrom tries every source against one server.
func TestWhereTheTokenComesFrom(t *testing.T) {
	server := startAdmin(t)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir, admin.TokenFile, testToken+"\n")
	file := write(t, dir, "parley.toml", fmt.Sprintf("[node]\ndata_dir = %q\n[channels]\nport = %s\n", dir, u.Port()))
	configured := write(t, dir, "token.toml", fmt.Sprintf("[admin]\ntoken = %q\n", testToken))

	expect(t, "app list --config "+file, "fixed")
	expect(t, "app list --node.data_dir "+dir+" --channels.port "+u.Port(), "fixed")
	expect(t, "app list --config "+configured+" --server "+server.URL, "fixed")
	t.Setenv("PARLEY_NODE_DATA_DIR", dir)
	expect(t, "app list --server "+server.URL, "fixed")
	expectError(t, "app list --server http://node.invalid:1", "http://node.invalid:1 needs a token")
	t.Setenv("PARLEY_ADMIN_TOKEN", "wrong")
	expectError(t, "app list --server "+server.URL, "refused the admin token", "PARLEY_ADMIN_TOKEN")
	expect(t, "app list --server "+server.URL+" --token "+testToken, "fixed")
	expect(t, "app list --server "+u.Host+" --token "+testToken, "fixed")
	t.Setenv("PARLEY_ADMIN_TOKEN", testToken)
	t.Setenv("PARLEY_NODE_DATA_DIR", t.TempDir())
	expect(t, "app list --server "+server.URL, "fixed")
	t.Setenv("PARLEY_ADMIN_TOKEN", "")
	expectError(t, "app list --server "+server.URL, admin.TokenFile, "--token", "node.data_dir")
}

func TestNoNodeAnswers(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	expectError(t, "app list --token x --server "+server.URL, "no answer from "+server.URL, "parley serve", "--server")
	expectError(t, "app list --token x --server ftp://127.0.0.1:6001", `--server "ftp://127.0.0.1:6001" must look like http`)
	expectError(t, "app list --token x --server :6001", `--server "http://:6001" must look like http`)
	expectError(t, "app list --token x --server "+strings.TrimPrefix(server.URL, "http://"), "no answer from "+server.URL)
	expectError(t, "app list --token x --channels.port 0", "channels.port is 0", "--server")
}

func TestLocalServer(t *testing.T) {
	tests := []struct {
		change func(*config.Config)
		want   string
	}{
		{func(*config.Config) {}, "http://127.0.0.1:6001"},
		{func(c *config.Config) { c.PortOffset = 2 }, "http://127.0.0.1:6003"},
		{func(c *config.Config) { c.Channels.Host = "" }, "http://127.0.0.1:6001"},
		{func(c *config.Config) { c.Channels.Host = "::" }, "http://[::1]:6001"},
		{func(c *config.Config) { c.Channels.Host = "192.0.2.1" }, "http://192.0.2.1:6001"},
		{func(c *config.Config) { c.Channels.Host = "node.example" }, "http://node.example:6001"},
		{func(c *config.Config) { c.Channels.PathPrefix = "/chat/" }, "http://127.0.0.1:6001/chat"},
		{func(c *config.Config) { c.TLS.CertFile = "a.pem" }, "https://127.0.0.1:6001"},
	}
	for _, test := range tests {
		c := config.Default()
		test.change(&c)
		if got, err := localServer(c); err != nil || got != test.want {
			t.Errorf("got %s, want %s, error %v", got, test.want, err)
		}
	}
}

func TestTLSTrustsTheConfiguredCertificateOnly(t *testing.T) {
	server := httptest.NewUnstartedServer(adminHandler(t))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	configure := func(certificate []byte) string {
		cert := write(t, dir, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
		return write(t, dir, "parley.toml", fmt.Sprintf(
			"[channels]\nport = %s\n[tls]\ncert_file = %q\nkey_file = %q\n[admin]\ntoken = %q\n", u.Port(), cert, cert, testToken))
	}
	expect(t, "app list --config "+configure(server.Certificate().Raw), "fixed")
	expectError(t, "app list --config "+configure([]byte("other")), "another certificate")
}

// keyring keeps one key of the file, and one that is made.
type keyring struct{ made []admin.KeyView }

func (k *keyring) ListKeys() []admin.KeyView {
	return append([]admin.KeyView{{
		NewKey: admin.NewKey{ID: "file", Namespace: "shop", Scopes: []string{"*"}, RequestsPerSecond: 5}, Static: true,
	}}, k.made...)
}

func (k *keyring) CreateKey(_ context.Context, key admin.NewKey) (admin.KeyView, error) {
	view := admin.KeyView{NewKey: key, CreatedAt: time.Unix(1e9, 0).UTC()}
	k.made = append(k.made, view)
	view.Token = "pk_secret"
	return view, nil
}

func (k *keyring) RevokeKey(_ context.Context, id string) error {
	if len(k.made) == 0 || k.made[0].ID != id {
		return fmt.Errorf("%w: %s", admin.ErrNoKey, id)
	}
	k.made = nil
	return nil
}

func TestKeyCommands(t *testing.T) {
	handler := admin.New(nil, &oneDead{}, testToken, slog.New(slog.DiscardHandler)).WithKeys(&keyring{})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	run := func(args ...string) (string, error) {
		t.Helper()
		return command(t, append(args, "--server", server.URL, "--token", testToken)...)
	}
	out, err := run("key", "create", "--id", "mail", "--namespace", "shop", "--scope", "queues:work=mail", "--scope", "ids")
	if err != nil || !strings.Contains(out, "pk_secret") || !strings.Contains(out, "queues:work=mail ids") {
		t.Errorf("create: %s %v", out, err)
	}
	out, err = run("key", "list")
	want := "ID    NAMESPACE  SCOPES                LIMIT  CREATED               SOURCE\n" +
		"file  shop       *                     5/s    -                     configuration file\n" +
		"mail  shop       queues:work=mail ids  -      2001-09-09T01:46:40Z  store\n"
	if err != nil || out != want {
		t.Errorf("list: got %q, want %q; %v", out, want, err)
	}
	if out, err = run("key", "revoke", "mail"); err != nil || out != "revoked key mail\n" {
		t.Errorf("revoke: %s %v", out, err)
	}
	if _, err = run("key", "revoke", "mail"); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("revoke again: %v", err)
	}
	if _, err = run("key", "create"); err == nil || !strings.Contains(err.Error(), "scope") {
		t.Errorf("without a scope: %v", err)
	}
}
