package journal

import (
	"context"
	"time"
)

const (
	// leadInterval is between two looks at where the log of a slot is led.
	leadInterval = 5 * time.Second
	// leadTimeout bounds the move of its lead to this node. Nothing is sent meanwhile.
	leadTimeout = 2 * time.Second
	// leadSettle is between two looks whether all that was sent was answered.
	leadSettle = 5 * time.Millisecond
)

// lead has the log of the slot led from this node while it owns the slot, until ctx ends: what is sent
// takes two ways less then. It looks now and then only, so that one that was just elected, because
// another died, is not replaced at once.
func (s *slot) lead(ctx context.Context) {
	ticker := time.NewTicker(leadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// look moves the lead of the log to this node if it is elsewhere and should not be.
func (s *slot) look(ctx context.Context) {
	if !s.calm() {
		return
	}
	asking, cancel := context.WithTimeout(ctx, leadTimeout)
	led, err := s.log.Led(asking)
	cancel()
	if err != nil || led { // what is wrong shows where messages are stored
		return
	}
	s.mu.Lock()
	s.hold(func() { s.takeLead(ctx) })
	s.mu.Unlock()
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
	ctx, cancel := context.WithTimeout(ctx, leadTimeout)
	defer cancel()
	for s.underWay() {
		select {
		case <-time.After(leadSettle):
		case <-ctx.Done():
			return
		}
	}
	if err := s.log.Lead(ctx); err != nil && ctx.Err() == nil {
		s.journal.options.Logger.Info("the log of a slot stays led elsewhere", "slot", s.number, "error", err)
	}
}

// underWay tells whether something was sent that was not answered.
func (s *slot) underWay() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.flights) > 0
}
