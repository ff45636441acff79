//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// client is one connection that records everything it hears.
type client struct {
	name  string
	app   app
	user  string // of its presence channels
	node  *node
	conn  net.Conn
	ended chan struct{} // closed when the connection is gone

	writing sync.Mutex

	mu       sync.Mutex // guards the following fields
	changed  chan struct{}
	socket   string
	joined   map[string]time.Time // when each subscription succeeded
	initial  map[string][]string  // the users that it brought
	moves    []move
	online   []presenceOfUser
	ticks    map[string][]tick // by channel
	events   []frame           // all others of the app
	refused  []int             // codes of errors
	closed   time.Time         // zero while it is open
	why      error
	expected bool // the test closed it, or the process at its other end
}

// move is a member_added or member_removed.
type move struct {
	at      time.Time
	channel string
	user    string
	added   bool
}

// presenceOfUser is a watchlist event about one user.
type presenceOfUser struct {
	at     time.Time
	user   string
	online bool
}

// tick is one event of the traffic.
type tick struct {
	Publisher string `json:"publisher"`
	Seq       int    `json:"seq"`
	heard     time.Time
}

const tickEvent = "tick"

// answerLimit is how long a client waits for an answer of its node.
const answerLimit = 20 * time.Second

// refusal is the code of the error that a node has answered with in place of a greeting.
type refusal int

func (r refusal) Error() string { return fmt.Sprintf("refused with %d", int(r)) }

// dial connects a client and waits until the node has greeted it.
func dial(n *node, a app, name, user string) (*client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	conn, buffered, _, err := ws.Dial(ctx, "ws://"+n.address()+"/app/"+string(a)+"?protocol=7&client=faults")
	if err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", name, n.name, err)
	}
	c := &client{
		name: name, app: a, user: user, node: n, conn: conn, ended: make(chan struct{}), changed: make(chan struct{}),
		joined: map[string]time.Time{}, initial: map[string][]string{}, ticks: map[string][]tick{},
	}
	incoming := io.Reader(conn)
	if buffered != nil {
		incoming = buffered
	}
	go c.read(&stream{incoming, c})
	if !c.wait(answerLimit, func() bool { return c.socket != "" || len(c.refused) > 0 }) {
		c.close()
		return nil, fmt.Errorf("connect %s to %s: no greeting", name, n.name)
	}
	if codes := c.refusals(); len(codes) > 0 {
		c.close()
		return nil, fmt.Errorf("connect %s to %s: %w", name, n.name, refusal(codes[0]))
	}
	return c, nil
}

// connect dials and fails the test if that does not work.
func connect(t *testing.T, n *node, a app, name, user string) *client {
	t.Helper()
	c, err := dial(n, a, name, user)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

// stream is what a client reads: what came with the answer to the upgrade, then the rest.
type stream struct {
	io.Reader
	client *client
}

// Write is for the answers to control frames.
func (s *stream) Write(p []byte) (int, error) {
	s.client.writing.Lock()
	defer s.client.writing.Unlock()
	if err := s.client.conn.SetWriteDeadline(time.Now().Add(answerLimit)); err != nil {
		return 0, err
	}
	return s.client.conn.Write(p)
}

func (c *client) read(s *stream) {
	defer close(c.ended)
	for {
		text, err := wsutil.ReadServerText(s)
		if err != nil {
			c.mu.Lock()
			c.closed, c.why = time.Now(), err
			c.notify()
			c.mu.Unlock()
			_ = c.conn.Close() // it is of no use any more
			return
		}
		c.hear(text)
	}
}

// frame is a message of the Pusher protocol.
type frame struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// content is the frame's data: JSON, in most messages as a string.
func (f frame) content(into any) {
	var text string
	if json.Unmarshal(f.Data, &text) == nil {
		_ = json.Unmarshal([]byte(text), into) // the checks find what is missing
		return
	}
	_ = json.Unmarshal(f.Data, into)
}

func (c *client) hear(text []byte) {
	var f frame
	if json.Unmarshal(text, &f) != nil {
		return
	}
	if f.Event == "pusher:ping" {
		_ = c.send(frame{Event: "pusher:pong", Data: json.RawMessage("{}")}) // the reader sees an end
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.record(f)
	c.notify()
}

func (c *client) record(f frame) {
	now := time.Now()
	switch f.Event {
	case "pusher:connection_established":
		var greeting struct {
			SocketID string `json:"socket_id"`
		}
		f.content(&greeting)
		c.socket = greeting.SocketID
	case "pusher_internal:subscription_succeeded":
		var list struct{ Presence struct{ IDs []string } }
		f.content(&list)
		c.joined[f.Channel], c.initial[f.Channel] = now, list.Presence.IDs
	case "pusher_internal:member_added", "pusher_internal:member_removed":
		var member struct {
			UserID string `json:"user_id"`
		}
		f.content(&member)
		c.moves = append(c.moves, move{now, f.Channel, member.UserID, strings.HasSuffix(f.Event, "added")})
	case "pusher_internal:watchlist_events":
		var list struct {
			Events []struct {
				Name    string
				UserIDs []string `json:"user_ids"`
			}
		}
		f.content(&list)
		for _, event := range list.Events {
			for _, user := range event.UserIDs {
				c.online = append(c.online, presenceOfUser{now, user, event.Name == "online"})
			}
		}
	case tickEvent:
		var one tick
		f.content(&one)
		one.heard = now
		c.ticks[f.Channel] = append(c.ticks[f.Channel], one)
	case "pusher:error":
		var told struct{ Code int }
		f.content(&told)
		c.refused = append(c.refused, told.Code)
	default:
		c.events = append(c.events, f)
	}
}

// notify wakes those who wait. c.mu is held.
func (c *client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait returns when done, which is called with c.mu held, or the time is over.
func (c *client) wait(limit time.Duration, done func() bool) bool {
	timeout := time.After(limit)
	for {
		c.mu.Lock()
		is, changed := done(), c.changed
		c.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

func (c *client) send(f frame) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	return wsutil.WriteClientText(c.conn, text)
}

// ask asks for a subscription.
func (c *client) ask(channel string) error {
	data := map[string]string{"channel": channel}
	switch {
	case strings.HasPrefix(channel, "presence-"):
		member, err := json.Marshal(map[string]any{"user_id": c.user, "user_info": map[string]string{"name": c.user}})
		if err != nil {
			return err
		}
		data["channel_data"] = string(member)
		data["auth"] = string(c.app) + ":" + sign(c.socket+":"+channel+":"+string(member))
	case strings.HasPrefix(channel, "private-"):
		data["auth"] = string(c.app) + ":" + sign(c.socket+":"+channel)
	}
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return c.send(frame{Event: "pusher:subscribe", Data: text})
}

// subscribe subscribes to channels and waits for the answers.
func (c *client) subscribe(channels ...string) error {
	for _, channel := range channels {
		if err := c.ask(channel); err != nil {
			return fmt.Errorf("subscribe %s to %s: %w", c.name, channel, err)
		}
	}
	if !c.wait(answerLimit, func() bool {
		return !slices.ContainsFunc(channels, func(channel string) bool { return c.joined[channel].IsZero() })
	}) {
		return fmt.Errorf("subscribe %s to %v at %s: no answer", c.name, channels, c.node.name)
	}
	return nil
}

// signin signs in as the client's user, who watches others.
func (c *client) signin(watchlist ...string) error {
	user, err := json.Marshal(map[string]any{"id": c.user, "watchlist": watchlist})
	if err != nil {
		return err
	}
	text, err := json.Marshal(map[string]string{
		"user_data": string(user), "auth": string(c.app) + ":" + sign(c.socket+"::user::"+string(user)),
	})
	if err != nil {
		return err
	}
	return c.send(frame{Event: "pusher:signin", Data: text})
}

// close ends the connection and returns when nothing more is recorded.
func (c *client) close() {
	c.expect()
	_ = c.conn.Close() // it may be gone already
	<-c.ended
}

// refusals are the codes of the errors heard.
func (c *client) refusals() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.refused)
}

// expect says that the connection is to end.
func (c *client) expect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected = true
}
