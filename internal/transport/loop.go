//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
)

// eventLoops is the gnet engine that plain connections live in.
type eventLoops struct {
	gnet.BuiltinEventEngine
	server *Server
	client *gnet.Client

	mu    sync.Mutex
	loops map[gnet.EventLoop]*loop

	quit chan struct{}
	done chan struct{}
}

// loop is the part of an event loop that Parley adds: the list of connections with frames
// to write.
type loop struct {
	events gnet.EventLoop

	mu        sync.Mutex
	dirty     []*Conn // connections whose queue waits to be written
	scheduled bool    // a pass over dirty was asked for

	// The following are used on the loop only.
	spare   []*Conn            // the list of the last pass, for the next
	vectors [][]byte           // scratch of one Writev
	blocked map[*Conn]struct{} // connections whose socket did not take everything

	blockedCount atomic.Int64 // len(blocked), for the sweep
}

// loopLink is a Conn's socket in a loop.
type loopLink struct {
	loop *loop
	conn gnet.Conn
}

// blockedInterval is how often connections are looked at whose socket was full: gnet writes
// the rest by itself and does not say when it is done.
const blockedInterval = 10 * time.Millisecond

// maxVectors is the kernel's limit for one writev (IOV_MAX).
const maxVectors = 1024

// readBuffer is the bytes read at once; one buffer a loop, not a connection.
const readBuffer = 64 << 10

func startEventLoops(s *Server, n int) (*eventLoops, error) {
	e := &eventLoops{
		server: s,
		loops:  make(map[gnet.EventLoop]*loop),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	client, err := gnet.NewClient(e,
		gnet.WithNumEventLoop(n),
		gnet.WithReadBufferCap(readBuffer),
		gnet.WithLogger(gnetLogger{s.options.Logger}),
		gnet.WithTCPNoDelay(gnet.TCPNoDelay),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare event loops: %w", err)
	}
	if err := client.Start(); err != nil {
		return nil, fmt.Errorf("start event loops: %w", err)
	}
	e.client = client
	go e.sweep()
	return e, nil
}

func (e *eventLoops) stop() error {
	close(e.quit)
	<-e.done
	if err := e.client.Stop(); err != nil {
		return fmt.Errorf("stop event loops: %w", err)
	}
	return nil
}

// enroll moves a socket into a loop. The loop owns a duplicate; nc itself is closed.
func (e *eventLoops) enroll(c *Conn, nc net.Conn, early []byte) error {
	entering := &enrolled{conn: c, early: early}
	if _, err := e.client.EnrollContext(nc, entering); err != nil {
		return fmt.Errorf("enroll connection of %v: %w", nc.RemoteAddr(), err)
	}
	// gnet has waited for its loop to try, but keeps the loop's error to itself.
	if !entering.opened.Load() {
		return fmt.Errorf("enroll connection of %v: the poller refused it", nc.RemoteAddr())
	}
	return nil
}

// enrolled is a connection on its way into a loop.
type enrolled struct {
	conn   *Conn
	early  []byte // bytes that came with the handshake
	opened atomic.Bool
}

func (e *eventLoops) loopOf(events gnet.EventLoop) *loop {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.loops[events]
	if l == nil {
		l = &loop{events: events, blocked: make(map[*Conn]struct{})}
		e.loops[events] = l
	}
	return l
}

// OnOpen is gnet's call for a socket that has entered its loop.
func (e *eventLoops) OnOpen(gc gnet.Conn) ([]byte, gnet.Action) {
	entering := gc.Context().(*enrolled)
	c := entering.conn
	l := e.loopOf(gc.EventLoop())
	c.link = &loopLink{loop: l, conn: gc}
	gc.SetContext(c)
	entering.opened.Store(true)
	c.open(entering.early)
	l.flush(c, gc)
	return nil, gnet.None
}

// OnTraffic is gnet's call for bytes received.
func (e *eventLoops) OnTraffic(gc gnet.Conn) gnet.Action {
	c := gc.Context().(*Conn)
	data, err := gc.Next(-1)
	if err != nil {
		return gnet.Close
	}
	c.receive(data)
	c.link.(*loopLink).loop.flush(c, gc)
	return gnet.None
}

// OnClose is gnet's call for the end of a socket.
func (e *eventLoops) OnClose(gc gnet.Conn, _ error) gnet.Action {
	c, ok := gc.Context().(*Conn)
	if !ok {
		return gnet.None
	}
	l := c.link.(*loopLink).loop
	l.unblock(c)
	c.server.backlog.add(-c.handed.Swap(0))
	c.closed()
	return gnet.None
}

func (k *loopLink) schedule(c *Conn) {
	l := k.loop
	l.mu.Lock()
	l.dirty = append(l.dirty, c)
	wake := !l.scheduled
	l.scheduled = true
	l.mu.Unlock()
	if wake {
		// An error means that the loops have stopped, and every socket with them.
		_ = l.events.Execute(context.Background(), l)
	}
}

func (k *loopLink) flush(c *Conn) { k.loop.flush(c, k.conn) }

func (k *loopLink) cut(*Conn) { _ = k.conn.Close() }

// Run is one pass: everything that waits is written, one Writev a connection.
func (l *loop) Run(context.Context) error {
	l.mu.Lock()
	pass := l.dirty
	l.dirty, l.spare = l.spare[:0], nil
	l.scheduled = false
	l.mu.Unlock()
	for _, c := range pass {
		l.flush(c, c.link.(*loopLink).conn)
	}
	clear(pass)
	if cap(pass) > maxSpare {
		pass = nil
	}
	l.spare = pass[:0]
	return nil
}

// maxSpare keeps one burst from holding a large list for ever.
const maxSpare = 64 << 10

// flush writes what waits for c and, when that ends the conversation, closes the socket as
// soon as it has taken everything. It runs on the loop.
func (l *loop) flush(c *Conn, gc gnet.Conn) {
	q, cut := c.take()
	if q != nil {
		l.write(c, gc, q)
	}
	if cut && gc.OutboundBuffered() == 0 {
		_ = l.events.Close(gc)
	}
}

func (l *loop) write(c *Conn, gc gnet.Conn, q *outgoing) {
	bytes := q.bytes
	frames := q.frames
	for len(frames) > 0 {
		n := min(len(frames), maxVectors)
		l.vectors = l.vectors[:0]
		for _, f := range frames[:n] {
			l.vectors = append(l.vectors, f.Wire(c.deflate))
		}
		frames = frames[n:]
		_, err := gc.Writev(l.vectors)
		clear(l.vectors)
		if err != nil {
			break // gnet has closed the socket and called OnClose
		}
	}
	releaseOutgoing(q)
	waiting := int64(gc.OutboundBuffered())
	before := c.handed.Swap(waiting)
	c.server.backlog.add(waiting - before - bytes)
	if waiting == 0 {
		return
	}
	if waiting < before+bytes {
		c.stalled = time.Now() // the socket took some of it
	}
	l.block(c)
}

func (l *loop) block(c *Conn) {
	if _, known := l.blocked[c]; !known {
		c.stalled = time.Now()
	}
	l.blocked[c] = struct{}{}
	l.blockedCount.Store(int64(len(l.blocked)))
}

func (l *loop) unblock(c *Conn) {
	delete(l.blocked, c)
	l.blockedCount.Store(int64(len(l.blocked)))
}

// sweep refreshes the count of bytes that gnet holds for full sockets, so that publishers
// who wait for the backlog go on when it is written.
func (e *eventLoops) sweep() {
	defer close(e.done)
	ticker := time.NewTicker(blockedInterval)
	defer ticker.Stop()
	for {
		select {
		case <-e.quit:
			return
		case <-ticker.C:
		}
		e.mu.Lock()
		for _, l := range e.loops {
			if l.blockedCount.Load() > 0 {
				_ = l.events.Execute(context.Background(), gnet.RunnableFunc(l.refresh))
			}
		}
		e.mu.Unlock()
	}
}

func (l *loop) refresh(context.Context) error {
	now := time.Now()
	for c := range l.blocked {
		gc := c.link.(*loopLink).conn
		waiting := int64(gc.OutboundBuffered())
		written := c.handed.Swap(waiting) - waiting
		c.server.backlog.add(-written)
		switch {
		case waiting == 0:
			l.unblock(c)
			l.flush(c, gc) // it may have waited for this to end
		case written > 0:
			c.stalled = now
		case now.Sub(c.stalled) >= stallTimeout && c.server.backlog.waiters.Load() > 0:
			c.giveUp()
		}
	}
	return nil
}
