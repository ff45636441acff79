package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/message"
)

// lost notes messages of which nobody knows whether they are stored. The caller holds s.mu.
func (s *slot) lost(list []*appending, err error) {
	away := err != nil && !errors.Is(err, fabric.ErrConflict)
	if away && time.Since(s.warned) >= warnPause {
		s.warned = time.Now()
		s.journal.options.Logger.Warn("messages were not stored at once", "slot", s.number,
			"messages", len(list), "error", err)
	}
	s.failed = append(s.failed, list...)
	s.sync(away)
}

// warnPause is between two warnings of the same slot.
const warnPause = time.Second

// sync starts to read to the end of the log, a little later when that was away: a log that can be read
// may still take nothing, and refuse that at once. The caller holds s.mu.
func (s *slot) sync(away bool) {
	s.hold(func() {
		if away {
			time.Sleep(syncPause)
		}
	})
}

// hold sends nothing while first is called, and until the log was read to its end behind that. The
// caller holds s.mu.
func (s *slot) hold(first func()) {
	if s.syncing {
		return
	}
	s.syncing = true
	s.journal.running.Go(func() {
		first()
		for !s.synced() {
			time.Sleep(syncPause)
		}
	})
}

// syncPause is between two tries to read to the end of a log.
const syncPause = 50 * time.Millisecond

// synced tries once to learn what the log has; it returns whether the slot can go on, or has been
// given up.
func (s *slot) synced() bool {
	s.mu.Lock()
	if len(s.flights) > 0 { // their answers come, at the latest after fabric.SendTimeout
		late := s.late()
		s.mu.Unlock()
		finish(late, errLate)
		return false
	}
	if !s.owned {
		refused := s.giveUp()
		s.mu.Unlock()
		finish(refused, errGivenUp)
		return true
	}
	late := s.late()
	s.mu.Unlock()
	finish(late, errLate)

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	info, err := s.log.Info(ctx)
	if err == nil {
		err = s.reach(ctx, info.LastSeq)
	}
	if errors.Is(err, fabric.ErrClosed) {
		s.mu.Lock()
		s.owned = false // the node stops
		s.mu.Unlock()
		return false
	}
	if err != nil {
		return false
	}
	s.resume(info.LastSeq)
	return true
}

// giveUp takes out all that is not stored, of a slot that is another node's now: the sender asks that
// one, which knows what is stored. The caller holds s.mu.
func (s *slot) giveUp() []*appending {
	refused := append(s.failed, s.waiting...)
	s.failed, s.waiting, s.syncing = nil, nil, false
	s.forget(refused)
	clear(s.heads)
	return refused
}

// errGivenUp says that a message may be stored, by this node or not at all.
var errGivenUp = fmt.Errorf("%w: %w", fabric.ErrUnavailable, ErrNotOwner)

// errLate says that a message waited for too long for its log.
var errLate = fmt.Errorf("%w: the log does not answer", fabric.ErrUnavailable)

// late takes out what nobody waits for any more. The caller holds s.mu.
func (s *slot) late() []*appending {
	now := time.Now()
	var late []*appending
	for _, list := range []*[]*appending{&s.failed, &s.waiting} {
		kept := (*list)[:0]
		for _, a := range *list {
			if now.After(a.until) {
				late = append(late, a)
			} else {
				kept = append(kept, a)
			}
		}
		clear((*list)[len(kept):])
		*list = kept
	}
	s.forget(late)
	return late
}

// resume goes on behind the entry with that number, which the index has: what failed and is stored, or
// was sent by another node meanwhile, is told; the rest goes again, before what waits.
func (s *slot) resume(last uint64) {
	s.mu.Lock()
	if !s.owned { // given up while the end of the log was read
		refused := s.giveUp()
		s.mu.Unlock()
		finish(refused, errGivenUp)
		return
	}
	clear(s.heads)
	again := append(s.failed, s.waiting...)
	slices.SortFunc(again, func(a, b *appending) int { return cmp.Compare(a.order, b.order) })
	s.failed, s.waiting = nil, nil
	outcomes := map[*appending]Outcome{}
	var done []*appending
	for _, a := range again {
		if o := s.found(a.message); o.Seq > 0 {
			outcomes[a] = o
			done = append(done, a)
		} else {
			s.waiting = append(s.waiting, a)
		}
	}
	s.forget(done)
	s.tail = last
	s.syncing = false
	if s.begin() {
		s.pump()
	}
	s.mu.Unlock()
	for _, a := range done {
		a.finish(outcomes[a])
	}
}

// found returns the outcome of a message that the index has: under its ID, or under another that its
// sender got from another node.
func (s *slot) found(m *message.Message) Outcome {
	if seq, err := s.journal.SeqOfID(m.Channel, m.ID); err == nil && seq > 0 {
		return Outcome{ID: m.ID, Seq: seq}
	}
	if m.ClientMsgNo == "" {
		return Outcome{}
	}
	seq, id, err := s.journal.byNo(m)
	if err != nil {
		return Outcome{}
	}
	return Outcome{ID: id, Seq: seq, Repeated: true}
}
