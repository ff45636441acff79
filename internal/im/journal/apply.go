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

// applyBatch and applySize bound the entries that are applied together, by their number and bytes.
const (
	applyBatch = 64
	applySize  = 1 << 20
)

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
		size := len(e.Payload)
		for more := true; more && len(batch) < applyBatch && size < applySize; {
			select {
			case e, open := <-entries:
				if more = open; open {
					batch = append(batch, e)
					size += len(e.Payload)
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
	a := s.applying()
	for _, raw := range entries {
		e, err := decodeEntry(raw.Payload)
		if err != nil {
			s.journal.options.Logger.Error("an entry cannot be read", "slot", s.number, "entry", raw.Seq, "error", err)
			continue
		}
		// These look at the rows of what comes before them.
		alone := e.kind == kindMoved || len(e.messages) > 0 && e.messages[0].IsRemoval()
		if alone && a.last > 0 {
			if err := a.commit(); err != nil {
				return err
			}
			a = s.applying()
		}
		a.late = time.Since(raw.Time) > lateAfter
		if err := a.add(ctx, e, raw.Seq); err != nil {
			return err
		}
		a.last = raw.Seq
		if alone {
			if err := a.commit(); err != nil {
				return err
			}
			a = s.applying()
		}
	}
	if a.last = entries[len(entries)-1].Seq; a.last == s.appliedTo() {
		return nil
	}
	return a.commit()
}

// applying is a number of entries that are applied together.
type applying struct {
	*slot
	batch    index.Batch
	heads    map[message.Channel]Head
	messages []*message.Message // that count
	last     uint64             // entry
	garbage  bool
	late     bool // the entry is not new
}

// lateAfter is the age of an entry from which on what it says may have been removed.
const lateAfter = time.Second

func (s *slot) applying() *applying {
	return &applying{slot: s, batch: s.journal.options.Index.Batch(), heads: map[message.Channel]Head{}}
}

func (a *applying) commit() error {
	for c, head := range a.heads {
		a.batch.Set(index.Key(tableHead, c.Key()), head.append(nil))
	}
	if err := a.batch.Commit(a.name, a.last); err != nil {
		return err
	}
	a.applied(a.last, a.heads, a.messages)
	for _, m := range a.messages {
		a.journal.options.Applied(m)
	}
	if a.garbage {
		a.wakeCleaner()
	}
	return nil
}

// add takes in one entry.
func (a *applying) add(ctx context.Context, e entry, at uint64) error {
	if e.kind == kindEpoch {
		a.current = e.epoch
		a.batch.Set(index.Key(tableEpoch, a.name), binary.BigEndian.AppendUint64(nil, e.epoch))
		return nil
	}
	for _, m := range e.messages {
		head, err := a.headOf(m.Channel)
		if err != nil {
			return err
		}
		valid := e.epoch == a.current
		switch {
		case valid && m.IsRemoval():
			err = a.remove(m, head, at)
		case valid && e.kind == kindMoved:
			err = a.moved(m, head, at)
		case valid:
			valid, err = a.follows(ctx, m, head, at)
		}
		if err != nil {
			return err
		}
		if !valid {
			a.journal.options.Logger.Warn("a message is not where it should be, and does not count",
				"slot", a.number, "entry", at, "number", m.Seq, "behind", head.Seq)
		} else if e.kind == kindMessages && !m.IsRemoval() {
			if err := a.take(m, head, at); err != nil {
				return err
			}
			a.heads[m.Channel] = Head{Seq: m.Seq, Place: at, ID: m.ID, Time: m.Time}
		}
	}
	return nil
}

// take notes a new message. One that this node reads late may have been removed since.
func (a *applying) take(m *message.Message, head Head, at uint64) error {
	if a.late {
		floor, err := a.journal.floor(m.Channel)
		if err != nil || m.Seq < floor {
			return err
		}
	}
	a.messages = append(a.messages, m)
	a.index(m, at)
	a.indexSent(m, head.Seq == 0)
	return nil
}

// headOf is the newest message of a channel, with those that are being applied.
func (a *applying) headOf(c message.Channel) (Head, error) {
	if head, known := a.heads[c]; known {
		return head, nil
	}
	return a.journal.indexHead(c)
}

// follows tells whether a message of the newest epoch counts: it is behind the message of its channel
// that it was meant to be behind, unless that was removed since. See the package's comment.
func (s *slot) follows(ctx context.Context, m *message.Message, head Head, at uint64) (bool, error) {
	switch {
	case m.Prev == 0: // the first, or by an owner that was away, or made its index anew, after all were removed
		if m.Seq != head.Seq+1 {
			floor, err := s.journal.floor(m.Channel)
			if err != nil || m.Seq != floor || m.Seq <= head.Seq {
				return false, err
			}
		}
		if head.Place == 0 {
			return true, nil
		}
		return s.removed(ctx, head.Place)
	case m.Prev == head.Place:
		return m.Seq == head.Seq+1, nil
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

// index adds the rows of one message.
func (a *applying) index(m *message.Message, at uint64) {
	key := m.Channel.Key()
	a.batch.Set(index.KeySeq(tableMessage, key, m.Seq), newRow(m, at))
	seq := binary.AppendUvarint(nil, m.Seq)
	a.batch.Set(index.Key(tableID, key, idText(m.ID)), seq)
	if m.ClientMsgNo != "" {
		a.batch.Set(index.Key(tableNo, key, m.ClientMsgNo, m.From), binary.AppendVarint(seq, m.ID))
	}
	if m.Expire > 0 {
		a.batch.Set(expiryKey(m), nil)
	}
	if !m.Channel.IsCommands() {
		return
	}
	if one, other, ok := m.Channel.Persons(); ok {
		for _, uid := range []string{one, other} {
			if uid != m.From {
				a.batch.Set(index.Key(tableCommands, uid, key), seq)
			}
		}
	}
	for _, uid := range m.To {
		a.batch.Set(index.Key(tableCommands, uid, key), seq)
	}
}

// indexSent notes that the sender has the conversation, and the other person if the message is the
// first one here.
func (a *applying) indexSent(m *message.Message, first bool) {
	if m.Channel.IsCommands() {
		return
	}
	key := m.Channel.Key()
	if m.From != "" {
		a.batch.Set(index.Key(tableSent, m.From, key), binary.AppendUvarint(nil, m.Seq))
	}
	if one, other, ok := m.Channel.Persons(); ok && first {
		if one == m.From {
			one = other
		}
		a.batch.Set(index.Key(tableSent, one, key), binary.AppendUvarint(nil, 0))
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

// Head returns the newest message of a channel; of one that has none, or whose newest ones were removed
// while this node was away, only its number.
func (j *Journal) Head(c message.Channel) (Head, error) {
	head, err := j.indexHead(c)
	if err != nil {
		return head, err
	}
	floor, err := j.floor(c)
	if floor > head.Seq+1 {
		head = Head{Seq: floor - 1}
	}
	return head, err
}

// indexHead is the newest message that this node has had.
func (j *Journal) indexHead(c message.Channel) (Head, error) {
	row, err := j.options.Index.Get(index.Key(tableHead, c.Key()))
	if err != nil || row == nil {
		return Head{}, err
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
