package journal

import (
	"encoding/binary"

	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// Keep says how much of a channel is kept. A zero limit is none.
type Keep struct {
	After int64 // messages since then, in ms since 1970
	Count uint64
	Bytes uint64 // of payloads
}

// place begins a message's row in the index; the encoded message follows.
type place struct {
	at   uint64 // in the log
	time int64  // ms since 1970
	size uint64 // of the payload
}

func (p place) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, p.at)
	dst = binary.AppendVarint(dst, p.time)
	return binary.AppendUvarint(dst, p.size)
}

// newRow returns the row of a message that is in an entry.
func newRow(m *message.Message, at uint64) []byte {
	row := make([]byte, 0, 3*binary.MaxVarintLen64+m.Size())
	return m.Append(place{at, m.Time, uint64(len(m.Payload))}.append(row))
}

func readPlace(row []byte) place {
	p, _ := cutPlace(row)
	return p
}

// cutPlace returns the place and what follows it.
func cutPlace(row []byte) (p place, rest []byte) {
	var n int
	if p.at, n = binary.Uvarint(row); n <= 0 {
		return place{}, nil
	}
	row = row[n:]
	if p.time, n = binary.Varint(row); n <= 0 {
		return p, nil
	}
	row = row[n:]
	if p.size, n = binary.Uvarint(row); n <= 0 {
		return p, nil
	}
	return p, row[n:]
}

// readRow returns a copy of the message in a row.
func readRow(row []byte) (*message.Message, error) {
	_, encoded := cutPlace(row)
	return message.Decode(append([]byte{}, encoded...))
}

// EachChannel calls f with every channel that has had a message, in the order of their keys, until it
// returns false.
func (j *Journal) EachChannel(f func(c message.Channel, head Head) bool) error {
	prefix := index.Key(tableHead)
	return j.options.Index.Each(prefix, index.End(prefix), false, func(key, value []byte) bool {
		c, ok := message.ParseKey(string(key[len(prefix):]))
		return !ok || f(c, readHead(value))
	})
}

// KeepFrom returns the number of the oldest message that is to be kept, 0 when all are.
func (j *Journal) KeepFrom(c message.Channel, head Head, keep Keep) (uint64, error) {
	prefix := index.Prefix(tableMessage, c.Key())
	var oldest uint64
	var first place
	err := j.options.Index.Each(prefix, index.End(prefix), false, func(key, value []byte) bool {
		oldest, first = index.SeqOf(key), readPlace(value)
		return false
	})
	if err != nil || oldest == 0 {
		return 0, err
	}
	few := keep.Count == 0 || head.Seq-oldest < keep.Count
	if few && first.time >= keep.After && keep.Bytes == 0 {
		return 0, nil // as it mostly is
	}
	from, count, bytes := head.Seq+1, uint64(0), uint64(0)
	err = j.options.Index.Each(prefix, index.End(prefix), true, func(key, value []byte) bool {
		p := readPlace(value)
		count++
		bytes += p.size
		if keep.Count > 0 && count > keep.Count || keep.Bytes > 0 && bytes > keep.Bytes || p.time < keep.After {
			return false
		}
		from = index.SeqOf(key)
		return true
	})
	if err != nil || from <= oldest {
		return 0, err
	}
	return from, nil
}

// Forget removes the messages of a channel before a number from this node's index; the log has to be
// purged as well. What senders have sent stays known.
func (j *Journal) Forget(c message.Channel, before uint64) error {
	batch := j.options.Index.Batch()
	batch.DeleteRange(index.Prefix(tableMessage, c.Key()), index.KeySeq(tableMessage, c.Key(), before))
	return batch.Write()
}
