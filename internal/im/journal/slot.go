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
	// maxFlights is how many entries are under way at a time. Messages that come meanwhile wait and go
	// together as the next one: the more wait, the less each costs.
	maxFlights = 2
	// maxPause bounds the time from one entry to the next while there are few messages.
	maxPause = 10 * time.Millisecond
)

// appending is a message on its way into the log, or messages that are moved there.
type appending struct {
	message *message.Message
	moved   []*message.Message
	done    func(Outcome)
	also    []func(Outcome) // of those who sent the same meanwhile
	order   uint64          // of arrival
	until   time.Time       // when it is too late to send it
	stored  bool            // in the log
	place   uint64          // there, once it was sent
}

// repeatKey is what tells that a sender sends a message again.
type repeatKey struct {
	channel message.Channel
	from    string
	no      string
}

// joins tells whether it may be in one entry with another one.
func (a *appending) joins(other *appending) bool {
	return len(a.moved)+len(other.moved) == 0 && !a.message.IsRemoval() && !other.message.IsRemoval()
}

func (a *appending) key() repeatKey {
	return repeatKey{a.message.Channel, a.message.From, a.message.ClientMsgNo}
}

// flight is one send. They are settled in their order: behind one that was lost, a later one may have
// been stored, at a place that the first should have had, with numbers that do not follow (another
// node that took itself for the owner filled the place). Nobody is told of such.
type flight struct {
	list     []*appending
	place    uint64 // in the log
	begin    time.Time
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
	syncing  bool      // reading to the end of the log before sending
	warned   time.Time // that messages were not stored
	tail     uint64    // number of the newest entry, ours included
	arrived  uint64    // messages, ever
	waiting  []*appending
	failed   []*appending             // sent, and perhaps not stored
	flights  []*flight                // sends that were not settled, in their order
	pace     pace                     // of sends
	flying   int                      // of them those that were not answered
	heads    map[message.Channel]Head // newest messages that the index does not have yet
	repeats  map[repeatKey]*appending // what the index does not have yet

	erased []keyRange            // of the index, to be taken off the disk as well
	moves  map[uint64]*appending // of what is left of entries, by their places

	cleaned uint64 // where the cleaner goes on; its alone

	toClean chan struct{} // has a token when there is something to clean
}

// keyRange is a range of keys of the index, without its end.
type keyRange struct{ from, end []byte }

func newSlot(j *Journal, number int, name string, log fabric.PipeLog, applied uint64) *slot {
	return &slot{
		journal: j, number: number, name: name, log: log, position: applied, moved: make(chan struct{}),
		heads: map[message.Channel]Head{}, repeats: map[repeatKey]*appending{}, toClean: make(chan struct{}, 1), moves: map[uint64]*appending{},
	}
}

func (s *slot) appliedTo() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.position
}

// awaitApplied waits until the index has the entry with that number.
func (s *slot) awaitApplied(ctx context.Context, seq uint64) error {
	return s.await(ctx, func() (bool, error) { return s.appliedTo() >= seq, nil })
}

// await waits until is returns true, which it is asked whenever the index has more.
func (s *slot) await(ctx context.Context, is func() (bool, error)) error {
	for {
		s.mu.Lock()
		moved := s.moved
		s.mu.Unlock()
		if there, err := is(); there || err != nil {
			return err
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
func (s *slot) applied(position uint64, heads map[message.Channel]Head, messages []*message.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.position = position
	close(s.moved)
	s.moved = make(chan struct{})
	for c, head := range heads {
		if s.heads[c].Place == head.Place {
			delete(s.heads, c)
		}
	}
	for _, m := range messages {
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
		s.sync(false)
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
	case m.Size()+entryOverhead > fabric.MaxValueSize:
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
		if n == 0 || n == len(s.waiting) && s.pace.holds(s.pumpLater) { // more may come into it
			return
		}
		list := s.waiting[:n:n]
		s.waiting = s.waiting[n:]
		if !s.send(list) {
			return
		}
	}
}

// pumpLater is pump when the pause is over.
func (s *slot) pumpLater() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pace.over()
	s.pump()
}

// next returns how many of those that wait go as one entry now. The caller holds s.mu.
func (s *slot) next() int {
	if s.flying >= maxFlights {
		return 0
	}
	size := 0
	for i, a := range s.waiting {
		size += lengthSize + a.message.Size()
		if i == maxEntryMessages || i > 0 && (size > maxEntrySize || !a.joins(s.waiting[i-1])) {
			return i
		}
	}
	return len(s.waiting)
}

// send numbers messages and sends them as one entry behind the newest one. It returns false when the
// slot has to be synced. The caller holds s.mu.
func (s *slot) send(list []*appending) bool {
	e := entry{kind: kindMessages, epoch: s.epoch}
	place := s.tail + 1
	for _, a := range list {
		a.place = place
		var err error
		if len(a.moved) > 0 {
			e.kind, e.messages = kindMoved, a.moved
			err = s.move(a.moved, place)
		} else {
			e.messages = append(e.messages, a.message)
			err = s.enumerate(a.message, place)
		}
		if err != nil {
			s.lost(list, err)
			return false
		}
	}
	return s.fly(list, fabric.NewEntry{Subject: messageSubject, Payload: e.encode()})
}

// enumerate gives a message the next number of its channel. The caller holds s.mu.
func (s *slot) enumerate(m *message.Message, place uint64) error {
	if m.IsRemoval() {
		return nil
	}
	head, err := s.head(m.Channel)
	if err != nil {
		return err
	}
	m.Seq, m.Prev = head.Seq+1, head.Place
	s.heads[m.Channel] = Head{Seq: m.Seq, Place: place}
	return nil
}

// move notes that messages will be at another place. The caller holds s.mu.
func (s *slot) move(list []*message.Message, place uint64) error {
	for _, m := range list {
		head, err := s.head(m.Channel)
		if err != nil {
			return err
		}
		if head.Seq == m.Seq {
			s.heads[m.Channel] = Head{Seq: m.Seq, Place: place}
		}
	}
	return nil
}

// head is the newest message of a channel, one that is under way included. The caller holds s.mu.
func (s *slot) head(c message.Channel) (Head, error) {
	if head, known := s.heads[c]; known {
		return head, nil
	}
	return s.journal.Head(c)
}

// fly sends an entry behind the newest one. It returns false when the slot has to be synced. The caller
// holds s.mu.
func (s *slot) fly(list []*appending, e fabric.NewEntry) bool {
	f := &flight{list: list, place: s.tail + 1, begin: time.Now()}
	if err := s.log.Send(s.tail, e, func(err error) { s.sent(f, err) }); err != nil {
		s.lost(list, err)
		return false
	}
	s.pace.sent(f.begin)
	s.tail++
	s.flying++
	s.flights = append(s.flights, f)
	return true
}

// begin sends the entry that names a new epoch. The caller holds s.mu.
func (s *slot) begin() bool {
	s.epoch = rand.Uint64()
	return s.fly(nil, fabric.NewEntry{Subject: epochSubject, Payload: entry{kind: kindEpoch, epoch: s.epoch}.encode()})
}

// sent takes the log's answer to a send.
func (s *slot) sent(f *flight, err error) {
	s.mu.Lock()
	s.flying--
	f.answered, f.err = true, err
	if err == nil {
		s.pace.took(time.Since(f.begin))
	}
	var settled []*appending
	for len(s.flights) > 0 && s.flights[0].answered {
		first := s.flights[0]
		s.flights[0] = nil
		s.flights = s.flights[1:]
		if first.err != nil || s.syncing {
			s.lost(first.list, first.err)
			continue
		}
		for _, a := range first.list {
			a.stored = true
			if first.place <= s.position && s.repeats[a.key()] == a { // the index was faster
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
