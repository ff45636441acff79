package transport

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/parleyio/parley/internal/transport/websocket"
)

const accepted = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"

// sameExtension compares without regard to the order of the parameters.
func sameExtension(got, want string) bool {
	left := map[string]int{}
	for _, part := range strings.Split(got, ";") {
		left[strings.TrimSpace(part)]++
	}
	for _, part := range strings.Split(want, ";") {
		left[strings.TrimSpace(part)]--
	}
	for _, n := range left {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestCompression(t *testing.T) {
	long := strings.Repeat(`{"event":"client-message","data":"hello"}`, 1000)
	offers := []struct {
		offer string
		agree bool
	}{
		{"", false},
		{"permessage-deflate", true},
		{"permessage-deflate; client_max_window_bits", true}, // what browsers offer
		{"permessage-deflate; client_max_window_bits=10", true},
		{"permessage-deflate; server_no_context_takeover; client_no_context_takeover", true},
		{"permessage-deflate; server_max_window_bits=10", false}, // compress/flate has one window size
		{"permessage-deflate; server_max_window_bits=10, permessage-deflate", true},
		{"permessage-deflate; unheard_of", false},
		{"permessage-deflate; unheard_of, permessage-deflate", true},
		{"permessage-deflate; server_max_window_bits=99", false},
		{"x-webkit-deflate-frame", false},
	}
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{Options: Options{Compression: true}})
		for _, o := range offers {
			c := r.dial(dialing{extensions: o.offer})
			if o.agree != (c.extensions != "") || o.agree && !sameExtension(c.extensions, accepted) {
				t.Errorf("%q was answered %q", o.offer, c.extensions)
				continue
			}
			for range 3 { // no context is taken over from one to the next
				c.send(text(long), text("short"))
				c.expectText(long)
				if c.compressed != o.agree {
					t.Errorf("%q: a long message is compressed: %v", o.offer, c.compressed)
				}
				c.expectText("short")
				if c.compressed {
					t.Errorf("%q: a short message is compressed", o.offer)
				}
			}
			if o.agree {
				body, err := websocket.AppendDeflated(nil, []byte(long))
				if err != nil {
					t.Fatal(err)
				}
				c.send(frame(0xc1, string(body)))
				c.expectText(long)
				c.send(frame(0x41, string(body[:10])), frame(0x89, strings.Repeat("p", 125)), frame(0x80, string(body[10:])))
				c.expect(ws.OpPong, strings.Repeat("p", 125))
				c.expectText(long)
			} else {
				c.send(frame(0xc1, "x"))
				c.expectClose(1002, websocket.ErrReservedBits.Detail)
			}
		}
	})
}

// A reason long enough to be worth compressing is not.
func TestCloseIsNotCompressed(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{Options: Options{Compression: true}})
		c, s := r.dial(dialing{extensions: "permessage-deflate"}), r.next()
		s.conn.Close(4000, strings.Repeat("again ", 20))
		c.expectClose(4000, strings.Repeat("again ", 20))
	})
}

func TestCompressionBomb(t *testing.T) {
	bomb, err := websocket.AppendDeflated(nil, make([]byte, 4<<20))
	if err != nil {
		t.Fatal(err)
	}
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{Options: Options{Compression: true}})
		c, s := r.dial(dialing{extensions: "permessage-deflate"}), r.next()
		c.send(frame(0xc1, string(bomb)))
		c.expectClose(1009, websocket.ErrTooBig.Detail)
		s.awaitClosed(t)
		if r.drops("message_too_big") != 1 {
			t.Error("the bomb was not counted")
		}
	})
}

// Compression that the server has switched off is not agreed to.
func TestCompressionOff(t *testing.T) {
	r := newRig(t, modes[0], setup{})
	if c := r.dial(dialing{extensions: "permessage-deflate"}); c.extensions != "" {
		t.Errorf("agreed to %q", c.extensions)
	}
}

// The same with a client of another make.
func TestCompressionWithReferenceClient(t *testing.T) {
	r := newRig(t, modes[0], setup{Options: Options{Compression: true}})
	dialer := ws.Dialer{Extensions: []httphead.Option{wsflate.DefaultParameters.Option()}}
	nc, _, hs, err := dialer.Dial(context.Background(), "ws://"+r.http.Listener.Addr().String()+"/app")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	if len(hs.Extensions) != 1 {
		t.Fatalf("extensions are %v", hs.Extensions)
	}
	message := strings.Repeat("both ways ", 2000)
	out, err := wsflate.CompressFrame(ws.NewTextFrame([]byte(message)))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		// Masking changes the payload in place.
		copied := ws.NewFrame(out.Header.OpCode, true, append([]byte(nil), out.Payload...))
		copied.Header.Rsv = out.Header.Rsv
		if err := ws.WriteFrame(nc, ws.MaskFrame(copied)); err != nil {
			t.Fatal(err)
		}
		in, err := ws.ReadFrame(nc)
		if err == nil {
			in, err = wsflate.DecompressFrame(in)
		}
		if err != nil || string(in.Payload) != message {
			t.Fatalf("got %d bytes, error %v", len(in.Payload), err)
		}
	}
}
