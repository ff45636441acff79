package api

import (
	"time"

	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// maxUIDs is how many users one call names.
const maxUIDs = 200_000

type channelRequest struct {
	ID            string   `json:"channel_id"`
	Type          uint8    `json:"channel_type"`
	Large         *flag    `json:"large"`
	Ban           *flag    `json:"ban"`
	Disband       *flag    `json:"disband"`
	SendBan       *flag    `json:"send_ban"`
	AllowStranger *flag    `json:"allow_stranger"`
	Reset         flag     `json:"reset"`
	Temporary     flag     `json:"temp_subscriber"`
	KeepSeconds   *int64   `json:"keep_seconds"`
	KeepCount     *uint64  `json:"keep_count"`
	KeepBytes     *uint64  `json:"keep_bytes"`
	Subscribers   []string `json:"subscribers"`
	UIDs          []string `json:"uids"`
}

// channel reads a request about one channel.
func (c *call) channel() (q channelRequest, channel message.Channel, err error) {
	if err = c.read(&q); err != nil {
		return q, channel, err
	}
	switch {
	case q.ID == "":
		err = badRequest("channel_id is missing")
	case q.Type > message.AgentGroup:
		err = badRequest("channel_type is unknown")
	case (message.Channel{ID: q.ID}).IsCommands():
		err = badRequest("an id must not end with ____cmd")
	case !message.CheckID(q.ID) && !(q.Type == message.CommunityTopic || q.Type == message.Agent):
		err = badID
	case len(q.Subscribers) > maxUIDs || len(q.UIDs) > maxUIDs:
		err = badRequest("more users than one call may name (200000)")
	}
	if err == nil {
		err = checkUIDs(q.Subscribers)
	}
	if err == nil {
		err = checkUIDs(q.UIDs)
	}
	if q.Type == 0 {
		q.Type = message.Group
	}
	return q, message.Channel{ID: q.ID, Type: q.Type}, err
}

// set makes the flags that a request names the channel's.
func (q channelRequest) set(known *registry.Channel) {
	for _, f := range []struct {
		given *flag
		flag  *bool
	}{
		{q.Large, &known.Large}, {q.Ban, &known.Ban}, {q.Disband, &known.Disband}, {q.SendBan, &known.SendBan},
		{q.AllowStranger, &known.AllowStranger},
	} {
		if f.given != nil {
			*f.flag = bool(*f.given)
		}
	}
	if q.KeepSeconds != nil {
		known.KeepSeconds = max(0, *q.KeepSeconds)
	}
	if q.KeepCount != nil {
		known.KeepCount = *q.KeepCount
	}
	if q.KeepBytes != nil {
		known.KeepBytes = *q.KeepBytes
	}
	if known.Created == 0 {
		known.Created = time.Now().UnixMilli()
	}
}

func (a *API) channelCreate(c *call) (any, error) {
	q, channel, err := c.channel()
	if err != nil {
		return nil, err
	}
	if _, err := a.server.Registry().ChangeChannel(c, channel, q.set); err != nil {
		return nil, err
	}
	return a.addMembers(c, q, channel)
}

func (a *API) channelInfo(c *call) (any, error) {
	q, channel, err := c.channel()
	if err != nil {
		return nil, err
	}
	seq, err := a.server.Registry().ChangeChannel(c, channel, q.set)
	return a.spread(c, seq, err)
}

// channelDelete ends a channel and removes its messages for good.
func (a *API) channelDelete(c *call) (any, error) {
	_, channel, err := c.channel()
	if err != nil {
		return nil, err
	}
	if channel.Type == message.Person {
		return nil, badRequest("a person's channel cannot be deleted")
	}
	seq, err := a.server.Registry().ChangeChannel(c, channel, func(known *registry.Channel) { known.Disband = true })
	if err != nil {
		return nil, err
	}
	a.server.Spread(c, seq)
	head, err := a.server.Journal().Head(channel)
	if err != nil {
		return nil, err
	}
	return nil, a.server.RemoveBefore(c, channel, head.Seq+1)
}

// addMembers puts the subscribers of a request into the channel: they have read what is there.
func (a *API) addMembers(c *call, q channelRequest, channel message.Channel) (any, error) {
	head, err := a.server.Journal().Head(channel)
	if err != nil {
		return nil, err
	}
	change := a.server.Registry().Add
	if q.Reset {
		change = a.server.Registry().Replace
	} else if len(q.Subscribers) == 0 {
		return a.spread(c, a.server.Registry().Position(), nil)
	}
	seq, err := change(c, registry.Members, channel, membersOf(q.Subscribers, head.Seq))
	if err == nil && seq == 0 {
		seq = a.server.Registry().Position()
	}
	return a.spread(c, seq, err)
}

func (a *API) subscriberAdd(c *call) (any, error) {
	q, channel, err := c.channel()
	switch {
	case err != nil:
		return nil, err
	case bool(q.Temporary):
		return nil, badRequest("temp_subscriber is not supported: clients subscribe to channels of type 9 themselves")
	case channel.Type == message.Person:
		return nil, badRequest("a person's channel has no subscribers")
	case len(q.Subscribers) == 0 && !bool(q.Reset):
		return nil, badRequest("subscribers is empty")
	}
	_, exists, err := a.server.Registry().Channel(channel)
	if err == nil && !exists {
		_, err = a.server.Registry().ChangeChannel(c, channel, channelRequest{}.set)
	}
	if err != nil {
		return nil, err
	}
	return a.addMembers(c, q, channel)
}

func (a *API) subscriberRemove(c *call) (any, error) {
	q, channel, err := c.channel()
	if err != nil {
		return nil, err
	}
	if len(q.Subscribers) == 0 {
		return nil, badRequest("subscribers is empty")
	}
	seq, err := a.server.Registry().Remove(c, registry.Members, channel, q.Subscribers)
	return a.spread(c, seq, err)
}

func (a *API) subscriberClear(c *call) (any, error) {
	_, channel, err := c.channel()
	if err != nil {
		return nil, err
	}
	seq, err := a.server.Registry().Replace(c, registry.Members, channel, nil)
	return a.spread(c, seq, err)
}

func (a *API) temporarySet(c *call) (any, error) {
	q, _, err := c.channel()
	if err != nil {
		return nil, err
	}
	channel := message.Channel{ID: q.ID, Type: message.Temporary}
	seq, err := a.server.Registry().Replace(c, registry.Members, channel, membersOf(q.UIDs, 0))
	return a.spread(c, seq, err)
}

// change is Add, Replace or Remove of a list.
type change func(a *API, c *call, kind registry.Kind, channel message.Channel, uids []string) (uint64, error)

func adds(a *API, c *call, kind registry.Kind, channel message.Channel, uids []string) (uint64, error) {
	return a.server.Registry().Add(c, kind, channel, membersOf(uids, 0))
}

func replaces(a *API, c *call, kind registry.Kind, channel message.Channel, uids []string) (uint64, error) {
	return a.server.Registry().Replace(c, kind, channel, membersOf(uids, 0))
}

func removes(a *API, c *call, kind registry.Kind, channel message.Channel, uids []string) (uint64, error) {
	return a.server.Registry().Remove(c, kind, channel, uids)
}

func clears(a *API, c *call, kind registry.Kind, channel message.Channel, _ []string) (uint64, error) {
	return a.server.Registry().Replace(c, kind, channel, nil)
}

func (a *API) changeList(c *call, kind registry.Kind, how change) (any, error) {
	q, channel, err := c.channel()
	if err != nil {
		return nil, err
	}
	seq, err := how(a, c, kind, channel, q.UIDs)
	return a.spread(c, seq, err)
}

func (a *API) denyAdd(c *call) (any, error)     { return a.changeList(c, registry.Deny, adds) }
func (a *API) denySet(c *call) (any, error)     { return a.changeList(c, registry.Deny, replaces) }
func (a *API) denyRemove(c *call) (any, error)  { return a.changeList(c, registry.Deny, removes) }
func (a *API) denyClear(c *call) (any, error)   { return a.changeList(c, registry.Deny, clears) }
func (a *API) allowAdd(c *call) (any, error)    { return a.changeList(c, registry.Allow, adds) }
func (a *API) allowSet(c *call) (any, error)    { return a.changeList(c, registry.Allow, replaces) }
func (a *API) allowRemove(c *call) (any, error) { return a.changeList(c, registry.Allow, removes) }
func (a *API) allowClear(c *call) (any, error)  { return a.changeList(c, registry.Allow, clears) }

func (a *API) allowList(c *call) (any, error) {
	channel, err := c.queried()
	if err != nil {
		return nil, err
	}
	list, err := a.server.Registry().List(registry.Allow, channel)
	rows := make([]map[string]string, len(list))
	for i, uid := range list {
		rows[i] = map[string]string{"uid": uid}
	}
	return bare{rows}, err
}
