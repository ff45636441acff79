// Package transport carries WebSocket connections after their HTTP upgrade: it reads
// messages, keeps a bounded outgoing queue for each connection and writes what waits with
// one system call a pass. A plain TCP or unix connection lives in an event loop (gnet), any
// other keeps a goroutine; both are the same Conn.
//
// It may import its own websocket codec and the HTTP and socket libraries. It must never
// import a protocol surface, the fabric or the cluster: it moves frames and knows nothing
// of what they say.
package transport

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/transport/websocket"
)

// Reasons under which a loss or a refusal is counted, besides the causes of
// websocket.Error.
const (
	DropSlowConsumer = "slow_consumer" // its outgoing queue was over the limit
	DropSendClosed   = "send_closed"   // a frame for a connection that is closing or closed
	DropBinary       = "binary_frame"  // a protocol of text got a binary message
)

// Options configure a Server.
type Options struct {
	EventLoops  int   // event loops; 0 for one a processor, negative for goroutine mode
	MaxMessage  int64 // bytes of one incoming message
	MaxQueue    int64 // bytes that may wait for one connection
	MaxBacklog  int64 // bytes that may wait for all before Admit blocks
	Compression bool  // negotiate permessage-deflate
	Logger      *slog.Logger
	// Dropped is told of each loss with its reason, from any goroutine.
	Dropped func(reason string)
	// OverflowCode and OverflowReason close a connection whose queue is over MaxQueue.
	OverflowCode   int
	OverflowReason string
	// CloseTimeout is how long a peer may take to answer a close frame.
	CloseTimeout time.Duration
}

// Server owns the connections, their event loops and their timers.
type Server struct {
	options Options
	loops   *eventLoops // nil in goroutine mode
	wheel   *wheel
	backlog backlog
	// publishers is held by those who are queueing frames between Admit and its done.
	publishers chan struct{}
	count      atomic.Int64
	rules      websocket.Rules

	streams   sync.WaitGroup // goroutines of connections outside the loops
	streamsMu sync.Mutex
	streaming map[*Conn]struct{} // connections outside the loops; guarded by streamsMu

	life  sync.RWMutex // held for reading while a connection enters
	ended bool         // Close was called; guarded by life
}

// NewServer starts the event loops and the timers.
func NewServer(options Options) (*Server, error) {
	if options.CloseTimeout == 0 {
		options.CloseTimeout = 5 * time.Second
	}
	if options.EventLoops == 0 {
		options.EventLoops = runtime.GOMAXPROCS(0)
	}
	if options.Dropped == nil {
		options.Dropped = func(string) {}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		options:   options,
		streaming: make(map[*Conn]struct{}),
		rules:     websocket.Rules{MaxMessage: options.MaxMessage, Compression: options.Compression},
	}
	s.backlog.init(s.maxBacklog)
	s.publishers = make(chan struct{}, publishersPerProcessor*runtime.GOMAXPROCS(0))
	if options.EventLoops > 0 {
		loops, err := startEventLoops(s, options.EventLoops)
		if err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return nil, err
		}
		s.loops = loops
	}
	s.wheel = newWheel()
	return s, nil
}

// Mode tells how plain connections are served: "event-loop" or "goroutine".
func (s *Server) Mode() string {
	if s.loops != nil {
		return "event-loop"
	}
	return "goroutine"
}

// Count returns how many connections are open.
func (s *Server) Count() int { return int(s.count.Load()) }

// Backlog returns how many bytes wait to be written, over all connections.
func (s *Server) Backlog() int64 { return s.backlog.bytes.Load() }

// backlogShare is the part of MaxQueue that may wait for a connection on average, one in
// that many, before publishers are slowed: some connections are always further behind.
const backlogShare = 16

// maxBacklog returns how many bytes may wait for all connections before publishers do:
// MaxBacklog, or with few connections less, since each holds at most MaxQueue.
func (s *Server) maxBacklog() int64 {
	if s.options.MaxBacklog <= 0 {
		return math.MaxInt64
	}
	share := max(s.count.Load()*s.options.MaxQueue/backlogShare, s.options.MaxQueue/4)
	return min(s.options.MaxBacklog, share)
}

// publishersPerProcessor bounds how many publishers queue frames at once. Queueing is work for
// a processor, so more at once gain nothing, and each may queue an event for everybody
// beyond the backlog's limit.
const publishersPerProcessor = 4

// Admit lets a publisher go on when few enough others queue frames and fewer bytes wait for
// all connections than MaxBacklog, or with few connections a share of their queues, allows.
// So a flood slows its source instead of filling memory or cutting off every subscriber. The
// publisher calls done when its frames are queued. Admit returns ctx's error when that ends
// first.
func (s *Server) Admit(ctx context.Context) (done func(), err error) {
	select {
	case s.publishers <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	done = func() { <-s.publishers }
	if err := s.backlog.wait(ctx); err != nil {
		done()
		return nil, err
	}
	return done, nil
}

// Close drops every connection and ends the event loops and timers. It returns after the
// last Handler.Closed, so a handler must not call it. From then on Upgrade fails with
// net.ErrClosed; further calls do nothing.
func (s *Server) Close() error {
	s.life.Lock()
	again := s.ended
	s.ended = true
	s.life.Unlock()
	if again {
		return nil
	}
	s.wheel.stop()
	s.streamsMu.Lock()
	for c := range s.streaming {
		c.link.cut(c)
	}
	s.streamsMu.Unlock()
	var err error
	if s.loops != nil {
		err = s.loops.stop()
	}
	s.streams.Wait()
	return err
}

// enter and leave keep the list of connections that Close has to cut itself.
func (s *Server) enter(c *Conn) {
	s.streams.Add(1)
	s.streamsMu.Lock()
	s.streaming[c] = struct{}{}
	s.streamsMu.Unlock()
}

func (s *Server) leave(c *Conn) {
	s.streamsMu.Lock()
	delete(s.streaming, c)
	s.streamsMu.Unlock()
}
