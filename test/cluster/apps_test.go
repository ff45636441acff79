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
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// shop is three nodes whose apps are in one table of MariaDB, and clients of one of these apps, one
// on each node.
type shop struct {
	*nodes
	server  *servers.MariaDB
	hooks   *hooks
	clients []*socket
}

const shopID, shopKey, shopSecret = "8", "shop-key", "shop-secret"

// TestAppsInDatabase changes apps at one node, which holds on all of them at once, although they
// would read the table again in an hour only. While the database is away, they serve on.
func TestAppsInDatabase(t *testing.T) {
	t.Parallel()
	servers.NeedMariaDB(t)
	s := &shop{server: servers.StartMariaDB(t), hooks: newHooks(t)}
	s.nodes = start(t, s.migrate(t))
	channels := s.hook()
	s.open()
	eventually(t, "webhooks tell of every channel", func() bool { return len(s.hooks.told()) >= len(channels) })
	s.outage()
	s.rotate()
	s.disable()
	if told := s.hooks.told(); !slices.Equal(told, channels) {
		t.Errorf("webhooks told of %v, want each of %v once", told, channels)
	}
}

// migrate makes the table with an app that has webhooks, and returns the configuration.
func (s *shop) migrate(t *testing.T) string {
	t.Helper()
	database := fmt.Sprintf("[app_store]\ndriver = \"mysql\"\nurl = %q\ncache_ttl = \"1h\"\n", s.server.URL(s.server.Database))
	file := filepath.Join(t.TempDir(), "database.toml")
	if err := os.WriteFile(file, []byte(database), 0o600); err != nil {
		t.Fatal(err)
	}
	migrate := exec.Command(parley, "app", "migrate", "-c", file)
	migrate.Env = process.Environment()
	if out, err := migrate.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	insert(t, s.server, "INSERT INTO applications (id, `key`, secret, webhooks) VALUES ('9', 'hooked-key', 's', ?)",
		`[{"url": "`+s.hooks.URL+`", "event_types": ["channel_occupied"]}]`)
	return database
}

// client says how to connect to a node.
func (s *shop) client(node *node, key string) dialing {
	return dialing{url: strings.Replace(node.url(), "http", "ws", 1), key: key}
}

// hook subscribes at one node to channels of the app with webhooks. The others learn of it from that
// one, and those who report its channels read it. It returns the channels.
func (s *shop) hook() (channels []string) {
	s.Helper()
	hooked := s.client(s.list[0], "hooked-key").must(s.T)
	for i := range 8 {
		channels = append(channels, fmt.Sprint("channel-", i))
		hooked.subscribe(s.T, channels[i])
	}
	return channels
}

// open makes an app after all nodes were asked for it in vain, and connects a client to each.
func (s *shop) open() {
	s.Helper()
	for _, node := range s.list {
		if _, err := s.client(node, shopKey).connect(); err == nil || !strings.Contains(err.Error(), "4001") {
			s.Errorf("%s lets in who has no app: %v", node.name, err)
		}
	}
	if out, err := s.command("app", "create", "--id", shopID, "--key", shopKey, "--secret", shopSecret); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	for _, node := range s.list {
		eventually(s.T, node.name+" knows the app", func() bool {
			client, err := s.client(node, shopKey).connect()
			if err == nil {
				s.Cleanup(func() { _ = client.Close() })
				client.subscribe(s.T, "news")
				s.clients = append(s.clients, client)
			}
			return err == nil
		})
	}
	eventually(s.T, s.list[0].name+" knows of all subscribers", func() bool {
		return subscribersAs(s.T, s.list[0], shopID, shopKey, shopSecret) == len(s.clients)
	})
	s.shout("hello")
}

// shout publishes an event at one node, which the clients of all get.
func (s *shop) shout(data string) {
	s.Helper()
	spreads(s.T, s.clients, func(event, data string) error {
		return publishAs(s.list[0], shopID, shopKey, shopSecret, event, data)
	})
	if err := publishAs(s.list[0], shopID, shopKey, shopSecret, "shout", data); err != nil {
		s.Fatal(err)
	}
	for _, client := range s.clients {
		client.want(s.T, "shout", data)
	}
}

// outage kills the database and starts it again.
func (s *shop) outage() {
	s.Helper()
	s.server.Kill()
	eventually(s.T, "a node notices", func() bool {
		_, err := s.list[1].admin.ListApps(s.Context())
		return err != nil
	})
	s.shout("still here")
	for _, node := range s.list {
		if !node.ready() {
			s.Errorf("%s is not ready", node.name)
		}
		s.client(node, shopKey).must(s.T)
	}
	s.server.Start()
}

// rotate gives the app another key.
func (s *shop) rotate() {
	s.Helper()
	var app admin.AppView
	eventually(s.T, "apps can be changed again", func() (done bool) {
		var err error
		app, err = s.list[0].admin.RotateApp(s.Context(), shopID, true)
		return err == nil
	})
	begin := time.Now()
	for _, node := range s.list {
		eventually(s.T, node.name+" refuses the old key", func() bool {
			client, err := s.client(node, shopKey).connect()
			if err == nil {
				_ = client.Close()
			}
			return err != nil
		})
		s.client(node, app.Key).must(s.T)
	}
	s.Logf("all nodes had the new key after %v", time.Since(begin).Round(time.Millisecond))
}

// disable has the app's clients be closed, wherever they are.
func (s *shop) disable() {
	s.Helper()
	if out, err := s.command("app", "update", shopID, "--enabled=false"); err != nil {
		s.Fatalf("%v: %s", err, out)
	}
	begin := time.Now()
	for i, client := range s.clients {
		if code := client.closeCode(); code != 4003 {
			s.Errorf("the client of %s is closed with %d", s.list[i].name, code)
		}
	}
	s.Logf("clients on all nodes were closed after %v", time.Since(begin).Round(time.Millisecond))
}

// insert executes a statement as another program does.
func insert(t *testing.T, server *servers.MariaDB, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("mysql", fmt.Sprintf("%s:%s@tcp(%s)/%s", server.User, server.Password, process.Address(server.Port), server.Database))
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

// subscribersAs is how many subscribers of the channel of an app a node counts on all nodes.
func subscribersAs(t *testing.T, n *node, id, key, secret string) int {
	t.Helper()
	path, query := "/apps/"+id+"/channels/news", url.Values{"info": {"subscription_count"}}
	protocol.SignRequest(key, secret, http.MethodGet, path, query, nil, time.Now().Unix())
	response, err := http.Get(n.url() + path + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var channel struct {
		Count int `json:"subscription_count"`
	}
	if err := json.NewDecoder(response.Body).Decode(&channel); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("count the subscribers: %s, %v", response.Status, err)
	}
	return channel.Count
}

// publishAs publishes an event of an app at a node.
func publishAs(n *node, id, key, secret, event, data string) error {
	body, err := json.Marshal(map[string]any{"name": event, "channels": []string{"news"}, "data": data})
	if err != nil {
		return err
	}
	path, query := "/apps/"+id+"/events", url.Values{}
	protocol.SignRequest(key, secret, http.MethodPost, path, query, body, time.Now().Unix())
	response, err := http.Post(n.url()+path+"?"+query.Encode(), "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("publish: %s", response.Status)
	}
	return nil
}
