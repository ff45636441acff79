package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/wire"
)

// Header is the flags of a message.
type Header struct {
	NoPersist flag `json:"no_persist"`
	RedDot    flag `json:"red_dot"`
	SyncOnce  flag `json:"sync_once"`
}

func (h Header) flags() (f wire.Flags) {
	for _, bit := range []struct {
		set  flag
		flag wire.Flags
	}{{h.NoPersist, wire.NoPersist}, {h.RedDot, wire.RedDot}, {h.SyncOnce, wire.SyncOnce}} {
		if bit.set {
			f |= bit.flag
		}
	}
	return f
}

// Message is a message as the application reads it.
type Message struct {
	Header      Header `json:"header"`
	Setting     uint8  `json:"setting"`
	MessageID   int64  `json:"message_id"`
	MessageIDS  string `json:"message_idstr"`
	ClientMsgNo string `json:"client_msg_no"`
	MessageSeq  uint64 `json:"message_seq"`
	FromUID     string `json:"from_uid"`
	ChannelID   string `json:"channel_id"`
	ChannelType uint8  `json:"channel_type"`
	Topic       string `json:"topic,omitempty"`
	Expire      uint32 `json:"expire"`
	Timestamp   int64  `json:"timestamp"`
	Payload     []byte `json:"payload"`
}

// View is a message as uid sees it; without a uid a person's channel has its stored id.
func View(m *message.Message, uid string) Message {
	v := Message{
		Header: Header{
			m.Flags&wire.NoPersist != 0, m.Flags&wire.RedDot != 0, m.Flags&wire.SyncOnce != 0,
		},
		Setting: uint8(m.Setting), MessageID: m.ID, MessageIDS: strconv.FormatInt(m.ID, 10),
		ClientMsgNo: m.ClientMsgNo, MessageSeq: m.Seq, FromUID: m.From, ChannelID: m.Channel.Base().ID,
		ChannelType: m.Channel.Type, Topic: m.Topic, Expire: m.Expire, Timestamp: m.Seconds(), Payload: m.Payload,
	}
	if uid != "" {
		v.ChannelID = m.Channel.SeenBy(uid)
	}
	if m.From == im.SystemUID {
		v.FromUID = ""
	}
	return v
}

func views(list []*message.Message, uid string) []Message {
	out := make([]Message, len(list))
	for i, m := range list {
		out[i] = View(m, uid)
	}
	return out
}

type sendRequest struct {
	Header      Header   `json:"header"`
	ClientMsgNo string   `json:"client_msg_no"`
	FromUID     string   `json:"from_uid"`
	ChannelID   string   `json:"channel_id"`
	ChannelType uint8    `json:"channel_type"`
	Expire      uint32   `json:"expire"`
	Subscribers []string `json:"subscribers"`
	Payload     []byte   `json:"payload"`
	Topic       string   `json:"topic"`
}

// message makes a message of a request, for one channel.
func (q sendRequest) message(channel message.Channel) *message.Message {
	m := &message.Message{
		Channel: channel, From: q.FromUID, ClientMsgNo: q.ClientMsgNo, Flags: q.Header.flags(), Expire: q.Expire,
		Topic: q.Topic, Payload: q.Payload,
	}
	if q.Topic != "" {
		m.Setting |= wire.SettingTopic
	}
	return m
}

func (q *sendRequest) check() error {
	if q.FromUID == "" {
		q.FromUID = im.SystemUID
	}
	switch {
	case len(q.Payload) == 0:
		return badRequest("payload is missing; it is base64")
	case len(q.Payload) > im.MaxPayload:
		return badRequest("payload is too large")
	case len(q.ClientMsgNo) > message.MaxID || len(q.Topic) > message.MaxID || !im.Plain(q.ClientMsgNo) || !im.Plain(q.Topic):
		return badRequest("client_msg_no or topic is too long, or has control characters")
	}
	return checkUIDs(append(q.Subscribers, q.FromUID))
}

// send stores a message and answers when it is stored.
func (a *API) send(c *call) (any, error) {
	var q sendRequest
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if q.ChannelID == "" {
		if len(q.Subscribers) == 0 {
			return nil, badRequest("channel_id or subscribers is missing")
		}
		if !q.Header.SyncOnce {
			return nil, badRequest("subscribers without channel_id are for header.sync_once 1 alone; /message/sendbatch sends to each")
		}
		m := q.message(temporaryOf(q.Subscribers))
		m.To = q.Subscribers
		_, err := a.server.Publish(c, m)
		return nil, err
	}
	channel, err := channelOf(q.FromUID, q.ChannelID, q.ChannelType)
	if err != nil {
		return nil, err
	}
	m := q.message(channel)
	outcome, err := a.server.Publish(c, m)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"message_id": outcome.ID, "message_idstr": strconv.FormatInt(outcome.ID, 10), "message_seq": outcome.Seq,
		"client_msg_no": m.ClientMsgNo,
	}, nil
}

// temporaryOf is a channel for a list of recipients.
func temporaryOf(uids []string) message.Channel {
	sorted := slices.Sorted(slices.Values(uids))
	sum := sha256.Sum256([]byte(strings.Join(sorted, "@")))
	return message.Channel{ID: hex.EncodeToString(sum[:16]), Type: message.Temporary}
}

// maxSendBatch is how many users one sendbatch sends to.
const maxSendBatch = 10000

func (a *API) sendBatch(c *call) (any, error) {
	var q sendRequest
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	if len(q.Subscribers) == 0 || len(q.Subscribers) > maxSendBatch {
		return nil, badRequest("subscribers must have 1 to 10000 users")
	}
	type failed struct {
		UIDs    []string `json:"fail_uids"`
		Reasons []string `json:"reason"`
	}
	answer := failed{[]string{}, []string{}}
	for _, uid := range q.Subscribers {
		if _, err := a.server.Publish(c, q.message(message.PersonChannel(q.FromUID, uid))); err != nil {
			answer.UIDs, answer.Reasons = append(answer.UIDs, uid), append(answer.Reasons, err.Error())
		}
	}
	return answer, nil
}

type rangeRequest struct {
	LoginUID    string   `json:"login_uid"`
	ChannelID   string   `json:"channel_id"`
	ChannelType uint8    `json:"channel_type"`
	Start       uint64   `json:"start_message_seq"`
	End         uint64   `json:"end_message_seq"`
	Limit       int      `json:"limit"`
	PullMode    int      `json:"pull_mode"`
	Seqs        []uint64 `json:"message_seqs"`
	IDs         []int64  `json:"message_ids"`
	Nos         []string `json:"client_msg_nos"`
	ID          int64    `json:"message_id"`
	No          string   `json:"client_msg_no"`
	Seq         uint64   `json:"message_seq"`
}

func (c *call) messageRange() (q rangeRequest, channel message.Channel, err error) {
	if err = c.read(&q); err == nil {
		channel, err = channelOf(q.LoginUID, q.ChannelID, q.ChannelType)
	}
	return q, channel, err
}

// page is a number of messages.
type page struct {
	Start    uint64    `json:"start_message_seq"`
	End      uint64    `json:"end_message_seq"`
	More     int       `json:"more"`
	Messages []Message `json:"messages"`
}

const (
	pullOlder    = 0
	pullNewer    = 1
	defaultLimit = 100
)

// rangeOf turns a request into what is read: older messages go from start (inclusive) down to end, newer
// ones from start (inclusive) up to end, each without end.
func (q rangeRequest) rangeOf(limit int) (r journal.Range, ok bool) {
	r.Limit = limit
	switch {
	case q.Start == 0 && q.End == 0:
		r.Newest = q.PullMode == pullOlder
		return r, true
	case q.PullMode == pullNewer:
		r.From, r.To = q.Start, q.End
		return r, q.End == 0 || q.Start < q.End
	}
	r.Newest = true
	if q.Start > 0 {
		r.To = q.Start + 1
	}
	if q.End > 0 {
		r.From = q.End + 1
	}
	return r, q.Start == 0 || q.End <= q.Start
}

func (a *API) messageSync(c *call) (any, error) {
	q, channel, err := c.messageRange()
	if err != nil {
		return nil, err
	}
	limit := q.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	limit = min(limit, journal.MaxPage)
	answer := page{Start: q.Start, End: q.End, Messages: []Message{}}
	r, ok := q.rangeOf(limit)
	if !ok {
		return bare{answer}, nil
	}
	r.Limit++ // one more tells whether there are more
	list, err := a.server.Journal().Read(channel, r)
	if err != nil {
		return nil, err
	}
	if len(list) > limit {
		answer.More = 1
		if r.Newest {
			list = list[1:]
		} else {
			list = list[:limit]
		}
	}
	answer.Messages = views(list, q.LoginUID)
	return bare{answer}, nil
}

// maxLookups is how many messages one call names.
const maxLookups = 1000

// find returns the numbers of the messages that a request names.
func (a *API) find(q rangeRequest, channel message.Channel) ([]uint64, error) {
	if len(q.Seqs)+len(q.IDs)+len(q.Nos) > maxLookups {
		return nil, badRequest("more messages than one call may name (1000)")
	}
	seqs := slices.Clone(q.Seqs)
	for _, id := range q.IDs {
		seq, err := a.server.Journal().SeqOfID(channel, id)
		if err != nil {
			return nil, err
		}
		if seq > 0 {
			seqs = append(seqs, seq)
		}
	}
	for _, no := range q.Nos {
		found, err := a.server.Journal().SeqsOfNo(channel, no)
		if err != nil {
			return nil, err
		}
		seqs = append(seqs, found...)
	}
	slices.Sort(seqs)
	return slices.Compact(seqs), nil
}

func (a *API) messages(c *call) (any, error) {
	q, channel, err := c.messageRange()
	if err != nil {
		return nil, err
	}
	seqs, err := a.find(q, channel)
	if err != nil {
		return nil, err
	}
	answer := page{Messages: []Message{}}
	for _, seq := range seqs {
		m, err := a.server.Journal().Get(channel, seq)
		switch {
		case err == nil:
			answer.Messages = append(answer.Messages, View(m, q.LoginUID))
		case !errors.Is(err, fabric.ErrNotFound):
			return nil, err
		}
	}
	return bare{answer}, nil
}

const noMessage = status(404)

// one answers with the first message that a request names.
func (a *API) one(c *call, q rangeRequest, channel message.Channel) (any, error) {
	seqs, err := a.find(q, channel)
	if err != nil {
		return nil, err
	}
	if len(seqs) == 0 {
		return noMessage, nil
	}
	m, err := a.server.Journal().Get(channel, seqs[0])
	if errors.Is(err, fabric.ErrNotFound) {
		return noMessage, nil
	}
	if err != nil {
		return nil, err
	}
	return bare{View(m, q.LoginUID)}, nil
}

func (a *API) message(c *call) (any, error) {
	q, channel, err := c.messageRange()
	if err != nil {
		return nil, err
	}
	switch {
	case q.ID != 0:
		q.IDs = []int64{q.ID}
	case q.No != "":
		q.Nos = []string{q.No}
	default:
		return nil, badRequest("message_id or client_msg_no is missing")
	}
	return a.one(c, q, channel)
}

// queried is the channel that the query of a request names.
func (c *call) queried() (message.Channel, error) {
	query := c.request.URL.Query()
	kind, err := strconv.ParseUint(query.Get("channel_type"), 10, 8)
	if err != nil {
		return message.Channel{}, badRequest("channel_type is missing or no number")
	}
	return channelOf(query.Get("login_uid"), query.Get("channel_id"), uint8(kind))
}

func (a *API) messageByNo(c *call) (any, error) {
	channel, err := c.queried()
	if err != nil {
		return nil, err
	}
	query := c.request.URL.Query()
	return a.one(c, rangeRequest{LoginUID: query.Get("login_uid"), Nos: []string{query.Get("client_msg_no")}}, channel)
}

func (a *API) maxSeq(c *call) (any, error) {
	channel, err := c.queried()
	if err != nil {
		return nil, err
	}
	head, err := a.server.Journal().Head(channel)
	return bare{map[string]uint64{"message_seq": head.Seq}}, err
}

func (a *API) lastMessage(c *call) (any, error) {
	channel, err := c.queried()
	if err != nil {
		return nil, err
	}
	list, err := a.server.Journal().Read(channel, journal.Range{Limit: 1, Newest: true})
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return noMessage, nil
	}
	return bare{View(list[0], c.request.URL.Query().Get("login_uid"))}, nil
}

// recall removes a message for good; those who have it are to be told by the application.
func (a *API) recall(c *call) (any, error) {
	q, channel, err := c.messageRange()
	if err != nil {
		return nil, err
	}
	if q.ID != 0 {
		q.IDs = []int64{q.ID}
	}
	if q.No != "" {
		q.Nos = []string{q.No}
	}
	if q.Seq != 0 {
		q.Seqs = append(q.Seqs, q.Seq)
	}
	seqs, err := a.find(q, channel)
	if err != nil {
		return nil, err
	}
	if len(seqs) == 0 {
		return noMessage, nil
	}
	removed := false
	for _, seq := range seqs {
		switch err := a.server.RemoveOne(c, channel, seq); {
		case err == nil:
			removed = true
		case !errors.Is(err, fabric.ErrNotFound): // one that is gone was recalled before
			return nil, err
		}
	}
	if !removed {
		return noMessage, nil
	}
	return nil, nil
}
