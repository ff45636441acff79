// Package message is what is stored and handed from node to node: a message, its channel, and their
// encoding. It has no clock, no socket and no goroutine.
//
// It may import im/wire for flags and settings. It must never import another room of Parley.
package message

import (
	"hash/crc32"
	"strconv"
	"strings"
)

// Types of channels.
const (
	Person          = 1
	Group           = 2
	CustomerService = 3
	Community       = 4
	CommunityTopic  = 5
	Info            = 6
	Data            = 7
	Temporary       = 8
	Live            = 9
	Visitors        = 10
	Agent           = 11
	AgentGroup      = 12
)

// Channel is where messages go, by the id under which it is stored: of a conversation of two
// persons that names both.
type Channel struct {
	ID   string
	Type uint8
}

// Forbidden are the characters that no id of a client or application may have: they join the parts
// of ids that the server composes.
const Forbidden = "@#&"

// CheckID tells whether a client or an application may use an id: 1 to MaxID bytes without
// forbidden and control characters, and not the end that marks a channel's shadow.
func CheckID(id string) bool {
	if id == "" || len(id) > MaxID || strings.ContainsAny(id, Forbidden) || strings.HasSuffix(id, commandSuffix) {
		return false
	}
	for i := range len(id) {
		if id[i] < ' ' || id[i] == 0x7f {
			return false
		}
	}
	return true
}

// MaxID is the longest id in bytes.
const MaxID = 200

// PersonChannel is the conversation of two persons. The one whose CRC-32 is larger comes first, as
// existing clients know it; of two that are equal the one that is larger as a text.
func PersonChannel(a, b string) Channel {
	ha, hb := crc32.ChecksumIEEE([]byte(a)), crc32.ChecksumIEEE([]byte(b))
	if ha < hb || ha == hb && a < b {
		a, b = b, a
	}
	return Channel{ID: a + "@" + b, Type: Person}
}

// Stored is the channel that a client of uid means by an id and type.
func Stored(uid, id string, kind uint8) Channel {
	switch {
	case kind == Person:
		return PersonChannel(uid, id)
	case kind == Agent && !strings.Contains(id, "@"):
		return Channel{ID: uid + "@" + id, Type: kind}
	}
	return Channel{ID: id, Type: kind}
}

// Persons are the two of a conversation.
func (c Channel) Persons() (a, b string, ok bool) {
	id := strings.TrimSuffix(c.ID, commandSuffix)
	if c.Type != Person {
		return "", "", false
	}
	a, b, ok = strings.Cut(id, "@")
	return a, b, ok && a != "" && b != ""
}

// SeenBy is the id that a client of uid knows the channel by.
func (c Channel) SeenBy(uid string) string {
	a, b, ok := c.Persons()
	switch {
	case !ok:
		return strings.TrimSuffix(c.ID, commandSuffix)
	case a == uid:
		return b
	}
	return a
}

// commandSuffix ends the id of a channel's shadow, where its commands are stored.
const commandSuffix = "____cmd"

// Commands is the channel's shadow for commands.
func (c Channel) Commands() Channel {
	if c.IsCommands() {
		return c
	}
	return Channel{ID: c.ID + commandSuffix, Type: c.Type}
}

// IsCommands tells whether this is such a shadow.
func (c Channel) IsCommands() bool { return strings.HasSuffix(c.ID, commandSuffix) }

// Base is the channel whose shadow this is, or the channel itself.
func (c Channel) Base() Channel {
	return Channel{ID: strings.TrimSuffix(c.ID, commandSuffix), Type: c.Type}
}

// KeepsConversations tells whether members see the channel in their list of conversations.
func (c Channel) KeepsConversations() bool {
	return c.Type != Data && c.Type != Temporary && c.Type != Live && !c.IsCommands()
}

// Key is the channel as a text, by which it is stored.
func (c Channel) Key() string { return strconv.Itoa(int(c.Type)) + ":" + c.ID }

// ParseKey undoes Key.
func ParseKey(key string) (Channel, bool) {
	number, id, found := strings.Cut(key, ":")
	kind, err := strconv.ParseUint(number, 10, 8)
	return Channel{ID: id, Type: uint8(kind)}, found && err == nil && id != ""
}

// Slot is which of n logs has the channel's messages. A channel and its shadow share one.
func (c Channel) Slot(n int) int {
	return int(crc32.ChecksumIEEE([]byte(strings.TrimSuffix(c.ID, commandSuffix))) % uint32(n))
}
