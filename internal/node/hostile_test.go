package node

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws/wsutil"

	"github.com/parleyio/parley/internal/config"
)

// hostile is what one bad client or publisher does, and the metric that must count it.
type hostile struct {
	name    string
	attack  func(t *testing.T, r *running)
	counted string // a line of the metrics without its value
}

// rawConn is a TCP connection whose WebSocket frames the test writes by hand.
type rawConn struct {
	net.Conn
	t *testing.T
}

// upgraded opens a WebSocket and returns the connection behind its handshake.
func (r *running) upgraded(t *testing.T) *rawConn {
	t.Helper()
	c := &rawConn{r.tcp(t), t}
	if _, err := io.WriteString(c, "GET /app/app-key?protocol=7 HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n"+
		"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	return c
}

func (r *running) tcp(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.Address("channels"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// frame writes a masked frame with a zero mask.
func (c *rawConn) frame(first byte, payload []byte) {
	c.t.Helper()
	header := []byte{first}
	switch n := len(payload); {
	case n < 126:
		header = append(header, 0x80|byte(n))
	case n < 1<<16:
		header = binary.BigEndian.AppendUint16(append(header, 0x80|126), uint16(n))
	default:
		header = binary.BigEndian.AppendUint64(append(header, 0x80|127), uint64(n))
	}
	c.write(append(append(header, 0, 0, 0, 0), payload...))
}

func (c *rawConn) write(data []byte) {
	c.t.Helper()
	// The server may have cut the connection before the last byte.
	_, _ = c.Write(data)
}

// wantClose reads until the server's close frame and checks its code.
func (c *rawConn) wantClose(code int) {
	c.t.Helper()
	want := string([]byte{byte(code >> 8), byte(code)})
	var all []byte
	buf := make([]byte, 1024)
	for {
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		if _, closing, found := strings.Cut(string(all), "\x88"); found && len(closing) >= 3 {
			if closing[1:3] != want {
				c.t.Errorf("close frame with %q, want %d", closing, code)
			}
			return
		}
		if err != nil {
			c.t.Errorf("no close frame with %d in %q: %v", code, all, err)
			return
		}
	}
}

var hostiles = []hostile{
	{"unmasked frame", func(t *testing.T, r *running) {
		c := r.upgraded(t)
		c.write([]byte{0x81, 2, '{', '}'})
		c.wantClose(1002)
	}, `parley_dropped_total{reason="unmasked_frame"}`},
	{"oversized frame", func(t *testing.T, r *running) {
		c := r.upgraded(t)
		c.write([]byte{0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}) // says 4 GiB
		c.wantClose(1009)
	}, `parley_dropped_total{reason="message_too_big"}`},
	{"endless fragments", func(t *testing.T, r *running) {
		c := r.upgraded(t)
		c.frame(0x01, make([]byte, 40<<10))
		c.frame(0x00, make([]byte, 40<<10))
		c.wantClose(1009)
	}, `parley_dropped_total{reason="message_too_big"}`},
	{"invalid UTF-8", func(t *testing.T, r *running) {
		c := r.upgraded(t)
		c.frame(0x81, []byte("{\"event\":\"\xff\"}"))
		c.wantClose(1007)
	}, `parley_dropped_total{reason="invalid_utf8"}`},
	{"binary frame", func(t *testing.T, r *running) {
		c := r.upgraded(t)
		c.frame(0x82, []byte{1, 2, 3})
		c.wantClose(1003)
	}, `parley_dropped_total{reason="binary_frame"}`},
	{"reserved opcode", func(t *testing.T, r *running) {
		c := r.upgraded(t)
		c.frame(0x83, nil)
		c.wantClose(1002)
	}, `parley_dropped_total{reason="reserved_opcode"}`},
	{"broken JSON", func(t *testing.T, r *running) {
		s := r.other(t)
		s.raw(`{"event":`)
		s.next("pusher:error")
	}, `parley_rejected_messages_total{port="0",reason="invalid_message"}`},
	{"deep nesting", func(t *testing.T, r *running) {
		s := r.other(t)
		s.raw(`{"event":"client-x","data":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`)
		s.next("pusher:error")
	}, `parley_rejected_messages_total{port="0",reason="invalid_message"}`},
	{"wrong types", func(t *testing.T, r *running) {
		s := r.other(t)
		s.raw(`{"event":"pusher:subscribe","data":{"channel":["x"]}}`)
		s.next("pusher:error")
	}, `parley_rejected_messages_total{port="0",reason="invalid_message"}`},
	{"bad channel name", func(t *testing.T, r *running) {
		s := r.other(t)
		s.raw(`{"event":"pusher:subscribe","data":{"channel":"no spaces"}}`)
		s.next("pusher:error")
		s.next("pusher:subscription_error")
	}, `parley_rejected_messages_total{port="0",reason="invalid_channel_name"}`},
	{"forged subscription", func(t *testing.T, r *running) {
		s := r.other(t)
		s.raw(`{"event":"pusher:subscribe","data":{"channel":"private-x","auth":"app-key:` + strings.Repeat("0", 64) + `"}}`)
		s.next("pusher:error")
	}, `parley_rejected_messages_total{port="0",reason="invalid_signature"}`},
	{"thousands of subscriptions", func(t *testing.T, r *running) {
		s := r.other(t)
		for i := range 1500 {
			s.raw(fmt.Sprintf(`{"event":"pusher:subscribe","data":{"channel":"c%d"}}`, i))
		}
		for range 1000 {
			s.next("pusher_internal:subscription_succeeded")
		}
		s.next("pusher:error")
	}, `parley_rejected_messages_total{port="0",reason="too_many_subscriptions"}`},
	{"large header", func(t *testing.T, r *running) {
		c := r.tcp(t)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("a", 64<<10)+"\r\n\r\n"); err == nil {
			_, _ = io.ReadAll(c)
		}
	}, `parley_dropped_total{reason="no_request"}`},
	{"forged publish", func(t *testing.T, r *running) {
		url, _ := r.signed("7", "app-key", "wrong-secret", "/events", `{}`)
		status, _, _ := r.request(http.DefaultClient, http.MethodPost, url, `{}`)
		wantStatus(t, 401, status)
	}, `parley_http_rejected_total{port="0",reason="invalid_signature"}`},
	{"eleven events", func(t *testing.T, r *running) {
		body := `{"batch":[` + strings.Repeat(`{"name":"e","channel":"c","data":"d"},`, 10) + `{"name":"e","channel":"c","data":"d"}]}`
		url, _ := r.signed("7", "app-key", "app-secret", "/batch_events", body)
		status, _, _ := r.request(http.DefaultClient, http.MethodPost, url, body)
		wantStatus(t, 400, status)
	}, `parley_http_rejected_total{port="0",reason="too_many_events"}`},
	{"large data", func(t *testing.T, r *running) {
		body := `{"name":"e","channel":"c","data":"` + strings.Repeat("a", 10<<10+1) + `"}`
		url, _ := r.signed("7", "app-key", "app-secret", "/events", body)
		status, _, _ := r.request(http.DefaultClient, http.MethodPost, url, body)
		wantStatus(t, 413, status)
	}, `parley_http_rejected_total{port="0",reason="data_too_large"}`},
}

// lingering are those that a node has to wait for, and how it is told not to wait long.
var lingering = []struct {
	hostile
	hurry func(c *config.Config)
}{
	{hostile{"slow handshake", func(t *testing.T, r *running) {
		c := r.tcp(t)
		if _, err := io.WriteString(c, "GET /app/app-key HTTP/1.1\r\nHost: te"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("not closed in time: %v", err)
		}
	}, `parley_dropped_total{reason="no_request"}`}, func(c *config.Config) { c.HTTP.HeaderTimeout = 300 * time.Millisecond }},
	{hostile{"half-open socket", func(t *testing.T, r *running) {
		c := r.upgraded(t) // and never a word more, nor an answer to pings
		c.wantClose(4201)
		_ = c.Close() // the node would wait for an answer
	}, `parley_rejected_messages_total{port="0",reason="pong_timeout"}`}, func(c *config.Config) {
		c.Channels.ActivityTimeout, c.Channels.PongTimeout = time.Second, 300*time.Millisecond
	}},
}

// strike has a hostile do what it does and waits until that is counted.
func (h hostile) strike(t *testing.T, r *running) {
	t.Helper()
	if h.attack(t, r); !t.Failed() {
		eventually(t, h.counted+" is counted", func() bool { return r.metric(h.counted) > 0 })
	}
}

// Every fault is answered and counted, leaves nothing behind, and a well-behaved client
// beside it loses nothing.
func TestHostileClients(t *testing.T) {
	for _, mode := range []string{"event-loop", "goroutine"} {
		t.Run(mode, func(t *testing.T) {
			c := options(t)
			c.Transport.Mode = mode
			r := start(t, c)
			good := r.faithful()
			for i, h := range hostiles {
				t.Run(h.name, func(t *testing.T) {
					if h.strike(t, r); t.Failed() {
						return
					}
					r.publish("news", "still-there", strconv.Itoa(i))
					if data := good.next(t); data != strconv.Itoa(i) {
						t.Errorf("the other client got %q", data)
					}
				})
			}
			eventually(t, "only the good client is left", func() bool {
				return r.hub.Connections() == 1 && r.transport.Count() == 1 && r.transport.Backlog() == 0
			})
		})
	}
}

// Who keeps the node waiting is cut. Each has a node of its own: a short time would cut others as well
// when the machine is busy.
func TestLingeringClients(t *testing.T) {
	for _, mode := range []string{"event-loop", "goroutine"} {
		for _, h := range lingering {
			t.Run(mode+" "+h.name, func(t *testing.T) {
				c := options(t)
				c.Transport.Mode = mode
				h.hurry(&c)
				r := start(t, c)
				h.strike(t, r)
				eventually(t, "nobody is left", func() bool {
					return r.hub.Connections() == 0 && r.transport.Count() == 0 && r.transport.Backlog() == 0
				})
			})
		}
	}
}

// other is a second client, which goes at the end of its test.
func (r *running) other(t *testing.T) *socket {
	t.Helper()
	s := r.connect()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// raw sends a text as it is.
func (s *socket) raw(text string) {
	s.t.Helper()
	if err := wsutil.WriteClientText(s, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// faithful is a client that goes on reading and answers pings.
type faithful struct {
	data chan string // of the events "still-there"
	gone chan error
}

func (r *running) faithful() *faithful {
	r.Helper()
	s := r.connect()
	s.subscribe("news")
	f := &faithful{data: make(chan string, 1), gone: make(chan error, 1)}
	go func() {
		for {
			event, data, err := s.read()
			switch {
			case err != nil:
				f.gone <- err
				return
			case event == "still-there":
				f.data <- data
			case event == "pusher:ping":
				_ = wsutil.WriteClientText(s, []byte(`{"event":"pusher:pong"}`)) // the next read tells
			}
		}
	}()
	return f
}

func (f *faithful) next(t *testing.T) string {
	t.Helper()
	select {
	case data := <-f.data:
		return data
	case err := <-f.gone:
		t.Fatalf("the other client was cut: %v", err)
	case <-time.After(patience):
		t.Fatal("the other client got nothing")
	}
	return ""
}

// metric returns the value of one line of the metrics, 0 when it is not there.
func (r *running) metric(line string) float64 {
	r.Helper()
	w := httptest.NewRecorder() // not by the port, where a short time would cut the test as well
	r.probes.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for l := range strings.Lines(w.Body.String()) {
		if value, found := strings.CutPrefix(strings.TrimSpace(l), line+" "); found {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				r.Fatal(err)
			}
			return n
		}
	}
	return 0
}
