package api

import (
	"slices"
	"strconv"
	"strings"

	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

const (
	defaultPage = 100
	maxPage     = 500
	maxRecents  = 200 // messages of one conversation in an answer
)

type conversationRequest struct {
	UID         string  `json:"uid"`
	Version     int64   `json:"version"`
	LastSeqs    string  `json:"last_msg_seqs"`
	MsgCount    int     `json:"msg_count"`
	OnlyUnread  flag    `json:"only_unread"`
	Exclude     []uint8 `json:"exclude_channel_types"`
	Page        int     `json:"page"`
	PageSize    int     `json:"page_size"`
	ChannelID   string  `json:"channel_id"`
	ChannelType uint8   `json:"channel_type"`
	MessageSeq  uint64  `json:"message_seq"`
	Unread      int     `json:"unread"`
	Channels    []struct {
		ID   string `json:"channel_id"`
		Type uint8  `json:"channel_type"`
	} `json:"channels"`
}

func (c *call) conversation() (q conversationRequest, err error) {
	if err = c.read(&q); err == nil && !message.CheckID(q.UID) {
		err = badRequest("uid is missing or has a character that it may not have")
	}
	q.MsgCount = min(q.MsgCount, maxRecents)
	return q, err
}

// conversation is a row of a user's list.
type conversation struct {
	ChannelID       string    `json:"channel_id"`
	ChannelType     uint8     `json:"channel_type"`
	Unread          uint64    `json:"unread"`
	Timestamp       int64     `json:"timestamp"`
	LastMsgSeq      uint64    `json:"last_msg_seq"`
	LastClientMsgNo string    `json:"last_client_msg_no"`
	OffsetMsgSeq    uint64    `json:"offset_msg_seq"`
	ReadedToMsgSeq  uint64    `json:"readed_to_msg_seq"`
	Version         int64     `json:"version"`
	Recents         []Message `json:"recents"`
}

// lastSeqs reads "id:type:seq|id:type:seq".
func lastSeqs(uid, text string) map[message.Channel]uint64 {
	known := map[message.Channel]uint64{}
	for _, part := range strings.Split(text, "|") {
		fields := strings.Split(part, ":")
		if len(fields) < 3 {
			continue
		}
		n := len(fields)
		kind, err := strconv.ParseUint(fields[n-2], 10, 8)
		seq, err2 := strconv.ParseUint(fields[n-1], 10, 64)
		if err == nil && err2 == nil {
			known[message.Stored(uid, strings.Join(fields[:n-2], ":"), uint8(kind))] = seq
		}
	}
	return known
}

func (a *API) conversationSync(c *call) (any, error) {
	q, err := c.conversation()
	if err != nil {
		return nil, err
	}
	rows := []conversation{}
	if q.MsgCount <= 0 {
		return bare{rows}, nil // as in the original
	}
	list, err := a.server.Conversations(q.UID)
	if err != nil {
		return nil, err
	}
	known := lastSeqs(q.UID, q.LastSeqs)
	list = slices.DeleteFunc(list, func(one im.Conversation) bool {
		seq, asked := known[one.Channel]
		return slices.Contains(q.Exclude, one.Channel.Type) || bool(q.OnlyUnread) && one.Unread() == 0 ||
			asked && seq >= one.Head.Seq || !asked && q.Version > 0 && one.Version <= q.Version
	})
	size := q.PageSize
	if size <= 0 {
		size = defaultPage
	}
	size = min(size, maxPage)
	start := min(len(list), min(len(list), max(0, q.Page-1))*size)
	for _, one := range list[start:min(len(list), start+size)] {
		row, err := a.row(c, q.UID, one, known[one.Channel], q.MsgCount)
		if err != nil {
			return nil, err
		}
		if len(row.Recents) > 0 {
			rows = append(rows, row)
		}
	}
	return bare{rows}, nil
}

// row is a conversation with its newest messages after a number.
func (a *API) row(c *call, uid string, one im.Conversation, after uint64, count int) (conversation, error) {
	row := conversation{
		ChannelID: one.Channel.SeenBy(uid), ChannelType: one.Channel.Type, Unread: one.Unread(),
		Timestamp: one.Head.Time / 1000, LastMsgSeq: one.Head.Seq, OffsetMsgSeq: one.Deleted,
		ReadedToMsgSeq: one.Read, Version: one.Version, Recents: []Message{},
	}
	list, err := a.server.Journal().Read(one.Channel, journal.Range{
		From: max(after, one.Deleted) + 1, Limit: count, Newest: true,
	})
	if err != nil {
		return row, err
	}
	for _, m := range slices.Backward(list) {
		row.Recents = append(row.Recents, View(m, uid))
	}
	if len(list) > 0 {
		row.LastClientMsgNo = list[len(list)-1].ClientMsgNo
	}
	return row, nil
}

const defaultRecents = 15

func (a *API) conversationsOf(c *call) (any, error) {
	q, err := c.conversation()
	if err != nil {
		return nil, err
	}
	if q.MsgCount <= 0 {
		q.MsgCount = defaultRecents
	}
	if len(q.Channels) > maxPage {
		return nil, badRequest("more channels than one call may name (500)")
	}
	rows := []conversation{}
	for _, named := range q.Channels {
		channel, err := channelOf(q.UID, named.ID, named.Type)
		if err != nil {
			return nil, err
		}
		one, err := a.server.Conversation(q.UID, channel)
		if err != nil {
			return nil, err
		}
		row, err := a.row(c, q.UID, one, 0, q.MsgCount)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return bare{rows}, nil
}

func (a *API) clearUnread(c *call) (any, error) {
	q, err := c.conversation()
	if err != nil {
		return nil, err
	}
	channel, err := channelOf(q.UID, q.ChannelID, q.ChannelType)
	if err != nil {
		return nil, err
	}
	seq, err := a.server.SetUnread(c, q.UID, channel, 0)
	return a.spread(c, seq, err)
}

func (a *API) setUnread(c *call) (any, error) {
	q, err := c.conversation()
	if err != nil {
		return nil, err
	}
	if q.Unread < 0 {
		return nil, badRequest("unread must not be negative")
	}
	channel, err := channelOf(q.UID, q.ChannelID, q.ChannelType)
	if err != nil {
		return nil, err
	}
	seq, err := a.server.SetUnread(c, q.UID, channel, uint64(q.Unread))
	return a.spread(c, seq, err)
}

func (a *API) conversationDelete(c *call) (any, error) {
	q, err := c.conversation()
	if err != nil {
		return nil, err
	}
	channel, err := channelOf(q.UID, q.ChannelID, q.ChannelType)
	if err != nil {
		return nil, err
	}
	seq, err := a.server.HideConversation(c, q.UID, channel)
	return a.spread(c, seq, err)
}

func (a *API) conversationChannels(c *call) (any, error) {
	q, err := c.conversation()
	if err != nil {
		return nil, err
	}
	list, err := a.server.Conversations(q.UID)
	type row struct {
		ID   string `json:"channel_id"`
		Type uint8  `json:"channel_type"`
	}
	rows := make([]row, len(list))
	for i, one := range list {
		rows[i] = row{one.Channel.ID, one.Channel.Type}
	}
	return bare{rows}, err
}

const defaultCommands = 200

type commandRequest struct {
	UID        string `json:"uid"`
	MessageSeq uint64 `json:"message_seq"`
	Limit      int    `json:"limit"`
	Last       uint64 `json:"last_message_seq"`
}

// commandSync returns the commands that wait for a user.
func (a *API) commandSync(c *call) (any, error) {
	var q commandRequest
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if !message.CheckID(q.UID) {
		return nil, badID
	}
	rows := []Message{}
	if !a.options.CommandSync {
		return bare{rows}, nil
	}
	limit := q.Limit
	if limit <= 0 {
		limit = defaultCommands
	}
	channels, err := a.server.CommandChannels(q.UID)
	if err != nil {
		return nil, err
	}
	for channel, read := range channels {
		list, err := a.server.Journal().Read(channel, journal.Range{From: read + 1, Limit: limit})
		if err != nil {
			return nil, err
		}
		for _, m := range list {
			if m.From != q.UID && (len(m.To) == 0 || slices.Contains(m.To, q.UID)) {
				rows = append(rows, View(m, q.UID))
			}
		}
	}
	slices.SortFunc(rows, func(x, y Message) int { return int(x.MessageID - y.MessageID) })
	return bare{rows[:min(len(rows), limit)]}, nil
}

// commandAck says that a user has the commands that commandSync returned.
func (a *API) commandAck(c *call) (any, error) {
	var q commandRequest
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if !message.CheckID(q.UID) {
		return nil, badID
	}
	channels, err := a.server.CommandChannels(q.UID)
	if err != nil {
		return nil, err
	}
	last := uint64(0)
	for channel := range channels {
		head, err := a.server.Journal().Head(channel)
		if err != nil {
			return nil, err
		}
		seq, err := a.server.Registry().MoveCursor(c, q.UID, channel, func(cursor *registry.Cursor) {
			cursor.Read = max(cursor.Read, min(head.Seq, q.Last))
		})
		if err != nil {
			return nil, err
		}
		last = max(last, seq)
	}
	return a.spread(c, last, nil)
}
