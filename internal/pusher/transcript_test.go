package pusher

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport/websocket"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what the hub does now")

// A transcript is a list of commands, each followed by the indented lines of what they
// cause: frames that clients get, closes, webhooks. Run with -update to rewrite them, and
// read the difference.
//
//	connect a             a client connects
//	a > {…}               it sends a message; $id(a), $auth(a,channel[,data]) and
//	                      $signin(a,data) stand for its socket id and its backend's answers
//	close a               its connection ends
//	wait 5s               time passes
//	timeouts 120s 30s 1h  first: activity, pong and user authentication, else never
//	publish {…}           a backend publishes name, data, channel and socket_id
//	terminate user        a backend ends a user's connections
//	app {…}               the app is changed (JSON of apps.App)
//	delete                the app is deleted
//	state                 what the HTTP API would tell of every channel
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var got string
			synctest.Test(t, func(t *testing.T) { got = newScript(t).run(string(want)) })
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s differs from what happened:\n%s", file, difference(string(want), got))
			}
		})
	}
}

// difference shows the first line that differs, with what led to it.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		if i < len(w) && i < len(g) && w[i] == g[i] {
			continue
		}
		from := max(0, i-3)
		return fmt.Sprintf("want line %d:\n%s\ngot:\n%s", i+1,
			strings.Join(w[min(from, len(w)):min(i+3, len(w))], "\n"),
			strings.Join(g[min(from, len(g)):min(i+3, len(g))], "\n"))
	}
	return ""
}

// script plays a transcript on a hub of its own.
type script struct {
	t   *testing.T
	hub *Hub
	app *apps.App

	mu      sync.Mutex // guards the following, which the hub's timers reach too
	clients map[string]*fakeConn
	out     strings.Builder
}

// fakeConn records what a client gets.
type fakeConn struct {
	name   string
	script *script
	client *client
	heard  time.Time // when it sent something last
	due    time.Time // when its timer goes off
	closed bool
}

func (c *fakeConn) Send(f *websocket.Frame) bool {
	if c.closed {
		return false
	}
	c.script.say("%s < %s", c.name, f.Payload())
	return true
}

func (c *fakeConn) Close(code int, reason string) {
	if c.closed {
		return
	}
	c.closed = true
	c.script.say("%s closed %d %s", c.name, code, reason)
}

func (c *fakeConn) SetTimer(d time.Duration) { c.due = time.Now().Add(d) }

func (c *fakeConn) Idle() time.Duration { return time.Since(c.heard) }

// Emit records a webhook.
func (s *script) Emit(_ string, event webhook.Event) { s.say("webhook %s", event) }
func (s *script) Observe(string, webhook.Event)      {}

// never is longer than any transcript.
const never = 24 * time.Hour

func newScript(t *testing.T) *script {
	s := &script{t: t, clients: make(map[string]*fakeConn)}
	s.app = &apps.App{
		ID: "1", Key: "key", Secret: "secret", Enabled: true,
		EnableClientMessages: true, EnableUserAuthentication: true, EnableWatchlistEvents: true,
	}
	s.hub = NewHub(Options{
		ActivityTimeout:  never,
		PongTimeout:      never,
		CacheTTL:         30 * time.Minute,
		CacheChannels:    100,
		MaxSubscriptions: 5,
		Defaults: apps.Limits{
			MaxClientEventsPerSecond: 3, MaxPresenceMembers: 3, MaxPresenceMemberSize: 100,
			MaxChannelNameLength: 200, MaxEventNameLength: 20, MaxEventPayload: 100,
		},
	}, s)
	return s
}

func (s *script) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	for name, c := range s.clients {
		if c.client != nil && c.client.session.ID != "" {
			line = strings.ReplaceAll(line, c.client.session.ID, "$id("+name+")")
		}
	}
	fmt.Fprintf(&s.out, "  %s\n", line)
}

// soFar returns what was recorded.
func (s *script) soFar() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// run plays every command and returns the transcript as it happened.
func (s *script) run(text string) string {
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "  "):
			continue // an outcome; it is written anew
		case line == "" || line[0] == '#':
			s.out.WriteString(line + "\n")
			continue
		}
		s.out.WriteString(line + "\n")
		start := s.out.Len()
		s.command(line)
		synctest.Wait()
		s.sortFrom(start)
	}
	return s.out.String()
}

// sortFrom brings what different clients got into the order of their names: between them
// there is none. What one client gets keeps its order.
func (s *script) sortFrom(start int) {
	all := s.out.String()
	head, tail := all[:start], strings.Split(strings.TrimSuffix(all[start:], "\n"), "\n")
	if tail[0] == "" {
		return
	}
	sort.SliceStable(tail, func(i, j int) bool { return strings.Fields(tail[i])[0] < strings.Fields(tail[j])[0] })
	s.out.Reset()
	s.out.WriteString(head + strings.Join(tail, "\n") + "\n")
}

func (s *script) command(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	if name, message, found := strings.Cut(line, " > "); found {
		c := s.conn(name)
		c.heard = time.Now()
		c.client.message([]byte(s.expand(message)))
		return
	}
	switch verb {
	case "connect":
		s.connect(rest)
	case "close":
		c := s.conn(rest)
		c.closed = true
		c.client.closed()
		delete(s.clients, rest)
	case "timeouts":
		parts := strings.Fields(rest)
		o := &s.hub.options
		o.ActivityTimeout, o.PongTimeout = s.duration(parts[0]), s.duration(parts[1])
		o.UserAuthenticationTimeout = s.duration(parts[2])
	case "wait":
		s.wait(time.Now().Add(s.duration(rest)))
	case "publish":
		var e struct{ Name, Data, Channel, Socket string }
		s.decode(rest, &e)
		s.hub.Publish(s.app, Event{Name: e.Name, Data: e.Data, Channel: e.Channel, SocketID: s.expand(e.Socket)})
	case "terminate":
		s.hub.Terminate(s.app, rest)
	case "app":
		changed := *s.app
		s.decode(rest, &changed)
		s.hub.AppChanged(s.app, &changed)
		s.app = &changed
	case "delete":
		s.hub.AppChanged(s.app, nil)
	case "state":
		s.state()
	default:
		s.t.Fatalf("unknown command %q", line)
	}
}

// wait lets time pass until end; the connections' timers go off when they are due.
func (s *script) wait(end time.Time) {
	for {
		var next *fakeConn
		for _, name := range slices.Sorted(maps.Keys(s.clients)) {
			if c := s.clients[name]; !c.closed && !c.due.After(end) && (next == nil || c.due.Before(next.due)) {
				next = c
			}
		}
		if next == nil {
			break
		}
		time.Sleep(time.Until(next.due))
		next.client.expired()
	}
	time.Sleep(time.Until(end))
}

func (s *script) connect(name string) {
	c := &fakeConn{name: name, script: s, heard: time.Now()}
	c.client = s.hub.Connection(s.app, "").(handler).client
	s.mu.Lock()
	s.clients[name] = c
	s.mu.Unlock()
	c.client.open(c)
}

func (s *script) state() {
	for _, c := range s.hub.Channels(s.app, "") {
		s.say("channel %s subscriptions=%d users=%d", c.Channel, c.Subscriptions, c.Users)
	}
	s.say("connections %d", s.hub.Connections())
}

func (s *script) conn(name string) *fakeConn {
	c := s.clients[name]
	if c == nil {
		s.t.Fatalf("no client %q", name)
	}
	return c
}

func (s *script) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *script) decode(text string, v any) {
	if err := json.Unmarshal([]byte(text), v); err != nil {
		s.t.Fatalf("%s: %v", text, err)
	}
}

// macro is $name(client) or $name(client,channel) or $name(client,channel,rest to the last
// closing bracket before a quote).
var macro = regexp.MustCompile(`\$(id|auth|signin)\((\w+)(?:,([^,)]*(?:\{[^$]*?\})?))?(?:,(.*?))?\)\$?`)

// expand replaces the macros of a message. Data inside a macro is written as it is sent,
// with its quotes escaped for the JSON string around.
func (s *script) expand(message string) string {
	return macro.ReplaceAllStringFunc(message, func(found string) string {
		parts := macro.FindStringSubmatch(found)
		id := s.conn(parts[2]).client.session.ID
		unescape := strings.NewReplacer(`\"`, `"`)
		switch parts[1] {
		case "auth":
			text := protocol.SubscriptionText(id, parts[3], unescape.Replace(parts[4]))
			return "key:" + protocol.Sign("secret", text)
		case "signin":
			data := parts[3]
			if parts[4] != "" {
				data += "," + parts[4]
			}
			return "key:" + protocol.Sign("secret", protocol.SigninText(id, unescape.Replace(data)))
		}
		return id
	})
}
