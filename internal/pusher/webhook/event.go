package webhook

import (
	"bytes"
	"encoding/json"
)

// Names of events, as in the name field of a request and in apps.Webhook.EventTypes.
const (
	NameChannelOccupied   = "channel_occupied"
	NameChannelVacated    = "channel_vacated"
	NameMemberAdded       = "member_added"
	NameMemberRemoved     = "member_removed"
	NameClientEvent       = "client_event"
	NameCacheMiss         = "cache_miss"
	NameSubscriptionCount = "subscription_count"
)

// Event is one event of a webhook request. The functions below make the seven kinds, with
// the fields that the webhook page of the Pusher Channels documentation lists for each.
type Event struct {
	name     string
	channel  string
	userID   string
	event    string
	data     string
	socketID string
	count    int
}

// ChannelOccupied says that a channel got its first subscriber in the cluster.
func ChannelOccupied(channel string) Event {
	return Event{name: NameChannelOccupied, channel: channel}
}

// ChannelVacated says that a channel lost its last subscriber in the cluster.
func ChannelVacated(channel string) Event {
	return Event{name: NameChannelVacated, channel: channel}
}

// MemberAdded says that a user's first connection joined a presence channel.
func MemberAdded(channel, userID string) Event {
	return Event{name: NameMemberAdded, channel: channel, userID: userID}
}

// MemberRemoved says that a user's last connection left a presence channel.
func MemberRemoved(channel, userID string) Event {
	return Event{name: NameMemberRemoved, channel: channel, userID: userID}
}

// ClientEvent says that a client sent event with data, which is the text that subscribers
// got. The user is that of a presence channel and empty on others.
func ClientEvent(channel, event, data, socketID, userID string) Event {
	return Event{
		name: NameClientEvent, channel: channel,
		event: event, data: data, socketID: socketID, userID: userID,
	}
}

// CacheMiss says that somebody subscribed to a cache channel that had nothing cached.
func CacheMiss(channel string) Event {
	return Event{name: NameCacheMiss, channel: channel}
}

// SubscriptionCount says how many subscriptions a channel has now.
func SubscriptionCount(channel string, count int) Event {
	return Event{name: NameSubscriptionCount, channel: channel, count: count}
}

// leaves reports whether the event waits for its opposite.
func (ev Event) leaves() bool {
	return ev.name == NameChannelVacated || ev.name == NameMemberRemoved
}

// about returns what the event says has begun or ended.
func (ev Event) about(appID string) fact {
	return fact{appID: appID, channel: ev.channel, userID: ev.userID}
}

// opposite returns the name of the event that undoes this one, or "" if there is none.
func (ev Event) opposite() string {
	switch ev.name {
	case NameChannelOccupied:
		return NameChannelVacated
	case NameChannelVacated:
		return NameChannelOccupied
	case NameMemberAdded:
		return NameMemberRemoved
	case NameMemberRemoved:
		return NameMemberAdded
	}
	return ""
}

// encode returns the event's JSON object. Fields that belong to its kind are there even
// when they are empty, except user_id, which is there for users only.
func (ev Event) encode() []byte {
	fields := struct {
		Name     string  `json:"name"`
		Channel  string  `json:"channel"`
		Event    *string `json:"event,omitempty"`
		Data     *string `json:"data,omitempty"`
		SocketID *string `json:"socket_id,omitempty"`
		UserID   string  `json:"user_id,omitempty"`
		Count    *int    `json:"subscription_count,omitempty"`
	}{Name: ev.name, Channel: ev.channel, UserID: ev.userID}
	switch ev.name {
	case NameClientEvent:
		fields.Event, fields.Data, fields.SocketID = &ev.event, &ev.data, &ev.socketID
	case NameSubscriptionCount:
		fields.Count = &ev.count
	}
	return encodeJSON(fields)
}

// String returns the event's JSON object.
func (ev Event) String() string { return string(ev.encode()) }

// encodeJSON is json.Marshal without the escapes that only HTML needs. The value must be
// one that always encodes.
func encodeJSON(value any) []byte {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // strings, numbers and valid JSON cannot fail
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
}
