package webhook

import (
	"slices"
	"time"
)

// foundHold is how long a leave is held back at least that a comparison found: what this node
// sees may not be complete yet, as after a cut.
const foundHold = 2 * time.Second

// Behind tells whether a comparison is wanted because something may have been missed, and
// forgets that.
func (e *Emitter) Behind() bool { return e.ledger != nil && e.ledger.behind.Swap(false) }

// Reported returns the channels of which the ledger says something. It is nil until the
// ledger is known, and on a node of its own.
func (e *Emitter) Reported() []Place {
	if !e.Known() {
		return nil
	}
	return e.ledger.facts.Load().places()
}

// Known tells whether this node knows what the ledger says.
func (e *Emitter) Known() bool {
	if e.ledger == nil {
		return false
	}
	select {
	case <-e.ledger.known:
		return true
	default:
		return false
	}
}

// Compare holds what was reported of a channel against what is so, as this node sees it, and
// reports the difference: whoever is there at once, whoever went after the time that leaves
// are held back. The caller must keep the channel as it is meanwhile. What this node believes
// to be reported may be old unless CatchUp was called before: then something may be left out.
func (e *Emitter) Compare(appID, channel string, occupied bool, members []string) {
	if !e.Known() {
		return
	}
	reported := e.ledger.facts.Load().users(Place{appID, channel})
	has := func(user string) bool {
		_, found := slices.BinarySearch(reported, user)
		return found
	}
	if occupied && !has("") {
		e.change(appID, ChannelOccupied(channel))
	}
	for _, user := range members {
		if !has(user) {
			e.change(appID, MemberAdded(channel, user))
		}
	}
	if len(reported) == 0 {
		return
	}
	there := make(map[string]struct{}, len(members)+1)
	for _, user := range members {
		there[user] = struct{}{}
	}
	if occupied {
		there[""] = struct{}{}
	}
	slices.Reverse(reported) // the channel is vacated when its members have gone
	for _, user := range reported {
		if _, is := there[user]; is {
			continue
		}
		gone := MemberRemoved(channel, user)
		if user == "" {
			gone = ChannelVacated(channel)
		}
		e.holdFound(gone.about(appID), gone)
	}
}

// holdFound holds a leave back that a comparison found.
func (e *Emitter) holdFound(about fact, event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.found.hold(about, event, time.Now()) {
		e.ledger.behind.Store(true) // too many; there will be room at the next comparison
		return
	}
	e.signal()
}
