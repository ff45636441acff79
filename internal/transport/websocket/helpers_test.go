package websocket

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
)

// testMask is the masking key of the frames that the tests make.
var testMask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// clientFrame is a masked frame with its minimal length form. head is the first byte: FIN,
// the reserved bits and the opcode.
func clientFrame(head byte, payload []byte) []byte {
	out := []byte{head}
	switch n := len(payload); {
	case n <= 125:
		out = append(out, 0x80|byte(n))
	case n <= 0xffff:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), uint64(n))
	}
	out = append(out, testMask[:]...)
	for i, b := range payload {
		out = append(out, b^testMask[i%4])
	}
	return out
}

// frameOf is clientFrame of a string.
func frameOf(head byte, payload string) []byte { return clientFrame(head, []byte(payload)) }

// first bytes of frames
const (
	fin  = 0x80
	rsv1 = 0x40
)

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// outcome is what came of a stream: what was delivered, then the error.
type outcome struct {
	messages []string
	err      error
}

func (o outcome) String() string { return fmt.Sprintf("%q, error %v", o.messages, o.err) }

func (o outcome) same(other outcome) bool {
	return fmt.Sprint(o.messages) == fmt.Sprint(other.messages) && len(o.messages) == len(other.messages) &&
		errors.Is(o.err, other.err)
}

// decode feeds each chunk, copied because Feed changes it, to one decoder.
func decode(d *Decoder, rules Rules, chunks ...[]byte) outcome {
	var o outcome
	for _, chunk := range chunks {
		o.err = d.Feed(bytes.Clone(chunk), rules, func(op Opcode, payload []byte) error {
			o.messages = append(o.messages, fmt.Sprintf("%x:%s", byte(op), payload))
			return nil
		})
		if o.err != nil {
			break
		}
	}
	return o
}

// eachByte cuts data into chunks of one byte.
func eachByte(data []byte) [][]byte {
	chunks := make([][]byte, len(data))
	for i := range data {
		chunks[i] = data[i : i+1]
	}
	return chunks
}

// deflated compresses with the reference implementation, as a client does.
func deflated(t testing.TB, payload []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{0, 0, 0xff, 0xff})
}
