package growth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/test/process"
)

// receiver takes webhooks, or refuses them.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	accepts bool
	tries   int
	heard   map[string]int // accepted events by name and channel
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{heard: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

// ServeHTTP takes one request of webhooks.
func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	text, err := io.ReadAll(request.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tries++
	if err != nil || !r.accepts {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var batch struct {
		Events []struct{ Name, Channel string }
	}
	if json.Unmarshal(text, &batch) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, e := range batch.Events {
		r.heard[e.Name+" "+e.Channel]++
	}
}

func (r *receiver) tried() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tries
}

func (r *receiver) accept() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepts = true
}

func (r *receiver) count(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard[what]
}

// makeApp creates an app at a node, with webhooks for a receiver.
func makeApp(n *node, id string, to *receiver) admin.AppView {
	n.site.Helper()
	app := admin.NewApp{ID: id, Name: "app of " + n.name}
	if to != nil {
		app.Webhooks = []apps.Webhook{{URL: to.URL, EventTypes: []string{"channel_occupied"}}}
	}
	created, err := n.admin.CreateApp(n.site.Context(), app)
	if err != nil {
		n.site.Fatal(err)
	}
	return created
}

// client is a connected WebSocket.
type client struct {
	net.Conn
	early io.Reader // what came together with the handshake
}

func (c *client) Read(p []byte) (int, error) { return c.early.Read(p) }

// dial opens a WebSocket of an app.
func dial(n *node, key string) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, early, _, err := ws.Dial(ctx, "ws://"+process.Address(n.port)+"/app/"+key+"?protocol=7")
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn, early: conn}
	if early != nil {
		c.early = io.MultiReader(io.LimitReader(early, int64(early.Buffered())), conn)
	}
	return c, nil
}

// next returns the next event.
func (c *client) next() (event, data string, err error) {
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", "", err
	}
	text, err := wsutil.ReadServerText(c)
	if err != nil {
		return "", "", err
	}
	var message struct {
		Event string
		Data  json.RawMessage
	}
	err = json.Unmarshal(text, &message)
	return message.Event, string(message.Data), err
}

// subscribe connects and subscribes to a channel.
func subscribe(n *node, key, channel string) *client {
	n.site.Helper()
	c, err := dial(n, key)
	if err != nil {
		n.site.Fatal(err)
	}
	n.site.Cleanup(func() { _ = c.Close() })
	for _, want := range []string{"pusher:connection_established", "pusher_internal:subscription_succeeded"} {
		if event, data, err := c.next(); err != nil || event != want {
			n.site.Fatalf("%s: got %s %s, %v; want %s", n.name, event, data, err, want)
		}
		if want == "pusher:connection_established" {
			text := fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":%q}}`, channel)
			if err := wsutil.WriteClientText(c, []byte(text)); err != nil {
				n.site.Fatal(err)
			}
		}
	}
	return c
}

// publish sends an event through the HTTP API of a node.
func publish(n *node, app admin.AppView, channel, event string) {
	n.site.Helper()
	body, err := json.Marshal(map[string]any{"name": event, "channels": []string{channel}, "data": "{}"})
	if err != nil {
		n.site.Fatal(err)
	}
	path, query := "/apps/"+app.ID+"/events", url.Values{}
	protocol.SignRequest(app.Key, app.Secret, http.MethodPost, path, query, body, time.Now().Unix())
	response, err := http.Post(n.url()+path+"?"+query.Encode(), "application/json", bytes.NewReader(body))
	if err != nil {
		n.site.Fatal(err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		n.site.Fatalf("publish at %s: %s %s", n.name, response.Status, text)
	}
}

// works demands that a client of one node gets what a backend publishes at another. That the
// client is there takes a moment to become known, so it is published more than once.
func works(app admin.AppView, at, from *node) {
	at.site.Helper()
	c := subscribe(at, app.Key, "works")
	defer func() { _ = c.Close() }()
	heard := make(chan error, 1)
	go func() {
		event, data, err := c.next()
		if err == nil && event != "hello" {
			err = fmt.Errorf("got %s %s", event, data)
		}
		heard <- err
	}()
	for {
		publish(from, app, "works", "hello")
		select {
		case err := <-heard:
			if err != nil {
				at.site.Errorf("%s: %v", at.name, err)
			}
			return
		case <-time.After(200 * time.Millisecond):
		}
	}
}
