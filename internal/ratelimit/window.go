// Package ratelimit counts what happens in windows of time and says when it is too much, on
// one node or, where the nodes tell each other what they allowed, on all of them together.
//
// It must import nothing of Parley: whoever limits something owns the limit, and carries the
// messages between the nodes.
//
// # Several nodes
//
// Nobody asks another node before it allows something. Each node allows what its own count and
// what it has heard of the others leave, and tells the others afterwards: not what is far below
// its limit, and of a key that is not, everything since the last telling (Keyed.Tell). Who
// hears of a window adds the amount to its own and lets it end when the other one does
// (Keyed.Hear), so that all nodes have one window, as one node would. Messages carry amounts
// and how long a window has been open, no clock. What a dead node has used ages out with the
// window; what a lost message carried is not counted elsewhere.
//
// The price is an overshoot. Let D be the time between two tellings and the way of one. A node
// does not know what the others have allowed in the last D, or in the last 2 D when it is the
// first to come near the limit: in a window, all nodes together allow at most the limit and
// what all but one of them are asked for in 2 D, and never more than the limit on each node.
package ratelimit

import (
	"math"
	"time"
)

// Result is the answer to one Allow.
type Result struct {
	OK         bool          // whether it may happen
	Remaining  int           // how many more may happen in this window; 0 where there is no limit
	ResetAfter time.Duration // until the next window begins; 0 where there is no limit
}

// Window counts in one fixed window after the other; a window begins with the first Allow
// after the end of the last one, or with the first on another node. The zero value is ready.
// It is not safe for concurrent use.
type Window struct {
	start  time.Time
	own    int // allowed here
	told   int // of own, the others know of
	others int // allowed on other nodes, as far as they have told
}

// Allow counts n at the time now if the window then holds no more than limit, and otherwise
// counts nothing. A limit of 0 or less allows everything.
func (w *Window) Allow(now time.Time, n, limit int, window time.Duration) Result {
	if limit <= 0 {
		return Result{OK: true}
	}
	if !w.open(now, window) {
		*w = Window{start: now}
	}
	elapsed := max(0, now.Sub(w.start)) // callers that took the time first may come second
	used := min(w.own+w.others, limit)
	ok := n <= limit-used
	if ok {
		used += max(0, n)
		w.own += max(0, n)
	}
	return Result{OK: ok, Remaining: limit - used, ResetAfter: window - elapsed}
}

// open tells whether the window has begun and not ended, unless the clock was set back.
func (w *Window) open(now time.Time, window time.Duration) bool {
	elapsed := now.Sub(w.start)
	return !w.start.IsZero() && elapsed < window && elapsed > -window
}

// tell returns what was allowed here and not told yet, and how long the window has been open.
func (w *Window) tell(now time.Time, window time.Duration) (n int, age time.Duration) {
	if !w.open(now, window) {
		return 0, 0
	}
	n, w.told = w.own-w.told, w.own
	return n, max(0, now.Sub(w.start))
}

// skewPart is the part of a window by which the nodes may begin and end one and the same
// window at different times, and so the most that a window can be shorter than it should. It
// is many times what a message takes.
const skewPart = 16

// hear counts n that another node allowed in a window that is open for age there. It tells
// whether the other node should hear of this window, because it began earlier.
func (w *Window) hear(now time.Time, n int, age, window time.Duration) (answer bool) {
	skew, theirs := window/skewPart, now.Add(-age)
	if !w.open(now, window) {
		*w = Window{start: theirs, others: n}
		return false
	}
	switch later := theirs.Sub(w.start); {
	case later > skew && window-now.Sub(w.start) <= skew: // the next one has begun there
		*w = Window{start: theirs, others: n}
		return false
	case later > skew:
		answer = true
	case later < -skew && window-age <= skew: // the next one has begun here
	case later < 0:
		w.start = theirs
	}
	w.others = min(w.others+n, math.MaxInt32)
	return answer
}
