package pusher

import (
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/transport"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// client is one connected client: its protocol session and its connection. It is the
// connection's transport.Handler.
type client struct {
	realm   *realm
	conn    Conn
	session protocol.Session

	authorized atomic.Bool // signed in, or subscribed with a signature
	pinged     time.Time   // when it was asked whether it is there, zero if not; used by the timer only
	admitted   bool        // within the quotas; used by the connection only
	opened     time.Time
}

// Refusal is why a connection is not served: an error of the protocol and its close code.
type Refusal struct {
	Code   int
	Reason string
	Metric string // label of connection_errors_total
}

// refused is the handler of a connection that gets its refusal and is closed.
type refused struct{ why Refusal }

func (r refused) Open(c *transport.Conn) {
	c.Send(websocket.NewFrame(protocol.Failure(r.why.Code, r.why.Reason, "")))
	c.Close(r.why.Code, r.why.Reason)
}
func (refused) Message(*transport.Conn, []byte) {}
func (refused) Expired(*transport.Conn)         {}
func (refused) Closed(*transport.Conn)          {}

// Refuse returns the handler for a connection that is not to be served.
func (h *Hub) Refuse(appID string, why Refusal) transport.Handler {
	h.metrics.connectionError(appID, why.Metric)
	return refused{why}
}

// RefuseStarting returns the handler for a connection to a node that does not serve yet: the
// client shall come back after a moment, which is what 4100 says.
func RefuseStarting() transport.Handler {
	return refused{Refusal{Code: protocol.CodeOverCapacity, Reason: "The server is starting, connect again"}}
}

// handler adapts a client to the transport: the connection is known only when it opens.
type handler struct{ *client }

func (h handler) Open(c *transport.Conn)                 { h.client.open(c) }
func (h handler) Message(_ *transport.Conn, text []byte) { h.client.message(text) }
func (h handler) Expired(*transport.Conn)                { h.client.expired() }
func (h handler) Closed(*transport.Conn)                 { h.client.closed() }

func (c *client) open(conn Conn) {
	h := c.realm.hub
	c.conn = conn
	c.session.Peer = conn
	c.session.ID = newSocketID()
	c.opened = h.options.Now()
	if max := h.options.MaxConnections; max > 0 && h.Connections() >= max {
		c.refuse(Refusal{protocol.CodeOverCapacity, "The server is over capacity", "over_capacity"})
		return
	}
	if why, added := c.realm.add(c); !added {
		c.refuse(why)
		return
	}
	c.admitted = true
	c.realm.stats.connected()
	c.reply(protocol.Established(c.session.ID, int(h.options.ActivityTimeout/time.Second)))
	c.conn.SetTimer(c.nextCheck())
}

func (c *client) refuse(why Refusal) {
	c.realm.hub.metrics.connectionError(c.realm.id, why.Metric)
	c.fail(why.Code, why.Reason)
}

// fail sends an error and closes with the same code; clients read one or the other.
func (c *client) fail(code int, reason string) {
	c.conn.Send(websocket.NewFrame(protocol.Failure(code, reason, "")))
	c.conn.Close(code, reason)
}

func (c *client) message(text []byte) {
	c.realm.stats.received(len(text))
	if !c.admitted {
		return
	}
	c.apply(c.session.Receive(c.realm.policy.Load(), c.realm.hub.options.Now(), text))
}

func (c *client) apply(effects []protocol.Effect) {
	for _, effect := range effects {
		switch e := effect.(type) {
		case protocol.Reply:
			c.reply(e.Payload)
		case protocol.Reject:
			c.realm.hub.metrics.rejected(e.Reason)
			c.reply(e.Payload)
		case protocol.Subscribe:
			c.realm.join(c, e.Channel, e.Member)
		case protocol.Unsubscribe:
			c.realm.leave(c, e.Subscription)
		case protocol.Forward:
			c.realm.forward(c, e)
		case protocol.Signin:
			c.signin(e)
		case protocol.Disconnect:
			c.conn.Close(e.Code, e.Reason)
		}
	}
}

func (c *client) signin(e protocol.Signin) {
	c.session.User = e.User
	c.authorized.Store(true)
	c.reply(e.Payload)
	c.realm.users.signin(c, e.User)
}

func (c *client) reply(payload []byte) { c.send(websocket.NewFrame(payload)) }

func (c *client) send(frame *websocket.Frame) {
	if c.conn.Send(frame) {
		c.realm.stats.sent(1, frame.Size())
	}
}

// forward delivers a client event to the others of its channel.
func (r *realm) forward(c *client, e protocol.Forward) {
	room := r.rooms.acquire(e.Subscription.Room.Channel)
	defer r.rooms.release(room)
	payload := protocol.ForwardPayload(e)
	if r.hub.cluster != nil {
		r.sendElsewhere(room.Channel, fromClient, nil, payload)
	}
	r.broadcast(room, websocket.NewFrame(payload), &c.session)
	r.emit(room, webhook.ClientEvent(room.Channel, e.Event, dataText(e.Data), c.session.ID, e.UserID))
}

// dataText is a client event's data as a string: the text of a JSON string, the JSON of
// anything else.
func dataText(data []byte) string {
	var text string
	if len(data) > 0 && data[0] == '"' && json.Unmarshal(data, &text) == nil {
		return text
	}
	return string(data)
}

// nextCheck returns when the connection has to be looked at again if nothing happens.
func (c *client) nextCheck() time.Duration {
	h := c.realm.hub
	next := h.options.ActivityTimeout - c.conn.Idle()
	if !c.pinged.IsZero() {
		next = h.options.PongTimeout - h.options.Now().Sub(c.pinged)
	}
	if left, due := c.authorizationLeft(); due {
		next = min(next, left)
	}
	return max(next, 100*time.Millisecond)
}

// authorizationLeft tells how much time the client has to authorise itself, if it must.
func (c *client) authorizationLeft() (left time.Duration, due bool) {
	h := c.realm.hub
	if h.options.UserAuthenticationTimeout <= 0 || c.authorized.Load() || !c.realm.policy.Load().UserAuthentication {
		return 0, false
	}
	return h.options.UserAuthenticationTimeout - h.options.Now().Sub(c.opened), true
}

// expired looks after a silent connection.
func (c *client) expired() {
	h := c.realm.hub
	if left, due := c.authorizationLeft(); due && left <= 0 {
		h.metrics.rejected("authorization_timeout")
		c.fail(protocol.CodeUnauthorized, "Connection not authorized within timeout.")
		return
	}
	now, idle := h.options.Now(), c.conn.Idle()
	if !c.pinged.IsZero() && idle < now.Sub(c.pinged) {
		c.pinged = time.Time{} // something came since
	}
	switch {
	case !c.pinged.IsZero() && now.Sub(c.pinged) >= h.options.PongTimeout:
		h.metrics.rejected("pong_timeout")
		c.fail(protocol.CodePongTimeout, "Pong reply not received in time")
		return
	case c.pinged.IsZero() && idle >= h.options.ActivityTimeout:
		c.pinged = now
		c.reply(protocol.Ping())
	}
	c.conn.SetTimer(c.nextCheck())
}

func (c *client) closed() {
	if !c.admitted {
		return
	}
	c.session.Each(func(s *protocol.Subscription) { c.realm.leave(c, s) })
	if c.session.User != nil {
		c.realm.users.signout(c, c.session.User)
	}
	c.realm.remove(c)
	c.realm.stats.disconnected()
}
