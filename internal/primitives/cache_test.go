package primitives

import (
	"net/http"
	"strings"
	"testing"
)

func (n *node) setValue(t *testing.T, key, query, value string) reply {
	t.Helper()
	return n.do(t, call{method: http.MethodPut, path: "/v1/cache/" + key + query, body: value})
}

func TestCache(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	const binary = "\x00\xff\r\n"
	a.get(t, "/v1/cache/k").wantCode(404, "not_found")
	a.setValue(t, "k", "", binary).want(204)
	if r := b.get(t, "/v1/cache/k").want(200); string(r.body) != binary || r.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("got %q", r.body)
	}
	a.setValue(t, "empty", "", "").want(204)
	if r := b.get(t, "/v1/cache/empty").want(200); len(r.body) != 0 {
		t.Errorf("got %q", r.body)
	}
	a.setValue(t, "a%2Fb%20c", "", "x").want(204)
	b.post(t, "/v1/cache", object{"keys": []string{"k", "a/b c", "empty", "none"}}).want(200).
		wantBody(`{"values":{"a/b c":{"value":"x"},"empty":{"value":""},"k":{"value_base64":"AP8NCg=="}}}`)
	b.do(t, call{method: http.MethodDelete, path: "/v1/cache/k"}).want(204)
	b.do(t, call{method: http.MethodDelete, path: "/v1/cache/k"}).want(204)
	a.get(t, "/v1/cache/k").wantCode(404, "not_found")
	a.do(t, call{method: http.MethodGet, path: "/v1/cache/empty", token: tokenOther}).wantCode(404, "not_found")

	a.setValue(t, "short", "?ttl_ms=1", "x").want(204)
	eventually(t, "the value is gone", func() bool { return a.get(t, "/v1/cache/short").status == 404 })
	a.setValue(t, "k", "?ttl_ms=x", "x").wantCode(400, "invalid")
	a.setValue(t, "k", "?ttl_ms=-1", "x").wantCode(400, "invalid")
	a.setValue(t, strings.Repeat("k", 201), "", "x").wantCode(400, "invalid")
	a.setValue(t, strings.Repeat("k", 200), "", strings.Repeat("x", 512<<10)).want(204)
	a.setValue(t, "k", "", strings.Repeat("x", 512<<10+1)).wantCode(413, "too_large")
	a.post(t, "/v1/cache", object{"keys": []string{}}).wantCode(400, "invalid")
	a.post(t, "/v1/cache", object{"keys": make([]string, 101)}).wantCode(400, "invalid")
	a.post(t, "/v1/cache", object{"keys": []string{""}}).wantCode(400, "invalid")
}

func TestCacheSwap(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	swap := func(body object) reply { return n.post(t, "/v1/cache/k/swap", body) }
	swap(object{"old": "", "value": "x"}).wantCode(409, "conflict")
	swap(object{"value": "x", "ttl_ms": 60_000}).want(204)
	swap(object{"value": "y"}).wantCode(409, "conflict")
	swap(object{"old": "z", "value": "y"}).wantCode(409, "conflict")
	swap(object{"old": "x", "value_base64": "/w=="}).want(204)
	swap(object{"old_base64": "/w==", "value": ""}).want(204)
	swap(object{"old": "", "value": "z"}).want(204)
	swap(object{"old": ""}).wantCode(400, "invalid")
	swap(object{"old": "", "old_base64": "", "value": ""}).wantCode(400, "invalid")
	swap(object{"value": "", "ttl_ms": -1}).wantCode(400, "invalid")
}

func TestCacheAdd(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	a.post(t, "/v1/cache/n/add", nil).want(200).wantBody(`{"value":1}`)
	b.post(t, "/v1/cache/n/add", object{"delta": 41, "ttl_ms": 1000}).want(200).wantBody(`{"value":42}`)
	b.post(t, "/v1/cache/n/add", object{"delta": -2}).want(200).wantBody(`{"value":40}`)
	b.post(t, "/v1/cache/n/add", object{"delta": 0}).want(200).wantBody(`{"value":40}`)
	a.get(t, "/v1/cache/n").want(200).wantBody("40")
	a.setValue(t, "text", "", "x").want(204)
	a.post(t, "/v1/cache/text/add", nil).wantCode(409, "not_counter")
	a.post(t, "/v1/cache/n/add", object{"delta": 1.5}).wantCode(400, "invalid")
}
