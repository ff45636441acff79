package websocket

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

const testLimit = 1 << 20

// ruleCase is a stream of a client and what has to come of it.
type ruleCase struct {
	name string
	wire []byte
	want []string // opcode in hexadecimal, colon, payload
	err  error    // a *Error, or nil
}

func ruleCases() []ruleCase {
	big := strings.Repeat("x", 125)
	return []ruleCase{
		{"nothing", nil, nil, nil},
		{"text", frameOf(fin|1, "Hello"), []string{"1:Hello"}, nil},
		{"empty text", frameOf(fin|1, ""), []string{"1:"}, nil},
		{"binary", frameOf(fin|2, "\xff\x00"), []string{"2:\xff\x00"}, nil},
		{"two messages", join(frameOf(fin|1, "a"), frameOf(fin|1, "b")), []string{"1:a", "1:b"}, nil},
		{"length 125", frameOf(fin|1, big), []string{"1:" + big}, nil},
		{"length 126", frameOf(fin|1, big+"y"), []string{"1:" + big + "y"}, nil},
		{"length 65535", frameOf(fin|1, strings.Repeat("z", 65535)), []string{"1:" + strings.Repeat("z", 65535)}, nil},
		{"length 65536", frameOf(fin|1, strings.Repeat("z", 65536)), []string{"1:" + strings.Repeat("z", 65536)}, nil},

		{"two fragments", join(frameOf(1, "Hel"), frameOf(fin, "lo")), []string{"1:Hello"}, nil},
		{"five fragments", join(frameOf(1, "H"), frameOf(0, "e"), frameOf(0, "l"), frameOf(0, "l"), frameOf(fin, "o")), []string{"1:Hello"}, nil},
		{"empty fragments", join(frameOf(1, ""), frameOf(0, ""), frameOf(0, "x"), frameOf(0, ""), frameOf(fin, "")), []string{"1:x"}, nil},
		{"only empty fragments", join(frameOf(1, ""), frameOf(0, ""), frameOf(fin, "")), []string{"1:"}, nil},
		{"binary fragments", join(frameOf(2, "a"), frameOf(fin, "\xfe")), []string{"2:a\xfe"}, nil},
		{"ping between fragments", join(frameOf(1, "a"), frameOf(fin|9, "p"), frameOf(0, "b"), frameOf(fin|10, ""), frameOf(fin, "c")),
			[]string{"9:p", "a:", "1:abc"}, nil},
		{"close between fragments", join(frameOf(1, "a"), frameOf(fin|8, "\x03\xe8bye")), []string{"8:\x03\xe8bye"}, nil},
		{"message after fragments", join(frameOf(1, "a"), frameOf(fin, "b"), frameOf(fin|1, "c")), []string{"1:ab", "1:c"}, nil},
		{"continuation without start", frameOf(fin, "x"), nil, ErrFragmentation},
		{"unfinished continuation without start", frameOf(0, "x"), nil, ErrFragmentation},
		{"continuation after the end", join(frameOf(1, "a"), frameOf(fin, "b"), frameOf(fin, "c")), []string{"1:ab"}, ErrFragmentation},
		{"new text inside a message", join(frameOf(1, "a"), frameOf(fin|1, "b")), nil, ErrFragmentation},
		{"new binary inside a message", join(frameOf(1, "a"), frameOf(2, "b")), nil, ErrFragmentation},
		{"new text inside an empty start", join(frameOf(1, ""), frameOf(1, "")), nil, ErrFragmentation},

		{"ping", frameOf(fin|9, "p"), []string{"9:p"}, nil},
		{"pong", frameOf(fin|10, ""), []string{"a:"}, nil},
		{"control of 125 bytes", frameOf(fin|9, big), []string{"9:" + big}, nil},
		{"ping of 126 bytes", frameOf(fin|9, big+"x"), nil, ErrControlFrame},
		{"pong of 126 bytes", frameOf(fin|10, big+"x"), nil, ErrControlFrame},
		{"close of 126 bytes", frameOf(fin|8, "\x03\xe8"+big[1:]), nil, ErrControlFrame},
		{"fragmented ping", frameOf(9, "p"), nil, ErrControlFrame},
		{"fragmented pong", frameOf(10, ""), nil, ErrControlFrame},
		{"fragmented close", frameOf(8, ""), nil, ErrControlFrame},

		{"unmasked", []byte{fin | 1, 1, 'x'}, nil, ErrUnmasked},
		{"unmasked empty", []byte{fin | 1, 0}, nil, ErrUnmasked},
		{"unmasked after a message", join(frameOf(fin|1, "a"), []byte{fin | 9, 0}), []string{"1:a"}, ErrUnmasked},
		{"126 form for 125", []byte{fin | 1, 0x80 | 126, 0, 125, 0, 0, 0, 0}, nil, ErrLength},
		{"126 form for 0", []byte{fin | 1, 0x80 | 126, 0, 0, 0, 0, 0, 0}, nil, ErrLength},
		{"127 form for 65535", []byte{fin | 1, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, nil, ErrLength},
		{"127 form with the high bit", []byte{fin | 1, 0x80 | 127, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, nil, ErrLength},
		{"127 form at its largest", []byte{fin | 1, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, nil, ErrTooBig},
		{"largest after a fragment", join(frameOf(1, "abc"), []byte{fin, 0x80 | 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}), nil, ErrTooBig},

		{"invalid UTF-8", frameOf(fin|1, "a\xffb"), nil, ErrUTF8},
		{"surrogate", frameOf(fin|1, "\xed\xa0\x80"), nil, ErrUTF8},
		{"overlong", frameOf(fin|1, "\xc0\xaf"), nil, ErrUTF8},
		{"cut character", frameOf(fin|1, "\xe2\x82"), nil, ErrUTF8},
		{"invalid UTF-8 over fragments", join(frameOf(1, "a\xce"), frameOf(0, "\xba\xe1"), frameOf(fin, "\xff")), nil, ErrUTF8},
		{"character split over fragments", join(frameOf(1, "\xe2"), frameOf(0, "\x82"), frameOf(fin, "\xac")), []string{"1:€"}, nil},
		{"character split around a ping", join(frameOf(1, "\xf0\x9f"), frameOf(fin|9, "\xff"), frameOf(fin, "\x98\x80")), []string{"9:\xff", "1:😀"}, nil},

		{"RSV1 without negotiation", frameOf(fin|rsv1|1, "x"), nil, ErrReservedBits},
		{"RSV2", frameOf(fin|0x20|1, "x"), nil, ErrReservedBits},
		{"RSV3", frameOf(fin|0x10|1, "x"), nil, ErrReservedBits},
		{"RSV on ping", frameOf(fin|rsv1|9, "x"), nil, ErrReservedBits},
		{"RSV on continuation", join(frameOf(1, "a"), frameOf(fin|0x20, "x")), nil, ErrReservedBits},
	}
}

func TestRules(t *testing.T) {
	cases := ruleCases()
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		cases = append(cases,
			ruleCase{"reserved opcode " + string("0123456789abcdef"[op]), frameOf(fin|op, "x"), nil, ErrOpcode},
			ruleCase{"unfinished reserved opcode " + string("0123456789abcdef"[op]), frameOf(op, ""), nil, ErrOpcode})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			checkOutcome(t, c, Rules{MaxMessage: testLimit})
		})
	}
}

// checkOutcome tries the stream whole, byte by byte, and cut in two at every boundary.
func checkOutcome(t *testing.T, c ruleCase, rules Rules) {
	t.Helper()
	want := outcome{c.want, c.err}
	if got := decode(new(Decoder), rules, c.wire); !got.same(want) {
		t.Errorf("whole: got %v, want %v", got, want)
	}
	if len(c.wire) > 1000 {
		return // the long ones differ from the short ones in their header only
	}
	if got := decode(new(Decoder), rules, eachByte(c.wire)...); !got.same(want) {
		t.Errorf("byte by byte: got %v, want %v", got, want)
	}
	for at := 1; at < len(c.wire); at++ {
		if got := decode(new(Decoder), rules, c.wire[:at], c.wire[at:]); !got.same(want) {
			t.Errorf("cut at %d: got %v, want %v", at, got, want)
		}
	}
}

func TestCloseFrames(t *testing.T) {
	rules := Rules{MaxMessage: testLimit}
	code := func(n int, reason string) []byte {
		return append([]byte{byte(n >> 8), byte(n)}, reason...)
	}
	for _, n := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4100, 4999} {
		want := outcome{messages: []string{"8:" + string(code(n, "ok"))}}
		if got := decode(new(Decoder), rules, clientFrame(fin|8, code(n, "ok"))); !got.same(want) {
			t.Errorf("code %d: %v", n, got)
		}
		if gotCode, reason := ParseClose(code(n, "ok")); gotCode != n || reason != "ok" {
			t.Errorf("ParseClose of %d: %d %q", n, gotCode, reason)
		}
	}
	for _, n := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		if got := decode(new(Decoder), rules, clientFrame(fin|8, code(n, ""))); !got.same(outcome{err: ErrCloseFrame}) {
			t.Errorf("code %d: %v", n, got)
		}
	}
	bad := []struct {
		name    string
		payload []byte
		err     error
	}{
		{"one byte", []byte{3}, ErrCloseFrame},
		{"reason is not UTF-8", code(1000, "a\xff"), ErrUTF8},
		{"reason ends within a character", code(1000, "\xe2\x82"), ErrUTF8},
	}
	for _, c := range bad {
		if got := decode(new(Decoder), rules, clientFrame(fin|8, c.payload)); !got.same(outcome{err: c.err}) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if got := decode(new(Decoder), rules, clientFrame(fin|8, nil)); !got.same(outcome{messages: []string{"8:"}}) {
		t.Errorf("empty: %v", got)
	}
	if n, reason := ParseClose(nil); n != 1005 || reason != "" {
		t.Errorf("ParseClose of nothing: %d %q", n, reason)
	}
}

func TestViolationCodes(t *testing.T) {
	seen := map[string]bool{}
	for err, code := range map[*Error]int{
		ErrUnmasked: 1002, ErrReservedBits: 1002, ErrOpcode: 1002, ErrControlFrame: 1002, ErrFragmentation: 1002,
		ErrLength: 1002, ErrCloseFrame: 1002, ErrTooBig: 1009, ErrUTF8: 1007, ErrDeflate: 1007,
	} {
		if err.Code != code {
			t.Errorf("%v has code %d, want %d", err, err.Code, code)
		}
		if seen[err.Cause] {
			t.Errorf("cause %q is used twice", err.Cause)
		}
		seen[err.Cause] = true
		if !strings.HasPrefix(err.Error(), err.Cause+": ") {
			t.Errorf("text is %q", err)
		}
	}
	if got := (&Error{Cause: "x"}).Error(); got != "x" {
		t.Errorf("without detail: %q", got)
	}
}

func TestHandlerErrorEndsTheStream(t *testing.T) {
	stop := errors.New("stop")
	calls := 0
	var d Decoder
	err := d.Feed(join(frameOf(fin|1, "a"), frameOf(fin|1, "b")), Rules{MaxMessage: 10}, func(Opcode, []byte) error {
		calls++
		return stop
	})
	if err != stop || calls != 1 {
		t.Errorf("error %v after %d calls, want %v after 1", err, calls, stop)
	}
}

// A message that is too large is refused from its header: nothing of it may be kept.
func TestTooBig(t *testing.T) {
	rules := Rules{MaxMessage: 1000}
	var d Decoder
	header := []byte{fin | 2, 0x80 | 126, 1001 >> 8, 1001 & 0xff, 0, 0, 0, 0}
	if got := decode(&d, rules, header); !got.same(outcome{err: ErrTooBig}) {
		t.Errorf("header of 1001 bytes: %v", got)
	}
	if cap(d.partial)+cap(d.fragments) != 0 {
		t.Errorf("%d and %d bytes were kept", cap(d.partial), cap(d.fragments))
	}

	d = Decoder{}
	fit := bytes.Repeat([]byte("x"), 1000)
	if got := decode(&d, rules, clientFrame(fin|2, fit)); len(got.messages) != 1 || got.err != nil {
		t.Errorf("1000 bytes: %v", got)
	}

	// Over fragments the sum counts; a control frame between does not.
	stream := join(clientFrame(2, fit[:600]), frameOf(fin|9, "12345"), clientFrame(0, fit[:400]), frameOf(fin, ""))
	if got := decode(new(Decoder), rules, stream); len(got.messages) != 2 || got.err != nil {
		t.Errorf("fragments of 1000 bytes: error %v, %d messages", got.err, len(got.messages))
	}
	d = Decoder{}
	if got := decode(&d, rules, clientFrame(2, fit[:600]), clientFrame(0, fit[:401])[:8]); !got.same(outcome{err: ErrTooBig}) {
		t.Errorf("fragments of 1001 bytes: %v", got)
	}
	if len(d.fragments) != 600 {
		t.Errorf("%d bytes of fragments were kept, want the 600 allowed ones", len(d.fragments))
	}
}

// Between messages a decoder holds no buffer: an idle connection costs nothing.
func TestIdleHoldsNothing(t *testing.T) {
	rules := Rules{MaxMessage: testLimit, Compression: true}
	text := frameOf(fin|1, strings.Repeat("hello ", 50))
	streams := map[string][][]byte{
		"whole":             {text},
		"two halves":        {text[:10], text[10:]},
		"bytes":             eachByte(text),
		"half, rest + next": {text[:10], join(text[10:], text)},
		"fragments":         {frameOf(1, "a"), frameOf(fin, "b")},
		"compressed":        {clientFrame(fin|rsv1|1, deflated(t, []byte("abcabcabc")))},
	}
	for name, chunks := range streams {
		var d Decoder
		if got := decode(&d, rules, chunks...); got.err != nil || len(got.messages) == 0 {
			t.Fatalf("%s: %v", name, got)
		}
		if d.partial != nil || d.fragments != nil || d.opcode != 0 || d.deflated {
			t.Errorf("%s: %+v is left", name, d)
		}
	}
	// An unfinished frame keeps its own bytes and not the messages before it.
	var d Decoder
	decode(&d, rules, text[:20], join(text[20:], text[:3]))
	if len(d.partial) != 3 || cap(d.partial) > 64 {
		t.Errorf("%d bytes are kept in a buffer of %d, want 3", len(d.partial), cap(d.partial))
	}
}

func TestFeedAllocations(t *testing.T) {
	rules := Rules{MaxMessage: testLimit}
	wire := frameOf(fin|1, strings.Repeat("hello ", 100))
	buf := make([]byte, len(wire))
	var d Decoder
	seen := 0
	message := func(op Opcode, payload []byte) error { seen += len(payload); return nil }
	allocs := testing.AllocsPerRun(100, func() {
		copy(buf, wire)
		if err := d.Feed(buf, rules, message); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("decoding one text frame allocates %v times", allocs)
	}
	if seen != 101*600 {
		t.Errorf("decoded %d bytes", seen)
	}
}
