// Package websocket is the framing layer of RFC 6455 and RFC 7692 as a pure codec: bytes
// in, messages out, no socket, no clock, no goroutine. The handshake is not here; net/http
// and gobwas/ws do it in package transport.
//
// It may import gobwas/ws for the constants of the protocol and compress/flate. It must
// never import another room of Parley.
package websocket

import (
	"encoding/binary"
	"fmt"

	"github.com/gobwas/ws"
)

// Opcode is a frame's type, RFC 6455 section 5.2.
type Opcode = ws.OpCode

// The opcodes a Decoder reports. Fragments are joined, so a continuation is never seen.
const (
	Text   = ws.OpText
	Binary = ws.OpBinary
	Close  = ws.OpClose
	Ping   = ws.OpPing
	Pong   = ws.OpPong
)

// Close codes of RFC 6455 section 7.4.1 that this package reports.
const (
	CodeNormal        = 1000
	CodeProtocolError = 1002
	CodeInvalidData   = 1007
	CodeTooBig        = 1009
	codeNoStatus      = 1005
)

// maxControlPayload is the limit of RFC 6455 section 5.5, in bytes.
const maxControlPayload = 125

// Error is a violation by the peer, with the close code that answers it. Cause is a fixed
// short name, fit for a metric label.
type Error struct {
	Code   int
	Cause  string
	Detail string
}

// Error returns the cause, and the detail behind it if there is one.
func (e *Error) Error() string {
	if e.Detail == "" {
		return e.Cause
	}
	return fmt.Sprintf("%s: %s", e.Cause, e.Detail)
}

// The violations a Decoder finds. Compare with errors.Is.
var (
	ErrUnmasked      = &Error{CodeProtocolError, "unmasked_frame", "a client must mask its frames"}
	ErrReservedBits  = &Error{CodeProtocolError, "reserved_bits", "a reserved bit is set"}
	ErrOpcode        = &Error{CodeProtocolError, "reserved_opcode", "the opcode is not defined"}
	ErrControlFrame  = &Error{CodeProtocolError, "control_frame", "a control frame is fragmented or over 125 bytes"}
	ErrFragmentation = &Error{CodeProtocolError, "fragmentation", "fragments are out of order"}
	ErrLength        = &Error{CodeProtocolError, "frame_length", "the length is not encoded minimally"}
	ErrCloseFrame    = &Error{CodeProtocolError, "close_frame", "the close frame's code is not allowed"}
	ErrTooBig        = &Error{CodeTooBig, "message_too_big", "the message is over the limit"}
	ErrUTF8          = &Error{CodeInvalidData, "invalid_utf8", "the text is not valid UTF-8"}
	ErrDeflate       = &Error{CodeInvalidData, "invalid_deflate", "the compressed data is damaged"}
)

// AppendHeader appends the header of an unmasked, unfragmented server frame.
func AppendHeader(dst []byte, op Opcode, compressed bool, length int) []byte {
	first := 0x80 | byte(op)
	if compressed {
		first |= 0x40
	}
	switch {
	case length <= maxControlPayload:
		return append(dst, first, byte(length))
	case length <= 0xffff:
		dst = append(dst, first, 126)
		return binary.BigEndian.AppendUint16(dst, uint16(length))
	default:
		dst = append(dst, first, 127)
		return binary.BigEndian.AppendUint64(dst, uint64(length))
	}
}

// AppendClose appends a complete close frame. A reason too long for a control frame is cut
// at a character boundary.
func AppendClose(dst []byte, code int, reason string) []byte {
	for len(reason) > maxControlPayload-2 {
		cut := maxControlPayload - 2
		for cut > 0 && reason[cut]&0xc0 == 0x80 {
			cut--
		}
		reason = reason[:cut]
	}
	dst = AppendHeader(dst, Close, false, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// ParseClose returns the code and reason of a close frame's payload; the code is 1005
// (no status) for an empty one. The payload was checked by the Decoder.
func ParseClose(payload []byte) (code int, reason string) {
	if len(payload) < 2 {
		return codeNoStatus, ""
	}
	return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
}

// validCloseCode tells whether a peer may send code, RFC 6455 section 7.4.
func validCloseCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1011:
		return true
	case code == 1012, code == 1013, code == 1014: // registered with IANA since
		return true
	default:
		return code >= 3000 && code <= 4999
	}
}
