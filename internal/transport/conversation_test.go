package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/parleyio/parley/internal/transport/websocket"
)

func TestEcho(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		c, s := r.connect()
		if r.server.Count() != 1 {
			t.Errorf("%d connections are counted", r.server.Count())
		}
		for _, message := range []string{"hello", "", "€", strings.Repeat("x", 126), strings.Repeat("y", 70000)} {
			c.send(text(message))
			c.expectText(message)
		}
		c.send(frame(0x01, "frag"), frame(0x89, "between"), frame(0x80, "mented"))
		c.expect(ws.OpPong, "between")
		c.expectText("fragmented")
		for range 3 { // what the server says unasked must not wait for the client's next word
			s.conn.Send(websocket.NewFrame([]byte("by the way")))
			c.expectText("by the way")
		}
		if idle := s.conn.Idle(); idle > patience {
			t.Errorf("idle for %v after a message", idle)
		}
	})
}

// The same with a client of another make.
func TestEchoWithReferenceClient(t *testing.T) {
	r := newRig(t, modes[0], setup{})
	nc, _, _, err := ws.Dial(context.Background(), "ws://"+r.http.Listener.Addr().String()+"/app")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	for _, message := range []string{"a", strings.Repeat("b", 1000), strings.Repeat("c", 70000)} {
		if err := wsutil.WriteClientText(nc, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if got, err := wsutil.ReadServerText(nc); err != nil || string(got) != message {
			t.Fatalf("got %d bytes, error %v", len(got), err)
		}
	}
}

func TestOrder(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		c, _ := r.connect()
		const n = 10000
		go func() {
			var batch []byte
			for i := range n {
				batch = append(batch, text(fmt.Sprint("message ", i))...)
				if len(batch) > 5000 || i == n-1 { // cuts frames anywhere
					if _, err := c.conn.Write(batch); err != nil {
						return // the reader below reports it
					}
					batch = batch[:0]
				}
			}
		}()
		for i := range n {
			c.expectText(fmt.Sprint("message ", i))
		}
	})
}

// Messages may come in one segment with the handshake, cut anywhere.
func TestEarlyBytes(t *testing.T) {
	stream := bytes.Join([][]byte{text("first"), text("second"), text(strings.Repeat("third", 100))}, nil)
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		for _, early := range []int{1, 5, len(text("first")), len(text("first")) + 3, len(stream)} {
			c := r.dial(dialing{early: stream[:early]})
			c.send(stream[early:])
			c.expectText("first")
			c.expectText("second")
			c.expectText(strings.Repeat("third", 100))
		}
		c := r.dial(dialing{early: closeFrame(1000, "changed my mind")})
		c.expectClose(1000, "")
		c.expectEnd()
		c = r.dial(dialing{early: []byte{0x81, 0x01, 'x'}})
		c.expectClose(1002, websocket.ErrUnmasked.Detail)
		c.expectEnd()
	})
}

func TestGreetingComesFirst(t *testing.T) {
	greet := func(c *Conn) { c.Send(websocket.NewFrame([]byte("welcome"))) }
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{hooks: hooks{open: greet}})
		c := r.dial(dialing{early: text("early")})
		c.expectText("welcome")
		c.expectText("early")
	})
}

func TestRefusedInOpen(t *testing.T) {
	refuse := func(c *Conn) {
		c.Send(websocket.NewFrame([]byte("sorry")))
		c.Close(4001, "no such app")
		c.Close(4002, "a second close does nothing")
		if c.Send(websocket.NewFrame([]byte("too late"))) {
			c.Send(websocket.NewFrame([]byte("Send after Close was accepted")))
		}
	}
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{hooks: hooks{open: refuse}})
		c := r.dial(dialing{early: text("early")})
		c.expectText("sorry")
		c.expectClose(4001, "no such app") // the early message is not echoed
		c.send(closeFrame(4001, ""))
		c.expectEnd()
	})
}

func TestPing(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		c, _ := r.connect()
		c.send(frame(0x89, ""), frame(0x89, strings.Repeat("p", 125)), frame(0x8a, "unasked pong"), text("x"))
		c.expect(ws.OpPong, "")
		c.expect(ws.OpPong, strings.Repeat("p", 125))
		c.expectText("x")
	})
}

func TestProxyProtocol(t *testing.T) {
	// More than net/http reads at once, so a part stays in the buffer of the PROXY wrapper.
	long := strings.Repeat("z", 9000)
	early := append(text("early"), text(long)...)
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{proxy: true})
		for _, cut := range []int{0, 7, 5000, len(early)} {
			c := r.dial(dialing{early: early[:cut]})
			c.send(early[cut:])
			c.expectText("early")
			c.expectText(long)
			c.send(text("later"))
			c.expectText("later")
		}
	})
}

func TestUnixSocket(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{unix: true})
		a, b := r.dial(dialing{early: text("early")}), r.dial(dialing{})
		a.expectText("early")
		for _, c := range []*client{b, a} {
			c.send(text("over unix"))
			c.expectText("over unix")
		}
		a.send(closeFrame(1000, ""))
		a.expectClose(1000, "")
		a.expectEnd()
	})
}

func TestHandshakeRefused(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		for _, head := range []string{
			"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
			strings.Replace(request, "Version: 13", "Version: 8", 1) + "\r\n",
			strings.Replace(request, "dGhl", "x", 1) + "\r\n",
		} {
			c, err := r.open()
			if err != nil {
				t.Fatal(err)
			}
			c.send([]byte(head))
			answer, err := c.in.ReadString('\n')
			if err != nil || !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%.30q was answered %q, error %v", head, answer, err)
			}
			await(t, "Upgrade to fail", func() {
				if err := <-r.refused; !strings.Contains(err.Error(), "upgrade connection of ") {
					t.Errorf("error is %v", err)
				}
			})
			for err == nil { // the socket is closed behind the answer
				_, err = c.in.ReadString('\n')
			}
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("%.30q: the socket stays open", head)
			}
		}
		if r.server.Count() != 0 {
			t.Errorf("%d refused connections are counted", r.server.Count())
		}
	})
}
