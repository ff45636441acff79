package transport

import (
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// streamLink is a Conn's socket with a goroutine that reads. A second one writes, only
// while frames wait.
type streamLink struct {
	conn net.Conn
	gone atomic.Bool
}

// streamBuffer is the bytes read at once.
const streamBuffer = 4 << 10

// writeChunk is the bytes written at once, which a peer has stallTimeout to make room for.
// It is the size of a TLS record.
const writeChunk = 16 << 10

// runStream serves c until its socket ends. It is the connection's goroutine.
func (s *Server) runStream(c *Conn, k *streamLink, early []byte) {
	defer s.streams.Done()
	defer s.leave(c)
	c.open(early)
	k.flush(c)
	buf := make([]byte, streamBuffer)
	for !k.gone.Load() {
		n, err := k.conn.Read(buf)
		if n > 0 {
			c.receive(buf[:n])
			k.flush(c)
		}
		if err != nil {
			break
		}
	}
	_ = k.conn.Close() // the peer is gone or about to be; nothing depends on the answer
	c.closed()
}

// flush starts a writer if something waits.
func (k *streamLink) flush(c *Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.scheduled && (c.queue != nil || c.state == stateEnding) {
		c.scheduled = true
		k.schedule(c)
	}
}

func (k *streamLink) schedule(c *Conn) {
	c.server.streams.Add(1)
	go func() {
		defer c.server.streams.Done()
		k.write(c)
	}()
}

// longAgo as a deadline ends every wait for the socket.
var longAgo = time.Unix(1, 0)

// cut wakes the reader, which closes the socket and ends the conversation. It does not close
// the socket itself: TLS waits for its farewell to be written, and the caller may be the
// timers' goroutine.
func (k *streamLink) cut(*Conn) {
	k.gone.Store(true)
	_ = k.conn.SetDeadline(longAgo)
}

// write drains the queue. scheduled stays set until it is empty, so there is one writer.
func (k *streamLink) write(c *Conn) {
	for {
		c.mu.Lock()
		q, cut := c.queue, c.state == stateEnding
		c.queue = nil
		if q == nil {
			c.scheduled = false
		}
		c.mu.Unlock()
		if q != nil {
			k.writeAll(c, q)
			continue
		}
		if cut {
			k.cut(c)
		}
		return
	}
}

func (k *streamLink) writeAll(c *Conn, q *outgoing) {
	defer releaseOutgoing(q)
	defer c.server.backlog.add(-q.bytes)
	// One buffer rather than net.Buffers: a TLS connection would send a record for each.
	wire := make([]byte, 0, q.bytes)
	for _, f := range q.frames {
		wire = append(wire, f.Wire(c.deflate)...)
	}
	for len(wire) > 0 {
		n := min(len(wire), writeChunk)
		_ = k.conn.SetWriteDeadline(time.Now().Add(stallTimeout)) // a closed socket fails the write
		if k.gone.Load() {                                        // cut, perhaps just before the deadline was set anew
			return
		}
		if _, err := k.conn.Write(wire[:n]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.server.options.Dropped(DropSlowConsumer)
			}
			k.cut(c)
			return
		}
		wire = wire[n:]
	}
}
