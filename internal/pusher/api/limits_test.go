package api

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/ratelimit"
)

// limitHeaders returns what a request was told about its limit.
func limitHeaders(a answer) string {
	var list []string
	for _, name := range []string{"X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset", "Retry-After"} {
		list = append(list, a.header.Get(name))
	}
	return strings.Join(list, " ")
}

// limitHeadersOfHour is limitHeaders where a window lasts an hour, of which a while may be over: what is
// left of it comes back as "3600".
func limitHeadersOfHour(a answer) string {
	words := strings.Split(limitHeaders(a), " ")
	for i, word := range words[2:] {
		if n, err := strconv.Atoi(word); err == nil && n > 3500 && n <= 3600 {
			words[2+i] = "3600"
		}
	}
	return strings.Join(words, " ")
}

// inOneSecond runs a script that must not be cut by the end of a quota's second: one that
// took longer than most of a second proves nothing and is run again.
func inOneSecond(t *testing.T, script func(t *testing.T) (check func())) {
	t.Helper()
	for range 5 {
		start := time.Now()
		check := script(t)
		if time.Since(start) < 900*time.Millisecond {
			check()
			return
		}
	}
	t.Skip("the machine is too busy to send a few requests in a second")
}

func TestBackendEventsQuota(t *testing.T) {
	const one = `{"name":"e","data":"d","channel":"c"}`
	const three = `{"name":"e","data":"d","channels":["a","b","c"]}`
	const two = `{"batch":[` + one + `,` + one + `]}`
	inOneSecond(t, func(t *testing.T) func() {
		f := newFixture(t, nil)
		f.app.Limits.MaxBackendEventsPerSecond = 6
		first, batch := f.post("/events", three), f.post("/batch_events", two)
		over, last, none := f.post("/batch_events", two), f.post("/events", one), f.post("/events", one)
		read := f.get("/channels")
		return func() {
			first.want(t, 200, "{}") // m channels cost m
			batch.want(t, 200, "{}") // a batch of n costs n
			over.refused(t, 429, "6 events a second")
			last.want(t, 200, "{}") // a refusal costs nothing
			none.refused(t, 429)
			read.want(t, 200, `{"channels":{}}`)
			for i, want := range []string{"6 3 1 ", "6 1 1 ", "6 1 1 1", "6 0 1 ", "6 0 1 1", "   "} {
				if got := limitHeaders([]answer{first, batch, over, last, none, read}[i]); got != want {
					t.Errorf("answer %d: got %q, want %q", i, got, want)
				}
			}
			f.wantMetrics("parley_rate_limit", `
parley_rate_limit_triggered_total{limiter_type="app",port="6001",request_context="backend_events"} 2
`)
		}
	})
}

func TestReadQuota(t *testing.T) {
	inOneSecond(t, func(t *testing.T) func() {
		f := newFixture(t, nil)
		f.app.Limits.MaxReadRequestsPerSecond = 3
		answers := []answer{
			f.get("/channels"), f.call(http.MethodHead, "/channels/c", ""),
			f.get("/channels/presence-c/users"), f.get("/channels"), f.call(http.MethodHead, "/channels", ""),
		}
		event := f.post("/events", `{"name":"e","data":"d","channel":"c"}`)
		return func() {
			for i, want := range []string{"3 2 1 ", "3 1 1 ", "3 0 1 ", "3 0 1 1", "3 0 1 1"} {
				if got := limitHeaders(answers[i]); got != want || (answers[i].status == 429) != (i > 2) {
					t.Errorf("answer %d: got %d %q, want %q", i, answers[i].status, got, want)
				}
			}
			event.want(t, 200, "{}")
			f.wantMetrics("parley_rate_limit", `
parley_rate_limit_triggered_total{limiter_type="app",port="6001",request_context="read_requests"} 2
`)
		}
	})
}

// A request without a valid signature must not use up an app's quota.
func TestQuotaNeedsSignature(t *testing.T) {
	f := newFixture(t, nil)
	f.app.Limits.MaxReadRequestsPerSecond = 1
	for range 5 {
		f.do("GET", "/apps/3/channels?"+sign(vectorKey, "guess", "GET", "/apps/3/channels", "", time.Now()), "").refused(t, 401)
	}
	f.get("/channels").want(t, 200, `{"channels":{}}`)
}

func TestAPILimitByAddress(t *testing.T) {
	f := newFixture(t, func(o *Options) {
		o.APILimit = ratelimit.NewKeyed[Address](2, time.Hour, 100)
		o.Clients = ClientAddress{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	})
	from := func(address string) answer {
		return f.do("GET", "/apps/nobody/channels", "", "X-Forwarded-For", address)
	}
	from("192.0.2.1").refused(t, 404)
	if got := limitHeadersOfHour(from("192.0.2.1")); got != "2 0 3600 " {
		t.Errorf("got %q", got)
	}
	over := from("192.0.2.1")
	over.refused(t, 429, "the limit is 2")
	if got := limitHeadersOfHour(over); got != "2 0 3600 3600" {
		t.Errorf("got %q", got)
	}
	from("192.0.2.2").refused(t, 404)
	// Over IPv6 a network counts: its owner could use another address for each request.
	from("2001:db8::1").refused(t, 404)
	from("2001:db8::ffff").refused(t, 404)
	from("2001:db8:0:0:ffff::1").refused(t, 429)
	from("2001:db8:0:1::1").refused(t, 404)
	// What a client claims left of its own address changes nothing.
	from("192.0.2.9, 192.0.2.1").refused(t, 429)
	f.wantMetrics("parley_rate_limit", `
parley_rate_limit_checks_total{limiter_type="ip",port="6001",request_context="api"} 9
parley_rate_limit_triggered_total{limiter_type="ip",port="6001",request_context="api"} 3
`)
}

func TestConnectLimitByAddress(t *testing.T) {
	f := newFixture(t, func(o *Options) { o.ConnectLimit = ratelimit.NewKeyed[Address](2, time.Hour, 100) })
	// What is no handshake is not a connect.
	f.do("GET", "/app/"+vectorKey, "").refused(t, 426)
	f.connect()
	if m := f.dial("/app/" + vectorKey + "/elsewhere").next("pusher:error"); m.closed != 0 {
		t.Errorf("got %+v", m)
	}
	for _, path := range []string{"/app/" + vectorKey, "/app/unknown", "/app/" + vectorKey + "/elsewhere"} {
		a := f.do("GET", path, "", "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13",
			"Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		a.refused(t, 429, "Too many connects")
		if got := limitHeadersOfHour(a); got != "2 0 3600 3600" {
			t.Errorf("got %q", got)
		}
	}
	f.get("/channels").want(t, 200, `{"channels":{}}`) // the other limit
	f.wantMetrics("parley_rate_limit", `
parley_rate_limit_checks_total{limiter_type="ip",port="6001",request_context="websocket_connect"} 5
parley_rate_limit_triggered_total{limiter_type="ip",port="6001",request_context="websocket_connect"} 3
`)
}

// What a caller makes up must not become a label: anybody could fill the memory.
func TestNoCallersTextInMetrics(t *testing.T) {
	f := newFixture(t, nil)
	f.do("GET", "/apps/zzmadeup/channels?auth_key=zzmadeup", "", "X-Forwarded-For", "zzmadeup")
	f.do("POST", "/apps/zzmadeup/zzmadeup", "zzmadeup")
	f.do("zzmadeup", "/apps/3/channels", "")
	f.post("/events", `{"name":"zzmadeup","data":"zzmadeup","channel":"zzmadeup"}`)
	f.post("/events", `zzmadeup`)
	f.dial("/app/zzmadeup?protocol=zzmadeup", "Origin", "https://zzmadeup").next("pusher:error")
	f.dial("/app/" + vectorKey + "/zzmadeup").next("pusher:error")
	s := f.connect()
	s.subscribe(f, "zzmadeup", "")
	s.send("zzmadeup", "zzmadeup")
	s.send("client-zzmadeup", "zzmadeup")
	s.next("pusher:error")
	families, err := f.families.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			series++
			for _, label := range metric.GetLabel() {
				if strings.Contains(strings.ToLower(label.GetValue()), "zzmadeup") {
					t.Errorf("%s has %v", family.GetName(), label)
				}
			}
		}
	}
	if series < 10 {
		t.Errorf("only %d series", series)
	}
}

func TestMetrics(t *testing.T) {
	f := newFixture(t, nil)
	f.post("/events", `{"name":"e","data":"d","channel":"c"}`)
	f.post("/events", `{`)
	f.do("GET", "/apps/nobody/channels", "")
	away := f.do("GET", "/apps/"+awayID+"/channels", "")
	away.refused(t, 503, "cannot be looked up")
	if got := away.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q", got)
	}
	f.wantMetrics("parley_http_", `
parley_http_answers_total{port="6001",status="200"} 1
parley_http_answers_total{port="6001",status="400"} 1
parley_http_answers_total{port="6001",status="404"} 1
parley_http_answers_total{port="6001",status="503"} 1
parley_http_calls_received_total{app_id="3",port="6001"} 2
parley_http_received_bytes{app_id="3",port="6001"} 38
parley_http_rejected_total{port="6001",reason="app_unavailable"} 1
parley_http_rejected_total{port="6001",reason="invalid_json"} 1
parley_http_rejected_total{port="6001",reason="unknown_app"} 1
parley_http_transmitted_bytes{app_id="3",port="6001"} 29
`)
}
