// Package im is durable messaging over the protocol of WuKongIM: sessions of clients, permissions, the
// way of a message into its log and out to those who are online, on whichever node they are.
//
// It may import its own rooms (wire, jsonrpc, message, journal, registry, index), transport for
// connections and fabric for what goes between nodes. It must never import another surface, the
// cluster or the engine: it is told who owns what.
//
// # The way of a message
//
// A client's SEND is checked where the client is connected, and given to the node that owns the
// channel's slot, which numbers and stores it and answers when it is on the disks of a majority. Every
// node follows all logs; it hands each message to those of its own clients who are to have it. So
// delivery depends on no node but the client's own: whoever dies, the others go on reading the log.
package im

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// SystemUID is the account that the server itself sends by. What it sends has no sender to clients,
// and it gets nothing.
const SystemUID = "____system"

// visitorSuffix ends the uid of a visitor, who needs no token.
const visitorSuffix = "___vstr"

// Options configure a Server.
type Options struct {
	Node string // this node's id
	// NodeID is a number below 1024 that no other node has at the same time: message IDs hold it.
	NodeID uint16
	Slots  int
	// Open opens the log of that name, on a fabric that keeps logs.
	Open   func(ctx context.Context, config fabric.LogConfig) (fabric.Log, error)
	Signal fabric.Signal
	// Dir is the directory of the index.
	Dir string
	// Owner returns the node that owns a slot, and whether that is this one; empty when no node can.
	Owner func(slot int) (node string, self bool)
	// Nodes returns the other nodes that are there.
	Nodes func() []string
	// Presence is where nodes tell each other who is online; nil for a node of its own.
	Presence Presence
	// Reports takes what webhooks tell; nil is nobody.
	Reports Reports

	// Datasource is the URL that is asked for channels that nobody has told of; empty for none. For
	// their flags it is asked only if DatasourceInfo says so: not every application answers that.
	Datasource     string
	DatasourceInfo bool

	TokenAuth       bool // clients have to prove themselves
	ManagerUID      string
	ManagerToken    string
	Encryption      bool
	JSONRPC         bool
	PersonAllowList bool // what is sent to a person is checked against that one's allow list
	ConnectTimeout  time.Duration
	IdleTimeout     time.Duration
	RetryInterval   time.Duration // before a RECV without RECVACK is sent again
	RetryMax        int
	MaxPendingSends int // of one connection
	// SendRate is how many SENDs a second a connection may send, after SendBurst at once, and PacketRate
	// how many packets of any kind, but for the RECVACKs that it has to send. 0 is no bound.
	SendRate   int
	SendBurst  int
	PacketRate int
	// Retention is how much of channels is kept, by their type; under 0 of all others.
	Retention         map[uint8]Retention
	RetentionInterval time.Duration
	Logger            *slog.Logger
	Metrics           *Metrics
}

// Presence is replicated soft state: who is online where.
type Presence interface {
	// Set makes value the node's row under key and entry; nil removes it.
	Set(key, entry string, value []byte)
	// Each calls f with every other node's entries under key.
	Each(key string, f func(node, entry string, value []byte))
}

// Reports hears what the application is to be told. Its calls must not wait.
type Reports interface {
	// Online is told of each login and logout on this node.
	Online(status OnlineStatus)
}

// Server is the messaging of one node.
type Server struct {
	options  Options
	index    *index.Index
	journal  *journal.Journal
	registry *registry.Registry
	ids      *idMaker
	relay    *relay
	hub      *hub
	workers  *workers
	metrics  *Metrics
	permits  *permits
	source   *source // nil for none

	running sync.WaitGroup

	cursorsMu sync.Mutex
	cursors   map[cursorKey]uint64 // of commands, to be written; guarded by cursorsMu
}

// Open opens the index and the logs. Nobody is served before Run.
func Open(ctx context.Context, options Options) (*Server, error) {
	s := &Server{options: options, metrics: options.Metrics, cursors: map[cursorKey]uint64{}, permits: newPermits()}
	s.ids = newIDMaker(options.NodeID)
	s.hub = newHub(s)
	s.workers = newWorkers()
	if options.Datasource != "" {
		s.source = newSource(s)
	}
	var err error
	if s.index, err = index.Open(options.Dir, options.Logger); err != nil {
		return nil, err
	}
	if err = s.openLogs(ctx); errors.Is(err, journal.ErrStaleIndex) || errors.Is(err, registry.ErrStaleIndex) {
		options.Logger.Warn("the index is of other logs and is made anew")
		if err = s.index.Clear(); err == nil {
			err = s.openLogs(ctx)
		}
	}
	if err == nil {
		s.relay, err = newRelay(s)
	}
	if err != nil {
		return nil, errors.Join(err, s.index.Close())
	}
	return s, nil
}

func (s *Server) openLogs(ctx context.Context) (err error) {
	s.registry, err = registry.Open(ctx, registry.Options{
		Open: s.options.Open, Index: s.index, Changed: s.hub.setChanged, FloorMoved: s.floorMoved,
		Logger: s.options.Logger,
	})
	if err != nil {
		return err
	}
	var told func(slot int) uint64
	if s.options.Reports != nil {
		told = s.told
	}
	s.journal, err = journal.Open(ctx, journal.Options{
		Slots: s.options.Slots, Open: s.options.Open, Index: s.index, Floor: s.floor, Told: told, Applied: s.applied, Logger: s.options.Logger,
	})
	return err
}

// Run follows the logs until ctx ends. Ready is called when this node has what they held at the
// start.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 2)
	s.running.Go(func() { errs <- s.registry.Run(ctx) })
	// The floors of channels have to be known before their messages are read.
	err := s.registry.CatchUp(ctx)
	if err == nil {
		err = s.checkSlots(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = nil // it was to end
		}
		cancel()
		s.running.Wait()
		return errors.Join(err, <-errs)
	}
	s.running.Go(func() { errs <- s.journal.Run(ctx) })
	s.running.Go(func() { s.hub.retryLoop(ctx) })
	s.running.Go(func() { s.writeCursors(ctx) })
	s.running.Go(func() { s.retain(ctx) })
	if err := s.journal.CatchUp(ctx); err == nil {
		s.askSystem(ctx)
		ready()
	} else if ctx.Err() == nil {
		cancel()
		s.running.Wait()
		return err
	}
	err = <-errs
	cancel()
	s.running.Wait()
	return errors.Join(err, <-errs)
}

// askSystem asks the datasource for the system accounts. That it does not answer keeps nobody waiting.
func (s *Server) askSystem(ctx context.Context) {
	if s.source == nil {
		return
	}
	s.running.Go(func() {
		for ctx.Err() == nil {
			err := s.source.keepSystem(ctx)
			if err == nil {
				return
			}
			s.options.Logger.Warn("the datasource does not tell the system accounts, it is asked again", "error", err)
			fabric.Pause(ctx, sourceTimeout)
		}
	})
}

// ErrSlots says that the messages which are stored are spread over another number of slots.
var ErrSlots = errors.New("im.slots is not what it was at the first start")

// checkSlots keeps the number of slots at the first start, and refuses another one later: no message
// would be found, and numbers would begin anew.
func (s *Server) checkSlots(ctx context.Context) error {
	const name = "slots"
	slots, known, err := s.registry.Mark(name)
	switch {
	case err != nil:
		return err
	case !known:
		return s.registry.SetMark(ctx, name, uint64(s.options.Slots))
	case slots != uint64(s.options.Slots):
		return fmt.Errorf("%w: it is %d, and the messages that are stored are in %d; set im.slots = %[3]d",
			ErrSlots, s.options.Slots, slots)
	}
	return nil
}

// ViewChanged says that slots may have other owners now.
func (s *Server) ViewChanged() {
	s.journal.Own(func(slot int) bool {
		_, self := s.options.Owner(slot)
		return self
	})
}

// Close ends what the server has open, after Run has returned and the connections are closed.
func (s *Server) Close() error {
	s.journal.Own(func(int) bool { return false })
	s.relay.close()
	s.workers.close()
	if s.source != nil {
		s.source.end()
		s.source.running.Wait()
	}
	if err := s.index.Close(); err != nil {
		return fmt.Errorf("close messaging: %w", err)
	}
	return nil
}

// ToldMark is the registry's mark of how far the messages of a slot are in the queue of webhooks.
func ToldMark(slot int) string { return "webhook-" + strconv.Itoa(slot) }

// told is the place of the newest entry that webhooks need no more, 0 while nobody knows.
func (s *Server) told(slot int) uint64 {
	mark, _, err := s.registry.Mark(ToldMark(slot))
	if err != nil {
		return 0
	}
	return mark
}

// applied takes a message that is stored, from the log.
func (s *Server) applied(m *message.Message) { s.hub.deliver(m) }

// Owns tells whether this node numbers the messages of a slot.
func (s *Server) Owns(slot int) bool {
	_, self := s.options.Owner(slot)
	return self
}
