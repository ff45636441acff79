package im

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// Retention says how much of a channel is kept. A zero limit is none.
type Retention struct {
	Age   time.Duration
	Count uint64
	Bytes uint64 // of payloads
}

// floorTimeout bounds the wait for the floor of a channel to be stored.
const floorTimeout = 10 * time.Second

// maxRetained bounds the channels that one sweep shortens; the next one goes on.
const maxRetained = 1000

// retain removes what need not be kept of the channels whose slots this node owns, until ctx ends.
func (s *Server) retain(ctx context.Context) {
	ticker := time.NewTicker(s.options.RetentionInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := errors.Join(s.retainOnce(ctx), s.journal.DropExpired(time.Now())); err != nil && ctx.Err() == nil {
			s.options.Logger.Warn("old messages are not removed yet", "error", err)
		}
	}
}

// eachLimited calls f with the channels that may have a limit, until it returns false: all of them when
// there are limits by type. Else they are few among many, and looking at all would keep a processor busy.
func (s *Server) eachLimited(f func(c message.Channel, head journal.Head) bool) error {
	if len(s.options.Retention) > 0 {
		return s.journal.EachChannel(f)
	}
	var failed error
	err := s.registry.EachKept(func(base message.Channel) bool {
		for _, c := range []message.Channel{base, base.Commands()} {
			head, err := s.journal.Head(c)
			if failed = err; err != nil || head.Place > 0 && !f(c, head) {
				return false
			}
		}
		return true
	})
	return errors.Join(err, failed)
}

// retainOnce looks at every channel that may have a limit once.
func (s *Server) retainOnce(ctx context.Context) error {
	type short struct {
		channel message.Channel
		from    uint64
	}
	var list []short
	var failed error
	err := s.eachLimited(func(c message.Channel, head journal.Head) bool {
		if !s.Owns(s.journal.Slot(c)) || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		keep, any, err := s.keepOf(c)
		var from uint64
		if err == nil && any {
			from, err = s.journal.KeepFrom(c, head, keep)
		}
		if failed = err; err == nil && from > 0 {
			list = append(list, short{c, from})
		}
		return failed == nil && len(list) < maxRetained
	})
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	for _, one := range list {
		if err := s.RemoveBefore(ctx, one.channel, one.from); err != nil {
			return err
		}
	}
	return nil
}

// keepOf is how much of a channel is kept: by its own limits, else by those of its type, else by those
// of all.
func (s *Server) keepOf(c message.Channel) (keep journal.Keep, any bool, err error) {
	known, _, err := s.registry.Channel(c.Base())
	if err != nil {
		return keep, false, err
	}
	of, typed := s.options.Retention[c.Type]
	if !typed {
		of = s.options.Retention[0]
	}
	if known.KeepSeconds > 0 {
		of.Age = time.Duration(known.KeepSeconds) * time.Second
	}
	if known.KeepCount > 0 {
		of.Count = known.KeepCount
	}
	if known.KeepBytes > 0 {
		of.Bytes = known.KeepBytes
	}
	keep = journal.Keep{Count: of.Count, Bytes: of.Bytes}
	if of.Age > 0 {
		keep.After = time.Now().Add(-of.Age).UnixMilli()
	}
	return keep, of != (Retention{}), nil
}

// RemoveBefore removes the messages of a channel before a number for good, 0 for all, and tells all nodes
// afterwards.
func (s *Server) RemoveBefore(ctx context.Context, c message.Channel, before uint64) error {
	head, err := s.journal.Head(c)
	if err != nil {
		return err
	}
	if before == 0 || before > head.Seq {
		before = head.Seq + 1 // what is stored meanwhile is not meant
	}
	what := message.Removal{Before: before}
	if err := s.order(ctx, c, what); err != nil {
		return err
	}
	// Without it, the order stays in the log for good; so it is written although nobody waits any more.
	writing, cancel := context.WithTimeout(context.WithoutCancel(ctx), floorTimeout)
	defer cancel()
	_, err = s.registry.ChangeChannel(writing, c, func(known *registry.Channel) { known.Floor = max(known.Floor, before) })
	return errors.Join(err, s.journal.AwaitRemoved(ctx, c, what))
}

// RemoveOne removes a message for good, or returns fabric.ErrNotFound. Its number is not given again.
func (s *Server) RemoveOne(ctx context.Context, c message.Channel, seq uint64) error {
	if _, err := s.journal.Get(c, seq); err != nil {
		return err
	}
	what := message.Removal{From: seq, Before: seq + 1}
	if err := s.order(ctx, c, what); err != nil {
		return err
	}
	return s.journal.AwaitRemoved(ctx, c, what)
}

// order returns when the order to remove messages is stored.
func (s *Server) order(ctx context.Context, c message.Channel, what message.Removal) error {
	if what.Before == 1 {
		return nil // there never was one
	}
	now := time.Now()
	_, err := s.store(ctx, &message.Message{ID: s.ids.next(now), Channel: c, Time: now.UnixMilli(), Removes: what})
	if err != nil {
		return fmt.Errorf("remove messages of channel %s: %w", c.Key(), err)
	}
	return nil
}

// floorMoved drops from the index what was removed.
func (s *Server) floorMoved(c message.Channel, floor uint64) {
	if s.journal == nil {
		return // the registry is opened first, and nothing is followed yet
	}
	if err := s.journal.Forget(c, floor); err != nil {
		s.options.Logger.Error("drop removed messages from the index", "channel", c.Key(), "error", err)
	}
}

// floor is the number of the oldest message of a channel that is kept.
func (s *Server) floor(c message.Channel) (uint64, error) {
	known, _, err := s.registry.Channel(c)
	return known.Floor, err
}
