package transport

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
)

// handshakeTimeout bounds writing the handshake's answer.
const handshakeTimeout = 5 * time.Second

// Upgrade answers a WebSocket handshake and hands the connection to the handler, which
// from then on hears of it. On an error the request was answered.
func (s *Server) Upgrade(w http.ResponseWriter, r *http.Request, handler Handler) error {
	return s.UpgradeLimit(w, r, handler, 0)
}

// UpgradeLimit is Upgrade with a limit of its own for incoming messages, in bytes; 0 is the server's.
func (s *Server) UpgradeLimit(w http.ResponseWriter, r *http.Request, handler Handler, limit int64) error {
	upgrader := ws.HTTPUpgrader{Timeout: handshakeTimeout}
	deflate := wsflate.Extension{Parameters: wsflate.Parameters{
		ServerNoContextTakeover: true,
		ClientNoContextTakeover: true,
	}}
	if s.options.Compression {
		upgrader.Negotiate = func(option httphead.Option) (httphead.Option, error) {
			accept, err := deflate.Negotiate(option)
			if err != nil {
				return httphead.Option{}, nil // an unknown parameter: declined, RFC 7692 section 7.1
			}
			return accept, nil
		}
	}
	nc, buffered, _, err := upgrader.Upgrade(r, w)
	if err != nil {
		if nc != nil {
			_ = nc.Close() // the refusal was written; nothing else may be
		}
		return fmt.Errorf("upgrade connection of %s: %w", r.RemoteAddr, err)
	}
	early := make([]byte, buffered.Reader.Buffered())
	if _, err := io.ReadFull(buffered.Reader, early); err != nil {
		_ = nc.Close()
		return fmt.Errorf("read bytes behind the handshake: %w", err)
	}
	_, compressed := deflate.Accepted()
	return s.serve(nc, early, &Conn{server: s, handler: handler, deflate: compressed, limit: limit})
}

// Serve takes a connection that is a stream of bytes, without a handshake.
func (s *Server) Serve(nc net.Conn, handler BinaryHandler) error {
	return s.serve(nc, nil, &Conn{server: s, handler: handler, stream: true})
}

func (s *Server) serve(nc net.Conn, early []byte, c *Conn) error {
	s.life.RLock()
	defer s.life.RUnlock()
	if s.ended {
		_ = nc.Close()
		return fmt.Errorf("serve connection: %w", net.ErrClosed)
	}
	if len(early) == 0 {
		early = nil
	}
	s.count.Add(1)
	if s.loops != nil {
		if plain, rest, err := plainSocket(nc); err != nil {
			s.count.Add(-1)
			_ = nc.Close()
			return err
		} else if plain != nil {
			if err := s.loops.enroll(c, plain, append(early, rest...)); err != nil {
				s.count.Add(-1)
				return err
			}
			return nil
		}
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		s.count.Add(-1)
		_ = nc.Close()
		return fmt.Errorf("clear deadline: %w", err)
	}
	k := &streamLink{conn: nc}
	c.link = k
	s.enter(c)
	go s.runStream(c, k, early)
	return nil
}

// wrapped is a connection that reads a prefix, the PROXY header, before its socket.
type wrapped interface{ Raw() net.Conn }

// plainSocket returns the kernel socket under nc with the bytes a wrapper has read ahead,
// or nil when there is none to be had (TLS).
func plainSocket(nc net.Conn) (plain net.Conn, rest []byte, err error) {
	plain = nc
	w, isWrapped := nc.(wrapped)
	if isWrapped {
		plain = w.Raw()
	}
	switch plain.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return nil, nil, nil
	}
	if isWrapped {
		rest, err = readBuffered(nc)
	}
	return plain, rest, err
}

// readBuffered takes what a wrapper holds without touching the socket: with a deadline in
// the past only bytes already in memory can be read.
func readBuffered(nc net.Conn) ([]byte, error) {
	if err := nc.SetReadDeadline(longAgo); err != nil {
		return nil, fmt.Errorf("set read deadline: %w", err)
	}
	var rest []byte
	buf := make([]byte, 512)
	for {
		n, err := nc.Read(buf)
		rest = append(rest, buf[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return rest, nc.SetReadDeadline(time.Time{})
		}
		if err != nil {
			return nil, fmt.Errorf("read bytes behind the handshake: %w", err)
		}
	}
}
