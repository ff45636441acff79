package transport

import (
	"sync"
	"sync/atomic"
	"time"
)

// wheelTick is the precision of all timers. Ten wake-ups a second cost nothing measurable
// and a timeout of seconds does not need more.
const wheelTick = 100 * time.Millisecond

// wheelSlots times wheelTick is one turn; longer timers wait for several turns.
const wheelSlots = 1024

// A wheel that is late by lateTicks was stopped with its process. What the peers have sent meanwhile is
// read first, for readTicks: otherwise those who answered in time are told that they did not.
const (
	lateTicks = 10
	readTicks = 5
)

// wheel is one timer for all connections: a runtime timer each would cost memory and a
// heap operation for every reset.
type wheel struct {
	started time.Time

	now  atomic.Int64 // ticks since started
	mu   sync.Mutex
	slot [wheelSlots]*Conn // heads of doubly linked lists through Conn.timer

	quit chan struct{}
	done chan struct{}
}

// wheelTimer is the part of a Conn that the wheel owns, guarded by wheel.mu.
type wheelTimer struct {
	next, prev *Conn
	at         int64 // tick of expiry; 0 when not set, timerDue when taken out to go off
}

// timerDue marks a timer between advance and fire, so that setting it anew in between, by
// an earlier one's handler or by another goroutine, still replaces it.
const timerDue = -1

func newWheel() *wheel {
	w := &wheel{started: time.Now(), quit: make(chan struct{}), done: make(chan struct{})}
	go w.run()
	return w
}

func (w *wheel) stop() {
	close(w.quit)
	<-w.done
}

func (w *wheel) run() {
	defer close(w.done)
	ticker := time.NewTicker(wheelTick)
	defer ticker.Stop()
	var expired []*Conn
	for {
		select {
		case <-w.quit:
			return
		case <-ticker.C:
		}
		// A late ticker skips ticks; the wheel must not.
		until := w.elapsed()
		late := until-w.now.Load() > lateTicks
		for w.now.Load() < until {
			expired = w.advance(expired)
		}
		for _, c := range expired {
			if late {
				w.postpone(c)
			} else {
				c.expired()
			}
		}
		clear(expired) // connections that are gone must not be held by the next batch's list
		expired = expired[:0]
	}
}

// advance moves by one tick and takes out the timers that are due.
func (w *wheel) advance(expired []*Conn) []*Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now.Add(1)
	for c := w.slot[now%wheelSlots]; c != nil; {
		next := c.timer.next
		if c.timer.at <= now {
			w.unlink(c)
			c.timer.at = timerDue
			expired = append(expired, c)
		}
		c = next
	}
	return expired
}

// fire tells whether a timer that advance took out is still to go off.
func (w *wheel) fire(c *Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.timer.at != timerDue {
		return false
	}
	c.timer.at = 0
	return true
}

// set arms c's timer to go off after d, replacing an earlier setting; 0 disarms it.
func (w *wheel) set(c *Conn, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.timer.at > 0 {
		w.unlink(c)
	}
	c.timer.at = 0
	if d <= 0 {
		return
	}
	w.arm(c, max(1, int64((d+wheelTick-1)/wheelTick)))
}

// postpone has a timer that advance took out go off later, unless it was set anew.
func (w *wheel) postpone(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.timer.at == timerDue {
		w.arm(c, readTicks)
	}
}

// elapsed is where the wheel should be, and is not when the process was stopped.
func (w *wheel) elapsed() int64 {
	if w.started.IsZero() { // a test moves it
		return 0
	}
	return int64(time.Since(w.started) / wheelTick)
}

// arm puts a timer in that goes off after some ticks. The wheel is locked.
func (w *wheel) arm(c *Conn, ticks int64) {
	c.timer.at = max(w.now.Load(), w.elapsed()) + ticks
	head := &w.slot[c.timer.at%wheelSlots]
	c.timer.next = *head
	if *head != nil {
		(*head).timer.prev = c
	}
	*head = c
}

func (w *wheel) unlink(c *Conn) {
	if c.timer.prev != nil {
		c.timer.prev.timer.next = c.timer.next
	} else {
		w.slot[c.timer.at%wheelSlots] = c.timer.next
	}
	if c.timer.next != nil {
		c.timer.next.timer.prev = c.timer.prev
	}
	c.timer = wheelTimer{}
}
