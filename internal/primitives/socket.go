package primitives

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

const (
	// maxSocketFrame is the size of the largest frame that a subscriber may send, which has nothing
	// to say but control frames.
	maxSocketFrame = 4 << 10
	// socketTimeout is how long a subscriber may be silent: it is pinged each aliveInterval.
	socketTimeout = 3 * aliveInterval
)

// serveSocket sends events over a WebSocket, each as a text message. Refusals were told before the
// upgrade, as HTTP.
func (s *Server) serveSocket(w http.ResponseWriter, r *request, sub subscription, t *tail) error {
	upgrader := ws.HTTPUpgrader{Timeout: writeTimeout}
	conn, buffered, _, err := upgrader.Upgrade(r.Request, w)
	if err != nil { // it was answered
		if conn != nil {
			_ = conn.Close()
		}
		s.options.Metrics.answered("GET signals/subscribe", http.StatusBadRequest)
		return nil
	}
	s.options.Metrics.answered("GET signals/subscribe", http.StatusSwitchingProtocols)
	defer func() { _ = conn.Close() }() // the client may have gone
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil // it has gone
	}
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	defer context.AfterFunc(s.life, func() { _ = conn.Close() })()
	out := &socket{conn: conn}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer cancel()
		out.read(buffered.Reader)
	}()
	s.follow(ctx, sub, t, out)
	_ = conn.SetReadDeadline(time.Now().Add(time.Second)) // for the answer to the close frame
	<-read
	return nil
}

// socket is the sink of a WebSocket.
type socket struct {
	conn net.Conn

	mu     sync.Mutex // held while a frame is written
	closed bool       // a close frame was written
}

// send implements sink.
func (c *socket) send(events []event) error {
	for _, e := range events {
		body, err := encodeEvent(e)
		if err == nil {
			err = c.write(ws.NewTextFrame(body))
		}
		if err == nil && e.Type == eventEnd {
			err = c.write(ws.NewCloseFrame(ws.NewCloseFrameBody(closeCodes[e.Reason], e.Reason)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// closeCodes are those of the close frame by the reason for the end.
var closeCodes = map[string]ws.StatusCode{
	endLeaving: ws.StatusGoingAway,
	endRevoked: ws.StatusPolicyViolation,
	endStore:   1013, // try again later
}

// alive implements sink, by a ping.
func (c *socket) alive() error { return c.write(ws.NewPingFrame(nil)) }

func (c *socket) write(f ws.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = f.Header.OpCode == ws.OpClose
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return ws.WriteFrame(c.conn, f)
}

// read reads until the client closes, goes or breaks the rules.
func (c *socket) read(r *bufio.Reader) {
	for {
		if err := c.readFrame(r); err != nil {
			return
		}
		if err := c.conn.SetReadDeadline(time.Now().Add(socketTimeout)); err != nil {
			return
		}
	}
}

var errSocket = errors.New("the client breaks the rules of WebSocket")

// readFrame reads a frame and answers it, if it wants an answer.
func (c *socket) readFrame(r *bufio.Reader) error {
	header, err := ws.ReadHeader(r)
	if err != nil {
		return err
	}
	if header.Length > maxSocketFrame || !header.Masked || header.OpCode.IsControl() && (header.Length > 125 || !header.Fin) {
		_ = c.write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusPolicyViolation, "a subscriber has nothing to say")))
		return errSocket
	}
	body := make([]byte, header.Length)
	if _, err := io.ReadFull(r, body); err != nil {
		return err
	}
	ws.Cipher(body, header.Mask, 0)
	switch header.OpCode {
	case ws.OpPing:
		return c.write(ws.NewPongFrame(body))
	case ws.OpClose:
		_ = c.write(ws.NewCloseFrame(body[:min(len(body), 2)])) // or it was the answer to ours
		return io.EOF
	}
	return nil
}
