package bench

import (
	"encoding/binary"
	"errors"
)

// Errors of a server's byte stream that end the connection.
var (
	// errMasked means that the server masked a frame, which RFC 6455 section 5.1 forbids.
	errMasked = errors.New("masked frame from the server")
	// errFrameTooLarge means that a frame announced more than maxFrame bytes.
	errFrameTooLarge = errors.New("frame too large")
)

// maxFrame bounds the payload of one received frame, in bytes: a publish of maxPayload
// whose every byte was escaped, and its envelope.
const maxFrame = 4 << 20

// Opcodes of RFC 6455 section 5.2, and the bits of a frame's first byte.
const (
	opText  = 0x1
	opClose = 0x8
	opPing  = 0x9
	opPong  = 0xA

	finBit     = 0x80
	opcodeMask = 0x0F
)

// keptTail is how much memory in bytes a connection keeps for its next incomplete frame.
const keptTail = 4096

// cutter cuts the frames out of a server's byte stream. It decodes nothing but their
// headers, and copies only a frame that arrives in pieces.
type cutter struct {
	tail []byte // the beginning of an incomplete frame
}

// frameHandler receives each frame as its first byte (final bit, opcode) and its payload,
// which is valid during the call. An error ends the stream.
type frameHandler interface {
	frame(first byte, payload []byte) error
}

// feed hands every frame that b completes to h and keeps what is left over.
func (c *cutter) feed(b []byte, h frameHandler) error {
	for len(c.tail) > 0 && len(b) > 0 {
		_, total, err := frameSize(c.tail)
		if err != nil {
			return err
		}
		missing := total - len(c.tail)
		if missing > len(b) {
			c.tail = append(c.tail, b...)
			return nil
		}
		c.tail = append(c.tail, b[:missing]...)
		b = b[missing:]
		if err := c.finishTail(h); err != nil {
			return err
		}
	}
	for {
		header, total, err := frameSize(b)
		if err != nil {
			return err
		}
		if total > len(b) {
			c.tail = append(c.tail, b...)
			return nil
		}
		if err := h.frame(b[0], b[header:total]); err != nil {
			return err
		}
		b = b[total:]
	}
}

// finishTail hands the tail over if it is a whole frame: it may be just a longer header,
// whose size is known only now.
func (c *cutter) finishTail(h frameHandler) error {
	header, total, err := frameSize(c.tail)
	if err != nil || total > len(c.tail) {
		return err
	}
	err = h.frame(c.tail[0], c.tail[header:total])
	if cap(c.tail) > keptTail {
		c.tail = nil
	}
	c.tail = c.tail[:0]
	return err
}

// frameSize returns the sizes in bytes of the header and of the whole frame that b begins
// with. While the header itself is incomplete, total is how much of it is needed to know
// more. Layout: RFC 6455 section 5.2.
func frameSize(b []byte) (header, total int, err error) {
	if len(b) < 2 {
		return 0, 2, nil
	}
	if b[1]&0x80 != 0 {
		return 0, 0, errMasked
	}
	switch length := int(b[1]); length {
	default:
		return 2, 2 + length, nil
	case 126:
		if len(b) < 4 {
			return 0, 4, nil
		}
		return 4, 4 + int(binary.BigEndian.Uint16(b[2:])), nil
	case 127:
		if len(b) < 10 {
			return 0, 10, nil
		}
		length := binary.BigEndian.Uint64(b[2:])
		if length > maxFrame {
			return 0, 0, errFrameTooLarge
		}
		return 10, 10 + int(length), nil
	}
}
