package bench

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"github.com/gobwas/ws"
)

// errCloseFrame ends a connection on which the server sent a close frame.
var errCloseFrame = errors.New("close frame")

// protocolHead begins the protocol's own events, which are no deliveries, in the field
// order that most servers use. Other orders are caught by the length of the frame.
var protocolHead = []byte(`{"event":"pusher`)

// memberHead begins member_added and member_removed, of which there are many on presence
// channels.
var memberHead = []byte(`{"event":"pusher_internal:member_`)

// socket is the receiving half of an established connection. One goroutine (or event loop)
// at a time may feed it.
type socket struct {
	cutter
	tally     *tally
	out       io.Writer // answers pings
	now       int64     // clock at the current read, 0 while not asked for
	delivered int64     // in the current read
	left      uint32    // deliveries until the next sample
	random    uint32    // xorshift state
	stampHint int32     // where the last stamp stood in its frame
	closed    bool      // the end is already counted

	// Of a client that changes its channels.
	id      string                // of the socket at the server
	channel int                   // that it is on; used by the schedule only
	cycle   atomic.Pointer[cycle] // nil while it waits for nothing
	later   func(frames []byte) error
}

func newSocket(t *tally, out io.Writer) *socket {
	s := &socket{tally: t, out: out, random: rand.Uint32() | 1}
	s.left = s.nextSample()
	return s
}

// read takes the bytes of one read from the connection. An error means that the
// connection is to be closed.
func (s *socket) read(b []byte) error {
	s.now, s.delivered = 0, 0
	err := s.feed(b, s)
	s.tally.bytes.Add(int64(len(b)))
	if s.delivered > 0 {
		s.tally.deliveries.Add(s.delivered)
	}
	if err != nil && !errors.Is(err, errCloseFrame) {
		s.end(closeMalformed)
	}
	return err
}

// end counts the end of the connection once, under the first reason given.
func (s *socket) end(reason string) {
	if !s.closed {
		s.closed = true
		s.tally.countClose(reason)
	}
}

// frame implements frameHandler.
func (s *socket) frame(first byte, payload []byte) error {
	if first != finBit|opText || len(payload) < s.tally.payload ||
		bytes.HasPrefix(payload, protocolHead) {
		return s.rareFrame(first, payload)
	}
	s.delivered++
	if s.left--; s.left == 0 {
		s.left = s.nextSample()
		s.sample(payload)
	}
	return nil
}

func (s *socket) sample(payload []byte) {
	due, sent, at, ok := findStamp(payload, int(s.stampHint))
	if !ok {
		return
	}
	s.stampHint = int32(at)
	if s.now == 0 {
		s.now = s.tally.clock.now()
	}
	s.tally.sample(due, sent, s.now)
}

// nextSample draws the distance to the next sampled delivery. It is random because a fixed
// one would always hit the same place in a server's fan-out.
func (s *socket) nextSample() uint32 {
	if s.tally.stride <= 1 {
		return 1
	}
	s.random ^= s.random << 13
	s.random ^= s.random >> 17
	s.random ^= s.random << 5
	return 1 + s.random%(2*s.tally.stride-1)
}

// rareFrame handles everything that is not an event of the benchmark.
func (s *socket) rareFrame(first byte, payload []byte) error {
	switch first & opcodeMask {
	case opText:
		if bytes.HasPrefix(payload, memberHead) {
			s.tally.members.Add(1)
			return nil
		}
		return s.protocolEvent(payload)
	case opPing:
		s.tally.pings.Add(1)
		return s.write(opPong, payload)
	case opClose:
		reason := closeNoCode
		if len(payload) >= 2 {
			reason = strconv.Itoa(int(binary.BigEndian.Uint16(payload)))
		}
		s.end(reason)
		return errCloseFrame
	}
	return nil
}

func (s *socket) protocolEvent(payload []byte) error {
	var e event
	if json.Unmarshal(payload, &e) != nil {
		return nil // not ours to judge
	}
	switch e.Event {
	case "pusher:ping":
		s.tally.pings.Add(1)
		return s.write(opText, []byte(`{"event":"pusher:pong","data":{}}`))
	case "pusher_internal:subscription_succeeded":
		if s.tally.churning != nil {
			s.tally.churning.succeeded(s, e.Channel)
		}
	case "pusher:error", "pusher:subscription_error":
		code := e.errorData().Code
		if e.Event == "pusher:error" {
			s.tally.countError(code)
		}
		if s.tally.churning != nil {
			s.tally.churning.failed(s, fmt.Sprintf("%s %d", e.Event, code))
		}
	}
	return nil
}

// writeLater sends frames from any goroutine.
func (s *socket) writeLater(frames []byte) error {
	if s.later != nil {
		return s.later(frames)
	}
	_, err := s.out.Write(frames)
	return err
}

// write sends one masked frame.
func (s *socket) write(opcode byte, payload []byte) error {
	_, err := s.out.Write(appendMasked(nil, opcode, payload))
	return err
}

// appendMasked appends a client's frame to dst (RFC 6455 section 5.3).
func appendMasked(dst []byte, opcode byte, payload []byte) []byte {
	const maskBit = 0x80
	dst = append(dst, finBit|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, maskBit|byte(n))
	case n <= 0xFFFF:
		dst = binary.BigEndian.AppendUint16(append(dst, maskBit|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, maskBit|127), uint64(n))
	}
	var mask [4]byte
	binary.NativeEndian.PutUint32(mask[:], rand.Uint32())
	dst = append(dst, mask[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	ws.Cipher(dst[start:], mask, 0)
	return dst
}

// event is an event of the protocol, read only outside the hot path.
type event struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel,omitempty"`
	Data    json.RawMessage `json:"data,omitempty"`
}

// eventError is the data of pusher:error.
type eventError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e event) errorData() (data eventError) {
	e.decode(&data)
	return data
}

// decode reads the data, which servers send as an object or as a string that holds one.
// What does not fit leaves v as it is.
func (e event) decode(v any) {
	var inner string
	if json.Unmarshal(e.Data, &inner) == nil {
		_ = json.Unmarshal([]byte(inner), v)
		return
	}
	_ = json.Unmarshal(e.Data, v)
}
