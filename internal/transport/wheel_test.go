package transport

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// ticks advances w and returns after how many ticks, from 1, each connection was due.
func ticks(w *wheel, n int) map[*Conn]int {
	due := map[*Conn]int{}
	for i := 1; i <= n; i++ {
		for _, c := range w.advance(nil) {
			if w.fire(c) {
				due[c] = i
			}
		}
	}
	return due
}

func TestWheelDurations(t *testing.T) {
	for d, want := range map[time.Duration]int{
		1:                                   1,
		wheelTick:                           1,
		wheelTick + 1:                       2,
		time.Second:                         10,
		(wheelSlots - 1) * wheelTick:        wheelSlots - 1,
		wheelSlots * wheelTick:              wheelSlots,
		(wheelSlots + 1) * wheelTick:        wheelSlots + 1,
		(3*wheelSlots + 7) * wheelTick:      3*wheelSlots + 7,
		(5 * wheelSlots) * wheelTick:        5 * wheelSlots,
		(2*wheelSlots)*wheelTick - 1:        2 * wheelSlots,
		(2*wheelSlots - 1) * wheelTick:      2*wheelSlots - 1,
		(4*wheelSlots)*wheelTick + 50*1_000: 4*wheelSlots + 1,
	} {
		for _, start := range []int{0, 1, wheelSlots - 1, wheelSlots, 5000} {
			w, c := &wheel{}, &Conn{}
			ticks(w, start)
			w.set(c, d)
			due := ticks(w, 6*wheelSlots)
			if due[c] != want {
				t.Errorf("set at tick %d to %v: due after %d ticks, want %d", start, d, due[c], want)
			}
			if c.timer != (wheelTimer{}) {
				t.Errorf("timer is left as %+v", c.timer)
			}
		}
	}
}

func TestWheelSetAgainAndDisarm(t *testing.T) {
	w := &wheel{}
	later, sooner, off, twice := &Conn{}, &Conn{}, &Conn{}, &Conn{}
	w.set(later, time.Second)
	w.set(later, 2*time.Second)
	w.set(sooner, 2*time.Second)
	w.set(sooner, time.Second)
	w.set(off, time.Second)
	w.set(off, 0)
	w.set(off, 0)
	w.set(twice, time.Second)
	w.set(twice, time.Second)
	due := ticks(w, 3*wheelSlots)
	if due[later] != 20 || due[sooner] != 10 || due[twice] != 10 || len(due) != 3 {
		t.Errorf("due after %v", due)
	}
	w.set(off, wheelTick) // can be set again
	if due := ticks(w, 2); due[off] != 1 {
		t.Errorf("due after %v", due)
	}
}

// Many timers in one slot, taken out from the head, the middle and the end of its list.
func TestWheelSharedSlot(t *testing.T) {
	w := &wheel{}
	conns := make([]*Conn, 100)
	for i := range conns {
		conns[i] = &Conn{}
		// One slot: all are a turn apart at most.
		w.set(conns[i], time.Duration(10+i%3*wheelSlots)*wheelTick)
	}
	for i, c := range conns {
		if i%7 == 0 || i == 99 {
			w.set(c, 0)
		}
	}
	due := ticks(w, 3*wheelSlots)
	for i, c := range conns {
		want := 10 + i%3*wheelSlots
		if i%7 == 0 || i == 99 {
			want = 0
		}
		if due[c] != want {
			t.Errorf("timer %d was due after %d, want %d", i, due[c], want)
		}
	}
}

// The wheel against a model: a map of expiries.
func TestWheelModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	w := &wheel{}
	conns := make([]*Conn, 50)
	for i := range conns {
		conns[i] = &Conn{}
	}
	model := map[*Conn]int64{}
	for range 20000 {
		c := conns[random.IntN(len(conns))]
		switch random.IntN(4) {
		case 0:
			d := 1 + random.IntN(2500)
			w.set(c, time.Duration(d)*wheelTick)
			model[c] = w.now.Load() + int64(d)
		case 1:
			w.set(c, 0)
			delete(model, c)
		default:
			for _, c := range w.advance(nil) {
				if !w.fire(c) || model[c] != w.now.Load() {
					t.Fatalf("tick %d: a timer is due that was set for %d", w.now.Load(), model[c])
				}
				delete(model, c)
			}
			for _, at := range model {
				if at <= w.now.Load() {
					t.Fatalf("tick %d: the timer for %d is not due", w.now.Load(), at)
				}
			}
		}
	}
}

// A timer that is set anew or disarmed between being due and going off does not go off.
func TestWheelSetWhileDue(t *testing.T) {
	w := &wheel{}
	again, off, plain := &Conn{}, &Conn{}, &Conn{}
	for _, c := range []*Conn{again, off, plain} {
		w.set(c, wheelTick)
	}
	if due := w.advance(nil); len(due) != 3 {
		t.Fatalf("%d timers are due", len(due))
	}
	w.set(again, time.Second)
	w.set(off, 0)
	if w.fire(again) || w.fire(off) || !w.fire(plain) || w.fire(plain) {
		t.Error("a replaced timer goes off, or a plain one does not exactly once")
	}
	if due := ticks(w, 20); due[again] != 10 || len(due) != 1 {
		t.Errorf("due after %v", due)
	}
}

// timed records when Expired was called.
type timed struct {
	mu      sync.Mutex
	start   time.Time
	expired []time.Duration
	then    func(c *Conn)
}

func (*timed) Open(*Conn)            {}
func (*timed) Message(*Conn, []byte) {}
func (*timed) Closed(*Conn)          {}
func (h *timed) Expired(c *Conn) {
	h.mu.Lock()
	h.expired = append(h.expired, time.Since(h.start))
	h.mu.Unlock()
	if h.then != nil {
		h.then(c)
	}
}

// newTimed makes a connection to nowhere under the fake clock.
func newTimed(then func(c *Conn)) (*Server, *Conn, *timed, *nowhere) {
	s := &Server{options: Options{CloseTimeout: 3 * time.Second, MaxQueue: 1000, Dropped: func(string) {}}, wheel: newWheel()}
	h := &timed{start: time.Now(), then: then}
	n := &nowhere{}
	return s, &Conn{server: s, handler: h, link: n}, h, n
}

func TestWheelTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, h, _ := newTimed(func(c *Conn) { c.SetTimer(7 * time.Minute) })
		c.SetTimer(2 * time.Second)
		time.Sleep(20 * time.Minute)
		s.wheel.stop()
		want := []time.Duration{2 * time.Second, 422 * time.Second, 842 * time.Second}
		if len(h.expired) != len(want) {
			t.Fatalf("expired after %v, want %v", h.expired, want)
		}
		for i := range want {
			if d := h.expired[i] - want[i]; d < -wheelTick || d > wheelTick {
				t.Errorf("expired after %v, want %v", h.expired, want)
			}
		}
		if now := s.wheel.now.Load(); now != 12000 && now != 11999 {
			t.Errorf("after 20 minutes the wheel is at tick %d", now)
		}
	})
}

// After the process was stopped, what came from peers meanwhile is read before their time is over.
func TestWheelAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stops, _, _ := newTimed(func(*Conn) { time.Sleep(20 * time.Second) }) // the whole wheel
		h := &timed{start: time.Now()}
		c := &Conn{server: s, handler: h, link: &nowhere{}}
		stops.SetTimer(time.Second)
		c.SetTimer(5 * time.Second)
		time.Sleep(21*time.Second + 3*wheelTick)
		c.SetTimer(5 * time.Second) // it was heard
		time.Sleep(time.Minute)
		s.wheel.stop()
		if len(h.expired) != 1 || h.expired[0] < 26*time.Second || h.expired[0] > 27*time.Second {
			t.Errorf("expired after %v", h.expired)
		}
	})
}

func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, _, _ := newTimed(nil)
		defer s.wheel.stop()
		c.open(nil)
		const silence = 90*time.Second + wheelTick/2
		time.Sleep(silence)
		if idle := c.Idle(); idle != silence {
			t.Errorf("idle for %v after %v", idle, silence)
		}
		c.receive(frame(0x8a, "")) // a pong counts
		if idle := c.Idle(); idle != 0 {
			t.Errorf("idle for %v after a pong", idle)
		}
	})
}

// After Close the timer is the answer's: the handler's no longer counts nor can be set.
func TestCloseTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, h, n := newTimed(nil)
		defer s.wheel.stop()
		c.SetTimer(time.Second)
		c.Close(1000, "")
		c.SetTimer(time.Second)
		time.Sleep(2900 * time.Millisecond)
		synctest.Wait()
		if n.cuts.Load() != 0 || len(h.expired) != 0 {
			t.Errorf("before the timeout: cut %d times, expired after %v", n.cuts.Load(), h.expired)
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if n.cuts.Load() != 1 || len(h.expired) != 0 {
			t.Errorf("after the timeout: cut %d times, expired after %v", n.cuts.Load(), h.expired)
		}
		q, cut := c.take()
		if len(q.frames) != 1 || q.frames[0].Wire(false)[0] != 0x80|byte(websocket.Close) || cut {
			t.Errorf("queue has %d frames, cut %v", len(q.frames), cut)
		}
	})
}

// An expiry that is already due when Close is called must not cut the close frame off.
func TestCloseWhileTimerIsDue(t *testing.T) {
	s := &Server{options: Options{CloseTimeout: time.Second}, wheel: &wheel{}}
	h, n := &timed{}, &nowhere{}
	c := &Conn{server: s, handler: h, link: n}
	c.SetTimer(wheelTick)
	due := s.wheel.advance(nil)
	c.Close(4000, "")
	for _, c := range due {
		c.expired()
	}
	if len(due) != 1 || n.cuts.Load() != 0 || len(h.expired) != 0 {
		t.Errorf("%d were due; cut %d times, expired %d times", len(due), n.cuts.Load(), len(h.expired))
	}
}

// Nothing goes off after the wheel has stopped.
func TestWheelStopWithTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c, h, _ := newTimed(nil)
		c.SetTimer(time.Hour)
		s.wheel.stop()
		time.Sleep(2 * time.Hour)
		if len(h.expired) != 0 {
			t.Errorf("expired after the wheel stopped, after %v", h.expired)
		}
	})
}
