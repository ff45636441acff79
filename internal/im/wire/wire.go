// Package wire is the binary protocol of WuKongIM, versions 1 to 6, as a pure codec: frames are
// cut from bytes, read into packets and written again, payloads sealed and opened. It has no
// clock, no socket and no goroutine.
//
// It may import the standard library alone. It must never import another room of Parley.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the kind of a packet, the high half of a frame's first byte.
type Type uint8

// The packet types.
const (
	TypeConnect    Type = 1
	TypeConnack    Type = 2
	TypeSend       Type = 3
	TypeSendack    Type = 4
	TypeRecv       Type = 5
	TypeRecvack    Type = 6
	TypePing       Type = 7
	TypePong       Type = 8
	TypeDisconnect Type = 9
	TypeSub        Type = 10
	TypeSuback     Type = 11
	TypeEvent      Type = 12
)

// String returns the name of the type as the protocol's documents have it.
func (t Type) String() string {
	names := [...]string{"", "CONNECT", "CONNACK", "SEND", "SENDACK", "RECV", "RECVACK", "PING", "PONG",
		"DISCONNECT", "SUB", "SUBACK", "EVENT"}
	if t == 0 || int(t) >= len(names) {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return names[t]
}

// Flags are the low half of a frame's first byte.
type Flags uint8

// The flags. In a CONNACK the first bit says instead that the server's version follows.
const (
	NoPersist Flags = 1 << iota // do not store
	RedDot                      // counts as unread
	SyncOnce                    // a command: consumed once per user
	Dup                         // sent again
)

const hasServerVersion Flags = 1

// Setting is a byte of SEND, RECV and SUB.
type Setting uint8

// Bits of a Setting. The one for streams moved when the library was at 1.0.9: clients of version 2
// set the old one, those of 3 and 4 either, and from version 5 on neither has fields of its own.
const (
	SettingReceipt   Setting = 0x80 // the sender wants a receipt
	SettingSignal    Setting = 0x20 // end to end encrypted
	SettingNoEncrypt Setting = 0x10 // defined, and nothing acts on it
	SettingTopic     Setting = 0x08 // a topic follows
	SettingStreamOld Setting = 0x04
	SettingStream    Setting = 0x02
)

// The versions of the protocol.
const (
	VersionMin    = 1
	VersionLatest = 5 // what a server announces
	VersionMax    = 6 // what it also understands: 64-bit sequence numbers
)

// MaxRemaining is the largest remaining length of a frame in bytes that is accepted, and
// MaxPayload the largest payload of a SEND on the wire, as in the original.
const (
	MaxRemaining = 1 << 20
	MaxPayload   = 32767
)

// Reason is the outcome of a CONNECT, SEND or SUB, or why a connection ends.
type Reason uint8

// The reasons that are in use.
const (
	ReasonUnknown       Reason = 0
	ReasonSuccess       Reason = 1
	ReasonAuthFailed    Reason = 2
	ReasonNotSubscriber Reason = 3
	ReasonInDenyList    Reason = 4
	ReasonNoChannel     Reason = 5
	ReasonBadPayload    Reason = 9 // it cannot be decrypted, or its key does not fit
	ReasonNotAllowed    Reason = 11
	ReasonKicked        Reason = 12 // by a login on another device
	ReasonNotInAllow    Reason = 13
	ReasonSystemError   Reason = 15
	ReasonBadChannelID  Reason = 16
	ReasonBanned        Reason = 19
	ReasonBadHeader     Reason = 20
	ReasonNoClientKey   Reason = 21
	ReasonRateLimited   Reason = 22
	ReasonBadChannel    Reason = 23 // its type is not supported
	ReasonDisbanded     Reason = 24
	ReasonSendBanned    Reason = 25
)

// Causes for which bytes are no frame or a frame is no packet. Errors of this package wrap one.
var (
	ErrLength    = errors.New("remaining length does not end")
	ErrTooLarge  = errors.New("frame is too large")
	ErrType      = errors.New("unknown packet type")
	ErrTruncated = errors.New("packet is truncated")
	ErrString    = errors.New("string is too long")
)

// maxLengthBytes is how many bytes a remaining length takes at most.
const maxLengthBytes = 4

// Split returns how many bytes the first frame of data takes, 0 when it is not complete. Errors:
// ErrLength, ErrTooLarge, ErrType.
func Split(data []byte) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	switch t := Type(data[0] >> 4); {
	case t == TypePing || t == TypePong:
		return 1, nil // they alone have no length
	case t < TypeConnect || t > TypeEvent:
		return 0, fmt.Errorf("%w: %d", ErrType, uint8(t))
	}
	remaining, n, err := readLength(data[1:])
	if err != nil || n == 0 {
		return 0, err
	}
	if len(data) < 1+n+remaining {
		return 0, nil
	}
	return 1 + n + remaining, nil
}

// readLength reads a remaining length and returns how many bytes it took, 0 when more are needed.
func readLength(data []byte) (length, n int, err error) {
	for i := range maxLengthBytes {
		if i == len(data) {
			return 0, 0, nil
		}
		length |= int(data[i]&0x7f) << (7 * i)
		if length > MaxRemaining {
			return 0, 0, ErrTooLarge
		}
		if data[i]&0x80 == 0 {
			return length, i + 1, nil
		}
	}
	return 0, 0, ErrLength
}

// appendLength appends a remaining length.
func appendLength(dst []byte, length int) []byte {
	for length > 0x7f {
		dst = append(dst, byte(length)|0x80)
		length >>= 7
	}
	return append(dst, byte(length))
}

// Packet is one of the packet structures of this package, by pointer.
type Packet interface {
	kind() Type
	flags(version uint8) Flags
	read(r *reader, flags Flags, version uint8)
	append(dst []byte, version uint8) []byte
}

// newPacket returns an empty packet of a type, nil when there is none.
func newPacket(t Type) Packet {
	switch t {
	case TypeConnect:
		return &Connect{}
	case TypeConnack:
		return &Connack{}
	case TypeSend:
		return &Send{}
	case TypeSendack:
		return &Sendack{}
	case TypeRecv:
		return &Recv{}
	case TypeRecvack:
		return &Recvack{}
	case TypePing:
		return &Ping{}
	case TypePong:
		return &Pong{}
	case TypeDisconnect:
		return &Disconnect{}
	case TypeSub:
		return &Sub{}
	case TypeSuback:
		return &Suback{}
	case TypeEvent:
		return &Event{}
	}
	return nil
}

// Decode reads the frame that Split has cut, as a client or server of that version wrote it. What
// the packet holds is its own; frame may be used again. Errors: ErrType, ErrTruncated, ErrString.
func Decode(frame []byte, version uint8) (Packet, error) {
	if len(frame) == 0 {
		return nil, ErrTruncated
	}
	t := Type(frame[0] >> 4)
	p := newPacket(t)
	if p == nil {
		return nil, fmt.Errorf("%w: %d", ErrType, uint8(t))
	}
	if t == TypePing || t == TypePong {
		return p, nil
	}
	remaining, n, err := readLength(frame[1:])
	if err != nil {
		return nil, err
	}
	if n == 0 || len(frame) < 1+n+remaining {
		return nil, fmt.Errorf("decode %v: %w", t, ErrTruncated)
	}
	r := reader{rest: frame[1+n : 1+n+remaining]}
	p.read(&r, Flags(frame[0]&0x0f), version)
	if r.err != nil {
		return nil, fmt.Errorf("decode %v: %w", t, r.err)
	}
	return p, nil
}

// headRoom is what Append leaves for the first byte and the length before it knows the length.
const headRoom = 1 + maxLengthBytes

// Append appends p as a frame for one of that version.
func Append(dst []byte, p Packet, version uint8) []byte {
	t := p.kind()
	first := byte(t)<<4 | byte(p.flags(version))
	if t == TypePing || t == TypePong {
		return append(dst, first)
	}
	start := len(dst)
	dst = append(dst, make([]byte, headRoom)...)
	dst = p.append(dst, version)
	length := len(dst) - start - headRoom
	var head [headRoom]byte
	head[0] = first
	h := appendLength(head[:1], length)
	n := copy(dst[start:], h)
	copy(dst[start+n:], dst[start+headRoom:])
	return dst[:start+n+length]
}

// reader takes fields from a frame; after the first error it gives zero values.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n int) []byte {
	if r.err != nil || len(r.rest) < n {
		if r.err == nil {
			r.err = ErrTruncated
		}
		return make([]byte, min(n, 8))
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() uint8   { return r.take(1)[0] }
func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

// seq reads a message's sequence number.
func (r *reader) seq(version uint8) uint64 {
	if version >= VersionMax {
		return r.u64()
	}
	return uint64(r.u32())
}

// text reads a string. Its length is signed in the original.
func (r *reader) text() string {
	n := int(binary.BigEndian.Uint16(r.take(2)))
	if r.err == nil && n > 0x7fff {
		r.err = ErrString
	}
	if r.err != nil || len(r.rest) < n {
		r.take(n)
		return ""
	}
	return string(r.take(n))
}

// all reads what is left.
func (r *reader) all() []byte {
	if r.err != nil {
		return nil
	}
	b := append([]byte{}, r.rest...)
	r.rest = nil
	return b
}

func appendU32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }
func appendU64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

func appendSeq(dst []byte, seq uint64, version uint8) []byte {
	if version >= VersionMax {
		return appendU64(dst, seq)
	}
	return appendU32(dst, uint32(seq))
}

// appendText appends a string, cut to what a reader accepts.
func appendText(dst []byte, s string) []byte {
	if len(s) > 0x7fff {
		s = s[:0x7fff]
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}
