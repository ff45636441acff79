package protocol

import (
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// AppendEvent appends the frame text of an event. data is the text of the string that
// clients get; channel and userID are left out when empty.
func AppendEvent(dst []byte, event, channel, data, userID string) []byte {
	dst = appendHead(dst, event, channel)
	dst = append(dst, `,"data":`...)
	dst = appendString(dst, data)
	return appendTail(dst, userID)
}

// appendRawEvent is AppendEvent for data that is JSON as it stands, or none.
func appendRawEvent(dst []byte, event, channel string, data []byte, userID string) []byte {
	dst = appendHead(dst, event, channel)
	if len(data) > 0 {
		dst = append(dst, `,"data":`...)
		dst = append(dst, data...)
	}
	return appendTail(dst, userID)
}

func appendHead(dst []byte, event, channel string) []byte {
	dst = append(dst, `{"event":`...)
	dst = appendString(dst, event)
	if channel != "" {
		dst = append(dst, `,"channel":`...)
		dst = appendString(dst, channel)
	}
	return dst
}

func appendTail(dst []byte, userID string) []byte {
	if userID != "" {
		dst = append(dst, `,"user_id":`...)
		dst = appendString(dst, userID)
	}
	return append(dst, '}')
}

// EventOf returns the event's name and data of a frame text that AppendEvent made.
func EventOf(payload []byte) (event, data string, ok bool) {
	var m struct {
		Event string `json:"event"`
		Data  string `json:"data"`
	}
	if json.Unmarshal(payload, &m) != nil {
		return "", "", false
	}
	return m.Event, m.Data, true
}

// Established is the first message of the server.
func Established(socketID string, activityTimeoutSeconds int) []byte {
	data := `{"socket_id":"` + socketID + `","activity_timeout":` + strconv.Itoa(activityTimeoutSeconds) + `}`
	return AppendEvent(nil, EventConnectionEstablished, "", data, "")
}

// Failure is a pusher:error; channel is empty when it is about none.
func Failure(code int, message, channel string) []byte {
	data := appendString([]byte(`{"code":`+strconv.Itoa(code)+`,"message":`), message)
	return appendRawEvent(nil, EventError, channel, append(data, '}'), "")
}

// Ping asks the client whether it is there.
func Ping() []byte { return []byte(`{"event":"pusher:ping","data":{}}`) }

func pong() []byte { return []byte(`{"event":"pusher:pong","data":{}}`) }

func subscriptionError(channel, kind, message string, status int) []byte {
	data := append([]byte(`{"type":"`), kind...)
	data = appendString(append(data, `","error":`...), message)
	data = append(data, `,"status":`...)
	data = append(strconv.AppendInt(data, int64(status), 10), '}')
	return appendRawEvent(nil, EventSubscriptionError, channel, data, "")
}

func signinSuccess(userData string) []byte {
	data := appendString([]byte(`{"user_data":`), userData)
	return AppendEvent(nil, EventSigninSuccess, "", string(append(data, '}')), "")
}

// SubscriptionSucceeded answers a subscription to a channel without members.
func SubscriptionSucceeded(channel string) []byte {
	return AppendEvent(nil, EventSubscriptionSucceeded, channel, "{}", "")
}

// PresenceSucceeded answers a subscription to a presence channel with its members, the new
// one included, in the order given.
func PresenceSucceeded(channel string, members []Member) []byte {
	data := append([]byte(`{"presence":{"count":`), strconv.Itoa(len(members))...)
	data = append(data, `,"ids":[`...)
	for i, m := range members {
		if i > 0 {
			data = append(data, ',')
		}
		data = appendString(data, m.UserID)
	}
	data = append(data, `],"hash":{`...)
	for i, m := range members {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(appendString(data, m.UserID), ':')
		data = appendJSON(data, m.Info)
	}
	return AppendEvent(nil, EventSubscriptionSucceeded, channel, string(append(data, `}}}`...)), "")
}

// MemberAdded tells of a user's first session on a presence channel.
func MemberAdded(channel string, m Member) []byte {
	data := appendString([]byte(`{"user_id":`), m.UserID)
	if m.Info != nil {
		data = append(append(data, `,"user_info":`...), m.Info...)
	}
	return AppendEvent(nil, EventMemberAdded, channel, string(append(data, '}')), "")
}

// MemberRemoved tells that a user's last session left a presence channel.
func MemberRemoved(channel, userID string) []byte {
	data := appendString([]byte(`{"user_id":`), userID)
	return AppendEvent(nil, EventMemberRemoved, channel, string(append(data, '}')), "")
}

// SubscriptionCount tells how many sessions are subscribed.
func SubscriptionCount(channel string, count int) []byte {
	return AppendEvent(nil, EventSubscriptionCount, channel,
		`{"subscription_count":`+strconv.Itoa(count)+`}`, "")
}

// CacheMiss tells that a cache channel remembers nothing.
func CacheMiss(channel string) []byte {
	return appendRawEvent(nil, EventCacheMiss, channel, nil, "")
}

// Watchlist tells which watched users are online and which offline, in the shape that
// pusher-js delivers: one event for each non-empty list.
func Watchlist(online, offline []string) []byte {
	data := []byte(`{"events":[`)
	for _, part := range []struct {
		name string
		ids  []string
	}{{"online", online}, {"offline", offline}} {
		if len(part.ids) == 0 {
			continue
		}
		if data[len(data)-1] != '[' {
			data = append(data, ',')
		}
		data = append(data, `{"name":"`+part.name+`","user_ids":[`...)
		for i, id := range part.ids {
			if i > 0 {
				data = append(data, ',')
			}
			data = appendString(data, id)
		}
		data = append(data, `]}`...)
	}
	return AppendEvent(nil, EventWatchlist, "", string(append(data, `]}`...)), "")
}

func appendJSON(dst, value []byte) []byte {
	if value == nil {
		return append(dst, `null`...)
	}
	return append(dst, value...)
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string. Unlike encoding/json it leaves <, > and & as
// they are: clients get the bytes that were published.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			dst = appendEscaped(dst, c)
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			i++
			start = i
			continue
		}
		i += size
	}
	return append(append(dst, s[start:]...), '"')
}

func appendEscaped(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
}
