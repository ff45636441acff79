// Package protocol is the Pusher protocol, version 7, as a pure state machine: no clock, no
// socket, no goroutine, no lock. A Session takes the messages of one client and answers
// with effects; a Room holds the subscribers of one channel. The hub around it applies the
// effects, guards the rooms and owns the time.
//
// It may import the pure websocket codec. It must never import the hub, the transport's
// connections, the registry or the fabric.
//
// # Flow
//
//	client                                   server
//	  | -- GET /app/{key}?protocol=7 upgrade -> |
//	  | <- pusher:connection_established ------ |  socket_id, activity_timeout
//	  | -- pusher:signin ---------------------> |  optional; user_data signed by the backend
//	  | <- pusher:signin_success -------------- |  then watchlist_events
//	  | -- pusher:subscribe ------------------> |  private and presence: auth signed by the backend
//	  | <- pusher_internal:subscription_succeeded
//	  | <- channel events --------------------- |  published over HTTP or by other clients
//	  | -- client-* --------------------------> |  to the others on the channel
//	  | <> pusher:ping, pusher:pong <---------> |  after activity_timeout without traffic
//
// Data of server events is a JSON string that holds JSON ("double encoding"); that of
// pusher:error is an object. Sources: the public documentation of Pusher Channels and the
// behaviour of pusher-js 8.6.0.
package protocol

import "github.com/parleyio/parley/internal/transport/websocket"

// Event names that the server and its clients exchange.
const (
	EventConnectionEstablished = "pusher:connection_established"
	EventError                 = "pusher:error"
	EventPing                  = "pusher:ping"
	EventPong                  = "pusher:pong"
	EventSubscribe             = "pusher:subscribe"
	EventUnsubscribe           = "pusher:unsubscribe"
	EventSignin                = "pusher:signin"
	EventSigninSuccess         = "pusher:signin_success"
	EventSubscriptionError     = "pusher:subscription_error"
	EventCacheMiss             = "pusher:cache_miss"
	EventSubscriptionSucceeded = "pusher_internal:subscription_succeeded"
	EventMemberAdded           = "pusher_internal:member_added"
	EventMemberRemoved         = "pusher_internal:member_removed"
	EventSubscriptionCount     = "pusher_internal:subscription_count"
	EventWatchlist             = "pusher_internal:watchlist_events"

	clientEventPrefix = "client-"
)

// Codes of pusher:error and of close frames. A client does not come back after 4000 to
// 4099, waits a second after 4100 to 4199 and comes back at once after 4200 to 4299; from
// 4300 on they are errors of one message.
const (
	CodeUnknownApp          = 4001
	CodeAppDisabled         = 4003
	CodeOverQuota           = 4004
	CodePathNotFound        = 4005
	CodeInvalidVersion      = 4006
	CodeUnsupportedProtocol = 4007
	CodeNoProtocol          = 4008
	CodeUnauthorized        = 4009
	CodeOverCapacity        = 4100
	CodeReconnect           = 4200
	CodePongTimeout         = 4201
	CodeMessageRejected     = 4300
	CodeClientEventRejected = 4301
	CodeWatchlistTooLong    = 4302
)

// Version is the protocol that is spoken. Older clients name 5 or 6 and understand it.
const Version = 7

// MaxWatchlist is how many users one user may watch; the rest of a longer list is ignored.
const MaxWatchlist = 100

// Policy is what an app allows, with every default filled in.
type Policy struct {
	Key    string
	Secret string

	ClientEvents       bool
	UserAuthentication bool
	Watchlist          bool

	MaxChannelName           int // bytes
	MaxSubscriptions         int // of one session
	MaxEventName             int // characters
	MaxEventPayload          int // bytes of a client event's data
	MaxClientEventsPerSecond int // of one session
	MaxMembers               int // of one presence channel
	MaxMemberSize            int // bytes of channel_data
}

// Peer is where a session's frames go.
type Peer interface {
	// Send queues a frame without waiting and tells whether it was taken.
	Send(frame *websocket.Frame) bool
}

// User is the identity that a session signed in with.
type User struct {
	ID        string
	Info      []byte   // JSON of user_info, nil without
	Watchlist []string // at most MaxWatchlist ids
}

// Member is one user of a presence channel.
type Member struct {
	UserID string
	Info   []byte // JSON of user_info, nil without
}
