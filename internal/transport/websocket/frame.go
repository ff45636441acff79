package websocket

import "sync"

// Frame is one outgoing message, encoded once and shared by reference by every queue it
// waits in. It must not be changed.
type Frame struct {
	wire   []byte // header and payload
	header int    // bytes of wire that are header

	control  bool // a close, ping or pong, or binary: never compressed
	deflate  sync.Once
	deflated []byte // the same message compressed, with its header; made on first use
}

// closeHeader is the header of a close frame, in bytes; its payload is always short.
const closeHeader = 2

// frameHeaderMax is the longest header of a server frame, in bytes.
const frameHeaderMax = 10

// deflateMinimum is the payload size in bytes below which compression is not tried: the
// saving is smaller than a packet and costs 10 µs.
const deflateMinimum = 64

// NewFrame makes a text frame of payload, which is copied.
func NewFrame(payload []byte) *Frame {
	wire := make([]byte, 0, frameHeaderMax+len(payload))
	wire = AppendHeader(wire, Text, false, len(payload))
	header := len(wire)
	return &Frame{wire: append(wire, payload...), header: header}
}

// NewBinaryFrame makes a binary frame of payload, which is copied. It is never
// compressed: what is binary is mostly sealed.
func NewBinaryFrame(payload []byte) *Frame {
	wire := make([]byte, 0, frameHeaderMax+len(payload))
	wire = AppendHeader(wire, Binary, false, len(payload))
	header := len(wire)
	return &Frame{wire: append(wire, payload...), header: header, control: true}
}

// NewBytes makes a frame for a connection that is a stream of bytes, which keeps them.
func NewBytes(data []byte) *Frame { return &Frame{wire: data, control: true} }

// Payload returns the message's text, which must not be changed.
func (f *Frame) Payload() []byte { return f.wire[f.header:] }

// Size returns the bytes the frame takes on the wire, uncompressed.
func (f *Frame) Size() int { return len(f.wire) }

// Wire returns the frame as it goes to a connection, which must not be changed; compressed when
// permessage-deflate was negotiated there and saves something. A control frame never is (RFC
// 7692 section 6.1).
func (f *Frame) Wire(compressed bool) []byte {
	if !compressed || f.control || len(f.wire)-f.header < deflateMinimum {
		return f.wire
	}
	f.deflate.Do(func() {
		f.deflated = f.wire
		body, err := AppendDeflated(nil, f.Payload())
		if err != nil || len(body) >= len(f.Payload()) {
			return
		}
		wire := AppendHeader(make([]byte, 0, frameHeaderMax+len(body)), Text, true, len(body))
		f.deflated = append(wire, body...)
	})
	return f.deflated
}

// NewControlFrame makes a ping or pong frame of payload, at most 125 bytes.
func NewControlFrame(op Opcode, payload []byte) *Frame {
	wire := AppendHeader(nil, op, false, len(payload))
	header := len(wire)
	return &Frame{wire: append(wire, payload...), header: header, control: true}
}

// NewCloseFrame makes a close frame.
func NewCloseFrame(code int, reason string) *Frame {
	return &Frame{wire: AppendClose(nil, code, reason), header: closeHeader, control: true}
}
