package primitives

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

func TestAuthorization(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	for _, header := range []string{
		"", "Bearer", "Bearer x", "Basic " + tokenAll, tokenAll, "Bearer " + tokenAll + "x", "Bearer " + strings.ToUpper(tokenAll),
	} {
		request, err := http.NewRequest(http.MethodGet, n.http.URL+"/v1/queues", nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			request.Header.Set("Authorization", header)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		known := strings.HasPrefix(header, "Bearer ")
		if err != nil || strings.Contains(string(text), "no key has this token") != known {
			t.Errorf("%q: %s, %v", header, text, err)
		}
		if answer.StatusCode != 401 || answer.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %d", header, answer.StatusCode)
		}
	}
	n.do(t, call{method: http.MethodGet, path: "/v1/cache/k", token: tokenRead}).wantCode(404, "not_found")
	n.do(t, call{method: http.MethodPut, path: "/v1/cache/k", token: tokenRead, body: "x"}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodPost, path: "/v1/cache/k/add", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodPost, path: "/v1/locks/l", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodGet, path: "/v1/ids", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodPost, path: "/v1/ids/workers", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodPost, path: "/v1/ids/workers/1/extend", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodPost, path: "/v1/signals", token: tokenRead, body: object{"subject": "a", "payload": ""}}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodGet, path: "/v1/signals/subscribe?subject=a", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodGet, path: "/v1/queues/q", token: tokenRead}).wantCode(403, "forbidden")
	n.do(t, call{method: http.MethodGet, path: "/v1/queues", token: tokenRead}).want(200).wantBody(`{"queues":[]}`)
	if n.rig.logMu.Lock(); strings.Contains(n.rig.log.String(), "token-of") {
		t.Error("a token is in the log")
	}
	n.rig.logMu.Unlock()
}

func TestScopes(t *testing.T) {
	for _, test := range []struct {
		scope, area, action, name string
		want                      bool
	}{
		{"*", "locks", "", "l", true},
		{"cache", "cache", "read", "k", true},
		{"cache:read", "cache", "read", "k", true},
		{"cache:read", "cache", "write", "k", false},
		{"cache:read=users/*", "cache", "read", "users/1", true},
		{"cache:read=users/*", "cache", "read", "user", false},
		{"cache=k", "cache", "write", "k", true},
		{"cache=k", "cache", "write", "k2", false},
		{"locks=deploy-*", "locks", "", "deploy-1", true},
		{"locks=deploy-*", "locks", "", "x", false},
		{"signals:subscribe=orders.*", "signals", "subscribe", "orders.>", true},
		{"signals:subscribe=orders.*", "signals", "subscribe", "orders.*.new", true},
		{"signals:subscribe=orders.*", "signals", "subscribe", "*.new", false},
		{"signals:subscribe=orders.*", "signals", "subscribe", ">", false},
		{"signals:subscribe=orders.*", "signals", "publish", "orders.x", false},
		{"signals=a.b", "signals", "subscribe", "a.*", false},
		{"queues:work=q", "queues", "work", "q", true},
		{"ids", "ids", "", "", true},
		{"ids", "locks", "", "l", false},
	} {
		s, err := parseScope(test.scope)
		if err != nil {
			t.Errorf("%s: %v", test.scope, err)
			continue
		}
		if got := s.covers(test.area, test.action, test.name); got != test.want {
			t.Errorf("%s covers %s %s %s: %v", test.scope, test.area, test.action, test.name, got)
		}
	}
	for _, text := range []string{
		"", "x", "cache:delete", "cache:", "locks:read", "cache=", "cache=a*b", "cache=**", "ids=x", "*=x", "*:read", "CACHE",
	} {
		if s, err := parseScope(text); err == nil {
			t.Errorf("%q is taken for %+v", text, s)
		}
	}
}

func TestPathsAndMethods(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.get(t, "/v1/nothing").wantCode(404, "not_found")
	n.get(t, "/v1/").wantCode(404, "not_found")
	r := n.do(t, call{method: http.MethodPatch, path: "/v1/cache/k"})
	r.wantCode(405, "method_not_allowed")
	if allow := r.header.Get("Allow"); allow != "DELETE, GET, PUT" {
		t.Errorf("allowed are %q", allow)
	}
	n.do(t, call{method: "PROPFIND", path: "/v1/queues"}).wantCode(405, "method_not_allowed")
}

func TestRateOfKey(t *testing.T) {
	n := newRig(t, 1, func(o *Options) {
		o.Keys[0].RequestsPerSecond = 5
		o.RequestsPerSecond = 1000
	}).nodes[0]
	refused := 0
	for range 20 {
		if r := n.get(t, "/v1/queues"); r.status == 429 {
			r.wantCode(429, "rate_limited")
			if r.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			refused++
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	n.do(t, call{method: http.MethodGet, path: "/v1/queues", token: tokenOther}).want(200)
}

// Those who wait are bounded, and bound nobody else.
func TestWaitingBound(t *testing.T) {
	n := newRig(t, 1, func(o *Options) { o.MaxWaiting = 1 }).nodes[0]
	n.put(t, "q", "x")
	n.leaseOne(t, "q", nil)
	done := make(chan struct{})
	go func() { defer close(done); n.lease(t, "q", object{"wait_ms": 20_000}) }()
	eventually(t, "somebody waits", func() bool { return len(n.waiting) == 1 })
	n.post(t, "/v1/queues/q/lease", object{"wait_ms": 100}).wantCode(503, "full")
	n.put(t, "q", "y")
	<-done
}

// Keys of the store are in effect on all nodes at once, and so is their end.
func TestStoredKeys(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	key, token, err := a.CreateKey(t.Context(), Key{ID: "worker-1", Namespace: "one", Scopes: []string{"queues:work"}})
	if err != nil {
		t.Fatal(err)
	}
	if key.ID != "worker-1" || !strings.HasPrefix(token, "pk_") || key.CreatedAt.IsZero() {
		t.Errorf("got %+v %s", key, token)
	}
	ask := func(n *node) int {
		return n.do(t, call{method: http.MethodGet, path: "/v1/queues", token: token}).status
	}
	if status := ask(a); status != 200 {
		t.Errorf("status %d at the node that made it", status)
	}
	eventually(t, "the other node knows it", func() bool { return ask(b) == 200 })
	_, _, err = b.CreateKey(t.Context(), Key{ID: "worker-1", Namespace: "two", Scopes: []string{"*"}})
	wantIs(t, "create it again", err, ErrKeyExists)
	_, _, err = b.CreateKey(t.Context(), Key{ID: "all", Namespace: "two", Scopes: []string{"*"}})
	wantIs(t, "create a static one", err, ErrKeyExists)
	for _, bad := range []Key{
		{ID: "a b", Namespace: "one", Scopes: []string{"*"}}, {Namespace: "a_b", Scopes: []string{"*"}},
		{Namespace: "one"}, {Namespace: "one", Scopes: []string{"x"}}, {Namespace: "one", Scopes: []string{"*"}, RequestsPerSecond: -1},
	} {
		_, _, err = a.CreateKey(t.Context(), bad)
		wantIs(t, "create a bad one", err, ErrKeyInvalid)
	}
	random, _, err := a.CreateKey(t.Context(), Key{Namespace: "one", Scopes: []string{"*"}})
	if err != nil || random.ID == "" {
		t.Errorf("got %+v, %v", random, err)
	}
	wantIs(t, "revoke a static key", a.RevokeKey(t.Context(), "all"), ErrKeyStatic)
	wantIs(t, "revoke none", a.RevokeKey(t.Context(), "none"), ErrKeyNotFound)
	wantIs(t, "revoke none", a.RevokeKey(t.Context(), "../x"), ErrKeyNotFound)
	if err := b.RevokeKey(t.Context(), "worker-1"); err != nil {
		t.Fatal(err)
	}
	if status := ask(b); status != 401 {
		t.Errorf("status %d at the node that revoked it", status)
	}
	eventually(t, "the other node knows", func() bool { return ask(a) == 401 })
	wantIs(t, "revoke it again", a.RevokeKey(t.Context(), "worker-1"), ErrKeyNotFound)
	var ids []string
	for _, key := range a.Keys() {
		ids = append(ids, key.ID)
	}
	wantList(t, "keys", ids, "all", "other", "read", random.ID)

	// What is stored is the hash alone, and a node that starts knows it.
	documents, err := a.provider.Documents(t.Context(), Collection)
	if err != nil {
		t.Fatal(err)
	}
	_, token, err = a.CreateKey(t.Context(), Key{ID: "kept", Namespace: "one", Scopes: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	d, err := documents.Get(t.Context(), "key/kept")
	if err != nil || strings.Contains(string(d.Value), token) || !strings.Contains(string(d.Value), "token_sha256") {
		t.Errorf("stored is %s, %v", d.Value, err)
	}
	late := g.add(a.provider.Join(memory.Options{}), nil)
	if status := late.do(t, call{method: http.MethodGet, path: "/v1/queues", token: token}).status; status != 200 {
		t.Errorf("status %d at a new node", status)
	}
	// A document that nobody can read lets nobody in, and breaks nothing.
	for id, text := range map[string]string{"x": "{", "y": `{"namespace":"one","scopes":["*"],"token_sha256":"00"}`} {
		if _, err := documents.Put(t.Context(), "key/"+id, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	late.get(t, "/v1/queues").want(200)
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestStaticKeys(t *testing.T) {
	good := StaticKey{ID: "a", Namespace: "one", Scopes: []string{"*"}, Token: tokenAll}
	for name, change := range map[string]func(*StaticKey){
		"id": func(k *StaticKey) { k.ID = "" }, "namespace": func(k *StaticKey) { k.Namespace = "a_b" },
		"scopes": func(k *StaticKey) { k.Scopes = nil }, "short": func(k *StaticKey) { k.Token = "123456789012345" },
		"space": func(k *StaticKey) { k.Token = "1234567890 1234567890" }, "hash": func(k *StaticKey) { k.Token, k.TokenSHA256 = "", "xyz" },
		"both": func(k *StaticKey) { k.TokenSHA256 = strings.Repeat("00", len(tokenHash{})) },
	} {
		key := good
		change(&key)
		if _, err := key.key(); !errors.Is(err, ErrKeyInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	options := testOptions()
	options.Keys = []StaticKey{good, {ID: "b", Namespace: "one", Scopes: []string{"*"}, Token: tokenAll}}
	if _, err := New(options, memory.New()); !errors.Is(err, ErrKeyInvalid) {
		t.Errorf("two keys with one token: %v", err)
	}
}

// lacking is a provider whose drivers carry no logs, and cannot remove queues.
type lacking struct{ fabric.Provider }

func (lacking) Log(context.Context, fabric.LogConfig) (fabric.Log, error) {
	return nil, fabric.ErrUnsupported
}

// What a driver lacks is answered so.
func TestUnsupported(t *testing.T) {
	provider := memory.New()
	s, err := New(testOptions(), lacking{provider})
	if err != nil {
		t.Fatal(err)
	}
	documents, err := provider.Documents(t.Context(), Collection)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context(), documents); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	n := &node{Server: s}
	n.serve(t)
	n.post(t, "/v1/signals", object{"subject": "a", "payload": ""}).wantCode(501, "unsupported")
	n.get(t, "/v1/signals/subscribe?subject=a").wantCode(501, "unsupported")
	n.put(t, "q", "x")
	n.do(t, call{method: http.MethodDelete, path: "/v1/queues/q"}).wantCode(501, "unsupported")
	n.get(t, "/v1/queues/q").want(200)
	n.lock(t, "l", nil)
}

// A store that does not answer is told within a time, and tried again.
func TestPart(t *testing.T) {
	tries := 0
	p := newPart("it", func(context.Context) (int, error) {
		if tries++; tries < 3 {
			return 0, fabric.ErrUnavailable
		}
		return 7, nil
	})
	if n, err := p.get(t.Context()); n != 7 || err != nil || tries != 3 {
		t.Errorf("got %d, %v after %d tries", n, err, tries)
	}
	if n, err := p.get(t.Context()); n != 7 || err != nil || tries != 3 {
		t.Errorf("got %d, %v after %d tries", n, err, tries)
	}
	p = newPart("it", func(context.Context) (int, error) { return 0, fabric.ErrConflict })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.get(ctx); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	p = newPart("it", func(context.Context) (int, error) { return 0, fabric.ErrUnsupported })
	if _, err := p.get(t.Context()); !errors.Is(err, fabric.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}
