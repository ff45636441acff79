package transport

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// Handler is what a surface does with one connection. Open, Message and Closed are called
// one at a time and in order, on the connection's event loop or goroutine: they must not
// wait. Expired is called on the timers' goroutine and may run beside them; when the
// connection ends at that very moment it may still be running after Closed.
type Handler interface {
	// Open is called once, before any message.
	Open(c *Conn)
	// Message is called for each text message. It is valid only during the call.
	Message(c *Conn, text []byte)
	// Expired is called when the timer of SetTimer goes off.
	Expired(c *Conn)
	// Closed is called once at the end, whoever closed. After it nothing is called.
	Closed(c *Conn)
}

// BinaryHandler is a Handler of a protocol that has binary messages, or none at all but a stream of
// bytes. A Handler that is none refuses binary messages.
type BinaryHandler interface {
	Handler
	// Binary is called for each binary message, or for bytes of a stream as they come. They are valid
	// only during the call.
	Binary(c *Conn, data []byte)
}

// Conn is one upgraded connection, or one that is a stream of bytes. Its methods may be called from any goroutine.
type Conn struct {
	server  *Server
	handler Handler
	link    link
	stream  bool  // no WebSocket frames: bytes in and out
	limit   int64 // bytes of one incoming message; 0 for what the server says

	lastInbound atomic.Int64 // when bytes came from the peer last, in ns since wheel.started
	timer       wheelTimer   // owned by the wheel

	// mu guards the following fields.
	mu        sync.Mutex
	queue     *outgoing // attached only while frames wait
	state     connState
	scheduled bool // the link was told that frames wait
	inHandler bool // the loop is in a handler of this Conn and flushes after it
	deflate   bool // permessage-deflate was negotiated; set before use, then constant

	decoder websocket.Decoder // used by the connection's loop or goroutine only
	handed  atomic.Int64      // bytes that the link took and has not written; the loop sets it
	stalled time.Time         // since when its socket takes nothing; loop only
}

type connState uint8

const (
	stateOpen    connState = iota
	stateClosing           // our close frame waits or was sent; the peer may still answer
	stateEnding            // to be cut as soon as what waits is written
	stateClosed
)

// link is a connection's socket: in an event loop or with a goroutine.
type link interface {
	// schedule arranges for Conn.take to be called and its frames to be written, soon, on
	// the link's own goroutine. It is called with Conn.mu held.
	schedule(c *Conn)
	// flush writes what waits, or begins to. It is called on the link's own goroutine.
	flush(c *Conn)
	// cut closes the socket, soon; Handler.Closed follows.
	cut(c *Conn)
}

// ownReplies is how many times MaxQueue the answers to a client's own messages may take. It
// asked for them, perhaps in one burst after connecting, and cutting it off makes it come
// back and ask again.
const ownReplies = 4

// flushSize is the size in bytes from which answers are written while the messages that came
// with one read are still being handled.
const flushSize = 64 << 10

// outgoing is a queue of frames.
type outgoing struct {
	frames []*websocket.Frame
	bytes  int64
}

var outgoingPool = sync.Pool{New: func() any { return &outgoing{frames: make([]*websocket.Frame, 0, 8)} }}

// maxPooledFrames keeps one burst from holding a large queue for ever.
const maxPooledFrames = 1024

func releaseOutgoing(q *outgoing) {
	if cap(q.frames) > maxPooledFrames {
		return
	}
	clear(q.frames)
	q.frames, q.bytes = q.frames[:0], 0
	outgoingPool.Put(q)
}

// Send queues a frame and returns; it never waits for the peer. It returns false when the
// connection is closing, or when the frame did not fit its queue, which closes it.
func (c *Conn) Send(f *websocket.Frame) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen {
		c.server.options.Dropped(DropSendClosed)
		return false
	}
	if waiting := c.waiting(); waiting > 0 && waiting+int64(f.Size()) > c.queueLimit() {
		c.overflow()
		return false
	}
	c.enqueue(f)
	return true
}

// Waiting returns how many bytes wait for the peer.
func (c *Conn) Waiting() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting()
}

// waiting returns how many bytes wait for the peer; c.mu is held.
func (c *Conn) waiting() int64 {
	n := c.handed.Load()
	if c.queue != nil {
		n += c.queue.bytes
	}
	return n
}

// queueLimit returns how many bytes may wait; c.mu is held.
func (c *Conn) queueLimit() int64 {
	if c.inHandler {
		return ownReplies * c.server.options.MaxQueue
	}
	return c.server.options.MaxQueue
}

// enqueue appends f; c.mu is held.
func (c *Conn) enqueue(f *websocket.Frame) {
	if c.queue == nil {
		c.queue = outgoingPool.Get().(*outgoing)
	}
	size := int64(f.Size())
	c.queue.frames = append(c.queue.frames, f)
	c.queue.bytes += size
	c.server.backlog.add(size)
	if !c.scheduled && !c.inHandler {
		c.scheduled = true
		c.link.schedule(c)
	}
}

// overflow gives up a consumer that is too slow: what waits is dropped, since the peer has
// to fetch the present state anyway when it comes back. c.mu is held.
func (c *Conn) overflow() {
	c.server.options.Dropped(DropSlowConsumer)
	if c.queue != nil {
		c.server.backlog.add(-c.queue.bytes)
		clear(c.queue.frames)
		c.queue.frames, c.queue.bytes = c.queue.frames[:0], 0
	}
	c.close(c.server.options.OverflowCode, c.server.options.OverflowReason)
}

// stallTimeout is after how long a connection whose socket takes nothing is given up: in an
// event loop only when publishers wait for the backlog, since one dead client must not hold
// up everybody; by a goroutine in any case. It is shorter than publishers wait.
const stallTimeout = 3 * time.Second

// giveUp cuts a connection whose socket takes nothing, so that no close frame would arrive
// either.
func (c *Conn) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state < stateEnding {
		c.server.options.Dropped(DropSlowConsumer)
		c.state = stateEnding
		c.link.cut(c)
	}
}

// Close sends a close frame behind what waits and cuts the connection when the peer has
// answered, at the latest after CloseTimeout. Further calls do nothing.
func (c *Conn) Close(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateOpen {
		c.close(code, reason)
	}
}

func (c *Conn) close(code int, reason string) {
	if c.stream { // it has no close frame
		c.state = stateEnding
		if !c.scheduled && !c.inHandler {
			c.scheduled = true
			c.link.schedule(c)
		}
		c.server.wheel.set(c, c.server.options.CloseTimeout)
		return
	}
	c.state = stateClosing
	c.enqueue(websocket.NewCloseFrame(code, reason))
	c.server.wheel.set(c, c.server.options.CloseTimeout)
}

// Cut closes the socket without a close frame.
func (c *Conn) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateClosed {
		c.state = stateEnding
		c.link.cut(c)
	}
}

// SetTimer has Handler.Expired called once after d, to the precision of 100 ms; 0 disarms.
func (c *Conn) SetTimer(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateOpen {
		c.server.wheel.set(c, d)
	}
}

// Idle returns how long nothing came from the peer.
func (c *Conn) Idle() time.Duration {
	return time.Since(c.server.wheel.started) - time.Duration(c.lastInbound.Load())
}

// expired is called by the wheel.
func (c *Conn) expired() {
	c.mu.Lock()
	state, fire := c.state, c.server.wheel.fire(c)
	c.mu.Unlock()
	if !fire {
		return // it was set anew in the meantime
	}
	switch state {
	case stateOpen:
		c.handler.Expired(c)
	case stateClosing, stateEnding:
		c.link.cut(c)
	}
}

// open starts the conversation; the link calls it once, on its goroutine.
func (c *Conn) open(early []byte) {
	c.lastInbound.Store(int64(time.Since(c.server.wheel.started)))
	c.setInHandler(true)
	c.handler.Open(c)
	c.setInHandler(false)
	if len(early) > 0 {
		c.receive(early)
	}
}

func (c *Conn) setInHandler(in bool) {
	c.mu.Lock()
	c.inHandler = in
	c.mu.Unlock()
}

// receive takes bytes from the peer, which it may change. The link must flush afterwards:
// replies are not scheduled while the handler runs.
func (c *Conn) receive(data []byte) {
	c.lastInbound.Store(int64(time.Since(c.server.wheel.started)))
	c.mu.Lock()
	c.inHandler = true
	ended := c.state >= stateEnding
	c.mu.Unlock()
	defer c.setInHandler(false)
	if ended {
		return // after its close frame or a violation a peer has nothing more to say
	}
	if c.stream {
		c.handler.(BinaryHandler).Binary(c, data)
		return
	}
	rules := c.server.rules
	rules.Compression = c.deflate
	if c.limit > 0 {
		rules.MaxMessage = c.limit
	}
	err := c.decoder.Feed(data, rules, c.message)
	if err == nil {
		return
	}
	var violation *websocket.Error
	if errors.As(err, &violation) {
		c.server.options.Dropped(violation.Cause)
		c.end(violation.Code, violation.Detail)
	}
	c.decoder = websocket.Decoder{}
}

// errEnded stops the decoder after the peer's close frame.
var errEnded = errors.New("closed by peer")

func (c *Conn) message(op websocket.Opcode, payload []byte) error {
	switch op {
	case websocket.Close:
		code, _ := websocket.ParseClose(payload)
		if code == noStatus {
			code = websocket.CodeNormal
		}
		c.end(code, "")
		return errEnded
	case websocket.Pong:
		return nil
	case websocket.Binary:
		if _, takes := c.handler.(BinaryHandler); takes {
			break
		}
		c.server.options.Dropped(DropBinary)
		c.end(closeUnsupportedData, "binary messages are not supported")
		return errEnded
	}
	c.mu.Lock()
	open := c.state == stateOpen
	c.mu.Unlock()
	switch {
	case !open: // what comes behind our close frame is not answered
	case op == websocket.Ping:
		c.Send(websocket.NewControlFrame(websocket.Pong, payload))
	case op == websocket.Binary:
		c.handler.(BinaryHandler).Binary(c, payload)
		c.flushMuch()
	default:
		c.handler.Message(c, payload)
		c.flushMuch()
	}
	return nil
}

// flushMuch writes answers while further messages of the same read are still to be handled.
func (c *Conn) flushMuch() {
	c.mu.Lock()
	much := c.queue != nil && c.queue.bytes >= flushSize
	c.mu.Unlock()
	if much {
		c.link.flush(c)
	}
}

const (
	noStatus             = 1005
	closeUnsupportedData = 1003
)

// end answers the peer's close frame or violation and cuts once the answer is written.
func (c *Conn) end(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateOpen {
		c.close(code, reason)
	}
	if c.state == stateClosing {
		c.state = stateEnding
		if !c.scheduled && !c.inHandler {
			c.scheduled = true
			c.link.schedule(c)
		}
	}
}

// take hands the waiting frames to the link, which gives the queue back with
// releaseOutgoing, and tells whether to cut after writing them.
func (c *Conn) take() (q *outgoing, cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q, c.queue = c.queue, nil
	c.scheduled = false
	return q, c.state == stateEnding
}

// closed ends the conversation; the link calls it once, on its goroutine.
func (c *Conn) closed() {
	c.mu.Lock()
	c.state = stateClosed
	if c.queue != nil {
		c.server.backlog.add(-c.queue.bytes)
		releaseOutgoing(c.queue)
		c.queue = nil
	}
	c.server.wheel.set(c, 0)
	c.mu.Unlock()
	c.server.count.Add(-1)
	c.handler.Closed(c)
}
