// Package ratelimit counts what happens in windows of time and says when it is too much.
//
// It must import nothing of Parley: whoever limits something owns the limit and its clock.
package ratelimit

import "time"

// Result is the answer to one Allow.
type Result struct {
	OK         bool          // whether it may happen
	Remaining  int           // how many more may happen in this window; 0 where there is no limit
	ResetAfter time.Duration // until the next window begins; 0 where there is no limit
}

// Window counts in one fixed window after the other; a window begins with the first Allow
// after the end of the last one. The zero value is ready. It is not safe for concurrent use.
type Window struct {
	start time.Time
	count int
}

// Allow counts n at the time now if the window then holds no more than limit, and otherwise
// counts nothing. A limit of 0 or less allows everything.
func (w *Window) Allow(now time.Time, n, limit int, window time.Duration) Result {
	if limit <= 0 {
		return Result{OK: true}
	}
	elapsed := now.Sub(w.start)
	if w.start.IsZero() || elapsed >= window || elapsed <= -window { // or the clock was set back
		w.start, w.count, elapsed = now, 0, 0
	}
	elapsed = max(0, elapsed) // callers that took the time first may come second
	used := min(w.count, limit)
	ok := n <= limit-used
	if ok {
		used += max(0, n)
		w.count = used
	}
	return Result{OK: ok, Remaining: limit - used, ResetAfter: window - elapsed}
}
