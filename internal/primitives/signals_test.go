package primitives

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/parleyio/parley/internal/fabric"
)

// listener is a subscriber of a test.
type listener struct {
	t      *testing.T
	events chan event
	close  func()
}

// listen subscribes with server-sent events.
func (n *node) listenTo(t *testing.T, query, lastEventID string) *listener {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, n.http.URL+"/v1/signals/subscribe?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+tokenAll)
	if lastEventID != "" {
		request.Header.Set("Last-Event-ID", lastEventID)
	}
	answer, err := n.http.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("subscribe: %s", answer.Status)
	}
	l := &listener{t: t, events: make(chan event, 10_000), close: cancel}
	t.Cleanup(cancel)
	go func() {
		defer close(l.events)
		defer func() { _ = answer.Body.Close() }()
		lines := bufio.NewScanner(answer.Body)
		lines.Buffer(nil, 2<<20)
		var name, id, data string
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				name = value
			case "id":
				id = value
			case "data":
				data = value
			case "":
				if data == "" { // behind a sign of life
					continue
				}
				var e event
				if err := json.Unmarshal([]byte(data), &e); err != nil || e.Type != name || fmt.Sprint(e.Position) != id {
					t.Errorf("event %s %s %s: %v", name, id, data, err)
				}
				l.events <- e
				data = ""
			}
		}
	}()
	return l
}

// dial subscribes over a WebSocket.
func (n *node) dial(t *testing.T, query string) (*listener, net.Conn) {
	t.Helper()
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP{"Authorization": {"Bearer " + tokenAll}}}
	address := "ws" + strings.TrimPrefix(n.http.URL, "http") + "/v1/signals/subscribe?" + query
	conn, early, _, err := dialer.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var r io.Reader = conn
	if early != nil {
		r = io.MultiReader(early, conn)
	}
	l := &listener{t: t, events: make(chan event, 10_000), close: func() { _ = conn.Close() }}
	go func() {
		defer close(l.events)
		for {
			text, err := wsutil.ReadServerText(struct {
				io.Reader
				io.Writer
			}{r, conn})
			if err != nil {
				return
			}
			var e event
			if err := json.Unmarshal(text, &e); err != nil {
				t.Error(err)
			}
			l.events <- e
		}
	}()
	return l, conn
}

func (l *listener) next() event {
	l.t.Helper()
	select {
	case e, ok := <-l.events:
		if !ok {
			l.t.Fatal("the subscription has ended")
		}
		return e
	case <-time.After(patience):
		l.t.Fatal("no event comes")
	}
	return event{}
}

// String is an event as tests write it.
func (e event) String() string {
	switch e.Type {
	case eventMessage:
		text := e.Type + " " + e.Subject
		if e.Sender != "" {
			text += " from " + e.Sender
		}
		if e.Payload != nil {
			return text + ": " + *e.Payload
		}
		return text + ": " + fmt.Sprintf("%x", *e.PayloadBase64)
	case eventGap, eventEnd:
		return e.Type + " " + e.Reason
	}
	return e.Type
}

// want demands the next events and returns the position of the last.
func (l *listener) want(events ...string) (position uint64) {
	l.t.Helper()
	for _, want := range events {
		e := l.next()
		if e.String() != want {
			l.t.Fatalf("got %q, want %q", e, want)
		}
		position = e.Position
	}
	return position
}

// ended demands that the subscription ends.
func (l *listener) ended() {
	l.t.Helper()
	select {
	case e, more := <-l.events:
		if more {
			l.t.Fatalf("got %q after the end", e)
		}
	case <-time.After(patience):
		l.t.Fatal("the subscription does not end")
	}
}

// say publishes and returns the position.
func (n *node) say(t *testing.T, subject, payload string) uint64 {
	t.Helper()
	return n.sayAs(t, "", subject, payload)
}

func (n *node) sayAs(t *testing.T, sender, subject, payload string) uint64 {
	t.Helper()
	body := object{"subject": subject, "payload": payload, "sender": sender}
	return parse[positionAnswer](n.post(t, "/v1/signals", body).want(201)).Position
}

// Who was away hears what was said meanwhile, at any node, in either form.
func TestSignals(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	first := a.say(t, "orders.new", "1")
	live := b.listenTo(t, "subject=orders.*", "")
	if at := live.want("ready"); at != first {
		t.Errorf("ready behind %d, the last is %d", at, first)
	}
	a.sayAs(t, "a", "orders.new", "2")
	b.say(t, "orders.new.deep", "not asked for")
	a.say(t, "elsewhere", "not asked for")
	a.do(t, call{method: http.MethodPost, path: "/v1/signals", token: tokenOther, body: object{"subject": "orders.new", "payload": "of others"}}).want(201)
	b.say(t, "orders.paid", "3")
	at := live.want("message orders.new from a: 2", "message orders.paid: 3")
	live.close()
	a.say(t, "orders.new", "4")
	a.post(t, "/v1/signals", object{"subject": "orders.new", "payload_base64": "/w=="}).want(201)
	again := a.listenTo(t, "subject=orders.*&after=0", fmt.Sprint(at))
	again.want("ready", "message orders.new: 4", "message orders.new: ff")
	all, _ := b.dial(t, "subject=orders.*&subject=elsewhere&after=0")
	all.want("ready", "message orders.new: 1", "message orders.new from a: 2", "message elsewhere: not asked for",
		"message orders.paid: 3", "message orders.new: 4", "message orders.new: ff")
	a.say(t, "orders.new", "5")
	again.want("message orders.new: 5")
	all.want("message orders.new: 5")
	// Whoever names himself does not hear himself.
	mine := a.listenTo(t, "subject=orders.*&skip_sender=a&after="+fmt.Sprint(first-1), "")
	mine.want("ready", "message orders.new: 1", "message orders.paid: 3")
	positions := parse[positionsAnswer](a.get(t, "/v1/signals").want(200))
	if positions.First != 1 || positions.Last != 9 {
		t.Errorf("got %+v", positions)
	}
}

func TestSignalParameters(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	for _, subject := range []string{"", "a..b", "a b", "a.*", ">", "é", strings.Repeat("s", 501)} {
		n.post(t, "/v1/signals", object{"subject": subject, "payload": ""}).wantCode(400, "invalid")
	}
	n.post(t, "/v1/signals", object{"subject": "a"}).wantCode(400, "invalid")
	n.post(t, "/v1/signals", object{"subject": "a", "payload": "", "sender": strings.Repeat("s", 101)}).wantCode(400, "invalid")
	n.post(t, "/v1/signals", object{"subject": "a", "payload": strings.Repeat("x", maxSignal+1)}).wantCode(413, "too_large")
	n.post(t, "/v1/signals", object{"subject": "a", "payload": strings.Repeat("x", maxSignal), "sender": strings.Repeat("s", 100)}).want(201)
	for _, query := range []string{"", "subject=", "subject=a.>.b", "subject=a&after=x", "subject=a&after=-1", "subject=a&coalesce_ms=10001",
		"subject=a&skip_sender=" + strings.Repeat("s", 101), strings.Repeat("subject=a&", 51)} {
		n.get(t, "/v1/signals/subscribe?"+query).wantCode(400, "invalid")
	}
	l := n.listenTo(t, "subject=a&after=0", "")
	if l.want("ready"); len(*l.next().Payload) != maxSignal {
		t.Error("the large signal is another")
	}
}

// Signals that are no longer kept, or never were, are told as a gap.
func TestSignalGap(t *testing.T) {
	n := newRig(t, 1, func(o *Options) { o.SignalBytes = 20_000 }).nodes[0]
	for i := range 100 {
		n.say(t, "s", fmt.Sprintf("%03d%s", i, strings.Repeat("x", 1000)))
	}
	l := n.listenTo(t, "subject=s&after=5", "")
	l.want("ready", "gap forgotten")
	first := l.next()
	if got := (*first.Payload)[:3]; got < "050" || got > "095" {
		t.Errorf("the first one is %s", got)
	}
	anew := n.listenTo(t, "subject=s&after=1000000", "")
	anew.want("gap forgotten", "ready")
	if e := anew.next(); e.Position != first.Position {
		t.Errorf("got %d, want %d", e.Position, first.Position)
	}
	oldest := n.listenTo(t, "subject=s&after=0", "")
	oldest.want("ready")
	if e := oldest.next(); e.Position != first.Position {
		t.Errorf("got %d, want %d", e.Position, first.Position)
	}
}

// Repetitions within a window are one, the last, and the order stays.
func TestSignalCoalesce(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	for _, payload := range []string{"a", "b", "a", "c", "a", "b"} {
		n.say(t, "s", payload)
	}
	n.say(t, "other", "a")
	l := n.listenTo(t, "subject=>&after=0&coalesce_ms=200", "")
	l.want("ready", "message s: c", "message s: a", "message s: b", "message other: a")
	n.say(t, "s", "b") // another window
	l.want("message s: b")
}

// A subscriber that is far behind reads in the log, and then with the others.
func TestSignalCatchUp(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	tail, err := n.signals.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const each = 300
	publish := func(from int) {
		for i := range each {
			if _, err := tail.replay.Publish(t.Context(), "one.s."+fmt.Sprint(i%3), []byte(fmt.Sprint(from+i))); err != nil {
				t.Error(err)
			}
		}
	}
	publish(0)
	all, third := n.listenTo(t, "subject=s.*&after=0", ""), n.listenTo(t, "subject=s.1&after=0", "")
	all.want("ready")
	third.want("ready")
	publish(each)
	for i := range 2 * each {
		if got := *all.next().Payload; got != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", got, i)
		}
		if i%3 == 1 {
			if got := *third.next().Payload; got != fmt.Sprint(i) {
				t.Fatalf("got %s, want %d", got, i)
			}
		}
	}
}

// The newest signals are kept within bounds, and whoever is behind them is told so.
func TestTail(t *testing.T) {
	g := newRig(t, 1, nil)
	tail, err := g.nodes[0].signals.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tail.current = true
	payload := make([]byte, 10_000)
	for i := range 3000 {
		tail.keep(fabric.Kept{Message: fabric.Message{Subject: fmt.Sprint("s.", i%2), Payload: payload}, Position: uint64(2 * (i + 1))})
		if tail.bytes > tailBytes || len(tail.kept) > tailMessages {
			t.Fatalf("%d bytes in %d signals", tail.bytes, len(tail.kept))
		}
	}
	every := func(string) bool { return true }
	if v := tail.behind(tail.from-1, every); v.covered {
		t.Error("what was dropped is covered")
	}
	v := tail.behind(tail.from, func(subject string) bool { return subject == "s.0" })
	if !v.covered || len(v.messages) != tailPage || v.messages[0].Position <= tail.from || v.next != v.messages[tailPage-1].Position {
		t.Errorf("got %d, next %d", len(v.messages), v.next)
	}
	if v := tail.behind(6000, every); !v.covered || len(v.messages) != 0 || v.next != 6000 {
		t.Errorf("got %+v", v)
	}
	if v := tail.behind(5990, func(string) bool { return false }); !v.covered || len(v.messages) != 0 || v.next != 6000 {
		t.Errorf("got %+v", v)
	}
}

// A subscription ends when its key is revoked, and when the node leaves, with a word.
func TestSubscriptionEnds(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	socket, _ := a.dial(t, "subject=s")
	stream := a.listenTo(t, "subject=s", "")
	socket.want("ready")
	stream.want("ready")
	_, token, err := b.CreateKey(t.Context(), Key{ID: "k", Namespace: "one", Scopes: []string{"signals"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key is known", func() bool { return a.registry.keyOf(token) != nil })
	request, err := http.NewRequest(http.MethodGet, a.http.URL+"/v1/signals/subscribe?subject=s", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.RevokeKey(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || !strings.Contains(string(text), endRevoked) {
		t.Errorf("got %s, %v", text, err)
	}
	a.say(t, "s", "last")
	socket.want("message s: last")
	stream.want("message s: last")
	a.Leave()
	socket.want("end node_stops")
	stream.want("end node_stops")
	socket.ended()
	stream.ended()
	eventually(t, "nobody is left", func() bool { return len(a.waiting) == 0 })
}

// A client of a WebSocket may ping and close, and nothing else.
func TestSocket(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	left := func() {
		t.Helper()
		eventually(t, "it is gone", func() bool { return len(n.waiting) == 0 })
	}
	l, conn := n.dial(t, "subject=s")
	l.want("ready")
	if err := wsutil.WriteClientMessage(conn, ws.OpPing, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := wsutil.WriteClientText(conn, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	n.say(t, "s", "1")
	l.want("message s: 1")
	if err := wsutil.WriteClientMessage(conn, ws.OpClose, ws.NewCloseFrameBody(1000, "")); err != nil {
		t.Fatal(err)
	}
	l.ended()
	left()
	l, conn = n.dial(t, "subject=s")
	l.want("ready")
	_ = wsutil.WriteClientText(conn, make([]byte, maxSocketFrame+1)) // it may be closed after the header
	l.ended()
	left()
	l, conn = n.dial(t, "subject=s")
	l.want("ready")
	_ = conn.Close()
	left()
	_, _, _, err := ws.Dial(t.Context(), "ws"+strings.TrimPrefix(n.http.URL, "http")+"/v1/signals/subscribe?subject=s")
	if err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a key: %v", err)
	}
}

// stuck is a sink that takes nothing for ever.
type stuck struct{ deadline chan struct{} }

func (s *stuck) send(events []event) error {
	if events[len(events)-1].Type == eventReady {
		return nil
	}
	close(s.deadline)
	return &url.Error{Op: "write", Err: timeout{}}
}

func (s *stuck) alive() error { return nil }

type timeout struct{}

func (timeout) Error() string   { return "i/o timeout" }
func (timeout) Timeout() bool   { return true }
func (timeout) Temporary() bool { return true }
func (timeout) Is(err error) bool {
	return err.Error() == "i/o timeout"
}

// A subscriber that reads nothing is cut off and counted.
func TestSlowSubscriber(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	tail, err := n.signals.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := &stuck{deadline: make(chan struct{})}
	done := make(chan struct{})
	sub := subscription{key: n.registry.keyOf(tokenAll), patterns: []string{"one.s"}, pattern: "one.s", fromNow: true}
	go func() { defer close(done); n.follow(t.Context(), sub, tail, out) }()
	eventually(t, "it is subscribed", func() bool { tail.mu.Lock(); defer tail.mu.Unlock(); return tail.current })
	n.say(t, "s", "x")
	<-out.deadline
	<-done
	if n.drops.count(dropSubscriberSlow) != 1 {
		t.Error("it was not counted")
	}
}
