package websocket

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

func TestDeflateRoundTrip(t *testing.T) {
	noise := make([]byte, 70000)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise)
	payloads := map[string][]byte{
		"empty": nil, "a byte": []byte("x"), "text": []byte(strings.Repeat("Parley ", 3000)),
		"zeros": make([]byte, 100000), "noise": noise,
	}
	rules := Rules{MaxMessage: testLimit, Compression: true}
	for name, payload := range payloads {
		ours, err := AppendDeflated([]byte("before"), payload)
		if err != nil || !bytes.HasPrefix(ours, []byte("before")) {
			t.Fatalf("%s: AppendDeflated: %v", name, err)
		}
		ours = ours[len("before"):]
		if len(ours) == 0 {
			t.Errorf("%s: compressed to nothing, RFC 7692 section 7.2.3.6 wants a byte", name)
		}
		for who, body := range map[string][]byte{"own": ours, "reference": deflated(t, payload)} {
			third := len(body) / 3
			for how, stream := range map[string][]byte{
				"whole":          clientFrame(fin|rsv1|2, body),
				"fragments":      join(clientFrame(rsv1|2, body[:third]), frameOf(fin|9, "p"), clientFrame(0, body[third:2*third]), clientFrame(fin, body[2*third:])),
				"empty last one": join(clientFrame(rsv1|2, body), frameOf(fin, "")),
			} {
				got := decode(new(Decoder), rules, stream)
				if got.err != nil || len(got.messages) == 0 || got.messages[len(got.messages)-1] != "2:"+string(payload) {
					t.Errorf("%s, %s, %s: error %v", name, who, how, got.err)
				}
			}
		}
	}
}

// The example of RFC 7692 section 7.2.3.1 and its variants.
func TestDeflateExamples(t *testing.T) {
	rules := Rules{MaxMessage: 100, Compression: true}
	cases := []ruleCase{
		{"one block", clientFrame(fin|rsv1|1, []byte{0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00}), []string{"1:Hello"}, nil},
		{"fragments", join(clientFrame(rsv1|1, []byte{0xf2, 0x48, 0xcd}), clientFrame(fin, []byte{0xc9, 0xc9, 0x07, 0x00})), []string{"1:Hello"}, nil},
		{"stored block", clientFrame(fin|rsv1|1, []byte{0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00}), []string{"1:Hello"}, nil},
		{"final block", clientFrame(fin|rsv1|1, []byte{0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00}), []string{"1:Hello"}, nil},
		{"two blocks", clientFrame(fin|rsv1|1, []byte{0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00}), []string{"1:Hello"}, nil},
		{"empty message", clientFrame(fin|rsv1|1, []byte{0x00}), []string{"1:"}, nil},
		{"plain message beside", join(frameOf(fin|1, "a"), clientFrame(fin|rsv1|1, []byte{0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00}), frameOf(fin|1, "b")),
			[]string{"1:a", "1:Hello", "1:b"}, nil},
		{"plain fragments after compressed ones", join(clientFrame(rsv1|1, []byte{0xf2, 0x48, 0xcd}), clientFrame(fin, []byte{0xc9, 0xc9, 0x07, 0x00}), frameOf(1, "a"), frameOf(fin, "b")),
			[]string{"1:Hello", "1:ab"}, nil},
		{"damaged", clientFrame(fin|rsv1|1, []byte{0xff, 0xff, 0xff}), nil, ErrDeflate},
		{"distance before the start", clientFrame(fin|rsv1|1, []byte{0x02, 0x23, 0x00}), nil, ErrDeflate},
		{"cut off", clientFrame(fin|rsv1|1, []byte{0x00, 0x50, 0x00, 0xaf, 0xff, 0x48}), nil, ErrDeflate},
		{"not UTF-8 inside", clientFrame(fin|rsv1|1, deflated(t, []byte("\xff\xfe"))), nil, ErrUTF8},
		{"RSV1 on a continuation", join(clientFrame(rsv1|1, []byte{0xf2}), clientFrame(fin|rsv1, []byte{0x48})), nil, ErrReservedBits},
		{"RSV1 on a ping", frameOf(fin|rsv1|9, ""), nil, ErrReservedBits},
		{"RSV1 and RSV2", frameOf(fin|rsv1|0x20|1, ""), nil, ErrReservedBits},
		{"RSV1 on a reserved opcode", frameOf(fin|rsv1|3, ""), nil, ErrOpcode},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { checkOutcome(t, c, rules) })
	}
}

func TestDeflateLimit(t *testing.T) {
	rules := Rules{MaxMessage: 1000, Compression: true}
	for size, err := range map[int]error{1000: nil, 1001: ErrTooBig} {
		got := decode(new(Decoder), rules, clientFrame(fin|rsv1|2, deflated(t, make([]byte, size))))
		if got.err != err {
			t.Errorf("%d bytes after decompression: error %v, want %v", size, got.err, err)
		}
	}
}

// 8 MB of zeros in 8 KB must be given up at the limit, without the memory for them.
func TestDeflateBomb(t *testing.T) {
	bomb := clientFrame(fin|rsv1|2, deflated(t, make([]byte, 8<<20)))
	if len(bomb) > 20<<10 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	rules := Rules{MaxMessage: 100 << 10, Compression: true}
	decode(new(Decoder), rules, clientFrame(fin|rsv1|2, deflated(t, []byte("warm up")))) // fills the pool
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := decode(new(Decoder), rules, bomb)
	runtime.ReadMemStats(&after)
	if !got.same(outcome{err: ErrTooBig}) {
		t.Errorf("got %v", got.err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 2<<20 {
		t.Errorf("took %d bytes to refuse it", used)
	}
}

// A damaged message must not spoil the shared reader for the next one.
func TestDeflateAfterDamage(t *testing.T) {
	rules := Rules{MaxMessage: 1000, Compression: true}
	good := clientFrame(fin|rsv1|1, deflated(t, []byte("good")))
	for range 10 {
		if got := decode(new(Decoder), rules, frameOf(fin|rsv1|1, "\xff\xff\xff")); got.err != ErrDeflate {
			t.Fatalf("damaged: %v", got)
		}
		if got := decode(new(Decoder), rules, good); !got.same(outcome{messages: []string{"1:good"}}) {
			t.Fatalf("after it: %v", got)
		}
	}
}
