package journal

import (
	"context"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// leadInterval is between two looks at where the log of a slot is led.
	leadInterval = 5 * time.Second
	// leadPause bounds that time while moves fail, which hold up what is sent.
	leadPause = 5 * time.Minute
	// leadTimeout bounds the move of its lead to this node. Nothing is sent meanwhile.
	leadTimeout = 2 * time.Second
	// leadDrain bounds the wait for what is under way: who is so busy keeps the leader that he has.
	leadDrain = 500 * time.Millisecond
	// leadSettle is between two looks whether all that was sent was answered.
	leadSettle = 5 * time.Millisecond
)

// lead has the log of the slot led from this node while it owns the slot, until ctx ends: what is sent
// takes two ways less then. It looks now and then only, so that one that was just elected, because
// another died, is not replaced at once.
func (s *slot) lead(ctx context.Context) {
	for pause := leadInterval; ctx.Err() == nil; {
		fabric.Pause(ctx, pause)
		if s.look(ctx) {
			pause = min(2*pause, leadPause) // it may not have come
		} else {
			pause = leadInterval
		}
	}
}

// look moves the lead of the log to this node if it is elsewhere and should not be. It returns whether it
// tried.
func (s *slot) look(ctx context.Context) bool {
	if !s.calm() {
		return false
	}
	asking, cancel := context.WithTimeout(ctx, leadTimeout)
	led, err := s.log.Led(asking)
	cancel()
	if err != nil || led { // what is wrong shows where messages are stored
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.owned {
		return false
	}
	s.hold(func() { s.takeLead(ctx) })
	return true
}

// calm tells whether the slot is this node's and nothing is amiss.
func (s *slot) calm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owned && !s.syncing
}

// takeLead moves the lead of the log to this node. What an old leader has not answered it never answers,
// therefore all that is under way is waited for. Sends are held meanwhile.
func (s *slot) takeLead(ctx context.Context) {
	for end := time.Now().Add(leadDrain); s.underWay(); {
		if fabric.Pause(ctx, leadSettle); ctx.Err() != nil || time.Now().After(end) {
			return
		}
	}
	moving, cancel := context.WithTimeout(ctx, leadTimeout)
	defer cancel()
	if err := s.log.Lead(moving); err != nil && ctx.Err() == nil {
		s.journal.options.Logger.Info("the log of a slot stays led elsewhere", "slot", s.number, "error", err)
	}
}

// underWay tells whether something was sent that was not answered.
func (s *slot) underWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.flights) > 0
}
