package transport

import (
	"bufio"
	"bytes"
	"compress/flate"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// client is a WebSocket client that can misbehave.
type client struct {
	t    *testing.T
	raw  net.Conn // the socket
	conn net.Conn // raw, or TLS over it
	in   *bufio.Reader

	extensions string // what the server agreed to
	compressed bool   // whether the last frame was
}

// dialing says how a client connects.
type dialing struct {
	extensions string // offered
	early      []byte // sent in one piece with the request
}

const request = "GET /app HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

const proxyHeader = "PROXY TCP4 192.0.2.7 192.0.2.8 4711 80\r\n"

// open connects without a handshake.
func (r *rig) open() (*client, error) {
	addr := r.http.Listener.Addr()
	raw, err := net.DialTimeout(addr.Network(), addr.String(), patience)
	if err != nil {
		return nil, err
	}
	if tcp, ok := raw.(*net.TCPConn); ok && r.setup.smallBuffers {
		_ = tcp.SetReadBuffer(64 << 10)
	}
	_ = raw.SetDeadline(time.Now().Add(patience))
	c := &client{t: r.t, raw: raw, conn: raw}
	if r.mode.tls {
		if r.setup.proxy {
			_, _ = io.WriteString(raw, proxyHeader)
		}
		c.conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own server
	}
	c.in = clientReader(c.conn)
	return c, nil
}

// try connects and upgrades.
func (r *rig) try(d dialing) (*client, error) {
	c, err := r.open()
	if err != nil {
		return nil, err
	}
	head := request
	if r.setup.proxy && !r.mode.tls {
		head = proxyHeader + head
	}
	if d.extensions != "" {
		head += "Sec-WebSocket-Extensions: " + d.extensions + "\r\n"
	}
	if _, err := c.conn.Write(append([]byte(head+"\r\n"), d.early...)); err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err == nil && (response.StatusCode != http.StatusSwitchingProtocols ||
		response.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
		err = fmt.Errorf("handshake answered %s", response.Status)
	}
	if err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	c.extensions = response.Header.Get("Sec-WebSocket-Extensions")
	return c, nil
}

// dial is try for a test's own goroutine.
func (r *rig) dial(d dialing) *client {
	r.t.Helper()
	c, err := r.try(d)
	if err != nil {
		r.t.Fatalf("connect: %v", err)
	}
	r.clients = append(r.clients, c)
	return c
}

// frame is a masked client frame; head is its first byte.
func frame(head byte, payload string) []byte {
	var buf bytes.Buffer
	_ = ws.WriteHeader(&buf, ws.Header{
		Fin: head&0x80 != 0, Rsv: head >> 4 & 7, OpCode: ws.OpCode(head & 0xf),
		Masked: true, Mask: [4]byte{1, 2, 3, 4}, Length: int64(len(payload)),
	})
	masked := []byte(payload)
	ws.Cipher(masked, [4]byte{1, 2, 3, 4}, 0)
	return append(buf.Bytes(), masked...)
}

func text(s string) []byte { return frame(0x81, s) }

func closeFrame(code int, reason string) []byte {
	return frame(0x88, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// send writes bytes, which must work.
func (c *client) send(data ...[]byte) {
	c.t.Helper()
	if _, err := c.conn.Write(bytes.Join(data, nil)); err != nil {
		c.t.Fatalf("client writes: %v", err)
	}
}

// read returns the next frame, its payload decompressed. The error is io.EOF at the end.
func (c *client) read() (ws.OpCode, string, error) {
	h, err := ws.ReadHeader(c.in)
	if err != nil {
		return 0, "", err
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return 0, "", err
	}
	c.compressed = h.Rsv == 4
	if c.compressed {
		tail := "\x00\x00\xff\xff\x01\x00\x00\xff\xff"
		payload, err = io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(payload), bytes.NewReader([]byte(tail)))))
	}
	if h.Masked || !h.Fin || h.Rsv&3 != 0 || h.Rsv != 0 && h.OpCode.IsControl() {
		return 0, "", fmt.Errorf("a server must not send the header %+v", h)
	}
	return h.OpCode, string(payload), err
}

// expect reads a frame that must be the one given.
func (c *client) expect(op ws.OpCode, payload string) {
	c.t.Helper()
	gotOp, got, err := c.read()
	if err != nil || gotOp != op || got != payload {
		c.t.Fatalf("client read opcode %x, %.60q (%d bytes), error %v; want opcode %x, %.60q", gotOp, got, len(got), err, op, payload)
	}
}

func (c *client) expectText(s string) { c.t.Helper(); c.expect(ws.OpText, s) }

func (c *client) expectClose(code int, reason string) {
	c.t.Helper()
	c.expect(ws.OpClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// expectEnd wants an orderly end of the stream.
func (c *client) expectEnd() {
	c.t.Helper()
	if op, payload, err := c.read(); err != io.EOF {
		c.t.Fatalf("client read opcode %x, %.60q, error %v; want the end", op, payload, err)
	}
}

// reset ends the connection as a crashed machine does.
func (c *client) reset() {
	_ = c.raw.(*net.TCPConn).SetLinger(0)
	_ = c.raw.Close()
}
