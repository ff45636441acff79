package client_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/client"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/primitives"
)

const token = "token-of-the-tests-0123456789"

// patience bounds every wait for something that must happen.
const patience = time.Minute

// node is one node of a cluster in this process.
type node struct {
	primitives *primitives.Server
	http       *httptest.Server
	stop       func()
	// lose has so many of the next answers to POST requests get lost, after they were done.
	lose atomic.Int32
	// refuse has all requests answered with this status, before they are done.
	refuse atomic.Int32
	served atomic.Int32
}

// roles work on one key.
type roles struct{}

func (roles) Names() []string       { return []string{"gateway", "mail:send"} }
func (roles) ServesRequests() bool  { return true }
func (roles) Works(key string) bool { return key == "mail:send" }

// start starts nodes that share one store, and returns what stops them.
func start(count int) (nodes []*node, stop func()) {
	first := memory.New()
	for i := range count {
		provider := first
		if i > 0 {
			provider = first.Join(memory.Options{})
		}
		server, err := primitives.New(primitives.Options{
			Keys: []primitives.StaticKey{
				{ID: "all", Namespace: "test", Token: token, Scopes: []string{"*"}},
				{ID: "read", Namespace: "test", Token: token + "-read", Scopes: []string{"cache:read"}},
			},
			MaxQueues: 16, MaxHeld: 100, MaxWaiting: 100, CacheBytes: 8 << 20, SignalBytes: 8 << 20,
			IdempotencyWindow: time.Hour, Roles: roles{},
		}, provider)
		if err != nil {
			panic(err)
		}
		documents, err := provider.Documents(context.Background(), primitives.Collection)
		if err != nil {
			panic(err)
		}
		if err := server.Start(context.Background(), documents); err != nil {
			panic(err)
		}
		n := &node{primitives: server}
		n.http = httptest.NewServer(n)
		n.stop = sync.OnceFunc(func() {
			server.Leave()
			n.http.CloseClientConnections()
			n.http.Close()
			_ = server.Stop(context.Background())
			_ = provider.Close()
		})
		nodes = append(nodes, n)
	}
	return nodes, func() {
		for _, n := range nodes {
			n.stop()
		}
	}
}

// ServeHTTP passes requests on, as a node of an unsteady cluster.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.served.Add(1)
	if status := n.refuse.Load(); status != 0 {
		http.Error(w, "out of order", int(status))
		return
	}
	if r.Method == http.MethodPost && n.lose.Load() > 0 && n.lose.Add(-1) >= 0 {
		n.primitives.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	n.primitives.ServeHTTP(w, r)
}

// newClient returns a client of nodes.
func newClient(nodes []*node, change func(*client.Options)) *client.Client {
	o := client.Options{Token: token}
	for _, n := range nodes {
		o.Endpoints = append(o.Endpoints, n.http.URL)
	}
	if change != nil {
		change(&o)
	}
	c, err := client.New(o)
	if err != nil {
		panic(err)
	}
	return c
}

// listen opens a port.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
