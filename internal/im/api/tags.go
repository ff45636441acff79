package api

import (
	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/message"
)

// maxTags bounds the answer of /tags, as in the original.
const maxTags = 1000

// tag is the original's list of those to whom a channel's messages are handed. It is of the node that is
// asked: every node hands messages to its own clients, so there is one row of nodes. Its key is the
// channel's, and it does not expire.
type tag struct {
	Key         string    `json:"key"`
	ChannelID   string    `json:"channel_id"`
	ChannelType uint8     `json:"channel_type"`
	Nodes       []tagNode `json:"nodes"`
	CreatedAt   string    `json:"created_at"`
	ExpireAt    string    `json:"expire_at"`
	LastGetAt   string    `json:"last_get_at"`
	NodeVersion uint64    `json:"node_version"`
	GetCount    uint64    `json:"get_count"`
}

type tagNode struct {
	LeaderID uint16   `json:"leader_id"`
	UIDCount int      `json:"uid_count"`
	UIDs     []string `json:"uids"`
	SlotIDs  []int    `json:"slot_ids"`
}

// tagTime is how the original writes times there.
const tagTime = "2006-01-02 15:04"

func (a *API) tagOf(one im.Audience) tag {
	return tag{
		Key: one.Channel.Key(), ChannelID: one.Channel.ID, ChannelType: one.Channel.Type,
		Nodes:     []tagNode{{a.options.Node.ID, len(one.UIDs), one.UIDs, []int{one.Slot}}},
		CreatedAt: one.Since.Format(tagTime),
	}
}

// tagged is the channel that a request names by tag_key, or by channel_id and channel_type; ok is false
// when it names none.
func (c *call) tagged() (channel message.Channel, ok bool, err error) {
	query := c.request.URL.Query()
	if key := query.Get("tag_key"); key != "" {
		channel, _ = message.ParseKey(key) // what is no key has no audience
		return channel, true, nil
	}
	if query.Get("channel_id") == "" {
		return channel, false, nil
	}
	channel, err = c.queried()
	return channel, err == nil, err
}

const noTag = badRequest("tag not found")

func (a *API) tag(c *call) (any, error) {
	if err := a.here(c); err != nil {
		return nil, err
	}
	channel, _, err := c.tagged()
	if err != nil {
		return nil, err
	}
	one, found := a.server.Audience(channel)
	if !found {
		return nil, noTag
	}
	return bare{a.tagOf(one)}, nil
}

func (a *API) tags(c *call) (any, error) {
	if err := a.here(c); err != nil {
		return nil, err
	}
	channel, named, err := c.tagged()
	if err != nil {
		return nil, err
	}
	var list []im.Audience
	if !named {
		list = a.server.Audiences(maxTags)
	} else if one, found := a.server.Audience(channel); found {
		list = append(list, one)
	}
	rows := make([]tag, len(list))
	for i, one := range list {
		rows[i] = a.tagOf(one)
	}
	return bare{rows}, nil
}

func (a *API) tagRemove(c *call) (any, error) {
	var q struct {
		Key  string `json:"tag_key"`
		ID   string `json:"channel_id"`
		Type uint8  `json:"channel_type"`
	}
	if err := c.read(&q); err != nil {
		return nil, err
	}
	channel := message.Channel{ID: q.ID, Type: q.Type}
	if q.Key != "" {
		channel, _ = message.ParseKey(q.Key)
	}
	a.server.ForgetAudience(channel)
	return nil, nil
}
