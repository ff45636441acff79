package bench

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

func run(t *testing.T, cfg Config) *Report {
	t.Helper()
	r, err := Run(t.Context(), cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "%!") {
		t.Errorf("badly formatted report:\n%s", text.String())
	}
	if _, err := json.Marshal(r); err != nil {
		t.Errorf("report as JSON: %v", err)
	}
	return r
}

// samples is how many a latency is of; it is nil without any.
func samples(l *Latency) int64 {
	if l == nil {
		return 0
	}
	return l.Samples
}

func TestThroughputOverHTTP(t *testing.T) {
	s := startFake(t)
	s.pingFirst = true
	cfg := s.config()
	cfg.PIDs = []int{os.Getpid()}
	r := run(t, cfg)
	// 200 a second for half a second, each to the five subscribers of its channel
	if r.Publish.Accepted+r.Publish.Missed != 100 || len(r.Publish.Refused)+len(r.Publish.Failed) > 0 {
		t.Errorf("publish %+v", *r.Publish)
	}
	want := r.Publish.Accepted * 5
	d := r.Delivery
	if d.Delivered != want || d.Expected != want || d.Ratio != 1 {
		t.Errorf("delivery %+v, want %d", *d, want)
	}
	// An event whose publisher slept over the end of the window is delivered and no sample.
	least := want - 5*int64(cfg.Publishers)
	if n := samples(d.SinceDue); n > want || n < least || n > 0 && d.SinceDue.Max < d.SinceSent.P50 {
		t.Errorf("latency since due %+v, since sent %+v", d.SinceDue, d.SinceSent)
	}
	if r.Connect.Connected != 10 || len(r.Closes) > 0 || len(r.Errors) > 0 || r.Interrupted {
		t.Errorf("connected %d, closes %v, errors %v", r.Connect.Connected, r.Closes, r.Errors)
	}
	if r.Server.RSSConnected == 0 || r.Server.CPU == nil {
		t.Errorf("server %+v", *r.Server)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Pings != 10 || s.unmasked != 0 {
		t.Errorf("%d pings, %d unmasked frames", r.Pings, s.unmasked)
	}
}

func TestLossesShow(t *testing.T) {
	s := startFake(t)
	s.loseEvery, s.refuseEvery = 10, 4
	cfg := s.config()
	cfg.ChannelPrefix = "private-bench-"
	cfg.drainStall = 3 * time.Second // some never come
	r := run(t, cfg)
	attempts := r.Publish.Accepted + r.Publish.Refused["413"]
	if r.Publish.Refused["413"] != attempts/4 {
		t.Errorf("publish %+v", *r.Publish)
	}
	if r.Delivery.Expected != r.Publish.Accepted*5 ||
		r.Delivery.Delivered != r.Delivery.Expected-r.Delivery.Expected/10 {
		t.Errorf("delivery %+v", *r.Delivery)
	}
}

func TestThroughputFlatOut(t *testing.T) {
	s := startFake(t)
	cfg := s.config()
	cfg.Rate, cfg.Duration, cfg.Loops = 0, 200*time.Millisecond, 2
	r := run(t, cfg)
	if r.Publish.Accepted == 0 || r.Delivery.Ratio != 1 || r.Publish.Missed != 0 {
		t.Errorf("publish %+v, delivery %+v", *r.Publish, *r.Delivery)
	}
}

func TestClientEvents(t *testing.T) {
	for name, publishers := range map[string]int{"shared channel": 3, "several channels": 1} {
		t.Run(name, func(t *testing.T) {
			s := startFake(t)
			cfg := s.config()
			cfg.Via, cfg.Publishers = ViaClientEvents, publishers
			r := run(t, cfg)
			if r.Publish.Accepted == 0 || r.Delivery.Ratio != 1 {
				t.Errorf("publish %+v, delivery %+v", *r.Publish, *r.Delivery)
			}
			if publishers == 1 && r.Delivery.Delivered != r.Publish.Accepted*5 {
				t.Errorf("delivered %d of %d events", r.Delivery.Delivered, r.Publish.Accepted)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	s := startFake(t)
	cfg := s.config()
	cfg.Idle, cfg.Settle, cfg.PIDs = true, 50*time.Millisecond, []int{os.Getpid()}
	r := run(t, cfg)
	if r.Connect.Connected != 10 || r.Connect.Established.Samples != 10 || r.Publish != nil ||
		r.Server.CPUConnecting == nil || r.Server.RSSBefore == 0 {
		t.Errorf("connect %+v, server %+v", *r.Connect, r.Server)
	}
}

func TestDrop(t *testing.T) {
	s := startFake(t)
	cfg := s.config()
	cfg.Drop, cfg.ConnectRate = true, 100
	cfg.Warmup, cfg.Duration = 100*time.Millisecond, 200*time.Millisecond
	r := run(t, cfg)
	d := r.Drop
	// Every new connect is measured, before or after the drop.
	if d.Dropped != 10 || len(d.Failed) > 0 || samples(d.Before)+samples(d.After) != 30 {
		t.Errorf("drop %+v", *d)
	}
	if len(r.Closes) > 0 {
		t.Errorf("closes %v were not the server's", r.Closes)
	}
}

func TestClosesAreCounted(t *testing.T) {
	s := startFake(t)
	s.onPublish = func(n int) {
		if n == 3 {
			s.hangUp(4200)
		}
	}
	cfg := s.config()
	cfg.drainStall = time.Second // some never come
	r := run(t, cfg)
	if r.Closes["4200"] == 0 || r.Closes["4200"]+r.Closes[closeAbnormal] != 10 || r.Delivery.Ratio >= 1 {
		t.Errorf("closes %v, ratio %v", r.Closes, r.Delivery.Ratio)
	}
}

func TestInterrupted(t *testing.T) {
	s := startFake(t)
	cfg := s.config()
	cfg.Duration = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	s.onPublish = func(n int) {
		if n == 10 {
			cancel()
		}
	}
	r, err := Run(ctx, cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || r.Publish.Accepted == 0 || r.WindowSeconds > 60 {
		t.Errorf("interrupted %v, window %v s, publish %+v", r.Interrupted, r.WindowSeconds, *r.Publish)
	}
}

func TestRunFails(t *testing.T) {
	s := startFake(t)
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()
	for name, change := range map[string]func(*Config){
		"nobody listens": func(c *Config) { c.URLs = []string{"http://" + unused.Addr().String()} },
		"wrong key":      func(c *Config) { c.Key = "other" },
		"wrong secret":   func(c *Config) { c.Secret, c.ChannelPrefix = "other", "private-" },
	} {
		cfg := s.config()
		change(&cfg)
		if _, err := Run(t.Context(), cfg, io.Discard); !errors.Is(err, ErrTooManyFailures) {
			t.Errorf("%s: %v", name, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(canceled, s.config(), io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Both receivers read the same stream the same way, and report its end.
func TestReceivers(t *testing.T) {
	loop, err := newReceiver()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]receiver{"platform": loop, "goroutines": newReaders()} {
		t.Run(name, func(t *testing.T) { testReceiver(t, r) })
	}
}

func testReceiver(t *testing.T, r receiver) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	tally := newTally(newClock(), MinPayload, 1)
	event := ws.MustCompileFrame(ws.NewTextFrame(httpTemplate(MinPayload).append(nil, "c", 0, 0)))
	const conns, events = 5, 2000
	var wg sync.WaitGroup
	for range conns {
		near, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		far, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.add(near.(*net.TCPConn), newSocket(tally, near)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range events {
				_, _ = far.Write(event)
			}
			_, _ = far.Write(ws.MustCompileFrame(ws.NewTextFrame([]byte(`{"event":"pusher:ping"}`))))
			pong, err := ws.ReadFrame(far)
			if err != nil || !pong.Header.Masked {
				t.Errorf("pong %+v, %v", pong.Header, err)
			}
			defer far.Close()
			_, _ = far.Write(ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(4000, ""))))
			_, _ = io.Copy(io.Discard, far) // until the receiver has closed
		})
	}
	wg.Wait()
	r.close()
	closes, _ := tally.losses()
	if tally.deliveries.Load() != conns*events || closes["4000"] != conns || len(closes) != 1 {
		t.Errorf("%d deliveries, closes %v", tally.deliveries.Load(), closes)
	}
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.add(near.(*net.TCPConn), newSocket(tally, near)); !errors.Is(err, errReceiverClosed) {
		t.Errorf("add after close: %v", err)
	}
}
