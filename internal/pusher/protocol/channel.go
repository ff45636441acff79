package protocol

import "strings"

// Kind is what a channel's name says about it: a set of the flags below, 0 for public.
type Kind uint8

// The flags of a Kind.
const (
	Private   Kind = 1 << iota // needs a signature
	Presence                   // needs a signature, has members
	Encrypted                  // payloads are sealed by the publisher; no client events
	Cached                     // remembers its last event
	UserOnly                   // #server-to-user-<id>, for sessions signed in as that user
)

// UserChannelPrefix begins the channel of a signed-in user.
const UserChannelPrefix = "#server-to-user-"

// prefixes are tried in order, so the longer of two that fit must come first.
var prefixes = []struct {
	prefix string
	kind   Kind
	name   string
}{
	{"private-encrypted-cache-", Private | Encrypted | Cached, "private-encrypted-cache"},
	{"private-encrypted-", Private | Encrypted, "private-encrypted"},
	{"private-cache-", Private | Cached, "private-cache"},
	{"private-", Private, "private"},
	{"presence-cache-", Presence | Cached, "presence-cache"},
	{"presence-", Presence, "presence"},
	{"cache-", Cached, "cache"},
	{UserChannelPrefix, UserOnly, "user"},
}

// KindOf reads a channel's kind off its name.
func KindOf(channel string) Kind {
	for _, p := range prefixes {
		if strings.HasPrefix(channel, p.prefix) {
			return p.kind
		}
	}
	return 0
}

// Has tells whether all of flags are set.
func (k Kind) Has(flags Kind) bool { return k&flags == flags }

// Signed tells whether a subscription needs a signature.
func (k Kind) Signed() bool { return k&(Private|Presence) != 0 }

// String returns the kind as it is used in metric labels.
func (k Kind) String() string {
	for _, p := range prefixes {
		if p.kind == k {
			return p.name
		}
	}
	return "public"
}

// UserChannel returns the channel that reaches every session of a user.
func UserChannel(userID string) string { return UserChannelPrefix + userID }

// ValidChannel tells whether a name of at most max bytes may be used: letters, digits and
// _ - = @ , . ; as at Pusher, and the colon that namespacing applications use. A user's
// channel is a # followed by its fixed prefix and any id.
func ValidChannel(channel string, max int) bool {
	if channel == "" || len(channel) > max {
		return false
	}
	if strings.HasPrefix(channel, UserChannelPrefix) {
		return len(channel) > len(UserChannelPrefix)
	}
	for i := 0; i < len(channel); i++ {
		if !channelBytes[channel[i]] {
			return false
		}
	}
	return true
}

var channelBytes = func() (set [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=@,.;:") {
		set[c] = true
	}
	return set
}()

// ValidSocketID tells whether id is two decimal numbers joined by a dot.
func ValidSocketID(id string) bool {
	left, right, found := strings.Cut(id, ".")
	return found && digits(left) && digits(right)
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 20
}
