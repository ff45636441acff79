package api

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestChannels(t *testing.T) {
	f := newFixture(t, nil)
	f.get("/channels").want(t, 200, `{"channels":{}}`)
	a, b := f.connect(), f.connect()
	a.subscribe(f, "open", "")
	a.subscribe(f, "presence-room", `{"user_id":"u"}`)
	b.subscribe(f, "presence-room", `{"user_id":"u"}`)
	a.subscribe(f, "private-x", "")

	f.get("/channels").want(t, 200, `{"channels":{"open":{},"presence-room":{},"private-x":{}}}`)
	f.get("/channels", "filter_by_prefix=pr").want(t, 200, `{"channels":{"presence-room":{},"private-x":{}}}`)
	f.get("/channels", "filter_by_prefix=none").want(t, 200, `{"channels":{}}`)
	f.get("/channels", "info=subscription_count").want(t, 200,
		`{"channels":{"open":{"subscription_count":1},"presence-room":{"subscription_count":2},"private-x":{"subscription_count":1}}}`)
	f.get("/channels", "filter_by_prefix=presence-", "info=user_count,subscription_count").
		want(t, 200, `{"channels":{"presence-room":{"user_count":1,"subscription_count":2}}}`)
	f.get("/channels", "info=unknown").want(t, 200, `{"channels":{"open":{},"presence-room":{},"private-x":{}}}`)
	for _, prefix := range []string{"", "pre", "presence", "private-"} {
		f.get("/channels", "filter_by_prefix="+prefix, "info=user_count").refused(t, 400, "user_count", "presence-")
	}
}

func TestChannel(t *testing.T) {
	f := newFixture(t, nil)
	a, b := f.connect(), f.connect()
	a.subscribe(f, "presence-room", `{"user_id":"u"}`)
	b.subscribe(f, "presence-room", `{"user_id":"v"}`)

	f.get("/channels/open").want(t, 200, `{"occupied":false}`)
	f.get("/channels/open", "info=subscription_count").want(t, 200, `{"occupied":false,"subscription_count":0}`)
	f.get("/channels/presence-room").want(t, 200, `{"occupied":true}`)
	f.get("/channels/presence-room", "info=user_count,subscription_count").
		want(t, 200, `{"occupied":true,"user_count":2,"subscription_count":2}`)
	f.get("/channels/open", "info=user_count").refused(t, 400, "presence")
	f.get("/channels/open", "info=cache").refused(t, 400, "cache channels")
	f.get("/channels/presence-cache-x", "info=user_count,cache").want(t, 200, `{"occupied":false,"user_count":0}`)
	f.get("/channels/a%20b").refused(t, 400, "channel name")
	f.get("/channels/"+strings.Repeat("c", 201)).refused(t, 400, "channel name")
}

func TestChannelCache(t *testing.T) {
	f := newFixture(t, nil)
	f.post("/events", `{"name":"e","data":"{\"a\":1}","channel":"cache-x"}`).want(t, 200, "{}")
	a := f.get("/channels/cache-x", "info=cache")
	var got struct {
		Occupied *bool
		Cache    struct {
			Data string
			TTL  int
		}
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
		t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	if got.Occupied == nil || *got.Occupied || got.Cache.Data != `{"a":1}` || got.Cache.TTL < 1790 || got.Cache.TTL > 1800 {
		t.Errorf("got %s", a.body)
	}
}

func TestUsers(t *testing.T) {
	f := newFixture(t, nil)
	f.get("/channels/presence-room/users").want(t, 200, `{"users":[]}`)
	for _, user := range []string{`"<b>"`, `7`, `"a"`, `"a"`} {
		f.connect().subscribe(f, "presence-room", `{"user_id":`+user+`,"user_info":{"secret":"x"}}`)
	}
	f.get("/channels/presence-room/users").want(t, 200, `{"users":[{"id":"7"},{"id":"<b>"},{"id":"a"}]}`)
	f.get("/channels/private-room/users").refused(t, 400, "presence")
	f.get("/channels/open/users").refused(t, 400, "presence")
	f.get("/channels/presence-a%20b/users").refused(t, 400, "channel name")
}

func TestTerminate(t *testing.T) {
	f := newFixture(t, nil)
	f.app.EnableUserAuthentication = true
	f.post("/users/nobody/terminate_connections", "").want(t, 200, "{}")
	const user = "a/b c"
	sockets := []*socket{f.connect(), f.connect()}
	for _, s := range sockets {
		data := `{"id":"` + user + `"}`
		auth := f.app.Key + ":" + hexHMAC(f.app.Secret, s.id+"::user::"+data)
		s.send("pusher:signin", map[string]string{"auth": auth, "user_data": data})
		s.next("pusher:signin_success")
	}
	stranger := f.connect()
	f.post("/users/a%2Fb%20c/terminate_connections", "{}").want(t, 200, "{}")
	for _, s := range sockets {
		s.next("pusher:error")
		if m := s.read(); m.closed != 4009 {
			t.Errorf("got %+v", m)
		}
	}
	stranger.send("pusher:ping", nil)
	stranger.next("pusher:pong")
}

// HEAD is answered as GET without a body, under its own signature.
func TestHead(t *testing.T) {
	f := newFixture(t, nil)
	f.call(http.MethodHead, "/channels", "").want(t, 200, "")
}
