package journal

import "time"

// pace keeps entries apart by twice the time that one takes, so that more messages share one the
// busier the machines are: each entry is a dozen wake-ups on three of them, whatever is in it. A sender
// who waits for each of its messages waits twice as long, and a few milliseconds at most.
type pace struct {
	next    time.Time     // when the next entry may go
	flight  time.Duration // of late, on average
	waiting bool          // for that time
}

// holds tells whether the next entry has to wait. Then it has pump called when it may go.
func (p *pace) holds(pump func()) bool {
	if p.waiting {
		return true
	}
	wait := time.Until(p.next)
	if wait <= 0 {
		return false
	}
	p.waiting = true
	time.AfterFunc(wait, pump)
	return true
}

// over says that the wait is over.
func (p *pace) over() { p.waiting = false }

// sent says that an entry goes.
func (p *pace) sent(at time.Time) { p.next = at.Add(min(2*p.flight, maxPause)) }

// took says how long one was under way. The average is of about eight.
func (p *pace) took(flight time.Duration) { p.flight += (flight - p.flight) / 8 }
