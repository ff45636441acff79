package im

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/im/jsonrpc"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/wire"
	"github.com/parleyio/parley/internal/transport"
	"github.com/parleyio/parley/internal/transport/websocket"
)

// Limits of one connection.
const (
	maxInbox    = 2048      // packets that wait to be handled
	maxBuffer   = 64 << 10  // bytes of an incomplete frame before the login
	maxRPC      = 128 << 10 // bytes of a JSON-RPC message over TCP, which is read anew with each part of it
	maxLoginRPC = 4 << 10   // the same before the login
	maxUnacked  = 1024      // RECVs that are sent again when they are not confirmed
	// kickDelay is how long a client that was told to go may take to close.
	kickDelay = 2 * time.Second
	// loginTimeout bounds the time from a CONNECT to its CONNACK.
	loginTimeout = 4 * time.Second
)

// phase is how far a connection has come.
type phase uint8

const (
	phaseNew     phase = iota // nothing but a CONNECT may come
	phaseLogin                // a CONNECT is being handled
	phaseOpen                 // logged in
	phaseClosing              // told to go, or refused
)

// session is one connection of a client. Its transport.Handler methods run on the event loop and
// never wait; what may wait goes through the inbox, in order.
type session struct {
	server  *Server
	conn    *transport.Conn
	stream  bool // TCP; else WebSocket
	address string
	id      int64 // of the connection, on this node
	since   time.Time

	buffer []byte // an incomplete frame; event loop only
	meter  meter

	mu      sync.Mutex // guards the following fields
	inbox   []item
	waiting int // bytes in the inbox
	working bool
	phase   phase
	rpc     bool // JSON-RPC, decided by the first byte
	version uint8
	cipher  *wire.Cipher // nil when payloads are plain
	uid     string
	user    *user // while logged in
	flag    uint8
	level   uint8
	device  string
	sending int       // SENDs under way
	unacked []unacked // oldest first
	owed    int       // RECVACKs that the client has to send
	subs    map[message.Channel]struct{}
	early   []*message.Message // came before the CONNACK was written

	counts counts
}

// item is a packet that waits to be handled.
type item struct {
	packet  wire.Packet
	request string // id of the JSON-RPC request
	size    int    // bytes that it came in
}

// counts are what /connz shows of a connection; guarded by session.mu.
type counts struct {
	inMessages, outMessages         int64
	inMessageBytes, outMessageBytes int64
	inPackets, outPackets           int64
	inBytes, outBytes               int64
}

// unacked is a RECV that the client has not confirmed.
type unacked struct {
	message *message.Message
	at      time.Time // sent last
	tries   int
}

// NewSession returns the handler of a new connection. stream says that it is TCP.
func (s *Server) NewSession(address string, stream bool) transport.BinaryHandler {
	return &session{
		server: s, stream: stream, address: address, id: s.ids.next(time.Now()), since: time.Now(),
	}
}

// Open implements transport.Handler.
func (c *session) Open(conn *transport.Conn) {
	c.conn = conn
	conn.SetTimer(c.server.options.ConnectTimeout)
}

// Message implements transport.Handler: text is JSON-RPC.
func (c *session) Message(_ *transport.Conn, text []byte) { c.receive(text, true) }

// Binary implements transport.BinaryHandler.
func (c *session) Binary(_ *transport.Conn, data []byte) { c.receive(data, false) }

func (c *session) receive(data []byte, text bool) {
	c.mu.Lock()
	ended := c.phase == phaseClosing
	first := c.phase == phaseNew && len(c.buffer) == 0
	if first && c.server.options.JSONRPC {
		c.rpc = text || bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{"))
	}
	rpc := c.rpc
	c.counts.inBytes += int64(len(data))
	c.mu.Unlock()
	switch {
	case ended:
	case rpc:
		c.receiveRPC(data)
	case text:
		c.violation(dropFrame, "text is JSON-RPC, which is off")
	default:
		c.receiveFrames(data)
	}
}

// receiveFrames cuts frames from the bytes that came.
func (c *session) receiveFrames(data []byte) {
	waited := len(c.buffer) > 0
	if waited {
		c.buffer = append(c.buffer, data...)
		data = c.buffer
	}
	all := len(data)
	for len(data) > 0 {
		n, err := wire.Split(data)
		if err != nil {
			c.violation(dropFrame, err.Error())
			return
		}
		if n == 0 {
			break
		}
		p, err := wire.Decode(data[:n], c.protocol())
		if err != nil {
			c.violation(dropFrame, err.Error())
			return
		}
		data = data[n:]
		if !c.take(item{packet: p, size: n}) {
			return
		}
	}
	if len(data) > maxBuffer && c.at(phaseNew) {
		c.violation(dropFrame, "a CONNECT is not that large")
		return
	}
	switch {
	case len(data) == 0:
		c.buffer = nil // attached only while bytes wait
	case !waited || len(data) < all: // else it is there already
		c.buffer = append(c.buffer[:0:0], data...)
	}
}

// receiveRPC reads one JSON-RPC message, or on TCP as many as came whole.
func (c *session) receiveRPC(data []byte) {
	if len(c.buffer) > 0 {
		data = append(c.buffer, data...)
	}
	for {
		p, request, rest, err := jsonrpc.Decode(data)
		if errors.Is(err, jsonrpc.ErrIncomplete) && c.stream && len(rest) <= c.rpcLimit() {
			if c.flooded() { // each part has the message read anew
				return
			}
			c.buffer = append(c.buffer[:0:0], rest...)
			return
		}
		if err != nil {
			c.server.metrics.dropped(dropFrame)
			if c.flooded() {
				return
			}
			c.write(jsonrpc.Error(request, err))
			if !c.at(phaseOpen) {
				c.end()
			}
			c.buffer = nil
			return
		}
		if p == nil || !c.take(item{p, request, len(data) - len(rest)}) {
			c.buffer = nil
			return
		}
		data = rest
	}
}

// rpcLimit is how large an incomplete JSON-RPC message may get.
func (c *session) rpcLimit() int {
	if c.at(phaseOpen) {
		return maxRPC
	}
	return maxLoginRPC
}

func (c *session) protocol() uint8 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

func (c *session) at(p phase) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == p
}

// take handles a packet that needs no wait, and puts others into the inbox. It returns false when the
// conversation is over.
func (c *session) take(i item) bool {
	c.mu.Lock()
	c.counts.inPackets++
	switch now := c.phase; {
	case now == phaseClosing:
		c.mu.Unlock()
		return false
	case now == phaseNew:
		connect, is := i.packet.(*wire.Connect)
		if !is {
			c.mu.Unlock()
			c.violation(dropProtocol, "the first packet is no CONNECT")
			return false
		}
		c.phase = phaseLogin
		if !c.rpc {
			c.version = min(max(connect.Version, wire.VersionMin), wire.VersionMax)
		} else if connect.Version == 0 {
			c.version = wire.VersionLatest
		}
		c.conn.SetTimer(loginTimeout)
	}
	open := c.phase == phaseOpen
	_, owed := i.packet.(*wire.Recvack)
	if owed = owed && c.owed > 0; owed {
		c.owed--
	}
	c.mu.Unlock()
	if !owed && c.flooded() { // what is owed is as frequent as what the server sends
		return false
	}
	if open {
		switch p := i.packet.(type) {
		case *wire.Send:
			if c.fast() {
				c.refuse(p, i.request, dropSendRate)
				return true
			}
		case *wire.Ping:
			c.pong(i.request)
			return true
		case *wire.Recvack:
			c.acked(p)
			return true
		}
	}
	return c.enqueue(i)
}

// enqueue puts a packet into the inbox. When that is full a SEND is refused, and with other packets
// the connection ends.
func (c *session) enqueue(i item) bool {
	c.mu.Lock()
	if len(c.inbox) >= maxInbox || c.waiting > 0 && c.waiting+i.size > maxInboxBytes {
		open := c.phase == phaseOpen
		c.mu.Unlock()
		if p, is := i.packet.(*wire.Send); is && open {
			c.refuse(p, i.request, dropFlood)
			return true
		}
		c.violation(dropInbox, "too many packets at once")
		return false
	}
	c.inbox = append(c.inbox, i)
	c.waiting += i.size
	start := !c.working
	c.working = true
	c.mu.Unlock()
	if start {
		c.server.workers.add(c)
	}
	return true
}

// work handles what is in the inbox, up to maxTurn packets. It runs on one worker at a time.
func (c *session) work() {
	c.mu.Lock()
	list := c.inbox
	c.inbox = nil
	if len(list) > maxTurn {
		list, c.inbox = list[:maxTurn:maxTurn], list[maxTurn:]
	}
	c.mu.Unlock()
	handled := 0
	for _, i := range list {
		c.handle(i.packet, i.request)
		handled += i.size
	}
	clear(list) // its array may be that of the inbox
	c.mu.Lock()
	c.waiting -= handled
	c.working = len(c.inbox) > 0
	more := c.working
	c.mu.Unlock()
	if more { // others first: one that sends without a pause must not keep a worker
		c.server.workers.add(c)
	}
}

// handle does what a packet asks for.
func (c *session) handle(p wire.Packet, request string) {
	switch p := p.(type) {
	case *wire.Connect:
		if !c.at(phaseLogin) {
			c.violation(dropProtocol, "a second CONNECT")
			return
		}
		c.login(p, request)
	case *wire.Send:
		c.send(p, request)
	case *wire.Sub:
		c.subscribe(p, request)
	case *wire.Ping:
		c.pong(request)
	case *wire.Recvack:
		c.acked(p)
	case *wire.Disconnect:
		c.end()
	default:
		c.violation(dropProtocol, "a packet of the server's")
	}
}

// violation ends a connection whose client does not keep to the protocol.
func (c *session) violation(reason, detail string) {
	c.server.metrics.dropped(reason)
	c.server.options.Logger.Debug("connection ended", "reason", reason, "detail", detail, "address", c.address)
	c.end()
}

// end closes the connection behind what waits to be written.
func (c *session) end() {
	c.mu.Lock()
	c.phase = phaseClosing
	c.mu.Unlock()
	c.conn.Close(websocket.CodeNormal, "")
}

// disconnect tells the client why it has to go, and closes a little later if it does not.
func (c *session) disconnect(reason wire.Reason, text string, delay time.Duration) {
	c.mu.Lock()
	closing := c.phase == phaseClosing
	c.phase = phaseClosing
	c.mu.Unlock()
	if closing {
		return
	}
	c.server.metrics.kicks.Inc()
	c.write(c.encode(&wire.Disconnect{Reason: reason, Text: text}, ""))
	c.conn.SetTimer(delay)
}

// pong answers a ping.
func (c *session) pong(request string) { c.write(c.encode(&wire.Pong{}, request)) }

// Expired implements transport.Handler.
func (c *session) Expired(conn *transport.Conn) {
	c.mu.Lock()
	now := c.phase
	c.mu.Unlock()
	switch now {
	case phaseNew, phaseLogin:
		c.server.metrics.dropped(dropFirstFrame)
	case phaseClosing:
	case phaseOpen:
		if idle := conn.Idle(); idle < c.server.options.IdleTimeout {
			conn.SetTimer(c.server.options.IdleTimeout - idle)
			return
		}
		c.server.metrics.dropped(dropIdle)
	}
	c.end()
}

// Closed implements transport.Handler.
func (c *session) Closed(*transport.Conn) {
	c.mu.Lock()
	c.phase = phaseClosing
	c.unacked = nil
	c.inbox = nil
	c.mu.Unlock()
	c.server.hub.remove(c)
}

// encode returns a packet as the client reads it. request is the number of the JSON-RPC request that
// it answers, if it does.
func (c *session) encode(p wire.Packet, request string) []byte {
	c.mu.Lock()
	rpc, version := c.rpc, c.version
	c.mu.Unlock()
	if rpc {
		return jsonrpc.Encode(p, request)
	}
	return wire.Append(nil, p, version)
}

// write queues what encode returned.
func (c *session) write(data []byte) bool {
	var f *websocket.Frame
	c.mu.Lock()
	rpc := c.rpc
	c.counts.outPackets++
	c.counts.outBytes += int64(len(data))
	c.mu.Unlock()
	switch {
	case c.stream && rpc:
		f = websocket.NewBytes(append(data, '\n'))
	case c.stream:
		f = websocket.NewBytes(data)
	case rpc:
		f = websocket.NewFrame(data)
	default:
		f = websocket.NewBinaryFrame(data)
	}
	return c.conn.Send(f)
}

func connText(id int64) string { return strconv.FormatInt(id, 36) }
