package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// Messages are removed by an order in the log, which every node applies to its index. What is left is
// garbage in the log: the slot's owner deletes an entry when none of its messages is left, and moves
// those that are left to a new entry before.

const (
	// cleanInterval is between two looks for garbage that was left at an earlier one.
	cleanInterval = 10 * time.Second
	// maxCleaned bounds the entries that one look takes on.
	maxCleaned = 256
	// maxErased bounds the ranges of keys that are taken off the disk at once, each for about 10 ms.
	maxErased = 16
)

// remove applies the order to remove messages.
func (a *applying) remove(m *message.Message, head Head, at uint64) error {
	key := m.Channel.Key()
	from, end := index.KeySeq(tableMessage, key, m.Removes.From), index.KeySeq(tableMessage, key, m.Removes.Before)
	last := uint64(0)
	err := a.journal.options.Index.Each(from, end, false, func(_, value []byte) bool {
		if at := readPlace(value).at; at != last { // mostly one entry has several of a channel
			a.isGarbage(at)
			last = at
		}
		return true
	})
	if err != nil {
		return err
	}
	a.batch.DeleteRange(from, end)
	if m.Removes.From == 0 {
		a.batch.DeleteRange(index.KeySeq(tableRemoved, key, 0), index.KeySeq(tableRemoved, key, m.Removes.Before))
		a.isGarbage(at) // the order itself, as soon as the registry has the floor
	}
	a.batch.Set(index.KeySeq(tableRemoved, key, m.Removes.Before), binary.AppendUvarint(nil, m.Removes.From))
	if head.Seq+1 < m.Removes.Before { // an index that is made anew, after the newest message was removed
		head.Seq = m.Removes.Before - 1
		a.heads[m.Channel] = head
	}
	a.mu.Lock()
	if len(a.erased) < maxErased { // the database does it by itself, some time
		a.erased = append(a.erased, keyRange{from, end})
	}
	a.mu.Unlock()
	return nil
}

// moved applies that a message is in another entry now.
func (a *applying) moved(m *message.Message, head Head, at uint64) error {
	row, err := a.journal.options.Index.Get(index.KeySeq(tableMessage, m.Channel.Key(), m.Seq))
	if err != nil {
		return err
	}
	if row == nil {
		removed, err := a.journal.isRemoved(m)
		if err != nil {
			return err
		}
		if removed { // while it was moved
			a.isGarbage(at)
			return nil
		}
		return a.indexMoved(m, head, at)
	}
	if before := readPlace(row).at; before != at {
		a.isGarbage(before)
	}
	a.batch.Set(index.KeySeq(tableMessage, m.Channel.Key(), m.Seq), newRow(m, at))
	if head.Seq == m.Seq {
		head.Place = at
		a.heads[m.Channel] = head
	}
	return nil
}

// indexMoved indexes a message whose first entry was deleted before this index had it.
func (a *applying) indexMoved(m *message.Message, head Head, at uint64) error {
	a.index(m, at)
	sent, err := a.journal.SentIn(m.From, m.Channel)
	if err != nil {
		return err
	}
	if m.Seq > sent {
		a.indexSent(m, head.Seq == 0)
	}
	if m.Seq >= head.Seq {
		a.heads[m.Channel] = Head{Seq: m.Seq, Place: at, ID: m.ID, Time: m.Time}
	}
	return nil
}

func (a *applying) isGarbage(at uint64) {
	a.batch.Set(index.KeySeq(tableGarbage, a.name, at), nil)
	a.garbage = true
}

// AwaitRemoved waits until this node has none of the messages that are to be removed.
func (j *Journal) AwaitRemoved(ctx context.Context, c message.Channel, what message.Removal) error {
	return j.slotOf(c).await(ctx, func() (bool, error) {
		list, err := j.Read(c, Range{From: what.From, To: what.Before, Limit: 1})
		return len(list) == 0, err
	})
}

// isRemoved tells whether there was an order to remove a message.
func (j *Journal) isRemoved(m *message.Message) (removed bool, err error) {
	if j.options.Floor != nil {
		floor, err := j.options.Floor(m.Channel)
		if err != nil || m.Seq < floor {
			return m.Seq < floor, err
		}
	}
	key := m.Channel.Key()
	err = j.options.Index.Each(index.KeySeq(tableRemoved, key, m.Seq+1), index.End(index.Prefix(tableRemoved, key)), false,
		func(_, value []byte) bool {
			from, _ := binary.Uvarint(value)
			removed = from <= m.Seq
			return !removed
		})
	return removed, err
}

func (s *slot) wakeCleaner() {
	select {
	case s.toClean <- struct{}{}:
	default: // it will look
	}
}

// clean looks after garbage until ctx ends.
func (s *slot) clean(ctx context.Context) {
	ticker := time.NewTicker(cleanInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := s.cleanOnce(ctx); err != nil && ctx.Err() == nil {
			s.journal.options.Logger.Warn("removed messages are still in the log", "slot", s.number, "error", err)
			fabric.Pause(ctx, cleanInterval)
		}
		select {
		case <-ctx.Done():
		case <-s.toClean:
		case <-ticker.C:
		}
	}
}

// cleanOnce looks at the entries that have removed messages. What it moves is deleted when the new entry
// was applied, which wakes the cleaner again.
func (s *slot) cleanOnce(ctx context.Context) error {
	x := s.journal.options.Index
	s.mu.Lock()
	owned, erased := s.owned, s.erased
	s.erased = nil
	s.mu.Unlock()
	for _, r := range erased {
		if err := x.Compact(r.from, r.end); err != nil {
			return err
		}
	}
	var places []uint64
	prefix := index.Prefix(tableGarbage, s.name)
	err := x.Each(prefix, index.End(prefix), false, func(key, _ []byte) bool {
		places = append(places, index.SeqOf(key))
		return len(places) < maxCleaned
	})
	batch, left := x.Batch(), 0
	for _, at := range places {
		if err != nil {
			break
		}
		var clean bool
		if clean, err = s.cleanEntry(ctx, at, owned, left == 0); clean {
			batch.Delete(index.KeySeq(tableGarbage, s.name, at))
		} else {
			left++
		}
	}
	return errors.Join(err, batch.Write())
}

// cleanEntry returns whether an entry has nothing to be removed any more. An order to remove messages is
// deleted when all entries before it are clean: an index that is made anew needs it until then.
func (s *slot) cleanEntry(ctx context.Context, at uint64, owned, allBefore bool) (bool, error) {
	page, err := s.log.Read(ctx, ">", at, 1)
	if err != nil || len(page) == 0 { // it was deleted, or this replica is behind
		return false, err
	}
	if page[0].Seq != at {
		return true, nil
	}
	if !owned {
		return false, nil // the owner looks after it
	}
	e, err := decodeEntry(page[0].Payload)
	if err != nil {
		return false, err
	}
	live, err := s.live(e, at)
	switch {
	case err != nil:
		return false, err
	case len(live) == len(e.messages):
		return !live[0].IsRemoval(), nil // the registry does not have the floor yet
	case e.messages[0].IsRemoval() && !allBefore:
		return false, nil
	case len(live) > 0:
		s.rewrite(live)
		return false, nil
	}
	err = s.log.Delete(ctx, at)
	if err != nil && !errors.Is(err, fabric.ErrNotFound) {
		return false, err
	}
	return true, nil
}

// live returns what has to be kept of an entry.
func (s *slot) live(e entry, at uint64) ([]*message.Message, error) {
	var live []*message.Message
	for _, m := range e.messages {
		var keep bool
		if m.IsRemoval() {
			floor, err := s.journal.floor(m.Channel)
			if err != nil {
				return nil, err
			}
			keep = m.Removes.From > 0 || floor < m.Removes.Before
		} else {
			row, err := s.journal.options.Index.Get(index.KeySeq(tableMessage, m.Channel.Key(), m.Seq))
			if err != nil {
				return nil, err
			}
			keep = row != nil && readPlace(row).at == at
		}
		if keep {
			live = append(live, m)
		}
	}
	return live, nil
}

func (j *Journal) floor(c message.Channel) (uint64, error) {
	if j.options.Floor == nil {
		return 0, nil
	}
	return j.options.Floor(c)
}

// rewrite sends messages once more, as one entry.
func (s *slot) rewrite(live []*message.Message) {
	now := time.Now()
	expire := int64(0) // of the entry: when the last of them does
	for _, m := range live {
		if m.Expire > 0 {
			expire = max(expire, 1, m.Seconds()+int64(m.Expire)-now.Unix())
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.owned || len(s.waiting) >= maxWaiting {
		return // it is looked at again
	}
	s.arrived++
	s.waiting = append(s.waiting, &appending{
		message: &message.Message{Expire: uint32(expire)}, moved: live, done: func(Outcome) {},
		order: s.arrived, until: now.Add(AppendTimeout - fabric.SendTimeout),
	})
	s.pump()
}

// DropExpired removes messages that have expired from this node's index. The log forgets them by itself.
func (j *Journal) DropExpired(now time.Time) error {
	batch := j.options.Index.Batch()
	end := binary.BigEndian.AppendUint64([]byte{tableExpiry}, uint64(now.UnixMilli()))
	err := j.options.Index.Each([]byte{tableExpiry}, end, false, func(key, _ []byte) bool {
		batch.Delete(append([]byte{}, key...))
		seq, channel := binary.BigEndian.Uint64(key[9:]), string(key[17:])
		batch.Delete(index.KeySeq(tableMessage, channel, seq))
		return true
	})
	return errors.Join(err, batch.Write())
}

// expiryKey is when a message expires, with its number and channel.
func expiryKey(m *message.Message) []byte {
	key := binary.BigEndian.AppendUint64([]byte{tableExpiry}, uint64(m.Time+int64(m.Expire)*1000))
	return append(binary.BigEndian.AppendUint64(key, m.Seq), m.Channel.Key()...)
}
