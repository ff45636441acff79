package bench

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// recorder keeps what it is handed.
type recorder struct {
	frames []string
	fail   error
}

func (r *recorder) frame(first byte, payload []byte) error {
	r.frames = append(r.frames, string([]byte{first})+string(payload))
	return r.fail
}

// serverFrames is a stream of text frames with payloads of these lengths.
func serverFrames(lengths ...int) (stream []byte) {
	for i, n := range lengths {
		payload := bytes.Repeat([]byte{byte('a' + i)}, n)
		stream = append(stream, ws.MustCompileFrame(ws.NewTextFrame(payload))...)
	}
	return stream
}

func TestCutterCutsAnywhere(t *testing.T) {
	stream := serverFrames(0, 1, 125, 126, 127, 300, 65535, 65536, 2)
	var whole recorder
	if err := new(cutter).feed(stream, &whole); err != nil {
		t.Fatal(err)
	}
	if len(whole.frames) != 9 {
		t.Fatalf("%d frames, want 9", len(whole.frames))
	}
	for _, step := range []int{1, 2, 3, 7, 126, 4096, 65536} {
		var got recorder
		var c cutter
		for b := stream; len(b) > 0; {
			n := min(step, len(b))
			if err := c.feed(b[:n], &got); err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		if strings.Join(got.frames, "|") != strings.Join(whole.frames, "|") {
			t.Errorf("in steps of %d: different frames", step)
		}
		if len(c.tail) != 0 || cap(c.tail) > 65536*2 {
			t.Errorf("in steps of %d: %d bytes left over", step, len(c.tail))
		}
	}
}

func TestCutterRefuses(t *testing.T) {
	masked := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("x"))))
	large := []byte{0x81, 127, 0, 0, 0, 0, 0xFF, 0, 0, 0}
	huge := []byte{0x81, 127, 0xFF, 0, 0, 0, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		stream []byte
		want   error
	}{
		"masked": {masked, errMasked},
		"large":  {large, errFrameTooLarge},
		"huge":   {huge, errFrameTooLarge},
	} {
		if err := new(cutter).feed(c.stream, &recorder{}); !errors.Is(err, c.want) {
			t.Errorf("%s at once: %v, want %v", name, err, c.want)
		}
		var split cutter
		var err error
		for i := 0; i < len(c.stream) && err == nil; i++ {
			err = split.feed(c.stream[i:i+1], &recorder{})
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s in bytes: %v, want %v", name, err, c.want)
		}
	}
}

func TestCutterStopsOnError(t *testing.T) {
	stream := serverFrames(3, 3)
	h := &recorder{fail: errCloseFrame}
	if err := new(cutter).feed(stream, h); !errors.Is(err, errCloseFrame) || len(h.frames) != 1 {
		t.Fatalf("error %v after %d frames", err, len(h.frames))
	}
}

// reference cuts the stream with another implementation, up to its end or to the first
// frame that the cutter must refuse.
func reference(stream []byte) (frames []string, refused bool) {
	in := bytes.NewReader(stream)
	for {
		at := len(stream) - in.Len()
		header, err := ws.ReadHeader(in)
		if errors.Is(err, ws.ErrHeaderLengthMSB) || errors.Is(err, ws.ErrHeaderLengthUnexpected) {
			return frames, true
		}
		if err != nil {
			return frames, false
		}
		if header.Masked || header.Length > maxFrame {
			return frames, true
		}
		if int64(in.Len()) < header.Length {
			return frames, false
		}
		payload := make([]byte, header.Length)
		_, _ = in.Read(payload)
		frames = append(frames, string(stream[at:at+1])+string(payload))
	}
}

func FuzzCutter(f *testing.F) {
	stream := serverFrames(0, 5, 126)
	f.Add(stream, uint64(1))
	f.Add([]byte{0x81, 127, 0, 0, 0, 0, 0, 0, 0, 1, 'x', 0x88, 2, 3, 232}, uint64(2))
	f.Add([]byte{0x01, 126, 0, 1, 'x', 0x80, 0x80, 1, 2, 3, 4}, uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		want, refused := reference(stream)
		random := rand.New(rand.NewPCG(seed, 0))
		var got recorder
		var c cutter
		var err error
		for b := stream; len(b) > 0 && err == nil; {
			n := 1 + random.IntN(len(b))
			err = c.feed(b[:n], &got)
			b = b[n:]
		}
		if strings.Join(got.frames, "\x00") != strings.Join(want, "\x00") {
			t.Fatalf("%d frames, the reference has %d", len(got.frames), len(want))
		}
		if refused && err == nil {
			t.Fatal("accepted what must be refused")
		}
	})
}

// FuzzSocket: whatever a server sends, the socket neither panics nor counts more
// deliveries than there are frames.
func FuzzSocket(f *testing.F) {
	stream := serverFrames(0, 60, 200)
	f.Add(stream)
	ping := ws.MustCompileFrame(ws.NewTextFrame([]byte(`{"event":"pusher:ping","data":"{}"}`)))
	closing := ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(4100, "later")))
	f.Add(append(ping, closing...))
	f.Fuzz(func(t *testing.T, stream []byte) {
		tally := newTally(clock{}, MinPayload, 1)
		var out bytes.Buffer
		_ = newSocket(tally, &out).read(stream)
		frames, _ := reference(stream)
		if n := tally.deliveries.Load(); n > int64(len(frames)) {
			t.Fatalf("%d deliveries in %d frames", n, len(frames))
		}
	})
}

func BenchmarkSocketRead(b *testing.B) {
	clock := clock{}
	text := `{"event":"bench","channel":"bench-12345678-1","data":"{\"t\":\"`
	payload := appendStamp([]byte(text), 1, 2)
	payload = append(payload, strings.Repeat("x", 200-len(payload))...)
	frame := ws.MustCompileFrame(ws.NewTextFrame(payload))
	read := bytes.Repeat(frame, 64<<10/len(frame))
	s := newSocket(newTally(clock, 128, 64), nil)
	b.SetBytes(int64(len(read)))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.read(read); err != nil {
			b.Fatal(err)
		}
	}
	perRead := float64(64 << 10 / len(frame))
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/perRead, "ns/frame")
}
