package redis

import (
	"encoding/binary"
	"strings"
)

// Kinds of what travels on the channels of signals.
const (
	frameMessage byte = iota + 1
	frameRequest      // a message that is to be answered
	frameAnswer       // its number is that of the request
	frameNobody       // says that nobody at the receiver subscribes to the subject of the request
)

// frame is what travels on a channel: one byte for the kind, one for the length of the sender,
// the sender, the number and the length of the subject as varints, the subject, the payload.
type frame struct {
	kind   byte
	sender string // ID of a Signal, at most 255 bytes
	// number counts what the sender has sent, so that a receiver knows what is late.
	number  uint64
	subject string // empty where the channel tells it
	payload string
}

// encode returns the text of a frame with that payload.
func (f frame) encode(payload []byte) []byte {
	text := make([]byte, 0, 2+len(f.sender)+2*binary.MaxVarintLen64+len(f.subject)+len(payload))
	text = append(text, f.kind, byte(len(f.sender)))
	text = append(text, f.sender...)
	text = binary.AppendUvarint(text, f.number)
	text = binary.AppendUvarint(text, uint64(len(f.subject)))
	text = append(text, f.subject...)
	return append(text, payload...)
}

// decodeFrame reads a frame. Its strings are parts of the text.
func decodeFrame(text string) (f frame, ok bool) {
	if len(text) < 2 || text[0] < frameMessage || text[0] > frameNobody {
		return frame{}, false
	}
	f.kind = text[0]
	if f.sender, text, ok = cut(text[2:], uint64(text[1])); !ok {
		return frame{}, false
	}
	if f.number, text, ok = cutNumber(text); !ok {
		return frame{}, false
	}
	size, text, ok := cutNumber(text)
	if !ok {
		return frame{}, false
	}
	f.subject, f.payload, ok = cut(text, size)
	return f, ok
}

func cut(text string, size uint64) (head, rest string, ok bool) {
	if size > uint64(len(text)) {
		return "", "", false
	}
	return text[:size], text[size:], true
}

// cutNumber reads a varint.
func cutNumber(text string) (number uint64, rest string, ok bool) {
	for i := range min(len(text), binary.MaxVarintLen64) {
		b := text[i]
		if i == binary.MaxVarintLen64-1 && b > 1 {
			return 0, "", false
		}
		number |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return number, text[i+1:], true
		}
	}
	return 0, "", false
}

// A server may have commands of two connections of one sender before it for a moment, that of
// one which the sender has given up and that of the next, and take them in any order. So every
// sender numbers its messages, and a receiver drops what is older than what it had of the same
// sender.

// maxSenders bounds the senders remembered. Beyond it, which takes as many starts of nodes, all
// are forgotten and learnt anew.
const maxSenders = 4096

// order knows the last number of each sender.
type order map[string]*known

type known struct {
	sender string
	last   uint64
}

// accept returns the sender of a message, as a string of its own, and whether the message is in
// its turn. The same message may come twice, on two channels.
func (o order) accept(f frame) (sender string, inTurn bool) {
	k := o[f.sender]
	if k == nil {
		if len(o) >= maxSenders {
			clear(o)
		}
		k = &known{sender: strings.Clone(f.sender)}
		o[k.sender] = k
	}
	if f.number < k.last {
		return k.sender, false
	}
	k.last = f.number
	return k.sender, true
}
