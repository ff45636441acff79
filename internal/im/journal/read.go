package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// MaxPage is the most messages that one read returns.
const MaxPage = 10000

// Range says which messages of a channel are read: those with a number from From to before To,
// where 0 for To is the newest and beyond, and of them at most Limit: the first ones, or with
// Newest the last ones. The result is in ascending order in any case.
type Range struct {
	From, To uint64
	Limit    int
	Newest   bool
}

// Read returns messages of a channel. What was deleted or has expired is left out.
func (j *Journal) Read(ctx context.Context, c message.Channel, r Range) ([]*message.Message, error) {
	places, err := j.places(c, r)
	if err != nil || len(places) == 0 {
		return nil, err
	}
	messages, err := j.load(ctx, c, places)
	if err != nil {
		return nil, fmt.Errorf("read channel %s: %w", c.Key(), err)
	}
	return messages, nil
}

// places returns where messages are in the log, in ascending order.
func (j *Journal) places(c message.Channel, r Range) ([]uint64, error) {
	limit := min(r.Limit, MaxPage)
	if limit <= 0 {
		return nil, nil
	}
	prefix := index.Prefix(tableMessage, c.Key())
	from, end := index.KeySeq(tableMessage, c.Key(), r.From), index.End(prefix)
	if r.To > 0 {
		end = index.KeySeq(tableMessage, c.Key(), r.To)
	}
	var places []uint64
	err := j.options.Index.Each(from, end, r.Newest, func(_, value []byte) bool {
		places = append(places, readPlace(value).at)
		return len(places) < limit
	})
	if r.Newest {
		slices.Reverse(places)
	}
	return places, err
}

// load reads messages at the places, which are in ascending order, from the log. It asks for runs of
// the channel's entries: between them are none but those that do not count.
func (j *Journal) load(ctx context.Context, c message.Channel, places []uint64) ([]*message.Message, error) {
	s := j.slotOf(c)
	now := time.Now().UnixMilli()
	messages := make([]*message.Message, 0, len(places))
	for len(places) > 0 {
		page, err := s.log.Read(ctx, subject(c), places[0], min(len(places), fabric.MaxLogPage))
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			for len(places) > 0 && places[0] < e.Seq {
				places = places[1:] // it was removed
			}
			if len(places) == 0 || places[0] != e.Seq {
				continue
			}
			places = places[1:]
			m, err := message.Decode(e.Payload)
			if err != nil {
				return nil, fmt.Errorf("entry %d of slot %d: %w", e.Seq, s.number, err)
			}
			if !m.Expired(now) {
				messages = append(messages, m)
			}
		}
	}
	return messages, nil
}

// Get returns the message with a number, or fabric.ErrNotFound.
func (j *Journal) Get(ctx context.Context, c message.Channel, seq uint64) (*message.Message, error) {
	list, err := j.Read(ctx, c, Range{From: seq, To: seq + 1, Limit: 1})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("message %d of channel %s: %w", seq, c.Key(), fabric.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// Erase removes a message for good: its bytes are overwritten on every disk. fabric.ErrNotFound
// when there is none. Its number is not given again.
func (j *Journal) Erase(ctx context.Context, c message.Channel, seq uint64) error {
	places, err := j.places(c, Range{From: seq, To: seq + 1, Limit: 1})
	if err == nil && len(places) == 0 {
		err = fabric.ErrNotFound
	}
	if err == nil {
		err = j.slotOf(c).log.Delete(ctx, places[0])
	}
	if err != nil {
		return fmt.Errorf("erase message %d of channel %s: %w", seq, c.Key(), err)
	}
	return nil
}

// Purge removes the messages of a channel before a number; 0 is all that this node knows of.
func (j *Journal) Purge(ctx context.Context, c message.Channel, before uint64) error {
	// Never without a bound: what is stored meanwhile is not meant.
	head, err := j.Head(c)
	bound := head.Place + 1
	if err == nil && before > 0 && before <= head.Seq {
		var places []uint64
		if places, err = j.places(c, Range{From: before, Limit: 1}); len(places) == 1 {
			bound = places[0]
		}
	}
	if err == nil && bound > 1 {
		err = j.slotOf(c).log.PurgeBefore(ctx, subject(c), bound)
	}
	if err != nil {
		return fmt.Errorf("purge channel %s: %w", c.Key(), err)
	}
	return nil
}

// Entries returns messages of a slot from a place in its log on, as far as this node has them, without
// commands and what does not count, with the place of the last entry that was read: 0 for none.
func (j *Journal) Entries(ctx context.Context, slot int, from uint64, limit int) ([]*message.Message, uint64, error) {
	s := j.slots[slot]
	page, err := s.log.Read(ctx, ">", from, limit)
	if err != nil {
		return nil, 0, fmt.Errorf("read slot %d: %w", slot, err)
	}
	position, last := s.appliedTo(), uint64(0)
	var list []*message.Message
	for _, e := range page {
		if e.Seq > position {
			break
		}
		last = e.Seq
		m, err := message.Decode(e.Payload)
		if err != nil || m.Channel.IsCommands() {
			continue // an epoch, or what apply has told of
		}
		seq, err := j.SeqOfID(m.Channel, m.ID)
		if err != nil {
			return nil, 0, err
		}
		if seq == m.Seq {
			list = append(list, m)
		}
	}
	return list, last, nil
}

// end returns the number of the newest entry of the slot's log, as its leader knows it.
func (s *slot) end(ctx context.Context) (uint64, error) {
	for {
		info, err := s.log.Info(ctx)
		if err == nil {
			return info.LastSeq, nil
		}
		if ctx.Err() != nil || !errors.Is(err, fabric.ErrUnavailable) {
			return 0, err
		}
		pause(ctx)
	}
}
