package webhook

import (
	"container/list"
	"time"
)

// leave is a leave that waits for a return.
type leave struct {
	key   fact
	event Event
	due   time.Time
}

// leaves holds leaves back for a fixed time. As the time is the same for all, the order of
// arrival is the order in which they fall due.
type leaves struct {
	debounce time.Duration
	capacity int
	byKey    map[fact]*list.Element
	order    *list.List // of leave, oldest first
}

func newLeaves(debounce time.Duration, capacity int) *leaves {
	return &leaves{
		debounce: debounce,
		capacity: capacity,
		byKey:    make(map[fact]*list.Element),
		order:    list.New(),
	}
}

// hold keeps the leave and returns true, or returns false if it must be sent at once:
// because nothing is held back, or because as many wait as may. A leave that waits already
// is not kept twice and keeps its time.
func (l *leaves) hold(key fact, event Event, now time.Time) bool {
	if _, waits := l.byKey[key]; waits {
		return true
	}
	if l.debounce <= 0 || l.order.Len() >= l.capacity {
		return false
	}
	l.byKey[key] = l.order.PushBack(leave{key: key, event: event, due: now.Add(l.debounce)})
	return true
}

// cancel forgets the leave and reports whether it waited.
func (l *leaves) cancel(key fact) bool {
	element, waits := l.byKey[key]
	if waits {
		l.remove(element)
	}
	return waits
}

// takeDue removes and returns the leaves whose time is over, oldest first.
func (l *leaves) takeDue(now time.Time) []leave {
	var due []leave
	for {
		at, waits := l.nextDue()
		if !waits || at.After(now) {
			return due
		}
		due = append(due, l.remove(l.order.Front()))
	}
}

// takeAll removes and returns all leaves, oldest first.
func (l *leaves) takeAll() []leave {
	var all []leave
	for l.order.Len() > 0 {
		all = append(all, l.remove(l.order.Front()))
	}
	return all
}

// nextDue returns when the oldest leave falls due, and false if none waits.
func (l *leaves) nextDue() (time.Time, bool) {
	front := l.order.Front()
	if front == nil {
		return time.Time{}, false
	}
	return front.Value.(leave).due, true
}

func (l *leaves) remove(element *list.Element) leave {
	removed := l.order.Remove(element).(leave)
	delete(l.byKey, removed.key)
	return removed
}
