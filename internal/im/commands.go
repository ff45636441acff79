package im

import (
	"context"
	"time"

	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

const (
	// cursorPause is how long confirmations of commands are collected before the cursor is written.
	cursorPause = 200 * time.Millisecond
	// cursorTimeout bounds writing one.
	cursorTimeout = 5 * time.Second
	// maxCursors bounds the cursors that wait to be written. One that is dropped has commands handed
	// out again.
	maxCursors = 10000
)

type cursorKey struct {
	uid     string
	channel message.Channel
}

// commandAcked moves the place up to which a user has a channel's commands, when a master device has
// confirmed one.
func (s *Server) commandAcked(uid string, level uint8, m *message.Message) {
	if level != registry.LevelMaster {
		return
	}
	s.cursorsMu.Lock()
	defer s.cursorsMu.Unlock()
	key := cursorKey{uid, m.Channel}
	if _, known := s.cursors[key]; !known && len(s.cursors) >= maxCursors {
		s.metrics.dropped(dropCursor)
		return
	}
	s.cursors[key] = max(s.cursors[key], m.Seq)
}

// writeCursors writes the cursors that were moved, until ctx ends.
func (s *Server) writeCursors(ctx context.Context) {
	ticker := time.NewTicker(cursorPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		s.cursorsMu.Lock()
		moved := s.cursors
		if len(moved) > 0 {
			s.cursors = map[cursorKey]uint64{}
		}
		s.cursorsMu.Unlock()
		for key, seq := range moved {
			s.writeCursor(ctx, key, seq)
		}
	}
}

func (s *Server) writeCursor(ctx context.Context, key cursorKey, seq uint64) {
	ctx, cancel := context.WithTimeout(ctx, cursorTimeout)
	defer cancel()
	_, err := s.registry.MoveCursor(ctx, key.uid, key.channel, func(c *registry.Cursor) { c.Read = max(c.Read, seq) })
	if err != nil {
		s.metrics.dropped(dropCursor)
		s.options.Logger.Warn("the cursor of commands was not moved", "error", err)
	}
}
