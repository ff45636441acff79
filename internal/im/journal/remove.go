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
)

// remove applies the order to remove messages.
func (a *applying) remove(m *message.Message, head Head, at uint64) error {
	key := m.Channel.Key()
	from, end := index.KeySeq(tableMessage, key, m.Removes.From), index.KeySeq(tableMessage, key, m.Removes.Before)
	last := uint64(0)
	var failed error
	err := a.journal.options.Index.Each(from, end, false, func(_, value []byte) bool {
		if at := readPlace(value).at; at != last { // mostly one entry has several of a channel
			a.isGarbage(at)
			last = at
		}
		if m.Removes.From == 0 { // of a single one it stays known what its sender sends again
			failed = forget(a.batch, value)
		}
		return failed == nil
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	a.batch.DeleteRange(from, end)
	if m.Removes.From == 0 {
		a.batch.DeleteRange(index.KeySeq(tableRemoved, key, 0), index.KeySeq(tableRemoved, key, m.Removes.Before))
		// The order itself goes as well, when the floor is known.
		order := append(binary.AppendUvarint(nil, m.Removes.Before), key...)
		a.batch.Set(index.KeySeq(tableGarbage, a.name, at), order)
		a.garbage = true
	}
	a.batch.Set(index.KeySeq(tableRemoved, key, m.Removes.Before), binary.AppendUvarint(nil, m.Removes.From))
	if head.Seq+1 < m.Removes.Before { // an index that is made anew, after the newest message was removed
		a.heads[m.Channel] = Head{Seq: m.Removes.Before - 1}
	}
	if m.Removes.From > 0 { // of many the database does it by itself, some time
		a.mu.Lock()
		a.erased = append(a.erased, keyRange{from, end})
		a.mu.Unlock()
	}
	return nil
}

// forget deletes what else the index has of the message in a row.
func forget(batch index.Batch, row []byte) error {
	_, encoded := cutPlace(row)
	m, err := message.Decode(encoded)
	if err != nil {
		return err
	}
	key := m.Channel.Key()
	batch.Delete(index.Key(tableID, key, idText(m.ID)))
	batch.Delete(index.Key(tableNo, key, m.ClientMsgNo, m.From))
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
			if head.Seq == m.Seq { // what comes next was sent behind this place
				head.Place = at
				a.heads[m.Channel] = head
			}
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
func (j *Journal) isRemoved(m *message.Message) (removed bool, _ error) {
	floor, err := j.floor(m.Channel)
	if err != nil || m.Seq < floor {
		return m.Seq < floor, err
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

// floor is the number of the oldest message that is kept, 0 for all.
func (j *Journal) floor(c message.Channel) (uint64, error) {
	if j.options.Floor == nil {
		return 0, nil
	}
	return j.options.Floor(c)
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

// cleanOnce looks at the next entries that have removed messages, and begins anew behind the last. What
// it moves is deleted when the new entry was applied, which wakes the cleaner again.
func (s *slot) cleanOnce(ctx context.Context) error {
	if err := s.erase(); err != nil {
		return err
	}
	x := s.journal.options.Index
	var places []uint64
	prefix, last := index.Prefix(tableGarbage, s.name), uint64(0)
	rows := 0
	err := x.Each(index.KeySeq(tableGarbage, s.name, s.cleaned), index.End(prefix), false, func(key, order []byte) bool {
		last = index.SeqOf(key)
		if rows++; len(order) == 0 || s.journal.hasFloor(order) {
			places = append(places, last)
		}
		return rows < maxCleaned
	})
	if err != nil {
		return err
	}
	batch := x.Batch()
	for _, at := range places {
		var clean bool
		if clean, err = s.cleanEntry(ctx, at); err != nil {
			break
		} else if clean {
			batch.Delete(index.KeySeq(tableGarbage, s.name, at))
		}
	}
	if s.cleaned = 0; err == nil && rows == maxCleaned {
		s.cleaned = last + 1
		s.wakeCleaner()
	}
	return errors.Join(err, batch.Write())
}

// hasFloor tells whether the registry has the floor of an order, by its row.
func (j *Journal) hasFloor(order []byte) bool {
	before, n := binary.Uvarint(order)
	if n <= 0 {
		return true // to be looked at
	}
	c, ok := message.ParseKey(string(order[n:]))
	floor, err := j.floor(c)
	return !ok || err != nil || floor >= before
}

// erase takes single messages that were removed off the index's disk.
func (s *slot) erase() error {
	s.mu.Lock()
	erased := s.erased
	s.erased = nil
	s.mu.Unlock()
	for i, r := range erased {
		if err := s.journal.options.Index.Compact(r.from, r.end); err != nil {
			s.mu.Lock()
			s.erased = append(s.erased, erased[i:]...)
			s.mu.Unlock()
			return err
		}
	}
	return nil
}

// cleanEntry returns whether an entry has nothing to be removed any more.
func (s *slot) cleanEntry(ctx context.Context, at uint64) (bool, error) {
	s.mu.Lock()
	move := s.moves[at]
	under := move != nil && (!move.stored || move.place > s.position)
	if !under {
		delete(s.moves, at)
	}
	owned := s.owned
	s.mu.Unlock()
	if under || s.journal.options.Told != nil && at > s.journal.options.Told(s.number) {
		return false, nil
	}
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
	live, waits, err := s.live(e, at)
	switch {
	case err != nil:
		return false, err
	case len(live) == len(e.messages):
		return !waits, nil
	case len(live) > 0:
		s.rewrite(live, at)
		return false, nil
	}
	err = s.log.Delete(ctx, at)
	if err != nil && !errors.Is(err, fabric.ErrNotFound) {
		return false, err
	}
	return true, nil
}

// live returns what has to be kept of an entry, and whether some of that is to go later.
func (s *slot) live(e entry, at uint64) (live []*message.Message, waits bool, err error) {
	now := time.Now().UnixMilli()
	for _, m := range e.messages {
		keep, later, err := s.keeps(m, at, now)
		if err != nil {
			return nil, false, err
		}
		if keep {
			live = append(live, m)
		}
		waits = waits || later
	}
	return live, waits, nil
}

// keeps tells whether a message in an entry has to be kept, and whether for a while alone.
func (s *slot) keeps(m *message.Message, at uint64, now int64) (keep, later bool, err error) {
	if m.IsRemoval() {
		return s.keepsOrder(m, at)
	}
	row, err := s.journal.options.Index.Get(index.KeySeq(tableMessage, m.Channel.Key(), m.Seq))
	if err != nil || row != nil && readPlace(row).at == at {
		return true, false, err
	}
	if row != nil || !m.Expired(now) {
		return false, false, nil
	}
	head, err := s.journal.Head(m.Channel) // the newest stays: by it the next one is numbered
	newest := head.Seq == m.Seq && head.Place == at
	return newest, newest, err
}

// keepsOrder tells the same of an order to remove messages. Those to remove single ones stay, for the
// numbers and for nodes that are away. Others go when the registry has the floor and all entries before
// are clean: an index that is made anew needs them until then.
func (s *slot) keepsOrder(m *message.Message, at uint64) (keep, later bool, err error) {
	if m.Removes.From > 0 {
		return true, false, nil
	}
	floor, err := s.journal.floor(m.Channel)
	if err != nil || floor < m.Removes.Before {
		return true, true, err
	}
	prefix := index.Prefix(tableGarbage, s.name)
	err = s.journal.options.Index.Each(prefix, index.KeySeq(tableGarbage, s.name, at), false, func(_, value []byte) bool {
		keep = len(value) == 0 // another order does not matter
		return !keep
	})
	return keep, keep, err
}

// rewrite sends messages of an entry once more, as one entry.
func (s *slot) rewrite(live []*message.Message, at uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.owned || len(s.waiting) >= maxWaiting {
		return // it is looked at again
	}
	s.arrived++
	move := &appending{
		message: &message.Message{}, moved: live, order: s.arrived, until: time.Now().Add(AppendTimeout - fabric.SendTimeout),
	}
	move.done = func(o Outcome) {
		if o.Err != nil {
			s.mu.Lock()
			delete(s.moves, at)
			s.mu.Unlock()
		}
		s.wakeCleaner()
	}
	s.moves[at] = move
	s.waiting = append(s.waiting, move)
	s.pump()
}

// DropExpired removes messages that have expired from this node's index; the owners of their slots take
// them out of the logs, the newest of a channel when there is another.
func (j *Journal) DropExpired(now time.Time) error {
	batch := j.options.Index.Batch()
	var failed error
	end := binary.BigEndian.AppendUint64([]byte{tableExpiry}, uint64(now.UnixMilli()))
	slots := map[*slot]bool{}
	err := j.options.Index.Each([]byte{tableExpiry}, end, false, func(key, _ []byte) bool {
		batch.Delete(append([]byte{}, key...))
		seq, channel := binary.BigEndian.Uint64(key[9:]), string(key[17:])
		rowKey := index.KeySeq(tableMessage, channel, seq)
		row, err := j.options.Index.Get(rowKey)
		if c, ok := message.ParseKey(channel); ok && err == nil && row != nil {
			s := j.slotOf(c)
			slots[s] = true
			batch.Delete(rowKey)
			batch.Set(index.KeySeq(tableGarbage, s.name, readPlace(row).at), nil)
			err = forget(batch, row)
		}
		failed = err
		return failed == nil
	})
	err = errors.Join(err, failed, batch.Write())
	for s := range slots {
		s.wakeCleaner()
	}
	return err
}

// expiryKey is when a message expires, with its number and channel.
func expiryKey(m *message.Message) []byte {
	key := binary.BigEndian.AppendUint64([]byte{tableExpiry}, uint64(m.Time+int64(m.Expire)*1000))
	return append(binary.BigEndian.AppendUint64(key, m.Seq), m.Channel.Key()...)
}
