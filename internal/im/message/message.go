package message

import (
	"encoding/binary"
	"errors"

	"github.com/parleyio/parley/internal/im/wire"
)

// Message is a message of a channel.
type Message struct {
	ID  int64
	Seq uint64 // in its channel, from 1 without gaps; 0 when it is not stored
	// Prev is the place in the log of the channel's message before this one, 0 for the first: by it every
	// node finds out that an entry is where its writer meant it to be.
	Prev        uint64
	Channel     Channel
	From        string
	ClientMsgNo string
	Flags       wire.Flags
	Setting     wire.Setting
	Topic       string
	Expire      uint32 // seconds after Time; 0 is never
	Time        int64  // when the server took it, in ms since 1970
	Payload     []byte
	// To are the recipients of a message that goes to some alone; empty for the channel's members.
	To []string
	// Removes is set in what is no message, but the order to remove some of the channel.
	Removes Removal
}

// Removal says that the messages of a channel with a number from From to before Before are removed.
type Removal struct{ From, Before uint64 }

// IsRemoval tells whether this is the order to remove messages.
func (m *Message) IsRemoval() bool { return m.Removes.Before > 0 }

// Seconds is Time in the protocol's unit.
func (m *Message) Seconds() int64 { return m.Time / 1000 }

// Expired tells whether the message is no more at a time in ms since 1970.
func (m *Message) Expired(now int64) bool {
	return m.Expire > 0 && now >= m.Time+int64(m.Expire)*1000
}

// Versions of Append's format: of a message, and of a removal.
const (
	encoding        = 1
	encodingRemoval = 2
)

// ErrEncoding says that bytes are no encoded message.
var ErrEncoding = errors.New("not an encoded message")

// Size is at least as many bytes as the encoded message takes.
func (m *Message) Size() int {
	size := len(m.Payload) + len(m.Channel.ID) + len(m.From) + len(m.ClientMsgNo) + len(m.Topic) + fixedSize
	for _, uid := range m.To {
		size += len(uid) + binary.MaxVarintLen32
	}
	return size
}

// fixedSize is what the other fields take at most.
const fixedSize = 128

// Append appends the encoded message.
func (m *Message) Append(dst []byte) []byte {
	version := byte(encoding)
	if m.IsRemoval() {
		version = encodingRemoval
	}
	dst = append(dst, version, byte(m.Flags), byte(m.Setting), m.Channel.Type)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.ID))
	if m.IsRemoval() {
		dst = binary.AppendUvarint(dst, m.Removes.From)
		dst = binary.AppendUvarint(dst, m.Removes.Before)
	}
	dst = binary.AppendUvarint(dst, m.Seq)
	dst = binary.AppendUvarint(dst, m.Prev)
	dst = binary.AppendUvarint(dst, uint64(m.Expire))
	dst = binary.AppendVarint(dst, m.Time)
	for _, s := range [...]string{m.Channel.ID, m.From, m.ClientMsgNo, m.Topic} {
		dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(m.To)))
	for _, s := range m.To {
		dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...)
	}
	return append(dst, m.Payload...)
}

// Decode reads what Append wrote; the payload is a part of data. It returns ErrEncoding.
func Decode(data []byte) (*Message, error) {
	r := reader{rest: data}
	head := r.take(4)
	if head == nil || head[0] != encoding && head[0] != encodingRemoval {
		return nil, ErrEncoding
	}
	m := &Message{Flags: wire.Flags(head[1]), Setting: wire.Setting(head[2])}
	m.Channel.Type = head[3]
	if id := r.take(8); id != nil {
		m.ID = int64(binary.BigEndian.Uint64(id))
	}
	if head[0] == encodingRemoval {
		m.Removes.From, m.Removes.Before = r.uvarint(), r.uvarint()
		r.bad = r.bad || m.Removes.From >= m.Removes.Before
	}
	m.Seq = r.uvarint()
	m.Prev = r.uvarint()
	m.Expire = uint32(r.uvarint())
	m.Time = r.varint()
	m.Channel.ID, m.From, m.ClientMsgNo, m.Topic = r.text(), r.text(), r.text(), r.text()
	if n := r.uvarint(); n > uint64(len(r.rest)) {
		r.bad = true
	} else if n > 0 && !r.bad {
		m.To = make([]string, n)
		for i := range m.To {
			m.To[i] = r.text()
		}
	}
	if r.bad {
		return nil, ErrEncoding
	}
	m.Payload = r.rest
	return m, nil
}

// reader takes fields from an encoded message.
type reader struct {
	rest []byte
	bad  bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n < 0 || len(r.rest) < n {
		r.bad = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.rest)
	if r.bad || n <= 0 {
		r.bad = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) text() string {
	n := r.uvarint()
	if n > uint64(len(r.rest)) {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}
