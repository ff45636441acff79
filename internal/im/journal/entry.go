package journal

import (
	"encoding/binary"
	"errors"

	"github.com/parleyio/parley/internal/im/message"
)

// Kinds of entries, by their first byte. Behind it comes the epoch of the writer.
const (
	kindEpoch    = 0 // a new epoch begins
	kindMessages = 1 // new messages, or one removal
	kindMoved    = 2 // messages that were in another entry, which is to be deleted
)

const (
	// maxEntryMessages and maxEntrySize bound what one entry carries: beyond it a message more costs about
	// as much in a large entry as in the next one.
	maxEntryMessages = 256
	maxEntrySize     = 128 << 10
	// entryOverhead is what an entry needs beside one message.
	entryOverhead = 1 + 8 + lengthSize
	// lengthSize is the size of the length before each message: fabric.MaxValueSize fits into it.
	lengthSize = 3
)

// Subjects of the entries of one log.
const (
	epochSubject   = "e"
	messageSubject = "m"
)

// errEntry says that bytes are no entry.
var errEntry = errors.New("not an entry of a message log")

// entry is what one entry of a log says.
type entry struct {
	kind     byte
	epoch    uint64
	messages []*message.Message // whose payloads are parts of the entry's bytes
}

func (e entry) encode() []byte {
	size := 1 + 8
	for _, m := range e.messages {
		size += lengthSize + m.Size()
	}
	data := binary.BigEndian.AppendUint64(append(make([]byte, 0, size), e.kind), e.epoch)
	for _, m := range e.messages {
		data = appendSized(data, m)
	}
	return data
}

// appendSized appends a message behind its length.
func appendSized(dst []byte, m *message.Message) []byte {
	at := len(dst)
	dst = m.Append(append(dst, make([]byte, lengthSize)...))
	size := len(dst) - at - lengthSize
	dst[at], dst[at+1], dst[at+2] = byte(size>>16), byte(size>>8), byte(size)
	return dst
}

// decodeEntry reads what encode wrote; it returns errEntry or message.ErrEncoding.
func decodeEntry(data []byte) (entry, error) {
	if len(data) < 1+8 || data[0] > kindMoved {
		return entry{}, errEntry
	}
	e := entry{kind: data[0], epoch: binary.BigEndian.Uint64(data[1:])}
	for rest := data[1+8:]; len(rest) > 0; {
		if len(rest) < lengthSize {
			return entry{}, errEntry
		}
		end := lengthSize + int(rest[0])<<16 + int(rest[1])<<8 + int(rest[2])
		if end > len(rest) {
			return entry{}, errEntry
		}
		m, err := message.Decode(rest[lengthSize:end:end])
		if err != nil {
			return entry{}, err
		}
		e.messages = append(e.messages, m)
		rest = rest[end:]
	}
	return e, nil
}
