package transport

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/parleyio/parley/internal/transport/websocket"
)

func TestSlowConsumer(t *testing.T) {
	const maxQueue = 256 << 10
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{smallBuffers: true, Options: Options{MaxQueue: maxQueue}})
		slow, slowSession := r.connect()
		healthy, healthySession := r.connect()
		body := strings.Repeat("b", 10000)
		most, sent := int64(0), 0
		for full := false; !full; sent++ {
			if sent > 2000 {
				t.Fatal("a client that does not read was never given up")
			}
			f := websocket.NewFrame([]byte(fmt.Sprintf("%06d%s", sent, body)))
			full = !slowSession.conn.Send(f)
			if !healthySession.conn.Send(f) {
				t.Fatal("the other client was cut off too")
			}
			most = max(most, r.server.Backlog())
			healthy.expectText(fmt.Sprintf("%06d%s", sent, body))
		}
		// What one connection may hold: its queue and as much on the way to the kernel.
		if limit := int64(2*maxQueue + 50000); most > limit {
			t.Errorf("%d bytes waited, more than %d", most, limit)
		}
		if n := r.drops(DropSlowConsumer); n != 1 {
			t.Errorf("%s was counted %d times", DropSlowConsumer, n)
		}
		if slowSession.conn.Send(websocket.NewFrame(nil)) {
			t.Error("Send after the overflow was accepted")
		}
		// Once it reads it finds what was on the way, in order and whole, then the reason.
		for i := 0; ; i++ {
			op, payload, err := slow.read()
			if err != nil {
				t.Fatalf("slow client read error %v", err)
			}
			if op == ws.OpClose {
				if payload != "\x10\x04too slow" || i == 0 || i >= sent {
					t.Errorf("close frame %q after %d messages of %d", payload, i, sent)
				}
				break
			}
			if payload != fmt.Sprintf("%06d%s", i, body) {
				t.Fatalf("message %d is %.20q", i, payload)
			}
		}
		slow.send(closeFrame(4100, ""))
		slow.expectEnd()
		slowSession.awaitClosed(t)
		healthy.send(text("still here"))
		healthy.expectText("still here")
	})
}

// A slow client that never reads its close frame either is cut after CloseTimeout.
func TestSlowConsumerIsCut(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{smallBuffers: true, Options: Options{MaxQueue: 1 << 20, CloseTimeout: 200 * time.Millisecond}})
		_, s := r.connect()
		f := websocket.NewFrame(make([]byte, 100<<10))
		for s.conn.Send(f) {
		}
		s.awaitClosed(t)
	})
}

// One frame goes through even when it alone is over the limit.
func TestLargeFrameIntoEmptyQueue(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{Options: Options{MaxQueue: 100}})
		c, s := r.connect()
		if !s.conn.Send(websocket.NewFrame(make([]byte, 5000))) {
			t.Fatal("it was refused")
		}
		c.expectText(string(make([]byte, 5000)))
	})
}

// More frames than the kernel takes at once are queued in a handler and flushed after it.
func TestManyFramesInOnePass(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for _, n := range []int{1023, 1024, 1025, 5000} {
			r := newRig(t, m, setup{smallBuffers: true, hooks: hooks{message: func(c *Conn, _ []byte) {
				for i := range n {
					c.Send(websocket.NewFrame([]byte(fmt.Sprint("number ", i))))
				}
			}}})
			c, _ := r.connect()
			c.send(text("go"), frame(0x89, "end"))
			for i := range n {
				c.expectText(fmt.Sprint("number ", i))
			}
			c.expect(ws.OpPong, "end")
		}
	})
}

func TestBroadcast(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		n := 1000
		if m.tls {
			n = 200 // handshakes take long under the race detector
		}
		r := newRig(t, m, setup{Options: Options{MaxQueue: 100 << 10}})
		clients := make([]*client, n)
		var dialers sync.WaitGroup
		var next atomic.Int64
		for range 16 {
			dialers.Go(func() {
				for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
					var err error
					if clients[i], err = r.try(dialing{}); err != nil {
						t.Errorf("connect: %v", err)
						return
					}
				}
			})
		}
		dialers.Wait()
		if t.Failed() {
			t.FailNow()
		}
		r.clients = clients
		sessions := make([]*session, n)
		for i := range sessions {
			sessions[i] = r.next()
		}
		if r.server.Count() != n {
			t.Errorf("%d connections are counted, want %d", r.server.Count(), n)
		}
		f := websocket.NewFrame([]byte("to all"))
		for _, s := range sessions {
			s.conn.Send(f)
		}
		for _, c := range clients {
			c.expectText("to all")
		}
		until(t, "an empty backlog", func() bool { return r.server.Backlog() == 0 })
	})
}

// stuff makes more bytes wait for s than the kernel and MaxBacklog take together.
func stuff(t *testing.T, s *session) (frames int) {
	t.Helper()
	f := websocket.NewFrame(make([]byte, 100<<10))
	for range 30 {
		if !s.conn.Send(f) {
			t.Fatal("a frame was refused")
		}
	}
	return 30
}

func TestAdmit(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for name, release := range map[string]func(c *client, frames int){
			"client reads": func(c *client, frames int) {
				for range frames {
					c.expectText(string(make([]byte, 100<<10)))
				}
			},
			"client closes": func(c *client, _ int) { _ = c.raw.Close() },
			"client resets": func(c *client, _ int) { c.reset() },
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, m, setup{smallBuffers: true, Options: Options{MaxBacklog: 512 << 10}})
				c, s := r.connect()
				if err := r.server.admit(context.Background()); err != nil {
					t.Fatalf("without a backlog: %v", err)
				}
				frames := stuff(t, s)

				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
				defer cancel()
				if err := r.server.admit(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("with %d bytes waiting: error %v", r.server.Backlog(), err)
				}
				results := make(chan error, 3)
				for range cap(results) {
					go func() { results <- r.server.admit(context.Background()) }()
				}
				until(t, "the publishers to wait", func() bool { return r.server.backlog.waiters.Load() == 3 })
				select {
				case err := <-results:
					t.Fatalf("a publisher went on (error %v) with %d bytes waiting", err, r.server.Backlog())
				default:
				}
				release(c, frames)
				await(t, "the publishers to go on", func() {
					for range cap(results) {
						if err := <-results; err != nil {
							t.Errorf("error %v", err)
						}
					}
				})
				until(t, "an empty backlog", func() bool { return r.server.Backlog() == 0 })
			})
		}
	})
}

// The backlog's own logic under contention: nobody sleeps on after the last release.
func TestBacklogWakesEverybody(t *testing.T) {
	var b backlog
	b.init(func() int64 { return 100 })
	if err := b.wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	for range 200 {
		b.add(100)
		var waiters sync.WaitGroup
		for range 4 {
			waiters.Go(func() {
				if err := b.wait(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
		b.add(-100)
		await(t, "the waiters", waiters.Wait)
	}
	if b.waiters.Load() != 0 || b.bytes.Load() != 0 {
		t.Errorf("%d waiters and %d bytes are left", b.waiters.Load(), b.bytes.Load())
	}
	var unlimited backlog
	unlimited.init(func() int64 { return math.MaxInt64 })
	unlimited.add(1 << 40)
	if err := unlimited.wait(context.Background()); err != nil {
		t.Errorf("without a limit: %v", err)
	}
}

// Everything at once: senders, closers, cutters and clients that come and go.
func TestConcurrency(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{smallBuffers: true, Options: Options{MaxQueue: 64 << 10, CloseTimeout: 300 * time.Millisecond}})
		const n = 24
		frames := []*websocket.Frame{websocket.NewFrame([]byte("short")), websocket.NewFrame(make([]byte, 3000))}
		var all sync.WaitGroup
		for i := range n {
			c, s := r.connect()
			all.Go(func() { // the client reads, and leaves in its own way
				for j := 0; ; j++ {
					if i%6 == 1 && j == 20 {
						c.reset()
						return
					}
					if i%6 == 2 && j == 30 {
						_, _ = c.conn.Write(closeFrame(1000, ""))
					}
					if _, _, err := c.read(); err != nil {
						return
					}
				}
			})
			all.Go(func() { // and talks meanwhile
				for range 50 {
					if _, err := c.conn.Write(append(text("hello"), frame(0x89, "p")...)); err != nil {
						return
					}
				}
			})
			for sender := range 3 {
				all.Go(func() {
					for j := range 60 {
						s.conn.Send(frames[(j+sender)%2])
						s.conn.SetTimer(time.Duration(j) * time.Second)
						if sender == 0 && j == 30 && i%6 == 3 {
							s.conn.Close(4000, "half way")
						}
						if sender == 1 && j == 30 && i%6 == 4 {
							s.conn.Cut()
						}
					}
					s.conn.Close(4000, "done")
				})
			}
		}
		await(t, "everybody to finish", all.Wait)
	})
}
