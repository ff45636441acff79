package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// Close ends connections in every state and is told of by Closed for each.
func TestServerClose(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{leaveOpen: true, smallBuffers: true, Options: Options{CloseTimeout: time.Hour}})
		idle, idleSession := r.connect()
		_, stuck := r.connect()
		stuff(t, stuck)
		_, closing := r.connect()
		closing.conn.Close(4000, "the client will not answer")
		_, both := r.connect()
		stuff(t, both)
		both.conn.Close(4000, "nor read")
		publisher := make(chan error, 1)
		go func() { publisher <- r.server.admit(context.Background()) }()
		await(t, "Close", func() {
			if err := r.server.Close(); err != nil {
				t.Error(err)
			}
		})
		for _, s := range []*session{idleSession, stuck, closing, both} {
			select {
			case <-s.ended:
			default:
				t.Error("Closed was not called before Close returned")
			}
		}
		if r.server.Count() != 0 || r.server.Backlog() != 0 {
			t.Errorf("%d connections and %d bytes are left", r.server.Count(), r.server.Backlog())
		}
		await(t, "the publisher to go on", func() { <-publisher })
		if _, _, err := idle.read(); err == nil {
			t.Error("the client can still read")
		}
	})
}

func TestUpgradeAfterClose(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		r := newRig(t, m, setup{leaveOpen: true})
		for range 2 {
			if err := r.server.Close(); err != nil {
				t.Fatal(err)
			}
		}
		c, err := r.try(dialing{})
		if err == nil {
			defer c.conn.Close()
			c.expectEnd()
		}
		await(t, "Upgrade to fail", func() {
			if err := <-r.refused; !errors.Is(err, net.ErrClosed) {
				t.Errorf("error is %v, want %v", err, net.ErrClosed)
			}
		})
	})
}

// Connections that enter while the server closes are either served and closed, or refused.
func TestUpgradeDuringClose(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		for range 5 {
			r := newRig(t, m, setup{leaveOpen: true})
			var dialers sync.WaitGroup
			for range 8 {
				dialers.Go(func() {
					for range 5 {
						c, err := r.try(dialing{early: text("x")})
						if err != nil {
							continue
						}
						for err == nil {
							_, _, err = c.read()
						}
						_ = c.conn.Close()
						var timeout net.Error
						if errors.As(err, &timeout) && timeout.Timeout() {
							t.Error("a connection is neither served nor closed")
						}
					}
				})
			}
			r.next()
			if err := r.server.Close(); err != nil {
				t.Error(err)
			}
			await(t, "the clients", dialers.Wait)
		}
	})
}

func TestNewServerDefaults(t *testing.T) {
	s, err := NewServer(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.options.CloseTimeout != 5*time.Second || s.options.EventLoops < 1 {
		t.Errorf("options are %+v", s.options)
	}
	s.options.Dropped("without a listener") // must not panic
	g, err := NewServer(Options{EventLoops: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if g.Mode() != "goroutine" {
		t.Errorf("mode is %s", g.Mode())
	}
}

// The messages of the event loops are in the log, none louder than it deserves.
func TestEventLoopLog(t *testing.T) {
	var buf bytes.Buffer
	l := gnetLogger{slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	l.Debugf("a %d", 1)
	l.Infof("b %d", 2)
	l.Warnf("c %d", 3)
	l.Errorf("d %d", 4)
	l.Fatalf("e %d", 5)
	got := ""
	for line := range strings.Lines(buf.String()) {
		fields := strings.SplitN(line, " ", 3)
		got += fields[1] + " " + fields[2]
	}
	want := "level=DEBUG msg=\"a 1\"\nlevel=DEBUG msg=\"b 2\"\nlevel=WARN msg=\"c 3\"\nlevel=ERROR msg=\"d 4\"\nlevel=ERROR msg=\"e 5\"\n"
	if got != want {
		t.Errorf("log is\n%swant\n%s", got, want)
	}
}

// A connection that is not a kernel socket under its wrapper keeps all its bytes.
func TestWrapperOfNoSocket(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	for _, nc := range []net.Conn{ours, wrapper{ours}} {
		plain, rest, err := plainSocket(nc)
		if plain != nil || rest != nil || err != nil {
			t.Errorf("got %v, %q, %v", plain, rest, err)
		}
	}
	go func() { _, _ = io.WriteString(theirs, "x") }()
	if _, err := io.ReadFull(ours, make([]byte, 1)); err != nil {
		t.Errorf("the pipe's deadline was left set: %v", err)
	}
}

type wrapper struct{ net.Conn }

func (w wrapper) Raw() net.Conn { return w.Conn }

// nowhere is a link whose frames are taken by the test.
type nowhere struct{ scheduled, cuts atomic.Int32 }

func (n *nowhere) schedule(*Conn) { n.scheduled.Add(1) }
func (*nowhere) flush(*Conn)      {}

func (n *nowhere) cut(*Conn) { n.cuts.Add(1) }

// In steady state queueing a prepared frame allocates nothing.
func TestSendAllocations(t *testing.T) {
	s := &Server{options: Options{MaxQueue: 1 << 20, Dropped: func(string) {}}, wheel: &wheel{}}
	n := &nowhere{}
	c := &Conn{server: s, link: n}
	f := websocket.NewFrame([]byte("hello"))
	allocs := testing.AllocsPerRun(1000, func() {
		for range 4 {
			c.Send(f)
		}
		q, cut := c.take()
		if len(q.frames) != 4 || cut {
			t.Fatalf("took %d frames", len(q.frames))
		}
		s.backlog.add(-q.bytes)
		releaseOutgoing(q)
	})
	if allocs > 1 { // the race detector makes sync.Pool forget
		t.Errorf("sending four frames allocates %v times", allocs)
	}
	if n.scheduled.Load() != 1001 || s.Backlog() != 0 {
		t.Errorf("%d writes were asked for and %d bytes wait", n.scheduled.Load(), s.Backlog())
	}
}

// A burst's large queue is not kept for ever, and a returned one holds no frames.
func TestReleaseOutgoing(t *testing.T) {
	q := &outgoing{frames: make([]*websocket.Frame, 3, 10), bytes: 7}
	q.frames[1] = websocket.NewFrame(nil)
	kept := q.frames
	releaseOutgoing(q)
	if kept[1] != nil || len(q.frames) != 0 || q.bytes != 0 {
		t.Errorf("released queue is %+v", q)
	}
	large := &outgoing{frames: make([]*websocket.Frame, 1, maxPooledFrames+1)}
	releaseOutgoing(large)
	if len(large.frames) != 1 {
		t.Error("a large queue went to the pool")
	}
}

// admit waits as a publisher does that queues nothing.
func (s *Server) admit(ctx context.Context) error {
	done, err := s.Admit(ctx)
	if err == nil {
		done()
	}
	return err
}
