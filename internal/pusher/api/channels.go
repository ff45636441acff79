package api

import (
	"strings"
	"time"

	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// info is a set of channel attributes that a request asks for.
type info uint8

const (
	infoUserCount info = 1 << iota
	infoSubscriptionCount
	infoCache
)

// channelAttributes are those asked for of one channel.
type channelAttributes struct {
	Occupied          *bool        `json:"occupied,omitempty"`
	UserCount         *int         `json:"user_count,omitempty"`
	SubscriptionCount *int         `json:"subscription_count,omitempty"`
	Cache             *cachedEvent `json:"cache,omitempty"`
}

type cachedEvent struct {
	Data string `json:"data"`
	TTL  int    `json:"ttl"` // seconds
}

// parseInfo reads a list of attribute names; unknown ones are ignored, as at Pusher.
func parseInfo(list string) (set info) {
	for name := range strings.SplitSeq(list, ",") {
		switch strings.TrimSpace(name) {
		case "user_count":
			set |= infoUserCount
		case "subscription_count":
			set |= infoSubscriptionCount
		case "cache":
			set |= infoCache
		}
	}
	return set
}

// ofPublish is what the answer to an event tells of a channel. As at Pusher, an event may
// go to channels of several kinds: those that have no users have no user_count.
func (i info) ofPublish(channel string) info {
	if !protocol.KindOf(channel).Has(protocol.Presence) {
		i &^= infoUserCount
	}
	return i &^ infoCache
}

func (s *Server) attributes(r *request, channel string, asked info) channelAttributes {
	c := s.hub.Channel(r.app, channel)
	return describe(c, asked, s.cached(r, asked, c))
}

// cached returns the last events of channels when they are asked for.
func (s *Server) cached(r *request, asked info, list ...pusher.ChannelInfo) map[string]pusher.CachedEvent {
	if asked&infoCache == 0 {
		return nil
	}
	channels := make([]string, len(list))
	for i, c := range list {
		channels[i] = c.Channel
	}
	return s.hub.Cached(r.app, channels...)
}

func describe(c pusher.ChannelInfo, asked info, cached map[string]pusher.CachedEvent) channelAttributes {
	var a channelAttributes
	if asked&infoUserCount != 0 {
		a.UserCount = &c.Users
	}
	if asked&infoSubscriptionCount != 0 {
		a.SubscriptionCount = &c.Subscriptions
	}
	if asked&infoCache != 0 {
		if event, ok := cached[c.Channel]; ok {
			a.Cache = &cachedEvent{event.Data, int(event.TTL / time.Second)}
		}
	}
	return a
}

// infoOf reads the info parameter, which libraries send as one list or as an array.
func infoOf(r *request) info {
	query := r.URL.Query()
	return parseInfo(strings.Join(append(query["info"], query["info[]"]...), ","))
}

func (s *Server) getChannels(r *request) (any, error) {
	asked := infoOf(r)
	prefix := r.URL.Query().Get("filter_by_prefix")
	if asked&infoUserCount != 0 && !strings.HasPrefix(prefix, "presence-") {
		return nil, fail(invalidInfo, "user_count needs filter_by_prefix to begin with presence-")
	}
	answer := published{Channels: make(map[string]channelAttributes)}
	list := s.hub.Channels(r.app, prefix)
	cached := s.cached(r, asked, list...)
	for _, c := range list {
		answer.Channels[c.Channel] = describe(c, asked, cached)
	}
	return answer, nil
}

func (s *Server) getChannel(r *request) (any, error) {
	channel, err := r.channel()
	if err != nil {
		return nil, err
	}
	asked := infoOf(r)
	if asked&infoUserCount != 0 && !protocol.KindOf(channel).Has(protocol.Presence) {
		return nil, fail(invalidInfo, "user_count is only known for presence channels")
	}
	if asked&infoCache != 0 && !protocol.KindOf(channel).Has(protocol.Cached) {
		return nil, fail(invalidInfo, "cache is only known for cache channels")
	}
	c := s.hub.Channel(r.app, channel)
	answer := describe(c, asked, s.cached(r, asked, c))
	occupied := c.Subscriptions > 0
	answer.Occupied = &occupied
	return answer, nil
}

func (s *Server) getUsers(r *request) (any, error) {
	channel, err := r.channel()
	if err != nil {
		return nil, err
	}
	if !protocol.KindOf(channel).Has(protocol.Presence) {
		return nil, fail(invalidChannel, "Users are only known for presence channels")
	}
	type user struct {
		ID string `json:"id"`
	}
	users := []user{}
	for _, m := range s.hub.Members(r.app, channel) {
		users = append(users, user{m.UserID})
	}
	return map[string]any{"users": users}, nil
}

func (s *Server) terminate(r *request) (any, error) {
	s.hub.Terminate(r.app, r.PathValue("user"))
	return struct{}{}, nil
}

func (r *request) channel() (string, error) {
	channel := r.PathValue("channel")
	if !protocol.ValidChannel(channel, r.maxChannelName(channel)) {
		return "", fail(invalidChannel, "Invalid channel name: %.80q", channel)
	}
	return channel, nil
}
