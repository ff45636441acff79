package cluster

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // to write the table as another program does

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/test/servers"
)

// TestAppsInDatabase has three nodes whose apps are in one table: what is changed at one node holds
// on all of them at once, although they would read the table again in an hour only. While the
// database is away, they serve on.
func TestAppsInDatabase(t *testing.T) {
	t.Parallel()
	servers.NeedMariaDB(t)
	server := servers.StartMariaDB(t)
	database := fmt.Sprintf("[app_store]\ndriver = \"mysql\"\nurl = %q\ncache_ttl = \"1h\"\n", server.URL(server.Database))
	file := filepath.Join(t.TempDir(), "database.toml")
	if err := os.WriteFile(file, []byte(database), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(parley, "app", "migrate", "-c", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	hooks := newHooks(t)
	insert(t, server, "INSERT INTO applications (id, `key`, secret, webhooks) VALUES ('9', 'hooked-key', 's', ?)",
		`[{"url": "`+hooks.URL+`", "event_types": ["channel_occupied"]}]`)
	c := start(t, database)
	client := func(n int, key string) dialing {
		return dialing{url: strings.Replace(c.list[n].url(), "http", "ws", 1), key: key}
	}
	refused := func(n int, key string, code string) {
		t.Helper()
		s, err := client(n, key).connect()
		if err == nil {
			_ = s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), code) {
			t.Errorf("node %d let in with %s: %v, want %s", n+1, key, err, code)
		}
	}
	// An app that only one node was asked for: the others learn of it from that one, and those who
	// report its channels read it.
	hooked := client(0, "hooked-key").must(t)
	var channels []string
	for i := range 8 {
		channels = append(channels, fmt.Sprint("channel-", i))
		hooked.subscribe(t, channels[i])
	}
	for n := range count {
		refused(n, "shop-key", "4001") // and is remembered
	}
	if out, err := c.command("app", "create", "--id", "8", "--key", "shop-key", "--secret", "shop-secret"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var clients []*socket
	for n := range count {
		eventually(t, c.list[n].name+" knows the app", func() bool {
			s, err := client(n, "shop-key").connect()
			if err == nil {
				t.Cleanup(func() { _ = s.Close() })
				clients = append(clients, s)
			}
			return err == nil
		})
		clients[n].subscribe(t, "news")
	}
	shout := func(data string) {
		t.Helper()
		publishAs(t, c.list[0], "8", "shop-key", "shop-secret", data)
		for _, s := range clients {
			s.want(t, "shout", data)
		}
	}
	shout("hello")

	eventually(t, "webhooks tell of every channel", func() bool { return len(hooks.told()) >= len(channels) })
	server.Kill()
	eventually(t, "the nodes notice", func() bool {
		_, err := c.list[1].admin.ListApps(t.Context())
		return err != nil
	})
	shout("still here")
	for n, node := range c.list {
		if !node.ready() {
			t.Errorf("%s is not ready", node.name)
		}
		client(n, "shop-key").must(t)
	}
	server.Start()
	var app admin.AppView
	eventually(t, "apps can be changed again", func() (done bool) {
		var err error
		app, err = c.list[0].admin.RotateApp(t.Context(), "8", true)
		return err == nil
	})
	begin := time.Now()
	for n := range count {
		eventually(t, c.list[n].name+" refuses the old key", func() bool {
			s, err := client(n, "shop-key").connect()
			if err == nil {
				_ = s.Close()
			}
			return err != nil
		})
		client(n, app.Key).must(t)
	}
	t.Logf("all nodes had the new key after %v", time.Since(begin).Round(time.Millisecond))
	if out, err := c.command("app", "update", "8", "--enabled=false"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	begin = time.Now()
	for n, s := range clients {
		if code := s.closeCode(); code != 4003 {
			t.Errorf("the client of node %d is closed with %d", n+1, code)
		}
	}
	if told := hooks.told(); !slices.Equal(told, channels) {
		t.Errorf("webhooks told of %v, want each of %v once", told, channels)
	}
	t.Logf("clients on all nodes were closed after %v", time.Since(begin).Round(time.Millisecond))
}

// insert executes a statement as another program does.
func insert(t *testing.T, server *servers.MariaDB, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("mysql", fmt.Sprintf("%s:%s@tcp(%s)/%s", server.User, server.Password, address(server.Port), server.Database))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// hooks receives webhooks.
type hooks struct {
	*httptest.Server
	mu       sync.Mutex
	channels []string // of all events
}

func newHooks(t *testing.T) *hooks {
	h := &hooks{}
	h.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct{ Events []struct{ Channel string } }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, event := range body.Events {
			h.channels = append(h.channels, event.Channel)
		}
	}))
	t.Cleanup(h.Close)
	return h
}

// told returns the channels of the events that came, in order of their names.
func (h *hooks) told() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(slices.Values(h.channels))
}

// publishAs publishes an event of an app at a node.
func publishAs(t *testing.T, n *node, id, key, secret, data string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"name": "shout", "channels": []string{"news"}, "data": data})
	if err != nil {
		t.Fatal(err)
	}
	path, query := "/apps/"+id+"/events", url.Values{}
	protocol.SignRequest(key, secret, http.MethodPost, path, query, body, time.Now().Unix())
	response, err := http.Post(n.url()+path+"?"+query.Encode(), "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("publish: %s", response.Status)
	}
}
