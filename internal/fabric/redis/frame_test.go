package redis

import (
	"strconv"
	"strings"
	"testing"
)

func TestFrame(t *testing.T) {
	for _, f := range []frame{
		{kind: frameMessage, sender: "a", number: 1},
		{kind: frameRequest, sender: strings.Repeat("s", 255), number: 1<<64 - 1, subject: strings.Repeat("x", 1000), payload: "p\x00\xff"},
		{kind: frameAnswer, number: 128, payload: "x"},
		{kind: frameNobody},
	} {
		text := string(f.encode([]byte(f.payload)))
		if got, ok := decodeFrame(text); !ok || got != f {
			t.Errorf("%+v became %+v, %v", f, got, ok)
		}
		for size := range len(text) - len(f.payload) {
			if got, ok := decodeFrame(text[:size]); ok {
				t.Errorf("%d bytes of %+v became %+v", size, f, got)
			}
		}
	}
	for _, bad := range []string{"\x00\x00\x00\x00", "\x05\x00\x00\x00", "\x01\x00" + strings.Repeat("\xff", 9) + "\x02\x00"} {
		if got, ok := decodeFrame(bad); ok {
			t.Errorf("%q became %+v", bad, got)
		}
	}
}

// FuzzDecodeFrame checks that what is read is what would be written.
func FuzzDecodeFrame(f *testing.F) {
	f.Add("")
	f.Add("\x01\x01a\x01\x00payload")
	f.Add("\x02\xff")
	f.Add("\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01x")
	f.Add(string(frame{kind: frameAnswer, sender: "s", number: 300, subject: "a.b"}.encode(nil)))
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := decodeFrame(text)
		if !ok {
			return
		}
		again, ok := decodeFrame(string(got.encode([]byte(got.payload))))
		if !ok || again != got {
			t.Errorf("%q became %+v, and that %+v", text, got, again)
		}
	})
}

func TestOrder(t *testing.T) {
	o := order{}
	for i, step := range []struct {
		sender string
		number uint64
		inTurn bool
	}{
		{"a", 1, true}, {"b", 40, true},
		{"a", 1, true}, // on a second channel
		{"a", 37, true}, {"a", 36, false}, {"b", 2, false},
		{"a", 100, true}, // what is missing was for others, or was lost
	} {
		if sender, inTurn := o.accept(frame{sender: step.sender, number: step.number}); sender != step.sender || inTurn != step.inTurn {
			t.Errorf("step %d: got %q, %v", i, sender, inTurn)
		}
	}
	for i := range 3 * maxSenders {
		o.accept(frame{sender: "sender" + strconv.Itoa(i)})
	}
	if len(o) > maxSenders {
		t.Errorf("%d senders are remembered", len(o))
	}
	o.accept(frame{sender: "sender"})
	if n := testing.AllocsPerRun(100, func() { o.accept(frame{sender: "sender", number: 1}) }); n != 0 {
		t.Errorf("a message costs %v allocations", n)
	}
}

// FuzzDecodeEnvelope checks that what a queue reads it can write.
func FuzzDecodeEnvelope(f *testing.F) {
	for _, text := range []string{
		"", "{}", `{"enqueued_at":"2026-01-02T03:04:05Z","failures":-1}`,
		`{"enqueued_at":"2026-01-02T03:04:05Z","not_before":"2026-01-02T03:04:05.5+01:00","failures":3,"reason":"x"}`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := decodeEnvelope(text)
		if err != nil {
			return
		}
		written, err := e.encode()
		if err != nil {
			t.Skip() // a year that JSON does not have
		}
		again, err := decodeEnvelope(written)
		if err != nil || again.Failures != e.Failures || !again.EnqueuedAt.Equal(e.EnqueuedAt) {
			t.Errorf("%q became %+v and then %+v, %v", text, e, again, err)
		}
	})
}

// FuzzReadDocument checks that a value is read whole.
func FuzzReadDocument(f *testing.F) {
	for _, text := range []string{"", " ", "1 ", "12 a b", "x 1", "18446744073709551616 x", "-1 x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		document, err := readDocument("k", text)
		if err == nil && !strings.HasSuffix(text, " "+string(document.Value)) {
			t.Errorf("%q became %+v", text, document)
		}
	})
}
