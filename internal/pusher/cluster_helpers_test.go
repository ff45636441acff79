package pusher

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/directory"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// hubs are nodes in one process: real hubs and directories over one memory fabric. They run
// in a synctest bubble.
type hubs struct {
	t     *testing.T
	app   *apps.App
	base  *memory.Provider
	nodes []*hubNode

	ledger bool // webhooks go through a ledger, see ledger_test.go

	mu    sync.Mutex // guards the following fields
	alive map[string]bool
	jobs  map[string]bool // ids of the webhook jobs that were enqueued
	emits []string        // webhooks of all nodes, in the order of each
}

// hubNode is one of them. It records the webhooks that it emits.
type hubNode struct {
	*Hub
	hubs      *hubs
	name      string
	provider  *memory.Provider
	signal    *countingSignal
	cache     *gatedCache
	directory *directory.Directory
	emitter   *webhook.Emitter // with a ledger
	stop      func()
}

const settleTime = 50 * time.Millisecond // more than a batch of the directory

func newHubs(t *testing.T, names ...string) *hubs { return newHubsWith(t, false, names...) }

func newHubsWith(t *testing.T, ledger bool, names ...string) *hubs {
	hs := &hubs{t: t, ledger: ledger, base: memory.New(), alive: make(map[string]bool), jobs: make(map[string]bool),
		app: &apps.App{
			ID: "1", Key: "key", Secret: "secret", Enabled: true,
			EnableClientMessages: true, EnableUserAuthentication: true, EnableWatchlistEvents: true,
			Webhooks: []apps.Webhook{{URL: "http://receiver.test/"}},
		}}
	t.Cleanup(func() { _ = hs.base.Close() })
	for _, name := range names {
		hs.start(name)
	}
	hs.settle()
	return hs
}

func (hs *hubs) start(name string) *hubNode {
	n := &hubNode{hubs: hs, name: name, provider: hs.base.Join(memory.Options{})}
	rows, err := n.provider.Signal(hs.t.Context(), "directory")
	hs.must(err)
	events, err := n.provider.Signal(hs.t.Context(), "channels")
	hs.must(err)
	cache, err := n.provider.Cache(hs.t.Context(), fabric.CacheConfig{Name: "channels", MaxBytes: 1 << 20})
	hs.must(err)
	n.signal, n.cache = &countingSignal{Signal: events}, &gatedCache{Cache: cache}
	var hooks Webhooks = n
	var reported Reported
	if hs.ledger {
		n.joinLedger()
		hooks, reported = n.emitter, n.emitter
	}
	n.Hub = NewHub(Options{
		ActivityTimeout: never, PongTimeout: never, CacheTTL: time.Minute, CacheChannels: 100, MaxSubscriptions: 50,
		Defaults: apps.Limits{
			MaxClientEventsPerSecond: 100, MaxPresenceMembers: 100, MaxPresenceMemberSize: 1000,
			MaxChannelNameLength: 200, MaxEventNameLength: 50, MaxEventPayload: 1000,
		},
	}, hooks)
	n.directory, err = directory.New(directory.Options{
		Node: name, Incarnation: uint64(time.Now().UnixNano()), Signal: rows,
		BatchInterval: 20 * time.Millisecond, DigestInterval: time.Second,
		Changed: n.Changed, Logger: slog.New(slog.DiscardHandler), Dropped: func(string) {},
	})
	hs.must(err)
	hs.must(n.Join(Cluster{
		Node: name, Signal: n.signal, Set: n.directory.Set, Flush: n.directory.Flush, Cache: n.cache, Reported: reported,
		Owns: func(key string) bool { return hs.owner(key) == name },
		App:  func(id string) (*apps.App, bool) { return hs.app, id == hs.app.ID },
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.directory.Run(ctx) }()
	emitted := make(chan error, 1)
	go func() { emitted <- n.runEmitter(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		hs.must(<-done)
		hs.must(<-emitted)
		_ = n.provider.Close()
	})
	hs.t.Cleanup(n.stop)
	hs.mu.Lock()
	hs.alive[name] = true
	hs.mu.Unlock()
	hs.nodes = append(hs.nodes, n)
	return n
}

func (hs *hubs) must(err error) {
	hs.t.Helper()
	if err != nil {
		hs.t.Fatal(err)
	}
}

// owner is the live node that comes first for a key.
func (hs *hubs) owner(key string) (owner string) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	var best uint64
	for name := range hs.alive {
		h := fnv.New64a()
		_, _ = h.Write([]byte(key + "\x00" + name))
		if sum := h.Sum64(); sum >= best {
			best, owner = sum, name
		}
	}
	return owner
}

// kill ends a node without a word; the others are told that it is dead.
func (hs *hubs) kill(n *hubNode) {
	hs.mu.Lock()
	delete(hs.alive, n.name)
	hs.mu.Unlock()
	n.stop()
	hs.nodes = slices.DeleteFunc(hs.nodes, func(other *hubNode) bool { return other == n })
	for _, other := range hs.nodes {
		other.directory.NodeGone(n.name)
	}
	hs.settle()
}

// settle lets everything that was caused reach everybody.
func (hs *hubs) settle() {
	time.Sleep(settleTime)
	synctest.Wait()
}

// Emit implements Webhooks.
func (n *hubNode) Emit(_ string, event webhook.Event) {
	n.hubs.mu.Lock()
	defer n.hubs.mu.Unlock()
	if n.hubs.alive[n.name] {
		n.hubs.emits = append(n.hubs.emits, event.String())
	}
}

// Observe implements Webhooks.
func (n *hubNode) Observe(string, webhook.Event) {}

// webhooks returns what was emitted since the last call, in the order of the text.
func (hs *hubs) webhooks() []string {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	list := hs.emits
	hs.emits = nil
	slices.Sort(list)
	return list
}

// countingSignal counts the messages that its subscriptions receive, by subject.
type countingSignal struct {
	fabric.Signal
	mu       sync.Mutex // guards received
	received map[string]int
}

func (s *countingSignal) Subscribe(
	subject string, handler func(fabric.Message), options ...fabric.SubscribeOption,
) (fabric.Subscription, error) {
	return s.Signal.Subscribe(subject, func(m fabric.Message) {
		s.mu.Lock()
		if s.received == nil {
			s.received = make(map[string]int)
		}
		s.received[m.Subject]++
		s.mu.Unlock()
		handler(m)
	}, options...)
}

func (s *countingSignal) total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, count := range s.received {
		n += count
	}
	return n
}

// gatedCache is a cache whose Get first reads and then waits for the gate, and which fails while
// it is told to.
type gatedCache struct {
	fabric.Cache
	gate chan struct{} // nil for no wait
	err  atomic.Pointer[error]
	gets atomic.Int64
}

// fails has every operation fail with err; nil for none.
func (c *gatedCache) fails(err error) { c.err.Store(&err) }

func (c *gatedCache) failure() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

func (c *gatedCache) Get(ctx context.Context, key string) ([]byte, error) {
	c.gets.Add(1)
	value, err := c.Cache.Get(ctx, key)
	if c.gate != nil {
		<-c.gate
	}
	if failure := c.failure(); failure != nil {
		return nil, failure
	}
	return value, err
}

func (c *gatedCache) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	if err := c.failure(); err != nil {
		return err
	}
	return c.Cache.Set(ctx, key, value, ttl)
}

// ear is a client. It keeps what it hears, and what it knows of presence channels by that.
type ear struct {
	hubs   *hubs
	client *client

	mu      sync.Mutex // guards the following fields
	frames  []string
	members map[string]map[string]string // channel, user, info
	online  map[string]bool              // watched users
	problem string
	closed  int // close code
}

func (e *ear) SetTimer(time.Duration) {}
func (e *ear) Idle() time.Duration    { return 0 }

func (e *ear) Close(code int, _ string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = code
}

// closedWith is the code it was closed with, 0 for none.
func (e *ear) closedWith() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

func (e *ear) Send(f *websocket.Frame) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed != 0 {
		return false
	}
	var m struct{ Event, Channel, Data string }
	if err := json.Unmarshal(f.Payload(), &m); err != nil {
		// Errors and client events have data that is no string.
		m.Event = ""
	}
	switch m.Event {
	case protocol.EventConnectionEstablished, protocol.EventSigninSuccess:
		return true
	}
	e.frames = append(e.frames, string(f.Payload()))
	e.learn(m.Event, m.Channel, m.Data)
	return true
}

// learn follows what pusher-js makes of a frame.
func (e *ear) learn(event, channel, data string) {
	var d struct {
		UserID   string          `json:"user_id"`
		Info     json.RawMessage `json:"user_info"`
		Presence struct {
			Hash map[string]json.RawMessage
		}
		Events []struct {
			Name    string
			UserIDs []string `json:"user_ids"`
		}
	}
	_ = json.Unmarshal([]byte(data), &d)
	switch event {
	case protocol.EventSubscriptionSucceeded:
		e.members[channel] = make(map[string]string)
		for user, info := range d.Presence.Hash {
			e.members[channel][user] = string(info)
		}
	case protocol.EventMemberAdded:
		if _, there := e.members[channel][d.UserID]; there {
			e.problem = "added twice: " + data
		}
		e.members[channel][d.UserID] = string(d.Info)
	case protocol.EventMemberRemoved:
		if _, there := e.members[channel][d.UserID]; !there {
			e.problem = "removed twice: " + data
		}
		delete(e.members[channel], d.UserID)
	case protocol.EventWatchlist:
		for _, change := range d.Events {
			for _, id := range change.UserIDs {
				if was, known := e.online[id]; known && was == (change.Name == "online") {
					e.problem = "told twice: " + data
				}
				e.online[id] = change.Name == "online"
			}
		}
	}
}

// heard returns what came since the last call, a line each.
func (e *ear) heard() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	text := strings.Join(e.frames, "\n")
	e.frames = nil
	if e.problem != "" {
		e.hubs.t.Error(e.problem)
	}
	return text
}

// connect adds a client to a node.
func (n *hubNode) connect() *ear {
	e := &ear{hubs: n.hubs, members: make(map[string]map[string]string), online: make(map[string]bool)}
	e.client = n.Connection(n.hubs.app, "").(handler).client
	e.client.open(e)
	return e
}

func (e *ear) leave() {
	e.mu.Lock()
	e.closed = 1000
	e.mu.Unlock()
	e.client.closed()
}

func (e *ear) say(event string, data map[string]any) {
	raw, err := json.Marshal(map[string]any{"event": event, "data": data})
	e.hubs.must(err)
	e.client.message(raw)
}

// subscribe joins a channel; on presence channels with the user's id and info, if any.
func (e *ear) subscribe(channel string, member ...string) *ear {
	data := map[string]any{"channel": channel}
	if protocol.KindOf(channel).Signed() {
		text := ""
		if len(member) > 0 {
			text = fmt.Sprintf(`{"user_id":%q,"user_info":%q}`, member[0], strings.Join(member[1:], ""))
			data["channel_data"] = text
		}
		data["auth"] = "key:" + protocol.Sign("secret", protocol.SubscriptionText(e.client.session.ID, channel, text))
	}
	e.say(protocol.EventSubscribe, data)
	return e
}

func (e *ear) unsubscribe(channel string) {
	e.say(protocol.EventUnsubscribe, map[string]any{"channel": channel})
}

func (e *ear) signin(user string, watchlist ...string) *ear {
	raw, err := json.Marshal(map[string]any{"id": user, "watchlist": watchlist})
	e.hubs.must(err)
	e.say(protocol.EventSignin, map[string]any{
		"user_data": string(raw),
		"auth":      "key:" + protocol.Sign("secret", protocol.SigninText(e.client.session.ID, string(raw))),
	})
	return e
}

func (n *hubNode) publish(channel, data string, except ...string) {
	n.Publish(n.hubs.app, Event{Name: "ev", Data: data, Channel: channel, SocketID: strings.Join(except, "")})
}

// event is the frame of publish.
func event(channel, data string) string {
	return string(protocol.AppendEvent(nil, "ev", channel, data, ""))
}
