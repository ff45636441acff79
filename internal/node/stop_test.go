package node

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

func TestStopSendsClientsAway(t *testing.T) {
	c := options(t)
	c.Shutdown.Grace = time.Minute
	n := start(t, c)
	const clients = 40
	type end struct {
		code int
		err  error
	}
	ends := make(chan end, clients)
	for range clients {
		s := n.connect()
		go func() {
			code, err := s.untilClosed()
			ends <- end{code, err}
		}()
	}
	took := n.stop()
	for range clients {
		if e := <-ends; e.code != 4200 || e.err != nil {
			t.Errorf("a client gets %d, %v", e.code, e.err)
		}
	}
	if took >= c.Shutdown.Grace {
		t.Errorf("it took %v", took)
	}
}

func TestReadyWhileStopping(t *testing.T) {
	c := options(t)
	c.Shutdown.Grace = time.Minute
	n := start(t, c)
	s := n.connect() // keeps the node waiting until it answers
	stopped := make(chan time.Duration, 1)
	go func() { stopped <- n.stop() }()
	eventually(t, "the node leaves the rotation", func() bool {
		status, word := n.get("metrics", "/ready")
		return status == 503 && word == "DRAINING"
	})
	if status, word := n.get("metrics", "/up/7"); status != 503 || word != "DRAINING" {
		t.Errorf("/up/7: %d %s", status, word)
	}
	if status, _ := n.get("metrics", "/live"); status != 200 {
		t.Errorf("/live: %d", status)
	}
	eventually(t, "the channels port closes", func() bool {
		conn, err := net.Dial("tcp", n.Address("channels"))
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	if code, err := s.untilClosed(); code != 4200 || err != nil {
		t.Errorf("the client gets %d, %v", code, err)
	}
	<-stopped
}

// Clients that never answer and requests that never end take neither the goodbye nor the
// webhooks of the others.
func TestStopWithinGrace(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"auto", "goroutine"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			receiver := newReceiver(t)
			c := options(t)
			c.Transport.Mode = mode
			c.Shutdown.Grace = 12 * time.Second
			c.Apps[0].Webhooks = []config.Webhook{{URL: receiver.URL, EventTypes: []string{"channel_vacated"}}}
			n := start(t, c)
			silent, polite := n.connect(), n.connect()
			silent.subscribe("watched")
			slow, err := net.Dial("tcp", n.Address("channels"))
			if err != nil {
				t.Fatal(err)
			}
			defer slow.Close()
			target, _ := n.signed("7", "app-key", "app-secret", "/events", strings.Repeat(" ", 100))
			target = strings.TrimPrefix(target, n.url("channels"))
			if _, err := io.WriteString(slow, "POST "+target+" HTTP/1.1\r\nHost: node\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			// The node waits for the body from here on.
			if line, err := bufio.NewReader(slow).ReadString('\n'); !strings.Contains(line, "100 Continue") {
				t.Fatalf("got %q, %v", line, err)
			}
			ended := make(chan int, 1)
			go func() {
				code, _ := polite.untilClosed()
				ended <- code
			}()
			// One that does not stop in time has to fail and not to hang.
			stopped := make(chan time.Duration, 1)
			go func() { stopped <- n.stop() }()
			select {
			case took := <-stopped:
				if took > c.Shutdown.Grace+partingTime {
					t.Errorf("it took %v", took)
				}
			case <-time.After(c.Shutdown.Grace + partingTime + patience):
				t.Fatal("it does not stop")
			}
			if code := <-ended; code != 4200 {
				t.Errorf("the polite client gets %d", code)
			}
			if !strings.Contains(n.log.String(), "requests are cut off") {
				t.Error("nothing is said of the request")
			}
			if got := receiver.names(); !slices.Equal(got, []string{"channel_vacated watched"}) {
				t.Errorf("the receiver has got %v", got)
			}
		})
	}
}

// receiver is an application's server for webhooks.
type receiver struct {
	*httptest.Server
	status atomic.Int32 // of its answers
	calls  atomic.Int32
	mu     sync.Mutex
	events []string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.status.Store(http.StatusOK)
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.calls.Add(1)
		var body struct {
			Events []struct{ Name, Channel string }
		}
		text, err := io.ReadAll(request.Body)
		if err != nil || json.Unmarshal(text, &body) != nil || request.Header.Get("X-Pusher-Key") != "app-key" ||
			request.Header.Get("X-Pusher-Signature") != hexHMAC("app-secret", string(text)) {
			t.Errorf("got %q with %v: %v", text, request.Header, err)
		}
		status := int(r.status.Load())
		if status == http.StatusOK {
			r.mu.Lock()
			for _, event := range body.Events {
				r.events = append(r.events, event.Name+" "+event.Channel)
			}
			r.mu.Unlock()
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// What waits in memory when a node stops is delivered, leaves that are held back and those
// that the stop itself causes included.
func TestStopDeliversWebhooks(t *testing.T) {
	receiver := newReceiver(t)
	c := options(t)
	c.Apps[0].Webhooks = []config.Webhook{{URL: receiver.URL}}
	c.Webhooks.BatchInterval = time.Hour
	c.Webhooks.LeaveDebounce = time.Hour
	n := start(t, c)
	leaver, stayer := n.connect(), n.connect()
	leaver.subscribe("one")
	stayer.subscribe("two")
	leaver.send("pusher:unsubscribe", map[string]string{"channel": "one"})
	leaver.send("pusher:ping", nil)
	leaver.next("pusher:pong")
	for _, s := range []*socket{leaver, stayer} {
		go func() { _, _ = s.untilClosed() }()
	}
	if got := receiver.names(); len(got) > 0 {
		t.Fatalf("sent before the stop: %v", got)
	}
	n.stop()
	got := receiver.names()
	slices.Sort(got)
	want := []string{"channel_occupied one", "channel_occupied two", "channel_vacated one", "channel_vacated two"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What cannot be delivered is kept and delivered by the next start.
func TestWebhooksOutliveRestart(t *testing.T) {
	t.Parallel()
	receiver := newReceiver(t)
	receiver.status.Store(http.StatusServiceUnavailable)
	c := options(t)
	c.Fabric.Driver = "embedded"
	// The node is to stop between two attempts: one that it interrupts is repeated when its
	// lease is over, half a minute later.
	c.Webhooks.RetryInitial, c.Webhooks.RetryMax = 3*time.Second, 3*time.Second
	c.Apps[0].Webhooks = []config.Webhook{{URL: receiver.URL, EventTypes: []string{"channel_occupied"}}}
	n := start(t, c)
	s := n.connect()
	s.subscribe("kept")
	eventually(t, "it is tried", func() bool { return receiver.calls.Load() > 0 })
	go func() { _, _ = s.untilClosed() }()
	if took := n.stop(); took > c.Shutdown.Grace+storeTime {
		t.Errorf("it took %v", took)
	}
	if !strings.Contains(n.log.String(), "webhooks are left") {
		t.Error("nothing is said of them")
	}
	receiver.status.Store(http.StatusOK)
	start(t, c)
	eventually(t, "it is delivered", func() bool { return len(receiver.names()) > 0 })
	if got := receiver.names(); !slices.Equal(got, []string{"channel_occupied kept"}) {
		t.Errorf("got %v", got)
	}
}

// A receiver that hangs keeps neither the node nor the job.
func TestStopWhileReceiverHangs(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(release)
	c := options(t)
	c.Fabric.Driver = "embedded"
	c.Shutdown.Grace = 4 * time.Second
	c.Apps[0].Webhooks = []config.Webhook{{URL: server.URL, EventTypes: []string{"channel_occupied"}}}
	n := start(t, c)
	s := n.connect()
	s.subscribe("kept")
	<-arrived
	go func() { _, _ = s.untilClosed() }()
	if took := n.stop(); took > c.Shutdown.Grace+storeTime {
		t.Errorf("it took %v", took)
	}
	// The engine sends it again when the lease of the first attempt is over, half a minute
	// later; it is enough that it is there.
	n = start(t, c)
	queue, err := n.fabric.Queue(t.Context(), webhook.Options{}.QueueConfig())
	if err != nil {
		t.Fatal(err)
	}
	if left, err := queue.Len(t.Context()); left != 1 || err != nil {
		t.Errorf("%d jobs are left, %v", left, err)
	}
}

// A start that is told to end before it is done leaves nothing behind.
func TestStartCancelled(t *testing.T) {
	c := options(t)
	c.Fabric.Driver = "embedded"
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log := slog.New(slog.DiscardHandler)
	n, err := Start(ctx, c, log)
	if err == nil {
		_ = n.Stop(t.Context())
		t.Fatal("it starts")
	}
	eventually(t, "the data directory is free", func() bool {
		n, err := Start(t.Context(), c, log)
		if err == nil {
			err = n.Stop(t.Context())
		}
		return err == nil
	})
}
