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

// Read returns messages of a channel. What was removed or has expired is left out.
func (j *Journal) Read(c message.Channel, r Range) ([]*message.Message, error) {
	limit := min(r.Limit, MaxPage)
	if limit <= 0 {
		return nil, nil
	}
	prefix := index.Prefix(tableMessage, c.Key())
	from, end := index.KeySeq(tableMessage, c.Key(), r.From), index.End(prefix)
	if r.To > 0 {
		end = index.KeySeq(tableMessage, c.Key(), r.To)
	}
	now := time.Now().UnixMilli()
	var messages []*message.Message
	var failed error
	err := j.options.Index.Each(from, end, r.Newest, func(_, value []byte) bool {
		m, err := readRow(value)
		if err != nil {
			failed = err
			return false
		}
		if !m.Expired(now) {
			messages = append(messages, m)
		}
		return len(messages) < limit
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("read channel %s: %w", c.Key(), err)
	}
	if r.Newest {
		slices.Reverse(messages)
	}
	return messages, nil
}

// Get returns the message with a number, or fabric.ErrNotFound.
func (j *Journal) Get(c message.Channel, seq uint64) (*message.Message, error) {
	list, err := j.Read(c, Range{From: seq, To: seq + 1, Limit: 1})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("message %d of channel %s: %w", seq, c.Key(), fabric.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return list[0], nil
}

// Entries returns the messages of at most limit entries of a slot from a place in its log on, as far as
// this node has them, and no more entries when there are limit messages; without commands and what does
// not count. It also returns the place of the last entry that was read: 0 for none.
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
		entry, err := decodeEntry(e.Payload)
		if err != nil || entry.kind != kindMessages {
			continue // apply has told of it
		}
		for _, m := range entry.messages {
			if m.Channel.IsCommands() || m.IsRemoval() {
				continue
			}
			row, err := j.options.Index.Get(index.KeySeq(tableMessage, m.Channel.Key(), m.Seq))
			if err != nil {
				return nil, 0, err
			}
			if row != nil && readPlace(row).at == e.Seq { // it counts, and was not removed
				list = append(list, m)
			}
		}
		if len(list) >= limit {
			break
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
