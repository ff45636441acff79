package nats

import (
	"strconv"
	"strings"
)

// Between two servers there may be two connections for a moment, one that is dying and one
// that took its place, and what the old one still holds comes behind newer messages: after a
// loss in one direction, many seconds behind. So every sender numbers its messages, and a
// receiver drops what is older than what it had of the same sender.

// numberBase keeps the numbers short.
const numberBase = 36

// numbered returns the reply field of a published message.
func numbered(sender string, number uint64) string {
	var digits [16]byte
	return sender + "." + string(strconv.AppendUint(digits[:0], number, numberBase))
}

// maxSenders bounds the senders remembered. Beyond it, which takes as many starts of nodes, all
// are forgotten and learnt anew.
const maxSenders = 4096

// order knows the last number of each sender.
type order map[string]uint64

// accept returns the sender of a published message, and whether the message is in its turn.
// The same message may come twice, for two subscriptions that both cover its subject.
func (o order) accept(reply string) (sender string, inTurn bool) {
	sender, digits, found := strings.Cut(reply, ".")
	number, err := strconv.ParseUint(digits, numberBase, 64)
	if !found || err != nil {
		return reply, true // of a version that did not number
	}
	last, known := o[sender]
	switch {
	case known && number < last:
		return sender, false
	case !known:
		if len(o) >= maxSenders {
			clear(o)
		}
		sender = strings.Clone(sender) // and not the field of this message with it
	}
	o[sender] = number
	return sender, true
}
