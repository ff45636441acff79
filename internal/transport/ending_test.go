package transport

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

func TestServerCloses(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		c, s := r.connect()
		s.conn.Send(websocket.NewFrame([]byte("last words")))
		s.conn.Close(4001, "bye")
		if s.conn.Send(websocket.NewFrame([]byte("too late"))) {
			t.Error("Send after Close was accepted")
		}
		c.expectText("last words")
		c.expectClose(4001, "bye")
		c.send(text("not answered any more"), frame(0x89, "nor this"))
		select {
		case <-s.ended:
			t.Error("closed before the client answered")
		default:
		}
		c.send(text("still not answered"), closeFrame(4001, ""))
		c.expectEnd()
		s.awaitClosed(t)
		if n := r.drops(DropSendClosed); n != 1 {
			t.Errorf("%s was counted %d times", DropSendClosed, n)
		}
		if r.server.Count() != 0 {
			t.Errorf("%d connections are counted", r.server.Count())
		}
	})
}

func TestClientNeverAnswersClose(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{Options: Options{CloseTimeout: 300 * time.Millisecond}})
		c, s := r.connect()
		start := time.Now()
		s.conn.Close(4001, "bye")
		c.expectClose(4001, "bye")
		c.expectEnd()
		s.awaitClosed(t)
		if took := time.Since(start); took < 150*time.Millisecond {
			t.Errorf("the client was given %v to answer", took)
		}
	})
}

func TestClientCloses(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		for code, answer := range map[int]int{1000: 1000, 1001: 1001, 4321: 4321, 0: 1000} {
			c, s := r.connect()
			c.send(text("before"))
			if code == 0 {
				c.send(frame(0x88, ""))
			} else {
				c.send(closeFrame(code, "going"))
			}
			c.expectText("before")
			c.expectClose(answer, "")
			c.expectEnd()
			s.awaitClosed(t)
		}
	})
}

// Both sides close at once: neither answers the other's frame a second time.
func TestBothClose(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{hooks: hooks{message: func(c *Conn, _ []byte) { c.Close(4005, "yours came late") }}})
		c, s := r.connect()
		c.send(text("x"), closeFrame(1000, ""), text("nothing comes after a close frame"))
		c.expectClose(4005, "yours came late")
		c.expectEnd()
		s.awaitClosed(t)
	})
}

// A client that closes gets what was queued for it before, however slowly it reads.
func TestClientClosesBeforeReading(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{smallBuffers: true, Options: Options{CloseTimeout: time.Hour}})
		c, s := r.connect()
		long := strings.Repeat("m", 10000)
		for range 100 {
			s.conn.Send(websocket.NewFrame([]byte(long)))
		}
		c.send(closeFrame(1000, "had enough"))
		for range 100 {
			c.expectText(long)
		}
		c.expectClose(1000, "")
		c.expectEnd()
		s.awaitClosed(t)
	})
}

// A client that closes and reads nothing is cut after a while.
func TestClientClosesAndNeverReads(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{smallBuffers: true, Options: Options{CloseTimeout: 200 * time.Millisecond}})
		c, s := r.connect()
		s.conn.Send(websocket.NewFrame(make([]byte, 1<<20)))
		c.send(closeFrame(1000, ""))
		s.awaitClosed(t)
	})
}

func TestClientVanishes(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{smallBuffers: true})
		end := map[string]func(c *client, s *session){
			"reset":                 func(c *client, _ *session) { c.reset() },
			"reset within a frame":  func(c *client, _ *session) { c.send(text("hello")[:5]); c.reset() },
			"end without handshake": func(c *client, _ *session) { _ = c.raw.Close() },
			"reset with a queue": func(c *client, s *session) {
				s.conn.Send(websocket.NewFrame(make([]byte, 1<<20)))
				until(t, "a backlog", func() bool { return r.server.Backlog() > 0 })
				c.reset()
			},
		}
		for name, f := range end {
			t.Run(name, func(t *testing.T) {
				c, s := r.connect()
				f(c, s)
				s.awaitClosed(t)
				if s.conn.Send(websocket.NewFrame(nil)) {
					t.Error("Send after Closed was accepted")
				}
				s.conn.Close(1000, "")
				s.conn.Cut()
				s.conn.SetTimer(time.Hour)
			})
		}
	})
}

func TestCut(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		c, s := r.connect()
		s.conn.Cut()
		s.conn.Cut()
		if s.conn.Send(websocket.NewFrame([]byte("x"))) {
			t.Error("Send after Cut was accepted")
		}
		s.conn.Close(1000, "not sent")
		if op, payload, err := c.read(); err == nil {
			t.Errorf("client read opcode %x, %q", op, payload)
		}
		s.awaitClosed(t)
	})
}

func TestCutInHandlers(t *testing.T) {
	cut := func(c *Conn) { c.Cut() }
	eachMode(t, func(t *testing.T, m mode) {
		t.Run("open", func(t *testing.T) {
			r := newRig(t, m, setup{hooks: hooks{open: cut}})
			r.dial(dialing{early: text("x")})
			r.next().awaitClosed(t)
		})
		t.Run("message", func(t *testing.T) {
			calls := 0
			r := newRig(t, m, setup{hooks: hooks{message: func(c *Conn, _ []byte) { calls++; c.Cut() }}})
			c, s := r.connect()
			c.send(text("x"), text("y"))
			s.awaitClosed(t)
			if calls != 1 {
				t.Errorf("%d messages were delivered after Cut", calls-1)
			}
		})
		t.Run("expired", func(t *testing.T) {
			r := newRig(t, m, setup{hooks: hooks{expired: cut, open: func(c *Conn) { c.SetTimer(time.Millisecond) }}})
			_, s := r.connect()
			s.awaitClosed(t)
		})
	})
}

func TestViolations(t *testing.T) {
	cases := []struct {
		name   string
		wire   []byte
		code   int
		reason string
		cause  string
	}{
		{"binary", frame(0x82, "x"), 1003, "binary messages are not supported", DropBinary},
		{"binary fragments", append(frame(0x02, "x"), frame(0x80, "y")...), 1003, "binary messages are not supported", DropBinary},
		{"unmasked", []byte{0x81, 0x01, 'x'}, 1002, websocket.ErrUnmasked.Detail, "unmasked_frame"},
		{"RSV1 not negotiated", frame(0xc1, "x"), 1002, websocket.ErrReservedBits.Detail, "reserved_bits"},
		{"reserved opcode", frame(0x83, "x"), 1002, websocket.ErrOpcode.Detail, "reserved_opcode"},
		{"fragmented ping", frame(0x09, "x"), 1002, websocket.ErrControlFrame.Detail, "control_frame"},
		{"continuation", frame(0x80, "x"), 1002, websocket.ErrFragmentation.Detail, "fragmentation"},
		{"length", []byte{0x81, 0xfe, 0, 1, 0, 0, 0, 0}, 1002, websocket.ErrLength.Detail, "frame_length"},
		{"close code", closeFrame(1005, ""), 1002, websocket.ErrCloseFrame.Detail, "close_frame"},
		{"UTF-8", text("\xff"), 1007, websocket.ErrUTF8.Detail, "invalid_utf8"},
		{"too big", frame(0x81, strings.Repeat("x", 5001))[:8], 1009, websocket.ErrTooBig.Detail, "message_too_big"},
	}
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{Options: Options{MaxMessage: 5000}})
		for _, v := range cases {
			t.Run(v.name, func(t *testing.T) {
				c, s := r.connect()
				before := r.drops(v.cause)
				c.send(text("fine"), v.wire, text("never looked at"))
				c.expectText("fine")
				c.expectClose(v.code, v.reason)
				s.awaitClosed(t)
				if n := r.drops(v.cause) - before; n != 1 {
					t.Errorf("%s was counted %d times", v.cause, n)
				}
			})
		}
	})
}

// The close code reaches a client that is still sending the message that was refused.
func TestViolationWhileSending(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{})
		c, s := r.connect()
		sent := make(chan error, 1)
		go func() {
			_, err := c.conn.Write(frame(0x81, strings.Repeat("x", 8<<20)))
			sent <- err
		}()
		await(t, "the client to have sent", func() { <-sent })
		c.expectClose(1009, websocket.ErrTooBig.Detail)
		s.awaitClosed(t)
	})
}

func TestTimer(t *testing.T) {
	expired := make(chan *Conn, 100)
	eachMode(t, func(t *testing.T, m mode) {
		again := true
		r := newRig(t, m, setup{hooks: hooks{expired: func(c *Conn) {
			if again { // the timers' goroutine only
				again = false
				c.SetTimer(100 * time.Millisecond)
			}
			expired <- c
		}}})
		c, s := r.connect()
		other := r.dial(dialing{})
		r.next().conn.SetTimer(time.Hour)
		s.conn.SetTimer(time.Hour)
		s.conn.SetTimer(100 * time.Millisecond) // replaces it
		for range 2 {
			await(t, "Expired", func() {
				if got := <-expired; got != s.conn {
					t.Error("the timer of another connection went off")
				}
			})
		}
		c.send(text("still open"))
		c.expectText("still open")
		_ = other.conn.Close()
	})
}

func TestExpiredMayClose(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{hooks: hooks{
			open:    func(c *Conn) { c.SetTimer(time.Millisecond) },
			expired: func(c *Conn) { c.Send(websocket.NewFrame([]byte("time is up"))); c.Close(4201, "idle") },
		}})
		c, s := r.connect()
		c.expectText("time is up")
		c.expectClose(4201, "idle")
		c.send(closeFrame(4201, ""))
		if _, _, err := c.read(); !errors.Is(err, io.EOF) {
			t.Errorf("client read error %v, want the end", err)
		}
		s.awaitClosed(t)
	})
}
