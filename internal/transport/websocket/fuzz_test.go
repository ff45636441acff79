package websocket

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

var fuzzRules = Rules{MaxMessage: 4096}

// FuzzFeed wants no panic from any bytes, and that the way they are cut makes no difference.
func FuzzFeed(f *testing.F) {
	for _, c := range ruleCases() {
		if len(c.wire) < 300 {
			f.Add(c.wire, uint8(3), false)
		}
	}
	f.Add(clientFrame(fin|rsv1|1, deflated(f, []byte("Hello Hello Hello"))), uint8(5), true)
	f.Fuzz(func(t *testing.T, data []byte, step uint8, compression bool) {
		rules := fuzzRules
		rules.Compression = compression
		var d Decoder
		whole := decode(&d, rules, data)
		for _, m := range whole.messages {
			if len(m) > 4096+2 {
				t.Fatalf("a message of %d bytes is over the limit", len(m)-2)
			}
		}
		var chunks [][]byte
		for n, rest := int(step)+1, data; len(rest) > 0; rest = rest[min(n, len(rest)):] {
			chunks = append(chunks, rest[:min(n, len(rest))])
		}
		var split Decoder
		if got := decode(&split, rules, chunks...); !got.same(whole) {
			t.Fatalf("whole: %v\nin steps of %d: %v", whole, int(step)+1, got)
		}
		if whole.err == nil && (!bytes.Equal(d.partial, split.partial) || !bytes.Equal(d.fragments, split.fragments)) {
			t.Fatalf("whole keeps %q and %q, in steps %q and %q", d.partial, d.fragments, split.partial, split.fragments)
		}
	})
}

// FuzzReference compares with the frame reader and the header rules of gobwas/ws.
func FuzzReference(f *testing.F) {
	for _, c := range ruleCases() {
		if len(c.wire) < 300 {
			f.Add(c.wire)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := decode(new(Decoder), fuzzRules, data)
		want := referenceDecode(data)
		switch got.err {
		case nil:
			if want.err != nil || !got.same(want) {
				t.Fatalf("got %v\nreference %v", got, want)
			}
		case ErrLength, ErrTooBig, ErrUnmasked:
			// Rules that gobwas/ws does not have, or not at the same point.
			if len(want.messages) < len(got.messages) || fmt.Sprint(want.messages[:len(got.messages)]) != fmt.Sprint(got.messages) {
				t.Fatalf("got %v\nreference %v", got, want)
			}
		default:
			if want.err == nil || fmt.Sprint(got.messages) != fmt.Sprint(want.messages) {
				t.Fatalf("got %v\nreference %v", got, want)
			}
		}
	})
}

// referenceDecode reads data with gobwas/ws until it ends or breaks a rule.
func referenceDecode(data []byte) (o outcome) {
	r := bytes.NewReader(data)
	state := ws.StateServerSide
	var joined []byte
	var op Opcode
	for {
		h, err := ws.ReadHeader(r)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return o
		}
		if err == nil {
			err = ws.CheckHeader(h, state)
		}
		if err != nil {
			o.err = err
			return o
		}
		if h.Length > int64(r.Len()) {
			return o
		}
		payload := make([]byte, h.Length)
		_, _ = io.ReadFull(r, payload)
		ws.Cipher(payload, h.Mask, 0)
		if h.OpCode.IsControl() {
			if o.err = referenceClose(h, payload); o.err != nil {
				return o
			}
			o.messages = append(o.messages, fmt.Sprintf("%x:%s", byte(h.OpCode), payload))
			continue
		}
		if h.OpCode != ws.OpContinuation {
			op = h.OpCode
		}
		joined = append(joined, payload...)
		state = state.Set(ws.StateFragmented)
		if !h.Fin {
			continue
		}
		state = state.Clear(ws.StateFragmented)
		if op == ws.OpText && !utf8.Valid(joined) {
			o.err = ErrUTF8
			return o
		}
		o.messages = append(o.messages, fmt.Sprintf("%x:%s", byte(op), joined))
		joined = nil
	}
}

func referenceClose(h ws.Header, payload []byte) error {
	if h.OpCode != ws.OpClose || len(payload) == 0 {
		return nil
	}
	if len(payload) == 1 {
		return ws.ErrProtocolStatusCodeNotInUse
	}
	code, reason := ws.ParseCloseFrameData(payload)
	if code >= 5000 {
		return ErrCloseFrame // gobwas/ws has no upper end
	}
	if code >= 1012 && code <= 1014 && utf8.ValidString(reason) {
		return nil // registered after gobwas/ws was written
	}
	return ws.CheckCloseFrameData(code, reason)
}
