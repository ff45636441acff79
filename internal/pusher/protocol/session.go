package protocol

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Session is the protocol state of one client. It is not safe for concurrent use: its
// connection calls it.
type Session struct {
	ID   string // the socket id
	Peer Peer
	User *User // nil until sign-in

	// subscriptions are in the order of their channels; the hub adds and removes. A slice,
	// because a map of one entry takes 400 bytes and most sessions have few.
	subscriptions []*Subscription

	// The client events of the current second.
	rateSecond int64
	rateCount  int
}

// Effect is what the hub has to do for a message: one of the types below.
type Effect interface{ effect() }

// Reply is a message to the session itself.
type Reply struct{ Payload []byte }

// Reject is a Reply to something that was refused. Reason is a fixed name for a metric.
type Reject struct {
	Reply
	Reason string
}

// Subscribe asks to join a room; everything that can be known without the room is checked.
type Subscribe struct {
	Channel string
	Member  *Member
}

// Unsubscribe asks to leave a room that the session is in.
type Unsubscribe struct{ Subscription *Subscription }

// Forward is a client event for the others of a room.
type Forward struct {
	Subscription *Subscription
	Event        string
	Data         []byte // JSON as the client sent it
	UserID       string // of the sender on presence channels
}

// Signin says that the session's user is known now. Its Payload is the answer.
type Signin struct {
	Reply
	User *User
}

// Disconnect closes the connection.
type Disconnect struct {
	Code   int
	Reason string
}

func (Reply) effect()       {}
func (Reject) effect()      {}
func (Subscribe) effect()   {}
func (Unsubscribe) effect() {}
func (Forward) effect()     {}
func (Signin) effect()      {}
func (Disconnect) effect()  {}

// Names of refusals, for metrics.
const (
	RejectMessage      = "invalid_message"
	RejectChannelName  = "invalid_channel_name"
	RejectAuth         = "invalid_signature"
	RejectSubscription = "too_many_subscriptions"
	RejectMember       = "invalid_member"
	RejectMemberSize   = "member_too_large"
	RejectFull         = "presence_full"
	RejectClientEvent  = "client_event_not_allowed"
	RejectClientRate   = "client_event_rate"
	RejectClientSize   = "client_event_too_large"
	RejectSignin       = "invalid_signin"
	RejectWatchlist    = "watchlist_too_long"
)

// Types of a pusher:subscription_error, as pusher-js and its servers know them.
const (
	typeAuth   = "AuthError"
	typeLimit  = "LimitReached"
	typeServer = "ServerError"
)

// Statuses of a pusher:subscription_error, as soketi gives them.
const (
	statusAuth           = 401
	statusNameTooLong    = 4009
	statusFull           = 4100
	statusMemberTooLarge = 4301
	statusOther          = 4302
)

// Receive takes one message of the client at the time now.
func (s *Session) Receive(p *Policy, now time.Time, raw []byte) []Effect {
	m, err := parseMessage(raw)
	if err != nil {
		return s.rejectMessage(err)
	}
	switch m.Event {
	case EventPing:
		return []Effect{Reply{pong()}}
	case EventPong:
		return nil // any message counts as a sign of life
	case EventSubscribe:
		return s.subscribe(p, m)
	case EventUnsubscribe:
		return s.unsubscribe(m)
	case EventSignin:
		return s.signin(p, m)
	}
	if strings.HasPrefix(m.Event, clientEventPrefix) {
		return s.clientEvent(p, now, m)
	}
	return nil // unknown events are ignored, as clients may be newer than the server
}

func (s *Session) rejectMessage(err error) []Effect {
	return reject(RejectMessage, CodeMessageRejected, "Invalid message: "+err.Error(), "")
}

func reject(reason string, code int, message, channel string) []Effect {
	return []Effect{Reject{Reply{Failure(code, message, channel)}, reason}}
}

// rejectSubscription refuses a subscription in both forms that clients listen for: an
// error of the connection and one of the channel.
func rejectSubscription(reason, channel string, code int, kind string, status int, message string) []Effect {
	return []Effect{
		Reject{Reply{Failure(code, message, channel)}, reason},
		Reply{subscriptionError(channel, kind, message, status)},
	}
}

// RoomFull refuses a subscription to a presence channel that has all its members.
func RoomFull(channel string, max int) []Effect {
	return rejectSubscription(RejectFull, channel, CodeOverCapacity, typeLimit, statusFull,
		fmt.Sprintf("The presence channel has the maximum of %d members", max))
}

func (s *Session) subscribe(p *Policy, m message) []Effect {
	var data subscribeData
	if err := m.decodeData(&data); err != nil {
		return s.rejectMessage(err)
	}
	if len(data.Channel) > p.MaxChannelName {
		return rejectSubscription(RejectChannelName, data.Channel[:p.MaxChannelName], CodeMessageRejected, typeLimit,
			statusNameTooLong, fmt.Sprintf("The channel name is longer than %d characters", p.MaxChannelName))
	}
	if !ValidChannel(data.Channel, p.MaxChannelName) {
		return rejectSubscription(RejectChannelName, data.Channel, CodeMessageRejected, typeServer,
			statusOther, "The channel name is not valid")
	}
	if s.Subscription(data.Channel) == nil && len(s.subscriptions) >= p.MaxSubscriptions {
		return rejectSubscription(RejectSubscription, data.Channel, CodeOverCapacity, typeLimit,
			statusFull, fmt.Sprintf("A connection may have %d subscriptions", p.MaxSubscriptions))
	}
	kind := KindOf(data.Channel)
	if !s.authorized(p, kind, data) {
		return rejectSubscription(RejectAuth, data.Channel, CodeUnauthorized, typeAuth, statusAuth,
			"Invalid signature: the channel "+data.Channel+" was not authorized for this connection")
	}
	if !kind.Has(Presence) {
		return []Effect{Subscribe{Channel: data.Channel}}
	}
	return s.subscribePresence(p, data)
}

func (s *Session) authorized(p *Policy, kind Kind, data subscribeData) bool {
	switch {
	case kind.Has(UserOnly):
		return s.User != nil && data.Channel == UserChannel(s.User.ID)
	case kind.Signed():
		return p.verifyAuth(data.Auth, SubscriptionText(s.ID, data.Channel, data.ChannelData))
	}
	return true
}

func (s *Session) subscribePresence(p *Policy, data subscribeData) []Effect {
	if data.ChannelData == "" && s.User != nil {
		// A signed-in user needs no channel_data: the backend vouched for it at sign-in.
		return []Effect{Subscribe{data.Channel, &Member{UserID: s.User.ID, Info: s.User.Info}}}
	}
	if len(data.ChannelData) > p.MaxMemberSize {
		return rejectSubscription(RejectMemberSize, data.Channel, CodeMessageRejected, typeLimit,
			statusMemberTooLarge, fmt.Sprintf("The channel_data is over %d bytes", p.MaxMemberSize))
	}
	member, err := parseMember(data.ChannelData)
	if err != nil {
		return rejectSubscription(RejectMember, data.Channel, CodeMessageRejected, typeServer,
			statusOther, "Invalid channel_data: "+err.Error())
	}
	return []Effect{Subscribe{data.Channel, member}}
}

func (s *Session) unsubscribe(m message) []Effect {
	var data subscribeData
	if err := m.decodeData(&data); err != nil {
		return s.rejectMessage(err)
	}
	if subscription := s.Subscription(data.Channel); subscription != nil {
		return []Effect{Unsubscribe{subscription}}
	}
	return nil
}

func (s *Session) signin(p *Policy, m message) []Effect {
	refuse := func(message string) []Effect {
		return append(reject(RejectSignin, CodeUnauthorized, message, ""),
			Disconnect{CodeUnauthorized, message})
	}
	var data signinData
	if err := m.decodeData(&data); err != nil {
		return refuse("Invalid sign-in: " + err.Error())
	}
	if !p.UserAuthentication {
		return refuse("User authentication is not enabled for this app")
	}
	if !p.verifyAuth(data.Auth, SigninText(s.ID, data.UserData)) {
		return refuse("Invalid sign-in: the signature does not match")
	}
	user, cut, err := parseUser(data.UserData)
	if err != nil {
		return refuse("Invalid sign-in: " + err.Error())
	}
	if s.User != nil && s.User.ID != user.ID {
		return reject(RejectSignin, CodeUnauthorized, "The connection is signed in as another user", "")
	}
	if s.User != nil {
		return []Effect{Reply{signinSuccess(data.UserData)}}
	}
	if !p.Watchlist {
		user.Watchlist, cut = nil, false
	}
	effects := []Effect{Signin{Reply{signinSuccess(data.UserData)}, user}}
	if cut {
		effects = append(effects, reject(RejectWatchlist, CodeWatchlistTooLong,
			fmt.Sprintf("The watchlist is longer than %d users; the rest is ignored", MaxWatchlist), "")...)
	}
	return effects
}

func (s *Session) clientEvent(p *Policy, now time.Time, m message) []Effect {
	refuse := func(reason, message string) []Effect {
		return reject(reason, CodeClientEventRejected, message, m.Channel)
	}
	kind := KindOf(m.Channel)
	subscription := s.Subscription(m.Channel)
	switch {
	case !p.ClientEvents:
		return refuse(RejectClientEvent, "Client events are not enabled for this app")
	case !kind.Signed() || kind.Has(Encrypted):
		return refuse(RejectClientEvent, "Client events are only supported on private and presence channels")
	case subscription == nil:
		return refuse(RejectClientEvent, "The connection is not subscribed to the channel")
	case utf8.RuneCountInString(m.Event) > p.MaxEventName:
		return refuse(RejectClientSize, fmt.Sprintf("The event name is longer than %d characters", p.MaxEventName))
	case len(m.Data) > p.MaxEventPayload:
		return refuse(RejectClientSize, fmt.Sprintf("The data is over %d bytes", p.MaxEventPayload))
	case !s.allowClientEvent(now, p.MaxClientEventsPerSecond):
		return refuse(RejectClientRate, fmt.Sprintf("A connection may send %d client events a second", p.MaxClientEventsPerSecond))
	}
	forward := Forward{Subscription: subscription, Event: m.Event, Data: m.Data}
	if subscription.Member != nil {
		forward.UserID = subscription.Member.UserID
	}
	return []Effect{forward}
}

func (s *Session) allowClientEvent(now time.Time, perSecond int) bool {
	if second := now.Unix(); second != s.rateSecond {
		s.rateSecond, s.rateCount = second, 0
	}
	s.rateCount++
	return s.rateCount <= perSecond
}

// Subscription returns the session's subscription to a channel, or nil.
func (s *Session) Subscription(channel string) *Subscription {
	if i, found := s.search(channel); found {
		return s.subscriptions[i]
	}
	return nil
}

func (s *Session) search(channel string) (int, bool) {
	return slices.BinarySearchFunc(s.subscriptions, channel, func(have *Subscription, channel string) int {
		return strings.Compare(have.Room.Channel, channel)
	})
}

// Add records a subscription that the hub has joined to its room.
func (s *Session) Add(subscription *Subscription) {
	i, _ := s.search(subscription.Room.Channel)
	s.subscriptions = slices.Insert(s.subscriptions, i, subscription)
}

// Remove forgets a subscription.
func (s *Session) Remove(subscription *Subscription) {
	if i, found := s.search(subscription.Room.Channel); found {
		s.subscriptions = slices.Delete(s.subscriptions, i, i+1)
	}
}

// Each calls f for every subscription. f may remove the one it is called for.
func (s *Session) Each(f func(*Subscription)) {
	for i := len(s.subscriptions) - 1; i >= 0; i-- {
		f(s.subscriptions[i])
	}
}

// ForwardPayload is the text of a client event as the others get it: data in the form in
// which it was sent.
func ForwardPayload(f Forward) []byte {
	return appendRawEvent(nil, f.Event, f.Subscription.Room.Channel, f.Data, f.UserID)
}
