package protocol

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// The worked vectors of the protocol's documentation, computed again. The documentation
// prints the signature of "Mr. Pusher" beside the text of "Mr. Channels".
func TestSignatureVectors(t *testing.T) {
	const secret = "7ad3773142a6692b25b8"
	for _, v := range []struct{ name, text, want string }{
		{"private", SubscriptionText("1234.1234", "private-foobar", ""),
			"58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"},
		{"presence", SubscriptionText("1234.1234", "presence-foobar", `{"user_id":10,"user_info":{"name":"Mr. Channels"}}`),
			"31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"},
		{"presence as printed", SubscriptionText("1234.1234", "presence-foobar", `{"user_id":10,"user_info":{"name":"Mr. Pusher"}}`),
			"afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c"},
		{"sign-in", SigninText("1234.1234", `{"id":"12345"}`),
			"4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"},
		{"request", "POST\n/apps/3/events\nauth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&" +
			"body_md5=ec365a775a4cd0599faeb73354201b6f",
			"da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"},
	} {
		if got := Sign(secret, v.text); got != v.want {
			t.Errorf("%s: got %s, want %s", v.name, got, v.want)
		}
		if !VerifySignature(secret, v.text, v.want) || VerifySignature(secret, v.text, v.want[1:]) {
			t.Errorf("%s: verification is wrong", v.name)
		}
	}
}

func TestSignRequestVector(t *testing.T) {
	body := []byte(`{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}`)
	query := map[string][]string{}
	SignRequest("278d425bdf160c739803", "7ad3773142a6692b25b8", "POST", "/apps/3/events", query, body, 1353088179)
	if got := query["auth_signature"][0]; got != "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c" {
		t.Errorf("signature %s", got)
	}
}

// Parameters are signed in the order of their names, not of name and value together.
func TestRequestTextSortsNames(t *testing.T) {
	query := map[string][]string{"a": {"2"}, "a-b": {"1"}, "B": {"x", "y"}, "auth_signature": {"s"}}
	if got, want := RequestText("GET", "/apps/1/channels", query), "GET\n/apps/1/channels\na=2&a-b=1&b=x,y"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKindOf(t *testing.T) {
	for name, want := range map[string]struct {
		kind Kind
		text string
	}{
		"news":                      {0, "public"},
		"my-cache-x":                {0, "public"},
		"privatex":                  {0, "public"},
		"cache-x":                   {Cached, "cache"},
		"private-x":                 {Private, "private"},
		"private-cache-x":           {Private | Cached, "private-cache"},
		"private-encrypted-x":       {Private | Encrypted, "private-encrypted"},
		"private-encrypted-cache-x": {Private | Encrypted | Cached, "private-encrypted-cache"},
		"presence-x":                {Presence, "presence"},
		"presence-cache-x":          {Presence | Cached, "presence-cache"},
		"presence-encrypted-x":      {Presence, "presence"},
		"#server-to-user-7":         {UserOnly, "user"},
	} {
		if got := KindOf(name); got != want.kind || got.String() != want.text {
			t.Errorf("KindOf(%q) = %b %s, want %b %s", name, got, got, want.kind, want.text)
		}
	}
}

func TestValidChannel(t *testing.T) {
	for name, want := range map[string]bool{
		"a_-=@,.;:Z9":           true,
		strings.Repeat("a", 20): true,
		strings.Repeat("a", 21): false,
		"":                      false,
		"with space":            false,
		"ümlaut":                false,
		"#private":              false,
		"a#b":                   false,
		"#server-to-user-":      false,
		"#server-to-user-ann/1": false, // longer than 20
		"#server-to-user-a b":   true,
	} {
		if got := ValidChannel(name, 20); got != want {
			t.Errorf("ValidChannel(%q) = %v", name, got)
		}
	}
}

func TestValidSocketID(t *testing.T) {
	for id, want := range map[string]bool{
		"1.2": true, "123456.7890123": true,
		"": false, "1": false, ".": false, "1.": false, ".1": false, "1.2.3": false, "a.1": false, "1.2\n": false,
		"-1.2": false, "1 .2": false,
	} {
		if got := ValidSocketID(id); got != want {
			t.Errorf("ValidSocketID(%q) = %v", id, got)
		}
	}
}

// Whatever is put into a frame comes out of a JSON parser as it was.
func TestEventsAreJSON(t *testing.T) {
	for _, text := range []string{"", "plain", `"quoted" \back`, "line\nfeed\r\ttab\x00\x1f", "<&>", "ü€😀", "\u2028\u2029"} {
		var got struct{ Event, Channel, Data, UserID string }
		frame := AppendEvent(nil, "e"+text, "c"+text, text, "")
		if err := json.Unmarshal(frame, &got); err != nil {
			t.Fatalf("%q: %v in %s", text, err, frame)
		}
		if got.Event != "e"+text || got.Channel != "c"+text || got.Data != text {
			t.Errorf("%q became %+v", text, got)
		}
	}
	if got := string(appendString(nil, "a\xffb<&>")); got != `"a\ufffdb<&>"` {
		t.Errorf("invalid UTF-8 became %s", got)
	}
}

type countingPeer struct{ frames int }

func (p *countingPeer) Send(*websocket.Frame) bool { p.frames++; return true }

func TestBroadcastDoesNotAllocate(t *testing.T) {
	room := NewRoom("news")
	peer := &countingPeer{}
	var sessions [100]Session
	for i := range sessions {
		sessions[i].Peer = peer
		room.Join(&Subscription{Session: &sessions[i]})
	}
	frame := websocket.NewFrame([]byte("{}"))
	if n := testing.AllocsPerRun(100, func() { room.Broadcast(frame, &sessions[3]) }); n != 0 {
		t.Errorf("a broadcast allocates %v times", n)
	}
	if peer.frames%99 != 0 || peer.frames == 0 {
		t.Errorf("%d frames, want a multiple of 99", peer.frames)
	}
}

// A room after any sequence of joins and leaves is what a naive count says.
func TestRoomKeepsCount(t *testing.T) {
	room := NewRoom("presence-x")
	users := []string{"a", "b", "c"}
	var joined []*Subscription
	sessions := map[string]int{}
	random := uint32(7)
	next := func(n int) int { random = random*1664525 + 1013904223; return int(random>>8) % n }
	for step := range 2000 {
		if len(joined) == 0 || next(2) == 0 && len(joined) < 20 {
			user := users[next(len(users))]
			s := &Subscription{Session: &Session{}, Member: &Member{UserID: user}}
			change := room.Join(s)
			sessions[user]++
			joined = append(joined, s)
			if (change.Member != nil) != (sessions[user] == 1) || change.Occupied != (len(joined) == 1) {
				t.Fatalf("step %d: join of %s gave %+v", step, user, change)
			}
		} else {
			i := next(len(joined))
			s := joined[i]
			joined = append(joined[:i], joined[i+1:]...)
			change := room.Leave(s)
			if sessions[s.Member.UserID]--; (change.Member != nil) != (sessions[s.Member.UserID] == 0) || change.Vacated != (len(joined) == 0) {
				t.Fatalf("step %d: leave of %s gave %+v", step, s.Member.UserID, change)
			}
		}
		members := 0
		for _, n := range sessions {
			if n > 0 {
				members++
			}
		}
		if room.Len() != len(joined) || room.Members() != members || len(room.MemberList()) != members {
			t.Fatalf("step %d: %d subscriptions and %d members, want %d and %d", step, room.Len(), room.Members(), len(joined), members)
		}
	}
}

var fuzzPolicy = &Policy{
	Key: "key", Secret: "secret", ClientEvents: true, UserAuthentication: true, Watchlist: true,
	MaxChannelName: 200, MaxSubscriptions: 10, MaxEventName: 200, MaxEventPayload: 10240,
	MaxClientEventsPerSecond: 10, MaxMembers: 100, MaxMemberSize: 1024,
}

// No message of a client makes the core panic, and what it answers is always valid JSON.
func FuzzReceive(f *testing.F) {
	auth := "key:" + Sign("secret", SubscriptionText("1.1", "presence-x", `{"user_id":1}`))
	for _, seed := range []string{
		`{"event":"pusher:ping"}`,
		`{"event":"pusher:subscribe","data":{"channel":"news"}}`,
		`{"event":"pusher:subscribe","data":{"channel":"presence-x","auth":"` + auth + `","channel_data":"{\"user_id\":1}"}}`,
		`{"event":"pusher:subscribe","data":"{\"channel\":\"news\"}"}`,
		`{"event":"pusher:unsubscribe","data":{"channel":"private-x"}}`,
		`{"event":"client-x","channel":"private-x","data":{"a":[1,2]}}`,
		`{"event":"pusher:signin","data":{"auth":"key:00","user_data":"{\"id\":\"1\"}"}}`,
		`{"event":`, `[]`, `{"event":"a","data":[[[[`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := &Session{ID: "1.1"}
		room := NewRoom("private-x")
		subscription := &Subscription{Session: s}
		room.Join(subscription)
		s.Add(subscription)
		for _, effect := range s.Receive(fuzzPolicy, time.Unix(1, 0), raw) {
			var payload []byte
			switch e := effect.(type) {
			case Reply:
				payload = e.Payload
			case Reject:
				payload = e.Payload
			case Signin:
				payload = e.Payload
			case Forward:
				payload = ForwardPayload(e)
			case Subscribe:
				payload = SubscriptionSucceeded(e.Channel)
				if e.Member != nil {
					payload = PresenceSucceeded(e.Channel, []Member{*e.Member})
				}
			default:
				continue
			}
			if !json.Valid(payload) {
				t.Errorf("%q was answered with %q", raw, payload)
			}
		}
	})
}

func FuzzParseMember(f *testing.F) {
	for _, seed := range []string{`{"user_id":10}`, `{"user_id":"a","user_info":{"x":[1]}}`, `{"user_id":1e400}`, `{}`, `5`, ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data string) {
		m, err := parseMember(data)
		if err == nil && (m.UserID == "" || len(m.UserID) > maxUserID || m.Info != nil && !json.Valid(m.Info)) {
			t.Errorf("%q gave %+v", data, m)
		}
	})
}
