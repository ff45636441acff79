package primitives

import (
	"net/http"
	"strings"
	"testing"
)

// again is a POST with an idempotency key.
func (n *node) again(t *testing.T, path, key string, body any) reply {
	t.Helper()
	return n.do(t, call{method: http.MethodPost, path: path, body: body, header: http.Header{idempotencyHeader: {key}}})
}

// What was done once is answered alike, at any node.
func TestIdempotency(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	first := a.again(t, "/v1/cache/n/add", "one", object{"delta": 5}).want(200)
	first.wantBody(`{"value":5}`)
	if first.header.Get(replayedHeader) != "" {
		t.Error("the first answer is said to be replayed")
	}
	second := b.again(t, "/v1/cache/n/add", "one", object{"delta": 5}).want(200)
	second.wantBody(`{"value":5}`)
	if second.header.Get(replayedHeader) != "true" || second.header.Get("Content-Type") != "application/json" {
		t.Errorf("the second answer has %v", second.header)
	}
	b.again(t, "/v1/cache/n/add", "two", object{"delta": 5}).want(200).wantBody(`{"value":10}`)
	b.again(t, "/v1/cache/m/add", "one", object{"delta": 5}).want(200).wantBody(`{"value":5}`) // another path
	a.again(t, "/v1/cache/n/add", "one", object{"delta": 6}).wantCode(422, "idempotency_mismatch")
	a.again(t, "/v1/cache/n/add", strings.Repeat("k", 256), nil).wantCode(400, "invalid")

	// Without a body, and with one that was refused, which may be tried again.
	job := a.put(t, "q", "x")
	lease := a.leaseOne(t, "q", nil)
	for range 2 {
		b.again(t, "/v1/queues/q/leases/"+lease.Lease+"/ack", "ack", nil).want(204).wantBody("")
	}
	held := a.lock(t, "l", nil)
	a.again(t, "/v1/locks/l", "lock", nil).wantCode(409, "locked")
	a.post(t, "/v1/locks/l/release", object{"lock_id": held.ID}).want(204)
	mine := a.again(t, "/v1/locks/l", "lock", nil).want(201)
	b.again(t, "/v1/locks/l", "lock", nil).want(201).wantBody(strings.TrimSpace(string(mine.body)))

	// A job gets its id from the key, so that the queue knows it again in any case.
	one := parse[jobAnswer](a.again(t, "/v1/queues/q/jobs", "job", object{"payload": "y"}).want(201))
	if one.ID == "" || one.ID == job {
		t.Errorf("the id is %q", one.ID)
	}
	cache, err := a.cache.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.Delete(t.Context(), "i:one:"+one.ID); err != nil { // the answer was lost
		t.Fatal(err)
	}
	b.again(t, "/v1/queues/q/jobs", "job", object{"payload": "y"}).want(201).wantBody(`{"id":"` + one.ID + `"}`)
	a.wantJobs(t, "q", 1)
}

// While a request is being done its repetition waits; when its node has ended it is done anew.
func TestIdempotencyWhileDone(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	held := a.lock(t, "l", nil)
	answered := make(chan reply, 1)
	go func() { answered <- a.again(t, "/v1/locks/l", "key", object{"wait_ms": 20_000}) }()
	cache, err := b.cache.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the request is being done", func() bool {
		_, err := cache.Get(t.Context(), newProbe(t, "/v1/locks/l", "key").record)
		return err == nil
	})
	r := b.again(t, "/v1/locks/l", "key", object{"wait_ms": 20_000})
	r.wantCode(409, "idempotency_busy")
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	a.post(t, "/v1/locks/l/release", object{"lock_id": held.ID}).want(204)
	first := (<-answered).want(201)
	b.again(t, "/v1/locks/l", "key", object{"wait_ms": 20_000}).want(201).wantBody(strings.TrimSpace(string(first.body)))

	// Its node ends in between: the record stays behind.
	for name, doing := range map[string]string{"of a node that is gone": "GONE.1", "that its node does not know": a.newID()} {
		probe := newProbe(t, "/v1/cache/k/add", name)
		record := `{"request":"` + probe.hash + `","doing":"` + doing + `"}`
		if err := cache.Set(t.Context(), probe.record, []byte(record), 0); err != nil {
			t.Fatal(err)
		}
		b.again(t, "/v1/cache/k/add", name, nil).want(200)
	}
	b.get(t, "/v1/cache/k").want(200).wantBody("2")
}

// probe tells where a request is recorded.
type probe struct{ record, hash string }

func newProbe(t *testing.T, path, key string) probe {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(idempotencyHeader, key)
	request := &request{Request: r, key: &Key{ID: "all", Namespace: "one"}}
	return probe{onceKey(request), request.hash()}
}
