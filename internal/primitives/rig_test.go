package primitives

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric/memory"
)

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// Tokens of the keys that every rig has.
const (
	tokenAll   = "token-of-all-0123456789"   // namespace one, everything
	tokenOther = "token-of-other-0123456789" // namespace two, everything
	tokenRead  = "token-of-read-0123456789"  // namespace one, reads the cache
)

func staticKeys() []StaticKey {
	return []StaticKey{
		{ID: "all", Namespace: "one", Token: tokenAll, Scopes: []string{"*"}},
		{ID: "other", Namespace: "two", Token: tokenOther, Scopes: []string{"*"}},
		{ID: "read", Namespace: "one", Token: tokenRead, Scopes: []string{"cache:read"}},
	}
}

// roles are those of the nodes of a rig: they work on no key but one.
type roles struct{}

func (roles) Names() []string       { return []string{"gateway", "some:work"} }
func (roles) ServesRequests() bool  { return true }
func (roles) Works(key string) bool { return key == "some:work" }

// node is one node of a rig.
type node struct {
	*Server
	rig      *rig
	provider *memory.Provider
	http     *httptest.Server
	stop     func()
	drops    drops
}

// drops counts losses by reason.
type drops struct {
	mu     sync.Mutex
	counts map[string]int
}

func (d *drops) drop(reason string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[string]int{}
	}
	d.counts[reason]++
}

func (d *drops) count(reason string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[reason]
}

// rig is a service on nodes that share one store.
type rig struct {
	t     *testing.T
	nodes []*node
	log   bytes.Buffer
	logMu sync.Mutex
}

// Write implements io.Writer for the log.
func (g *rig) Write(p []byte) (int, error) {
	g.logMu.Lock()
	defer g.logMu.Unlock()
	return g.log.Write(p)
}

func testOptions() Options {
	return Options{
		Keys: staticKeys(), MaxQueues: 8, MaxHeld: 50, MaxWaiting: 50, CacheBytes: 8 << 20,
		SignalBytes: 8 << 20, IdempotencyWindow: time.Hour, Roles: roles{},
	}
}

// newRig starts nodes, whose options change may adapt.
func newRig(t *testing.T, count int, change func(*Options)) *rig {
	t.Helper()
	g := &rig{t: t}
	first := memory.New()
	t.Cleanup(func() {
		if t.Failed() {
			g.logMu.Lock()
			defer g.logMu.Unlock()
			t.Logf("log:\n%s", g.log.String())
		}
	})
	for i := range count {
		provider := first
		if i > 0 {
			provider = first.Join(memory.Options{})
		}
		g.add(provider, change)
	}
	return g
}

func (g *rig) add(provider *memory.Provider, change func(*Options)) *node {
	g.t.Helper()
	n := &node{rig: g, provider: provider}
	options := testOptions()
	options.Logger = slog.New(slog.NewTextHandler(g, &slog.HandlerOptions{Level: slog.LevelDebug}))
	options.Dropped = n.drops.drop
	if change != nil {
		change(&options)
	}
	var err error
	if n.Server, err = New(options, provider); err != nil {
		g.t.Fatal(err)
	}
	documents, err := provider.Documents(g.t.Context(), Collection)
	if err != nil {
		g.t.Fatal(err)
	}
	if err := n.Start(g.t.Context(), documents); err != nil {
		g.t.Fatal(err)
	}
	n.serve(g.t)
	n.stop = sync.OnceFunc(func() {
		n.Leave()
		n.http.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			g.t.Error(err)
		}
		_ = provider.Close()
	})
	g.t.Cleanup(n.stop)
	g.nodes = append(g.nodes, n)
	return n
}

// serve opens a port for a node.
func (n *node) serve(t *testing.T) {
	n.http = httptest.NewServer(n.Server)
	t.Cleanup(n.http.Close)
}

// reply is the answer to a call.
type reply struct {
	t      *testing.T
	what   string
	status int
	body   []byte
	header http.Header
}

// call is a request that is made up piece by piece.
type call struct {
	method, path, token string
	body                any // a string is sent as it is, everything else as JSON
	header              http.Header
}

// do sends a call to a node.
func (n *node) do(t *testing.T, c call) reply {
	t.Helper()
	return n.doWith(t.Context(), t, c)
}

func (n *node) doWith(ctx context.Context, t *testing.T, c call) reply {
	t.Helper()
	var body []byte
	switch value := c.body.(type) {
	case nil:
	case string:
		body = []byte(value)
	default:
		if o, ok := value.(object); ok && o == nil {
			break
		}
		var err error
		if body, err = json.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, c.method, n.http.URL+c.path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range c.header {
		request.Header[name] = values
	}
	if c.token == "" {
		c.token = tokenAll
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	answer, err := n.http.Client().Do(request)
	what := c.method + " " + c.path
	if err != nil {
		if ctx.Err() == nil {
			t.Errorf("%s: %v", what, err)
		}
		return reply{t: t, what: what}
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if strings.Contains(request.URL.Path, "/v1/") && answer.StatusCode != 405 && request.URL.Path != "/v1/" && request.URL.Path != "/v1/nothing" {
		conforms(t, request, body, answer, text)
	}
	return reply{t, what, answer.StatusCode, text, answer.Header}
}

func (n *node) get(t *testing.T, path string) reply {
	t.Helper()
	return n.do(t, call{method: http.MethodGet, path: path})
}

func (n *node) post(t *testing.T, path string, body any) reply {
	t.Helper()
	return n.do(t, call{method: http.MethodPost, path: path, body: body})
}

// want demands a status.
func (r reply) want(status int) reply {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s: got %d %s, want %d", r.what, r.status, r.body, status)
	}
	return r
}

// wantCode demands a failure.
func (r reply) wantCode(status int, code string) {
	r.t.Helper()
	r.want(status)
	if got := parse[failureBody](r); got.Error.Code != code || got.Error.Message == "" {
		r.t.Fatalf("%s: got %s, want code %s", r.what, r.body, code)
	}
}

// wantBody demands a body.
func (r reply) wantBody(body string) {
	r.t.Helper()
	if got := strings.TrimSpace(string(r.body)); got != body {
		r.t.Fatalf("%s: got %s, want %s", r.what, got, body)
	}
}

func parse[T any](r reply) (value T) {
	r.t.Helper()
	if err := json.Unmarshal(r.body, &value); err != nil {
		r.t.Fatalf("%s: %v in %s", r.what, err, r.body)
	}
	return value
}

// object is JSON that a test writes.
type object map[string]any

// eventually waits for something that is seen only by looking.
func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !happened(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// put enqueues a job and returns its id.
func (n *node) put(t *testing.T, queue, payload string) string {
	t.Helper()
	return parse[jobAnswer](n.post(t, "/v1/queues/"+queue+"/jobs", object{"payload": payload}).want(201)).ID
}

// leased is a job as a test sees it.
type leased struct {
	Lease   string `json:"lease_id"`
	ID      string `json:"id"`
	Payload string `json:"payload"`
	Attempt int    `json:"attempt"`
	TTL     int64  `json:"lease_ms"`
}

// lease takes jobs.
func (n *node) lease(t *testing.T, queue string, body object) []leased {
	t.Helper()
	type jobs struct{ Jobs []leased }
	return parse[jobs](n.post(t, "/v1/queues/"+queue+"/lease", body).want(200)).Jobs
}

// leaseOne takes one job, waiting for it.
func (n *node) leaseOne(t *testing.T, queue string, body object) leased {
	t.Helper()
	if body == nil {
		body = object{}
	}
	body["wait_ms"] = patience.Milliseconds()
	jobs := n.lease(t, queue, body)
	if len(jobs) != 1 {
		t.Fatalf("leased %d jobs", len(jobs))
	}
	return jobs[0]
}

// settle says what became of a job.
func (n *node) settle(t *testing.T, queue, lease, how string, body any) reply {
	t.Helper()
	return n.post(t, "/v1/queues/"+queue+"/leases/"+lease+"/"+how, body)
}

// wantJobs waits until a queue has so many jobs.
func (n *node) wantJobs(t *testing.T, queue string, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d jobs in %s", want, queue), func() bool {
		return parse[queueState](n.get(t, "/v1/queues/"+queue).want(200)).Jobs == want
	})
}

// deadOf returns the ids of dead letters with their reasons.
func (n *node) deadOf(t *testing.T, queue string) (list []string) {
	t.Helper()
	for _, letter := range parse[deadList](n.get(t, "/v1/queues/"+queue+"/dead-letters").want(200)).DeadLetters {
		list = append(list, letter.ID+": "+letter.Reason)
	}
	return list
}

func wantList(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: got %q, want %q", what, got, want)
	}
}
