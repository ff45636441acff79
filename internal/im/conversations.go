package im

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// Journal returns the logs of channels, and Registry what is known of users and channels.
func (s *Server) Journal() *journal.Journal { return s.journal }

// Registry returns what is known of users and channels.
func (s *Server) Registry() *registry.Registry { return s.registry }

// Conversation is a channel in a user's list. It is derived: from memberships, from who has written,
// from the newest message and the user's cursor. Nothing is written for it when a message comes.
type Conversation struct {
	Channel message.Channel
	Head    journal.Head
	Read    uint64 // up to here the user has read, or written
	Deleted uint64 // up to here it is hidden
	Version int64  // when it changed last, in ns since 1970
}

// Unread is how many messages the user has not read.
func (c Conversation) Unread() uint64 { return c.Head.Seq - min(c.Head.Seq, c.Read) }

// Conversations returns a user's conversations that have messages, the one that changed last first.
func (s *Server) Conversations(uid string) ([]Conversation, error) {
	joined, err := s.channelsOf(uid)
	if err != nil {
		return nil, err
	}
	cursors, err := s.registry.Cursors(uid)
	if err != nil {
		return nil, err
	}
	list := make([]Conversation, 0, len(joined))
	for c, read := range joined {
		conversation, err := s.conversation(c, read, cursors[c.Key()])
		if err != nil {
			return nil, err
		}
		if conversation.Head.Seq > conversation.Deleted {
			list = append(list, conversation)
		}
	}
	slices.SortFunc(list, func(a, b Conversation) int {
		switch {
		case a.Version > b.Version:
			return -1
		case a.Version < b.Version:
			return 1
		}
		return strings.Compare(a.Channel.Key(), b.Channel.Key())
	})
	return list, nil
}

// channelsOf returns the channels of a user's conversations with the number that counts as read
// without a cursor.
func (s *Server) channelsOf(uid string) (map[message.Channel]uint64, error) {
	joined := map[message.Channel]uint64{}
	members, err := s.registry.ChannelsOf(uid)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if m.Channel.KeepsConversations() {
			joined[m.Channel] = m.Joined
		}
	}
	sent, err := s.journal.Sent(uid)
	if err != nil {
		return nil, err
	}
	for _, one := range sent {
		_, member := joined[one.Channel]
		_, _, person := one.Channel.Persons()
		if member || one.Channel.KeepsConversations() && (person || one.Channel.Type == message.Visitors ||
			one.Channel.Type == message.Agent || one.Channel.Type == message.CustomerService) {
			joined[one.Channel] = max(joined[one.Channel], one.Seq)
		}
	}
	return joined, nil
}

func (s *Server) conversation(c message.Channel, read uint64, cursor registry.Cursor) (Conversation, error) {
	head, err := s.journal.Head(c)
	if err != nil {
		return Conversation{}, err
	}
	return Conversation{
		Channel: c, Head: head, Read: max(cursorRead(cursor, read), 0), Deleted: cursor.Deleted,
		Version: max(cursor.Version, head.Time*int64(time.Millisecond)),
	}, nil
}

// cursorRead is up to where a user has read: a cursor that was moved back says so until something is
// sent.
func cursorRead(cursor registry.Cursor, read uint64) uint64 {
	if cursor.Raised && cursor.Read < read && cursor.Sent >= read {
		return cursor.Read
	}
	return max(cursor.Read, read)
}

// Conversation returns one conversation of a user.
func (s *Server) Conversation(uid string, c message.Channel) (Conversation, error) {
	read, err := s.journal.SentIn(uid, c)
	if err != nil {
		return Conversation{}, err
	}
	joined, _, err := s.registry.Has(registry.Members, c, uid)
	if err != nil {
		return Conversation{}, err
	}
	cursor, err := s.registry.Cursor(uid, c)
	if err != nil {
		return Conversation{}, err
	}
	return s.conversation(c, max(read, joined), cursor)
}

// SetUnread makes a user's conversation have so many unread messages, also more than it had.
func (s *Server) SetUnread(ctx context.Context, uid string, c message.Channel, unread uint64) (uint64, error) {
	now, err := s.Conversation(uid, c)
	if err != nil {
		return 0, err
	}
	read := now.Head.Seq - min(now.Head.Seq, unread)
	sent, err := s.journal.SentIn(uid, c)
	if err != nil {
		return 0, err
	}
	joined, _, err := s.registry.Has(registry.Members, c, uid)
	if err != nil {
		return 0, err
	}
	return s.registry.MoveCursor(ctx, uid, c, func(cursor *registry.Cursor) {
		cursor.Raised = read < max(sent, joined)
		cursor.Sent = max(sent, joined)
		cursor.Read = read
		cursor.Version = time.Now().UnixNano()
	})
}

// HideConversation removes a conversation from a user's list until something new comes.
func (s *Server) HideConversation(ctx context.Context, uid string, c message.Channel) (uint64, error) {
	head, err := s.journal.Head(c)
	if err != nil {
		return 0, err
	}
	return s.registry.MoveCursor(ctx, uid, c, func(cursor *registry.Cursor) {
		cursor.Deleted = head.Seq
		cursor.Read = max(cursor.Read, head.Seq)
		cursor.Raised = false
		cursor.Version = time.Now().UnixNano()
	})
}

// CommandChannels returns the shadows of a user's channels that have commands which the user has not
// confirmed, with the number up to which it has.
func (s *Server) CommandChannels(uid string) (map[message.Channel]uint64, error) {
	joined, err := s.registry.ChannelsOf(uid)
	if err != nil {
		return nil, err
	}
	cursors, err := s.registry.Cursors(uid)
	if err != nil {
		return nil, err
	}
	channels := map[message.Channel]uint64{}
	look := func(c message.Channel) error {
		head, err := s.journal.Head(c)
		if read := cursors[c.Key()].Read; err == nil && head.Seq > read {
			channels[c] = read
		}
		return err
	}
	for _, m := range joined {
		if err := look(m.Channel.Commands()); err != nil {
			return nil, err
		}
	}
	persons, err := s.journal.CommandsTo(uid)
	if err != nil {
		return nil, err
	}
	for _, c := range persons {
		if err := look(c); err != nil {
			return nil, err
		}
	}
	return channels, nil
}
