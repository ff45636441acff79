package journal

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/message"
)

const (
	// AppendTimeout bounds the wait of a message that is to be stored, from Append on.
	AppendTimeout = 8 * time.Second
	// maxWaiting bounds the messages of one slot that wait to be sent to its log.
	maxWaiting = 8192
	// A log of several copies takes a batch at the price of a message, so all that wait go as one as soon
	// as fewer than this many are under way.
	maxFlights = 2
	// A log of one copy flushes the disk for each message, and for a batch makes and removes files, which
	// takes as long as about a dozen messages. So a message goes alone as long as few wait and few are
	// under way; more go as one batch.
	maxSingles = 16
	minBatch   = 16
	maxBatches = 2
)

// appending is a message on its way into the log.
type appending struct {
	message *message.Message
	done    func(Outcome)
	also    []func(Outcome) // of those who sent the same meanwhile
	order   uint64          // of arrival
	until   time.Time       // when it is too late to send it
	stored  bool            // in the log, and not yet in the index
}

// repeatKey is what tells that a sender sends a message again.
type repeatKey struct {
	channel message.Channel
	from    string
	no      string
}

func (a *appending) key() repeatKey {
	return repeatKey{a.message.Channel, a.message.From, a.message.ClientMsgNo}
}

// flight is one send. They are settled in their order: behind one that was lost, a later one may have
// been stored, at a place that the first should have had, with numbers that do not follow (another
// node that took itself for the owner filled the place). Nobody is told of such.
type flight struct {
	list     []*appending
	before   uint64 // the entry that it was sent behind
	answered bool
	err      error
}

// slot is one log, with what this node sends to it.
type slot struct {
	journal *Journal
	number  int
	name    string
	log     fabric.PipeLog

	mu       sync.Mutex // guards the following fields
	current  uint64     // newest epoch in the log; used by apply only
	epoch    uint64     // of what this node sends
	position uint64     // of the log up to which the index has it
	moved    chan struct{}
	owned    bool
	syncing  bool   // reading to the end of the log before sending
	tail     uint64 // number of the newest entry, ours included
	arrived  uint64 // messages, ever
	waiting  []*appending
	failed   []*appending // sent, and perhaps not stored
	flights  []*flight    // sends that were not settled, in their order
	singles  int          // under way
	batches  int
	heads    map[message.Channel]Head // newest messages that the index does not have yet
	repeats  map[repeatKey]*appending // what the index does not have yet
}

func newSlot(j *Journal, number int, name string, log fabric.PipeLog, applied uint64) *slot {
	return &slot{
		journal: j, number: number, name: name, log: log, position: applied, moved: make(chan struct{}),
		heads: map[message.Channel]Head{}, repeats: map[repeatKey]*appending{},
	}
}

func (s *slot) appliedTo() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

// awaitApplied waits until the index has the entry with that number.
func (s *slot) awaitApplied(ctx context.Context, seq uint64) error {
	for {
		s.mu.Lock()
		there, moved := s.position >= seq, s.moved
		s.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reach waits until the index has what the log has up to a number. The last entries may have been
// removed, and never come.
func (s *slot) reach(ctx context.Context, last uint64) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, reachPause)
		err := s.awaitApplied(waiting, last)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		position := s.appliedTo()
		page, err := s.log.Read(ctx, ">", position+1, 1)
		if err != nil {
			return err
		}
		if len(page) == 0 || page[0].Seq > last {
			return nil
		}
	}
}

// reachPause is how long entries are waited for until it is looked whether there are any.
const reachPause = 100 * time.Millisecond

// applied notes that the index has the log up to position.
func (s *slot) applied(position uint64, messages []stored) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.position = position
	close(s.moved)
	s.moved = make(chan struct{})
	for _, m := range messages {
		if s.heads[m.Channel].Seq == m.Seq {
			delete(s.heads, m.Channel)
		}
		key := repeatKey{m.Channel, m.From, m.ClientMsgNo}
		if a := s.repeats[key]; a != nil && a.stored {
			delete(s.repeats, key)
		}
	}
}

// own takes the slot, or gives it up: what waits is refused then, what is under way ends by itself.
func (s *slot) own(owned bool) {
	s.mu.Lock()
	if s.owned == owned {
		s.mu.Unlock()
		return
	}
	s.owned = owned
	var refused []*appending
	if owned {
		s.sync()
	} else {
		refused = s.waiting
		s.waiting = nil
		s.forget(refused)
	}
	s.mu.Unlock()
	finish(refused, ErrNotOwner)
}

// finish tells those who wait for messages that they are not stored.
func finish(list []*appending, err error) {
	for _, a := range list {
		a.finish(Outcome{ID: a.message.ID, Err: err})
	}
}

func (a *appending) finish(outcome Outcome) {
	a.done(outcome)
	outcome.Repeated = true
	for _, done := range a.also {
		done(outcome)
	}
}

// forget drops what is known of messages that will not be stored. The caller holds s.mu.
func (s *slot) forget(list []*appending) {
	for _, a := range list {
		if s.repeats[a.key()] == a {
			delete(s.repeats, a.key())
		}
	}
}

func (s *slot) append(m *message.Message, done func(Outcome)) {
	outcome, answered := s.enter(m, done)
	if answered {
		done(outcome)
	}
}

// enter queues a message, unless there is an answer at once.
func (s *slot) enter(m *message.Message, done func(Outcome)) (Outcome, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refuse := func(err error) (Outcome, bool) { return Outcome{ID: m.ID, Err: err}, true }
	switch {
	case m.Size() > fabric.MaxValueSize:
		return refuse(fabric.ErrTooLarge)
	case !s.owned:
		return refuse(ErrNotOwner)
	case len(s.waiting) >= maxWaiting:
		return refuse(ErrBusy)
	}
	s.arrived++
	a := &appending{message: m, done: done, order: s.arrived, until: time.Now().Add(AppendTimeout - fabric.SendTimeout)}
	if m.ClientMsgNo != "" {
		if before := s.repeats[a.key()]; before != nil {
			if before.stored {
				return Outcome{ID: before.message.ID, Seq: before.message.Seq, Repeated: true}, true
			}
			before.also = append(before.also, done)
			return Outcome{}, false
		}
		seq, id, err := s.journal.byNo(m)
		if err != nil {
			return refuse(err)
		}
		if seq > 0 {
			return Outcome{ID: id, Seq: seq, Repeated: true}, true
		}
		s.repeats[a.key()] = a
	}
	s.waiting = append(s.waiting, a)
	s.pump()
	return Outcome{}, false
}

// pump sends what waits. The caller holds s.mu.
func (s *slot) pump() {
	for !s.syncing && s.owned && len(s.waiting) > 0 {
		n := s.next()
		if n == 0 {
			return
		}
		list := s.waiting[:n:n]
		s.waiting = s.waiting[n:]
		if !s.send(list) {
			return
		}
	}
}

// next returns how many of those that wait are sent now. The caller holds s.mu.
func (s *slot) next() int {
	if !s.journal.options.Alone {
		if s.singles+s.batches >= maxFlights {
			return 0
		}
		return s.batchSize()
	}
	if len(s.waiting) >= minBatch {
		if n := s.batchSize(); n > 1 {
			if s.batches >= maxBatches {
				return 0
			}
			return n
		}
	}
	if s.singles >= maxSingles {
		return 0
	}
	return 1
}

// batchSize returns how many of those that wait fit into one batch. The caller holds s.mu.
func (s *slot) batchSize() int {
	size := 0
	for i, a := range s.waiting {
		size += a.message.Size()
		if i == fabric.MaxSend || i > 0 && size > fabric.MaxSendSize {
			return i
		}
	}
	return len(s.waiting)
}

// send numbers messages and sends them behind the newest entry. It returns false when the slot has
// to be synced. The caller holds s.mu.
func (s *slot) send(list []*appending) bool {
	entries := make([]fabric.NewEntry, len(list))
	for i, a := range list {
		m := a.message
		head, known := s.heads[m.Channel]
		if !known {
			var err error
			if head, err = s.journal.Head(m.Channel); err != nil {
				s.lost(list, err)
				return false
			}
		}
		m.Epoch, m.Seq, m.Prev = s.epoch, head.Seq+1, head.Place
		s.heads[m.Channel] = Head{Seq: m.Seq, Place: s.tail + uint64(i+1)}
		entries[i] = fabric.NewEntry{
			Subject: subject(m.Channel), Payload: m.Append(make([]byte, 0, len(m.Payload)+128)),
			TTL: time.Duration(m.Expire) * time.Second,
		}
	}
	return s.fly(list, entries)
}

// fly sends entries behind the newest one. It returns false when the slot has to be synced. The caller
// holds s.mu.
func (s *slot) fly(list []*appending, entries []fabric.NewEntry) bool {
	f := &flight{list: list, before: s.tail}
	under := &s.singles
	if len(list) > 1 {
		under = &s.batches
	}
	s.tail += uint64(len(entries))
	err := s.log.Send(f.before, entries, func(err error) { s.sent(f, under, err) })
	if err != nil {
		s.lost(list, err)
		return false
	}
	*under++
	s.flights = append(s.flights, f)
	return true
}

// begin sends the entry that names a new epoch. The caller holds s.mu.
func (s *slot) begin() bool {
	s.epoch = rand.Uint64()
	return s.fly(nil, []fabric.NewEntry{{Subject: epochSubject, Payload: encodeEpoch(s.epoch)}})
}

// sent takes the log's answer to a send.
func (s *slot) sent(f *flight, under *int, err error) {
	s.mu.Lock()
	*under--
	f.answered, f.err = true, err
	var settled []*appending
	for len(s.flights) > 0 && s.flights[0].answered {
		first := s.flights[0]
		s.flights[0] = nil
		s.flights = s.flights[1:]
		if first.err != nil || s.syncing {
			s.lost(first.list, first.err)
			continue
		}
		for i, a := range first.list {
			a.stored = true
			if first.before+uint64(i+1) <= s.position && s.repeats[a.key()] == a { // the index was faster
				delete(s.repeats, a.key())
			}
		}
		settled = append(settled, first.list...)
	}
	s.pump()
	s.mu.Unlock()
	for _, a := range settled {
		a.finish(Outcome{ID: a.message.ID, Seq: a.message.Seq})
	}
}
