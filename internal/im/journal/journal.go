// Package journal keeps the messages of channels in logs, one a slot, and has them by channel and number
// in an index. Every node follows all logs; the owner of a slot numbers the messages of its channels
// and appends them, those that come at about the same time as one entry.
//
// It may import fabric for the logs, im/index and im/message. It must never import sessions, the
// cluster or an HTTP API: it is told which slots this node owns.
//
// # Safety
//
// An owner appends behind the entry that it takes for the newest; the log refuses when it is not.
// So two nodes that both believe they own a slot cannot both number a message: ownership is for
// speed alone. An owner whose append failed reads on to the end of the log, finds what of its own
// is stored, and sends the rest again.
//
// Many appends are under way at a time, so one can be lost and a later one be stored, if another
// writer fills the place between: then its numbers do not follow. Therefore an owner begins with an
// entry that names a new epoch, each message says in which epoch and behind which entry of its
// channel it was meant to be, and a message counts only if the newest epoch and entry are those.
// That every node finds alike from the log; its writer does not tell the sender of a message before
// all that went before it are stored.
//
// To remove messages is an order in the log as well, so a node that makes its index anew comes to the
// same. What is left in the log goes later, see remove.go: a message that shares its entry with others
// that stay is moved with them, keeps its number and counts without a predecessor; one whose
// predecessor is gone from the log counts behind whatever is there.
package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/index"
	"github.com/parleyio/parley/internal/im/message"
)

// Sentinel errors.
var (
	// ErrNotOwner says that this node does not own the message's slot.
	ErrNotOwner = errors.New("the slot is another node's")
	// ErrStaleIndex says that the index was made from other logs: it has to be cleared.
	ErrStaleIndex = errors.New("the index is of other logs")
	// ErrBusy says that too many messages wait to be stored.
	ErrBusy = errors.New("too many messages wait to be stored")
)

// Options configure a Journal.
type Options struct {
	Slots int
	// Open opens the log of that name.
	Open  func(ctx context.Context, config fabric.LogConfig) (fabric.Log, error)
	Index *index.Index
	// Floor returns the number of the oldest message of a channel that is kept, 0 when nothing was
	// removed by its age or number; nil for never.
	Floor func(c message.Channel) (uint64, error)
	// Told returns the place in a slot's log up to which entries may be rewritten, because nobody reads them
	// there any more; nil for all.
	Told func(slot int) uint64
	// Applied is told of each new message that is stored, in the order of its log, when the index has it.
	// Each log has its own goroutine; the call holds up only that.
	Applied func(m *message.Message)
	Logger  *slog.Logger
}

// Journal is the logs of all channels.
type Journal struct {
	options Options
	slots   []*slot
	running sync.WaitGroup
	ended   atomic.Bool // Run has returned, or is about to
}

// Open opens the logs. Nothing is followed before Run. It returns ErrStaleIndex when the index goes
// further than a log.
func Open(ctx context.Context, options Options) (*Journal, error) {
	j := &Journal{options: options, slots: make([]*slot, options.Slots)}
	for i := range j.slots {
		name := fmt.Sprintf("im-%d", i)
		l, err := options.Open(ctx, fabric.LogConfig{Name: name})
		if err != nil {
			return nil, fmt.Errorf("open the log of slot %d: %w", i, err)
		}
		pipe, ok := l.(fabric.PipeLog)
		if !ok {
			return nil, fmt.Errorf("open the log of slot %d: %w: the driver of this log cannot send", i, fabric.ErrUnsupported)
		}
		applied, err := options.Index.Applied(name)
		if err != nil {
			return nil, err
		}
		j.slots[i] = newSlot(j, i, name, pipe, applied)
		row, err := options.Index.Get(index.Key(tableEpoch, name))
		if err != nil {
			return nil, err
		}
		if row != nil {
			j.slots[i].current = binary.BigEndian.Uint64(row)
		}
		if applied == 0 {
			continue
		}
		last, err := j.slots[i].end(ctx)
		if err == nil && last < applied {
			err = ErrStaleIndex
		}
		if err != nil {
			return nil, fmt.Errorf("open the log of slot %d: %w", i, err)
		}
	}
	return j, nil
}

// CatchUp waits until the index has what the logs had when it was called, or ctx ends.
func (j *Journal) CatchUp(ctx context.Context) error {
	for _, s := range j.slots {
		last, err := s.end(ctx)
		if err == nil {
			err = s.reach(ctx, last)
		}
		if err != nil {
			return fmt.Errorf("catch up with slot %d: %w", s.number, err)
		}
	}
	return nil
}

// Run follows the logs until ctx ends.
func (j *Journal) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, len(j.slots))
	for i, s := range j.slots {
		all.Go(func() { s.clean(ctx) })
		all.Go(func() { s.lead(ctx) })
		all.Go(func() {
			if errs[i] = s.run(ctx); errs[i] != nil {
				cancel() // a node that does not deliver one slot serves none
			}
		})
	}
	all.Wait()
	j.ended.Store(true) // what is synced would wait for what is followed no more
	j.Own(func(int) bool { return false })
	j.running.Wait()
	return errors.Join(errs...)
}

// Own says which slots this node owns from now on; none after Run has returned.
func (j *Journal) Own(owns func(slot int) bool) {
	for _, s := range j.slots {
		s.own(owns(s.number) && !j.ended.Load())
	}
}

// Outcome is what became of a message.
type Outcome struct {
	ID  int64
	Seq uint64
	Err error // nil when it is stored
	// Repeated says that the sender had sent it before.
	Repeated bool
}

// Append numbers and stores a message. done is called once, from any goroutine, and must not wait:
// when the message is on the disks of a majority, with its number; the same number and ID again for
// a message that its sender has sent before. ErrNotOwner, ErrBusy, and after AppendTimeout at the
// latest fabric.ErrUnavailable: then it may be stored or not, and sending it again tells.
func (j *Journal) Append(m *message.Message, done func(Outcome)) {
	j.slotOf(m.Channel).append(m, done)
}

// Await waits until this node has a message: a reader who has been told of it expects it.
func (j *Journal) Await(ctx context.Context, c message.Channel, seq uint64) error {
	return j.slotOf(c).await(ctx, func() (bool, error) {
		head, err := j.Head(c)
		return head.Seq >= seq, err
	})
}

func (j *Journal) slotOf(c message.Channel) *slot { return j.slots[c.Slot(len(j.slots))] }

// Slots returns how many slots there are.
func (j *Journal) Slots() int { return len(j.slots) }

// Position returns the number of the newest entry of a slot that this node has.
func (j *Journal) Position(slot int) uint64 { return j.slots[slot].appliedTo() }

// Slot returns the number of the channel's slot.
func (j *Journal) Slot(c message.Channel) int { return c.Slot(len(j.slots)) }

// Tables of the index, by the first letter of their keys.
const (
	tableHead     = 'h' // channel: the newest message
	tableMessage  = 'm' // channel, number: the message, and where in the log
	tableNo       = 'n' // channel, sender's number, sender: number
	tableID       = 'i' // channel, ID: number
	tableCommands = 'c' // user, shadow channel that has commands for the user alone
	tableEpoch    = 'e' // log: the newest epoch
	tableSent     = 's' // user, channel: the user's newest message there
	tableExpiry   = 'x' // time, channel, number: nothing
	tableRemoved  = 'r' // channel, number before which messages were removed: the number of the first
	tableGarbage  = 'g' // log, place of an entry with messages that were removed: nothing; of an order: its bound, channel
)

func idText(id int64) string { return strconv.FormatInt(id, 36) }

// pause waits between two tries.
func pause(ctx context.Context) { fabric.Pause(ctx, 100*time.Millisecond) }
