package node

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// admin calls the administration API of the node.
func (r *running) admin(method, path, body string) (status int, text string) {
	r.Helper()
	status, text, _ = r.request(http.DefaultClient, method, r.url("channels")+"/admin/v1/"+path, body,
		"Authorization", "Bearer "+r.config.Admin.Token)
	return status, text
}

// wantClosed fails if the next thing that a client hears is not its end with the code.
func (s *socket) wantClosed(code int) {
	s.t.Helper()
	if got, err := s.untilClosed(); got != code {
		s.t.Fatalf("closed with %d (%v), want %d", got, err, code)
	}
}

// inDatabase returns the configuration of a node whose apps are in a table.
func inDatabase(t *testing.T, driver, url string) config.Config {
	t.Helper()
	c := options(t)
	c.Apps = nil
	c.Admin.Token = "admin-token-hush"
	c.AppStore.Driver, c.AppStore.URL = driver, url
	c.AppStore.CacheTTL = time.Second
	return c
}

// exec executes a statement as another program does.
func exec(t *testing.T, driver, source, statement string) {
	t.Helper()
	db, err := sql.Open(driver, source)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// startLater starts a node beside the test, and returns it when it is there.
func startLater(t *testing.T, c config.Config, log *buffer) (started func() *running) {
	t.Helper()
	type result struct {
		node *Node
		err  error
	}
	done := make(chan result, 1)
	ctx := t.Context()
	go func() {
		n, err := Start(ctx, c, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		done <- result{n, err}
	}()
	return func() *running {
		t.Helper()
		r := <-done
		if r.err != nil {
			t.Fatalf("%v\n%s", r.err, log)
		}
		n := &running{T: t, Node: r.node, log: log}
		t.Cleanup(func() {
			if !n.stopped {
				n.stop()
			}
			if t.Failed() {
				t.Logf("log of the node:\n%s", log)
			}
		})
		return n
	}
}

// late is a node whose apps are in soketi's table in MariaDB.
type late struct {
	*running
	server *servers.MariaDB
	source string // of the database, for another program
	config config.Config
	log    *buffer
}

// TestAppsInMariaDB has a node whose apps are in soketi's table, through all that may happen to the
// database and to the apps.
func TestAppsInMariaDB(t *testing.T) {
	t.Parallel()
	servers.NeedMariaDB(t)
	server := servers.StartMariaDB(t)
	n := &late{
		server: server, log: &buffer{}, config: inDatabase(t, config.AppStoreMySQL, server.URL(server.Database)),
		source: fmt.Sprintf("%s:%s@tcp(%s)/%s", server.User, server.Password, process.Address(server.Port), server.Database),
	}
	n.config.AppStore.Table, n.config.Channels.Port = "apps", process.FreePorts(t, 1)
	server.Stop()
	n.waits(t)
	client := n.changes(t)
	n.outage(client)
	if status, text := n.admin("DELETE", "apps/7", ""); status != 204 {
		t.Fatalf("delete: %d %s", status, text)
	}
	client.wantClosed(4001)
	if status, text := n.admin("GET", "apps", ""); status != 200 || strings.Contains(text, `"7"`) || !strings.Contains(text, `"8"`) {
		t.Errorf("list: %d %s", status, text)
	}
	n.stop()
	for _, secret := range []string{server.Password, "app-secret", "other-secret", n.config.Admin.Token} {
		if strings.Contains(n.log.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, n.log)
		}
	}
}

// ready asks for the state of the node, which may not have started.
func (n *late) ready() (status int, word, failed string) {
	response, err := http.Get("http://" + process.Address(n.config.Channels.Port) + "/ready")
	if err != nil {
		return 0, err.Error(), ""
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode, response.Header.Get("X-Health-Check"), response.Header.Get("X-Health-Failed")
}

func (n *late) wantReady(word, failed string) {
	n.Helper()
	process.Eventually(n.T, "it says "+word, func() bool {
		status, got, parts := n.ready()
		return status == 200 && got == word && parts == failed
	})
}

// waits starts the node before the database, and that before the table.
func (n *late) waits(t *testing.T) {
	t.Helper()
	const line = "waiting for the database of apps"
	started := startLater(t, n.config, n.log)
	process.Eventually(t, "it waits for the database", func() bool {
		status, word, _ := n.ready()
		return status == 503 && word == "STARTING" && strings.Count(n.log.String(), line) == 1
	})
	n.server.Start()
	process.Eventually(t, "it waits for the table", func() bool { return strings.Contains(n.log.String(), "parley app migrate") })
	exec(t, "mysql", n.source, "CREATE TABLE apps (`id` varchar(255) NOT NULL PRIMARY KEY, `key` varchar(255) NOT NULL, "+
		"`secret` varchar(255) NOT NULL, `max_connections` integer(10) NOT NULL, `enabled` tinyint(1) NOT NULL, "+
		"`enable_client_messages` tinyint(1) NOT NULL, `max_backend_events_per_sec` integer(10) NOT NULL, "+
		"`max_client_events_per_sec` integer(10) NOT NULL, `max_read_req_per_sec` integer(10) NOT NULL, `webhooks` json)")
	exec(t, "mysql", n.source, "INSERT INTO apps VALUES ('7', 'app-key', 'app-secret', 200, 1, 1, -1, -1, -1, '[]'), "+
		"('8', 'other-key', 'other-secret', -1, 1, 0, -1, -1, -1, NULL)")
	n.running = started()
	if n.FirstApp != nil {
		t.Error("it made an app in somebody's database")
	}
	if got := strings.Count(n.log.String(), line); got != 2 {
		t.Errorf("the wait was logged %d times", got)
	}
	n.wantReady("OK", "")
}

// changes has another program and Parley change an app, and returns a client of it.
func (n *late) changes(t *testing.T) *socket {
	t.Helper()
	client := n.connect()
	client.subscribe("news")
	n.publish("news", "greeting", "hello")
	client.next("greeting")
	n.dial("no-key", nil, nil).wantClosed(4001)

	exec(t, "mysql", n.source, "UPDATE apps SET enabled = 0 WHERE id = '7'")
	begin := time.Now()
	client.wantClosed(4003)
	t.Logf("with a TTL of %v it was seen after %v", n.config.AppStore.CacheTTL, time.Since(begin))
	if status, text := n.admin("PATCH", "apps/7", `{"enabled": true}`); status != 200 {
		t.Fatalf("enable: %d %s", status, text)
	}
	client = n.connect() // at once
	client.subscribe("news")
	status, text := n.admin("PATCH", "apps/7", `{"name": "x"}`)
	if status != 409 || !strings.Contains(text, "no column name") || !strings.Contains(text, `"code":"refused"`) {
		t.Errorf("name: %d %s", status, text)
	}
	return client
}

// outage has the database go away, and come back.
func (n *late) outage(client *socket) {
	n.Helper()
	n.server.Kill()
	n.wantReady("DEGRADED", "app_store")
	n.publish("news", "greeting", "still here")
	client.next("greeting")
	n.connect().subscribe("news")
	n.dial("other-key", nil, nil).wantClosed(4100)
	url, _ := n.signed("8", "other-key", "other-secret", "/events", "{}")
	if status, _, header := n.request(http.DefaultClient, "POST", url, "{}"); status != 503 || header.Get("Retry-After") == "" {
		n.Errorf("an app that is not in memory: %d", status)
	}
	if status, _ := n.get("channels", "/up/8"); status != 503 {
		n.Errorf("/up/8: %d", status)
	}
	if status, text := n.admin("GET", "apps", ""); status != 503 || !strings.Contains(text, "does not answer") {
		n.Errorf("list: %d %s", status, text)
	}
	if _, text := n.get("metrics", "/metrics"); !strings.Contains(text, "parley_app_store_up 0\n") ||
		!strings.Contains(text, `parley_app_lookups_total{result="failed"} `) {
		n.Errorf("metrics:\n%s", text)
	}
	n.server.Start()
	n.wantReady("OK", "")
	n.dial("other-key", nil, nil).established()
	if status, _ := n.get("channels", "/up/8"); status != 200 {
		n.Errorf("/up/8: %d", status)
	}
}

// TestAppsInPostgres has a node whose apps are in a table that it made itself, over TLS.
func TestAppsInPostgres(t *testing.T) {
	t.Parallel()
	servers.NeedPostgres(t)
	server := servers.StartPostgres(t)
	c := inDatabase(t, config.AppStorePostgres, "")
	a := &c.AppStore
	a.Host, a.Port, a.User, a.Password, a.Database = "127.0.0.1", server.Port, server.User, server.Password, server.Database
	a.TLS, a.CAFile, a.CacheTTL = "on", server.CAFile, time.Hour
	table, err := AppTable(c.AppStore)
	if err != nil {
		t.Fatal(err)
	}
	if done, err := table.Migrate(t.Context(), false, false); err != nil || !done.Created {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	c.Apps = []config.App{{ID: "9", Key: "fixed-key", Secret: "s", Enabled: true}} // beside those of the table
	n := start(t, c)
	status, text := n.admin("POST", "apps", `{"id": "7", "key": "app-key", "secret": "app-secret", "name": "Ünï",
		"limits": {"max_connections": 1}, "enable_subscription_count": true}`)
	if status != 201 {
		t.Fatalf("create: %d %s", status, text)
	}
	if status, text := n.admin("POST", "apps", `{"id": "9"}`); status != 409 {
		t.Errorf("create one of the file: %d %s", status, text)
	}
	client := n.connect()
	n.dial("app-key", nil, nil).wantClosed(4004) // over its quota
	n.dial("fixed-key", nil, nil).established()
	client.subscribe("news")
	n.publish("news", "greeting", "hello")
	for event := ""; event != "greeting"; { // the count may come before
		if event, _, err = client.read(); err != nil {
			t.Fatal(err)
		}
	}
	if status, text := n.admin("POST", "apps/7/rotate", `{"key": true}`); status != 200 || strings.Contains(text, "app-key") {
		t.Errorf("rotate: %d %s", status, text)
	}
	n.dial("app-key", nil, nil).wantClosed(4001)
	if status, text := n.admin("PATCH", "apps/7", `{"enabled": false}`); status != 200 || !strings.Contains(text, "Ünï") {
		t.Errorf("disable: %d %s", status, text)
	}
	client.wantClosed(4003)
	if _, text := n.get("metrics", "/metrics"); !strings.Contains(text, "parley_app_store_up 1\n") {
		t.Errorf("metrics:\n%s", text)
	}
}

// A node without a store has the apps of the file, and no others.
func TestAppsOfTheFileOnly(t *testing.T) {
	c := options(t)
	c.AppStore.Driver, c.Admin.Token = config.AppStoreMemory, "t"
	n := start(t, c)
	n.connect()
	status, text := n.admin("POST", "apps", `{"id": "8"}`)
	if status != 409 || !strings.Contains(text, "app_store.driver is memory") {
		t.Errorf("create: %d %s", status, text)
	}
	c.Apps = nil
	n = start(t, c)
	if !strings.Contains(n.log.String(), "there are no apps") || n.FirstApp != nil {
		t.Errorf("without apps: %+v\n%s", n.FirstApp, n.log)
	}
}

// A node that is told to stop while it waits for its database stops.
func TestStopWhileWaitingForDatabase(t *testing.T) {
	c := inDatabase(t, config.AppStorePostgres, fmt.Sprintf("postgres://u:p@%s/d", process.Address(process.FreePorts(t, 1))))
	ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	n, err := Start(ctx, c, slog.New(slog.DiscardHandler))
	if n != nil || !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "wait for the database of apps") {
		t.Errorf("started %v, %v", n, err)
	}
	c.AppStore.URL = "postgres://u:p@host:port/d"
	if _, err := Start(t.Context(), c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "URL is not like") {
		t.Errorf("with a wrong URL: %v", err)
	}
}
