package journal

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Entries keep twice the time apart that one takes, and maxPause at most. What comes later than that
// goes at once.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		var mu sync.Mutex // as its slot has one
		holds := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return p.holds(func() {})
		}
		// after returns how long the next entry is held.
		after := func() time.Duration {
			begin := time.Now()
			pumped := make(chan struct{})
			mu.Lock()
			held := p.holds(func() {
				mu.Lock()
				defer mu.Unlock()
				p.over()
				close(pumped)
			})
			mu.Unlock()
			if !held {
				return 0
			}
			if !holds() {
				t.Error("another one goes meanwhile")
			}
			<-pumped
			return time.Since(begin)
		}
		p.sent(time.Now())
		if wait := after(); wait != 0 {
			t.Errorf("it is held for %v before anything is known", wait)
		}
		for range 100 {
			p.took(2 * time.Millisecond)
		}
		p.sent(time.Now())
		if wait := after().Round(time.Millisecond); wait != 4*time.Millisecond {
			t.Errorf("it is held for %v", wait)
		}
		if holds() {
			t.Error("it is held when the wait is over")
		}
		for range 100 {
			p.took(time.Second)
		}
		p.sent(time.Now())
		if wait := after(); wait != maxPause {
			t.Errorf("it is held for %v", wait)
		}
		p.sent(time.Now())
		time.Sleep(maxPause)
		if holds() {
			t.Error("what comes late is held")
		}
	})
}
