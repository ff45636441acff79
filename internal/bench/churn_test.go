package bench

import (
	"os"
	"strings"
	"testing"
	"time"
)

func churnConfig(s *fakeServer) Config {
	cfg := s.config()
	cfg.Churn, cfg.Channels, cfg.Rate = true, 4, 200
	return cfg
}

func TestChurn(t *testing.T) {
	s := startFake(t)
	cfg := churnConfig(s)
	cfg.Presence, cfg.PIDs = 0.5, []int{os.Getpid()}
	r := run(t, cfg)
	c := r.Churn
	if c.Cycles+c.Missed != 100 || c.Outstanding != 0 || len(c.Refused)+len(c.Unsent) > 0 || r.Mode != "churn" {
		t.Errorf("churn %+v", *c)
	}
	if samples(c.SinceDue) != c.Cycles || samples(c.SinceSent) != c.Cycles ||
		c.Cycles > 0 && c.SinceDue.Max < c.SinceSent.P50 {
		t.Errorf("since due %+v, since sent %+v", c.SinceDue, c.SinceSent)
	}
	few := c.Cycles < 20 // as the machine was busy
	if !few && (c.MemberEvents == 0 || c.PerSecond <= 0) || r.Server.CPU.PerCycle == 0 || len(r.Errors)+len(r.Closes) > 0 {
		t.Errorf("churn %+v, server %+v, errors %v, closes %v", *c, *r.Server.CPU, r.Errors, r.Closes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	presence := 0
	for name := range s.channels {
		if strings.HasPrefix(name, presencePrefix) {
			presence++
		}
	}
	if s.subscribes != 10+int(c.Cycles) || s.left != int(c.Cycles) || !few && presence != 2 {
		t.Errorf("%d subscriptions, %d ended, %d presence channels", s.subscribes, s.left, presence)
	}
}

func TestChurnLossesShow(t *testing.T) {
	s := startFake(t)
	s.onSubscribe = func(n int) (code int, silent bool) {
		switch {
		case n <= 10: // the first ones
			return 0, false
		case n == 20:
			return 0, true
		case n%2 == 0:
			return 4009, false
		}
		return 0, false
	}
	cfg := churnConfig(s)
	cfg.drainStall = 3 * time.Second // one never comes
	r := run(t, cfg)
	c := r.Churn
	if c.Cycles < 20 {
		t.Skip("the machine is too busy for a few changes of channel in half a second")
	}
	if c.Outstanding != 1 || c.Refused["pusher:error 4009"] == 0 || r.Errors["4009"] != c.Refused["pusher:error 4009"] {
		t.Errorf("churn %+v, errors %v", *c, r.Errors)
	}
	if got := samples(c.SinceDue) + c.Refused["pusher:error 4009"] + c.Outstanding; got != c.Cycles {
		t.Errorf("%d cycles ended, of %d", got, c.Cycles)
	}
}

// A client begins no cycle before the last one has ended.
func TestChurnWithoutFreeClients(t *testing.T) {
	s := startFake(t)
	s.onSubscribe = func(n int) (int, bool) { return 0, n > 10 }
	cfg := churnConfig(s)
	cfg.Duration, cfg.drainStall = 300*time.Millisecond, 100*time.Millisecond // none comes
	r := run(t, cfg)
	if c := r.Churn; c.Cycles > 10 || c.Outstanding != c.Cycles || c.Missed != 60-c.Cycles || c.SinceDue != nil {
		t.Errorf("churn %+v", *c)
	}
}

func TestPresenceShare(t *testing.T) {
	for share, want := range map[float64]int{0: 0, 0.25: 5, 0.5: 10, 1: 20} {
		cfg := DefaultChurnConfig()
		cfg.Channels, cfg.Presence = 20, share
		got := 0
		for _, name := range channelNames(cfg) {
			if strings.HasPrefix(name, presencePrefix) {
				got++
			}
		}
		if got != want {
			t.Errorf("share %g: %d of 20 channels, want %d", share, got, want)
		}
	}
}
