package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// applyBatch is how many entries are applied together at most.
const applyBatch = 256

// stored is a message with its place in the log.
type stored struct {
	*message.Message
	place uint64
}

// run follows the slot's log and applies it.
func (s *slot) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	entries := make(chan fabric.Entry, applyBatch)
	followed := make(chan error, 1)
	from := s.appliedTo() + 1
	go func() {
		defer close(entries)
		followed <- s.log.Follow(ctx, ">", from, func(e fabric.Entry) {
			select {
			case entries <- e:
			case <-ctx.Done():
			}
		})
	}()
	batch := make([]fabric.Entry, 0, applyBatch)
	for e := range entries {
		batch = append(batch[:0], e)
		for more := true; more && len(batch) < applyBatch; {
			select {
			case e, open := <-entries:
				if more = open; open {
					batch = append(batch, e)
				}
			default:
				more = false
			}
		}
		if err := s.apply(ctx, batch); err != nil && ctx.Err() != nil {
			break // it ends
		} else if err != nil {
			return fmt.Errorf("apply slot %d: %w", s.number, err)
		}
	}
	if err := <-followed; err != nil && ctx.Err() == nil {
		return fmt.Errorf("follow slot %d: %w", s.number, err)
	}
	return nil
}

// apply writes entries into the index and hands their messages on.
func (s *slot) apply(ctx context.Context, entries []fabric.Entry) error {
	x := s.journal.options.Index
	batch := x.Batch()
	heads := map[message.Channel]Head{}
	var messages []stored
	for _, e := range entries {
		if epoch, is := decodeEpoch(e.Payload); is {
			s.current = epoch
			batch.Set(index.Key(tableEpoch, s.name), e.Payload)
			continue
		}
		m, err := message.Decode(e.Payload)
		if err != nil {
			s.journal.options.Logger.Error("an entry is no message", "slot", s.number, "seq", e.Seq, "error", err)
			continue
		}
		head, known := heads[m.Channel]
		if !known {
			if head, err = s.journal.Head(m.Channel); err != nil {
				return err
			}
		}
		valid, err := s.follows(ctx, m, head, e.Seq)
		if err != nil {
			return err
		}
		if !valid {
			s.journal.options.Logger.Warn("an entry is not where it should be, and does not count",
				"slot", s.number, "entry", e.Seq, "number", m.Seq, "behind", head.Seq)
			continue
		}
		messages = append(messages, stored{m, e.Seq})
		s.index(batch, m, e.Seq, head.Place == 0)
		heads[m.Channel] = Head{Seq: m.Seq, Place: e.Seq, ID: m.ID, Time: m.Time}
	}
	for c, head := range heads {
		batch.Set(index.Key(tableHead, c.Key()), head.append(nil))
	}
	last := entries[len(entries)-1].Seq
	if err := batch.Commit(s.name, last); err != nil {
		return err
	}
	s.applied(last, messages)
	for _, m := range messages {
		s.journal.options.Applied(m.Message)
	}
	return nil
}

// epochSubject has the entries that name an epoch. They are never removed.
const epochSubject = "e"

// epochEncoding begins the entry of an epoch; a message begins with another byte.
const epochEncoding = 0

func encodeEpoch(epoch uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{epochEncoding}, epoch)
}

func decodeEpoch(data []byte) (epoch uint64, is bool) {
	if len(data) != 9 || data[0] != epochEncoding {
		return 0, false
	}
	return binary.BigEndian.Uint64(data[1:]), true
}

// follows tells whether a message counts: it is of the newest epoch and behind the message of its
// channel that it was meant to be behind, unless that was removed since. See the package's comment.
func (s *slot) follows(ctx context.Context, m *message.Message, head Head, at uint64) (bool, error) {
	switch {
	case m.Epoch != s.current:
		return false, nil
	case m.Prev == head.Place:
		return m.Seq == head.Seq+1, nil
	case m.Prev == 0: // by an owner whose index was made anew after all messages were removed
		if m.Seq != head.Seq+1 {
			return false, nil
		}
		return s.removed(ctx, head.Place)
	case m.Prev < head.Place || m.Prev >= at || m.Seq <= head.Seq:
		return false, nil
	}
	return s.removed(ctx, m.Prev)
}

// removed tells whether the log has no entry at a place any more.
func (s *slot) removed(ctx context.Context, at uint64) (bool, error) {
	for {
		asking, cancel := context.WithTimeout(ctx, time.Second)
		page, err := s.log.Read(asking, ">", at, 1)
		cancel()
		switch {
		case err == nil:
			return len(page) == 0 || page[0].Seq != at, nil
		case errors.Is(err, fabric.ErrClosed), ctx.Err() != nil:
			return false, err
		}
		pause(ctx)
	}
}

// index adds the rows of one message, which is the first of its channel here or not.
func (s *slot) index(batch index.Batch, m *message.Message, at uint64, first bool) {
	key := m.Channel.Key()
	batch.Set(index.KeySeq(tableMessage, key, m.Seq), place{at, m.Time, uint64(len(m.Payload))}.append(nil))
	seq := binary.AppendUvarint(nil, m.Seq)
	batch.Set(index.Key(tableID, key, idText(m.ID)), seq)
	if m.ClientMsgNo != "" {
		batch.Set(index.Key(tableNo, key, m.ClientMsgNo, m.From), binary.AppendVarint(seq, m.ID))
	}
	if m.Channel.IsCommands() {
		if a, b, ok := m.Channel.Persons(); ok {
			for _, uid := range []string{a, b} {
				if uid != m.From {
					batch.Set(index.Key(tableCommands, uid, key), seq)
				}
			}
		}
		for _, uid := range m.To {
			batch.Set(index.Key(tableCommands, uid, key), seq)
		}
		return
	}
	if m.From != "" {
		batch.Set(index.Key(tableSent, m.From, key), binary.AppendUvarint(nil, m.Seq))
	}
	if a, b, ok := m.Channel.Persons(); ok && first { // the other one has the conversation as well
		other := a
		if a == m.From {
			other = b
		}
		batch.Set(index.Key(tableSent, other, key), binary.AppendUvarint(nil, 0))
	}
}

// Head is the newest message of a channel.
type Head struct {
	Seq   uint64 // 0 when there never was one
	Place uint64 // in the log of the slot
	ID    int64
	Time  int64 // ms since 1970
}

func (h Head) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, h.Seq)
	dst = binary.AppendUvarint(dst, h.Place)
	dst = binary.AppendVarint(dst, h.ID)
	return binary.AppendVarint(dst, h.Time)
}

func readHead(row []byte) (h Head) {
	r := row
	var n int
	if h.Seq, n = binary.Uvarint(r); n <= 0 {
		return Head{}
	}
	r = r[n:]
	if h.Place, n = binary.Uvarint(r); n <= 0 {
		return Head{}
	}
	r = r[n:]
	if h.ID, n = binary.Varint(r); n <= 0 {
		return Head{}
	}
	h.Time, _ = binary.Varint(r[n:])
	return h
}

// Head returns the newest message of a channel; of one that has none, a zero value but for the number of
// the last one that it had.
func (j *Journal) Head(c message.Channel) (Head, error) {
	row, err := j.options.Index.Get(index.Key(tableHead, c.Key()))
	if err != nil {
		return Head{}, err
	}
	if row == nil && j.options.Floor != nil { // all of its messages may have been removed before this index was made
		floor, err := j.options.Floor(c)
		return Head{Seq: max(floor, 1) - 1}, err
	}
	return readHead(row), nil
}

// Sent is a channel with the number of a user's own newest message there, 0 when the user has sent
// none in it.
type Sent struct {
	Channel message.Channel
	Seq     uint64
}

// Sent returns the channels in which a user has sent something, and the persons that have sent to
// the user.
func (j *Journal) Sent(uid string) ([]Sent, error) {
	var list []Sent
	prefix := index.Prefix(tableSent, uid)
	err := j.options.Index.Each(prefix, index.End(prefix), false, func(key, value []byte) bool {
		if c, ok := message.ParseKey(string(key[len(prefix):])); ok {
			seq, _ := binary.Uvarint(value)
			list = append(list, Sent{c, seq})
		}
		return true
	})
	return list, err
}

// CommandsTo returns the shadow channels of persons, and of lists of recipients, that have commands for
// a user.
func (j *Journal) CommandsTo(uid string) ([]message.Channel, error) {
	var list []message.Channel
	prefix := index.Prefix(tableCommands, uid)
	err := j.options.Index.Each(prefix, index.End(prefix), false, func(key, _ []byte) bool {
		if c, ok := message.ParseKey(string(key[len(prefix):])); ok {
			list = append(list, c)
		}
		return true
	})
	return list, err
}

// SentIn returns the number of a user's own newest message in a channel.
func (j *Journal) SentIn(uid string, c message.Channel) (uint64, error) {
	row, err := j.options.Index.Get(index.Key(tableSent, uid, c.Key()))
	if err != nil || row == nil {
		return 0, err
	}
	seq, _ := binary.Uvarint(row)
	return seq, nil
}

// byNo finds a message by its sender's number for it.
func (j *Journal) byNo(m *message.Message) (seq uint64, id int64, err error) {
	row, err := j.options.Index.Get(index.Key(tableNo, m.Channel.Key(), m.ClientMsgNo, m.From))
	if err != nil || row == nil {
		return 0, 0, err
	}
	seq, n := binary.Uvarint(row)
	if n > 0 {
		id, _ = binary.Varint(row[n:])
	}
	return seq, id, nil
}

// SeqOfID returns the number of the message with that ID, 0 when there is none.
func (j *Journal) SeqOfID(c message.Channel, id int64) (uint64, error) {
	row, err := j.options.Index.Get(index.Key(tableID, c.Key(), idText(id)))
	if err != nil || row == nil {
		return 0, err
	}
	seq, _ := binary.Uvarint(row)
	return seq, nil
}

// SeqsOfNo returns the numbers of the messages that senders gave that number of theirs.
func (j *Journal) SeqsOfNo(c message.Channel, no string) ([]uint64, error) {
	var list []uint64
	prefix := index.Prefix(tableNo, c.Key(), no)
	err := j.options.Index.Each(prefix, index.End(prefix), false, func(_, value []byte) bool {
		seq, _ := binary.Uvarint(value)
		list = append(list, seq)
		return true
	})
	return list, err
}
