package fabric

import (
	"sync"
	"time"
)

const (
	// tellFirst and tellMax are the shortest and the longest time between two lines in the log
	// about an interruption that lasts; it doubles from one to the next.
	tellFirst = 10 * time.Second
	tellMax   = 10 * time.Minute
)

// Interruption keeps one who tries on and on from telling of every try while the store is away,
// for drivers. The zero value is ready.
type Interruption struct {
	mu    sync.Mutex
	since time.Time // zero when there is none
	next  time.Time // when it is told again
	wait  time.Duration
}

// Failed takes note of a failed try and tells whether the log is to say so, and for how long
// it has failed.
func (i *Interruption) Failed() (lasts time.Duration, tell bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	switch {
	case i.since.IsZero():
		i.since, i.wait = now, tellFirst
	case now.Before(i.next):
		return 0, false
	default:
		i.wait = min(2*i.wait, tellMax)
	}
	i.next = now.Add(i.wait)
	return now.Sub(i.since), true
}

// Over ends the interruption. It tells how long that was, and whether there was one.
func (i *Interruption) Over() (lasted time.Duration, was bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.since.IsZero() {
		return 0, false
	}
	lasted = time.Since(i.since)
	i.since = time.Time{}
	return lasted, true
}
