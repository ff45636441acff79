package websocket

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// parse reads one server frame with the reference implementation.
func parse(t *testing.T, wire []byte) (ws.Header, []byte) {
	t.Helper()
	frame, err := ws.ReadFrame(bytes.NewReader(wire))
	if err != nil {
		t.Fatalf("frame is not readable: %v", err)
	}
	if rest := len(wire) - ws.HeaderSize(frame.Header) - len(frame.Payload); rest != 0 {
		t.Fatalf("%d bytes follow the frame", rest)
	}
	return frame.Header, frame.Payload
}

func TestFrameHeaderForms(t *testing.T) {
	for size, header := range map[int]int{0: 2, 1: 2, 125: 2, 126: 4, 127: 4, 65535: 4, 65536: 10, 70000: 10} {
		payload := bytes.Repeat([]byte("p"), size)
		f := NewFrame(payload)
		wire := f.Wire(false)
		if f.Size() != header+size || len(wire) != f.Size() {
			t.Errorf("%d bytes: size %d and %d on the wire, want a header of %d", size, f.Size(), len(wire), header)
		}
		h, body := parse(t, wire)
		if !h.Fin || h.OpCode != Text || h.Rsv != 0 || h.Masked || !bytes.Equal(body, payload) {
			t.Errorf("%d bytes: header %+v", size, h)
		}
		if !bytes.Equal(f.Payload(), payload) {
			t.Errorf("%d bytes: payload differs", size)
		}
		if size > 0 {
			payload[0] = 'X'
			if f.Payload()[0] != 'p' {
				t.Errorf("%d bytes: the frame shares its caller's memory", size)
			}
		}
	}
}

func TestFrameCompressed(t *testing.T) {
	payload := []byte(strings.Repeat(`{"event":"new-message"}`, 50))
	f := NewFrame(payload)
	// Many connections want the form at once; it is made once.
	wires := make([][]byte, 8)
	var all sync.WaitGroup
	for i := range wires {
		all.Go(func() { wires[i] = f.Wire(true) })
	}
	all.Wait()
	for _, wire := range wires {
		if &wire[0] != &wires[0][0] {
			t.Fatal("the compressed form was made twice")
		}
	}
	h, body := parse(t, wires[0])
	if !h.Fin || h.OpCode != Text || h.Rsv != 4 || len(wires[0]) >= f.Size() {
		t.Errorf("header %+v, %d bytes of %d", h, len(wires[0]), f.Size())
	}
	got := decode(new(Decoder), Rules{MaxMessage: testLimit, Compression: true}, clientFrame(fin|rsv1|1, body))
	if !got.same(outcome{messages: []string{"1:" + string(payload)}}) {
		t.Errorf("decoded: error %v", got.err)
	}
	if allocs := testing.AllocsPerRun(10, func() { f.Wire(true); f.Wire(false) }); allocs != 0 {
		t.Errorf("Wire allocates %v times after the first", allocs)
	}
}

func TestFrameNotWorthCompressing(t *testing.T) {
	for name, payload := range map[string]string{
		"short":  strings.Repeat("a", deflateMinimum-1),
		"random": "q8Zr1xK0vB7nT5mW2cY9dL4hJ6gF3sPeAuOiXwRtEyQzUoIpNbMvCxGkHlDjSfVaB1",
	} {
		f := NewFrame([]byte(payload))
		if wire := f.Wire(true); &wire[0] != &f.Wire(false)[0] {
			t.Errorf("%s: sent in %d bytes instead of %d", name, len(wire), f.Size())
		}
	}
	if wire := NewFrame([]byte(strings.Repeat("a", deflateMinimum))).Wire(true); wire[0]&rsv1 == 0 {
		t.Error("a payload of the minimum is not compressed")
	}
}

// Control frames must never be compressed, however long and regular they are.
func TestControlFrames(t *testing.T) {
	long := []byte(strings.Repeat("a", 123))
	for name, c := range map[string]struct {
		frame   *Frame
		op      Opcode
		payload []byte
	}{
		"ping":        {NewControlFrame(Ping, nil), Ping, nil},
		"pong":        {NewControlFrame(Pong, long), Pong, long},
		"close":       {NewCloseFrame(4100, "too slow"), Close, []byte("\x10\x04too slow")},
		"long reason": {NewCloseFrame(1000, string(long)), Close, append([]byte{3, 0xe8}, long...)},
	} {
		for _, compressed := range []bool{false, true} {
			h, body := parse(t, c.frame.Wire(compressed))
			if !h.Fin || h.OpCode != c.op || h.Rsv != 0 || !bytes.Equal(body, c.payload) {
				t.Errorf("%s, compression %v: header %+v, payload %q", name, compressed, h, body)
			}
		}
		if !bytes.Equal(c.frame.Payload(), c.payload) {
			t.Errorf("%s: Payload is %q", name, c.frame.Payload())
		}
	}
}

func TestCloseReasonIsCut(t *testing.T) {
	for name, reason := range map[string]string{
		"fits": strings.Repeat("a", 123), "a byte over": strings.Repeat("a", 124),
		"two-byte characters": strings.Repeat("é", 100), "three": strings.Repeat("€", 100),
		"four": "a" + strings.Repeat("😀", 100), "very long": strings.Repeat("ab", 10000),
	} {
		h, body := parse(t, AppendClose(nil, 1000, reason))
		code, got := ParseClose(body)
		if h.Length > 125 || code != 1000 || !utf8.ValidString(got) || !strings.HasPrefix(reason, got) {
			t.Errorf("%s: %d bytes, code %d, reason %q", name, h.Length, code, got)
		}
		if want := min(len(reason), 120); len(got) < want {
			t.Errorf("%s: cut to %d bytes, %d fit", name, len(got), want)
		}
	}
}

func TestNewFrameAllocations(t *testing.T) {
	payload := []byte(strings.Repeat("x", 200))
	if allocs := testing.AllocsPerRun(100, func() { NewFrame(payload) }); allocs > 2 {
		t.Errorf("NewFrame allocates %v times, want the frame and its bytes", allocs)
	}
}
