package bench

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"
)

// readBuffer is the size in bytes of an event loop's read buffer. A large one lets frames
// that arrive close together cost one system call.
const readBuffer = 256 << 10

// eventLoop is a receiver with one goroutine for all its connections.
type eventLoop struct {
	gnet.BuiltinEventEngine
	client  *gnet.Client
	closing atomic.Bool
	once    sync.Once
}

func newReceiver() (receiver, error) {
	l := &eventLoop{}
	client, err := gnet.NewClient(l,
		gnet.WithNumEventLoop(1), gnet.WithReadBufferCap(readBuffer), gnet.WithLogger(silent{}))
	if err != nil {
		return nil, fmt.Errorf("create event loop: %w", err)
	}
	if err := client.Start(); err != nil {
		return nil, fmt.Errorf("start event loop: %w", err)
	}
	l.client = client
	return l, nil
}

func (l *eventLoop) add(conn *net.TCPConn, s *socket) error {
	if l.closing.Load() {
		conn.Close()
		return errReceiverClosed
	}
	enrolled, err := l.client.EnrollContext(conn, s)
	if err != nil {
		return fmt.Errorf("enroll connection: %w", err)
	}
	s.later = func(frames []byte) error { return enrolled.AsyncWrite(frames, nil) }
	return nil
}

func (l *eventLoop) close() {
	l.once.Do(func() {
		l.closing.Store(true)
		_ = l.client.Stop() // its only failure is that it has stopped
	})
}

// OnOpen implements gnet.EventHandler.
func (l *eventLoop) OnOpen(c gnet.Conn) ([]byte, gnet.Action) {
	c.Context().(*socket).out = c
	return nil, gnet.None
}

// OnTraffic implements gnet.EventHandler.
func (l *eventLoop) OnTraffic(c gnet.Conn) gnet.Action {
	b, err := c.Next(-1) // the loop's own buffer: nothing is copied
	if err != nil || c.Context().(*socket).read(b) != nil {
		return gnet.Close
	}
	return gnet.None
}

// OnClose implements gnet.EventHandler.
func (l *eventLoop) OnClose(c gnet.Conn, _ error) gnet.Action {
	if !l.closing.Load() {
		c.Context().(*socket).end(closeAbnormal)
	}
	return gnet.None
}

// silent keeps the library's own log out of the benchmark's output.
type silent struct{}

func (silent) Debugf(string, ...any) {}
func (silent) Infof(string, ...any)  {}
func (silent) Warnf(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}
