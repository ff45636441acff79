package im

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/journal"
	"github.com/parleyio/parley/internal/im/message"
)

// Subjects of what goes between nodes; those that end with a dot have the receiver's token behind.
const (
	subjectAppend  = "append."
	subjectAnswer  = "answer."
	subjectAwait   = "await."
	subjectLogin   = "login"
	subjectKick    = "kick"
	subjectPassing = "passing" // messages that are not stored
)

const (
	// sendTimeout bounds the wait of a sender for the answer to a message.
	sendTimeout = 8 * time.Second
	// askTimeout is after how long an owner that does not answer is asked again, or the next one.
	askTimeout = 2 * time.Second
	// relaySweep is between two looks for such, and the pause before a refused message goes again.
	relaySweep = 100 * time.Millisecond
	// awaitTimeout bounds the wait until the other nodes know of a change.
	awaitTimeout = 2 * time.Second
)

// relay takes messages to the owners of their slots, and back what became of them.
type relay struct {
	server        *Server
	out           *outbox
	subscriptions []fabric.Subscription

	mu      sync.Mutex          // guards the following fields
	arrived uint64              // messages, ever
	count   uint64              // questions, ever
	pending map[uint64]*sending // by the number of the question
	again   []*sending          // to be asked again
	stop    chan struct{}
	done    sync.WaitGroup
}

// sending is a message on its way.
type sending struct {
	message *message.Message
	order   uint64 // of arrival
	done    func(journal.Outcome)
	until   time.Time // when the sender is told that it failed
	ask     time.Time // when it is asked again
	node    string    // that it was given to
}

func newRelay(s *Server) (*relay, error) {
	r := &relay{server: s, pending: map[uint64]*sending{}, stop: make(chan struct{})}
	r.out = newOutbox(s.options.Signal, func(records int, err error) {
		s.metrics.lost(dropRelay, records) // they go again
		s.options.Logger.Debug("messages were not handed to another node", "messages", records, "error", err)
	})
	own := fabric.Token(s.options.Node)
	for subject, handle := range map[string]func(fabric.Message){
		subjectAppend + own: r.asked,
		subjectAnswer + own: r.answered,
		subjectAwait + own:  r.awaited,
		subjectLogin:        s.hub.loggedIn,
		subjectKick:         s.hub.kicked,
		subjectPassing:      s.passed,
	} {
		subscription, err := s.options.Signal.Subscribe(subject, handle, fabric.SkipSelf())
		if err != nil {
			return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
		}
		r.subscriptions = append(r.subscriptions, subscription)
	}
	r.done.Go(r.sweepLoop)
	return r, nil
}

func (r *relay) close() {
	for _, subscription := range r.subscriptions {
		_ = subscription.Unsubscribe() // fails only when the signal is closed
	}
	close(r.stop)
	r.done.Wait()
	r.out.close()
}

// send takes a message to its slot's owner. done is called once.
func (r *relay) send(m *message.Message, done func(journal.Outcome)) {
	now := time.Now()
	r.mu.Lock()
	r.arrived++
	one := &sending{message: m, order: r.arrived, done: done, until: now.Add(sendTimeout)}
	r.mu.Unlock()
	r.try(one, now)
}

// try asks the present owner.
func (r *relay) try(one *sending, now time.Time) {
	s := r.server
	node, self := s.options.Owner(s.journal.Slot(one.message.Channel))
	if self {
		s.journal.Append(one.message, func(o journal.Outcome) { r.finish(one, o) })
		return
	}
	if node == "" {
		r.retry(one)
		return
	}
	r.mu.Lock()
	r.count++
	number := r.count
	one.ask, one.node = now.Add(askTimeout), node
	r.pending[number] = one
	r.mu.Unlock()
	r.out.add(subjectAppend+fabric.Token(node), func(dst []byte) []byte {
		dst = binary.BigEndian.AppendUint64(dst, number)
		dst = append(append(dst, byte(len(s.options.Node))), s.options.Node...)
		return one.message.Append(dst)
	})
}

// retry has a message go again a little later.
func (r *relay) retry(one *sending) {
	r.mu.Lock()
	r.again = append(r.again, one)
	r.mu.Unlock()
}

// finish tells the sender, or has the message go again when its slot has another owner now.
func (r *relay) finish(one *sending, o journal.Outcome) {
	if errors.Is(o.Err, journal.ErrNotOwner) && time.Now().Before(one.until) {
		r.retry(one)
		return
	}
	one.done(o)
}

// Codes of an answer.
const (
	answerStored = iota
	answerRepeated
	answerNotOwner
	answerBusy
	answerTooLarge
	answerFailed
)

func answerOf(o journal.Outcome) byte {
	switch {
	case o.Err == nil && o.Repeated:
		return answerRepeated
	case o.Err == nil:
		return answerStored
	case errors.Is(o.Err, journal.ErrNotOwner):
		return answerNotOwner
	case errors.Is(o.Err, journal.ErrBusy):
		return answerBusy
	case errors.Is(o.Err, fabric.ErrTooLarge):
		return answerTooLarge
	}
	return answerFailed
}

// asked takes messages from another node, as the owner of their slots.
func (r *relay) asked(question fabric.Message) {
	if !eachRecord(question.Payload, r.askedOne) {
		r.server.metrics.dropped(dropMalformed)
	}
}

func (r *relay) askedOne(data []byte) bool {
	if len(data) < 9 || len(data) < 9+int(data[8]) {
		return false
	}
	number := binary.BigEndian.Uint64(data)
	subject := subjectAnswer + fabric.Token(string(data[9:9+int(data[8])]))
	m, err := message.Decode(data[9+int(data[8]):])
	if err != nil {
		return false
	}
	r.server.journal.Append(m, func(o journal.Outcome) {
		r.out.add(subject, func(dst []byte) []byte {
			dst = append(binary.BigEndian.AppendUint64(dst, number), answerOf(o))
			return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(dst, uint64(o.ID)), o.Seq)
		})
	})
	return true
}

// answered takes an owner's answers.
func (r *relay) answered(answer fabric.Message) {
	if !eachRecord(answer.Payload, r.answeredOne) {
		r.server.metrics.dropped(dropMalformed)
	}
}

func (r *relay) answeredOne(data []byte) bool {
	if len(data) != 8+1+8+8 {
		return false
	}
	number := binary.BigEndian.Uint64(data)
	r.mu.Lock()
	one := r.pending[number]
	delete(r.pending, number)
	r.mu.Unlock()
	if one == nil {
		return true // it was asked again meanwhile
	}
	o := journal.Outcome{ID: int64(binary.BigEndian.Uint64(data[9:])), Seq: binary.BigEndian.Uint64(data[17:])}
	switch data[8] {
	case answerStored:
	case answerRepeated:
		o.Repeated = true
	case answerNotOwner:
		o.Err = journal.ErrNotOwner
	case answerBusy:
		o.Err = journal.ErrBusy
	case answerTooLarge:
		o.Err = fabric.ErrTooLarge
	default:
		o.Err = fabric.ErrUnavailable
	}
	r.finish(one, o)
	return true
}

// sweepLoop asks again what was not answered, until the sender's time is up.
func (r *relay) sweepLoop() {
	ticker := time.NewTicker(relaySweep)
	defer ticker.Stop()
	for {
		select {
		case <-r.stop:
			r.giveUp()
			return
		case now := <-ticker.C:
			r.sweep(now)
		}
	}
}

func (r *relay) sweep(now time.Time) {
	r.mu.Lock()
	again := r.again
	r.again = nil
	for number, one := range r.pending {
		if now.After(one.ask) || !r.asks(one) {
			delete(r.pending, number)
			again = append(again, one)
		}
	}
	r.mu.Unlock()
	slices.SortFunc(again, func(a, b *sending) int { return cmp.Compare(a.order, b.order) })
	for _, one := range again {
		if now.After(one.until) {
			one.done(journal.Outcome{ID: one.message.ID, Err: fabric.ErrUnavailable})
			continue
		}
		r.try(one, now)
	}
}

// asks tells whether the node that a message was given to is still the owner of its slot.
func (r *relay) asks(one *sending) bool {
	node, self := r.server.options.Owner(r.server.journal.Slot(one.message.Channel))
	return !self && node == one.node
}

// giveUp tells all senders that the node stops.
func (r *relay) giveUp() {
	r.mu.Lock()
	all := r.again
	for _, one := range r.pending {
		all = append(all, one)
	}
	r.again = nil
	clear(r.pending)
	r.mu.Unlock()
	for _, one := range all {
		one.done(journal.Outcome{ID: one.message.ID, Err: fabric.ErrUnavailable})
	}
}

// Spread waits until every other node knows of an entry of the registry, or awaitTimeout is over: a
// node that does not answer is about to be dropped.
func (s *Server) Spread(ctx context.Context, seq uint64) {
	if seq == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, awaitTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, node := range s.options.Nodes() {
		all.Go(func() {
			_, err := s.options.Signal.Request(ctx, subjectAwait+fabric.Token(node), strconv.AppendUint(nil, seq, 10))
			if err != nil {
				s.options.Logger.Debug("a node does not say that it knows of a change", "node", node, "error", err)
			}
		})
	}
	all.Wait()
}

// awaited answers when this node has an entry of the registry.
func (r *relay) awaited(question fabric.Message) {
	seq, err := strconv.ParseUint(string(question.Payload), 10, 64)
	if err != nil {
		r.server.metrics.dropped(dropMalformed)
		return
	}
	respond := func() { _ = r.server.options.Signal.Respond(question, nil) }
	if r.server.registry.Position() >= seq {
		respond()
		return
	}
	r.done.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
		defer cancel()
		if r.server.registry.Await(ctx, seq) == nil {
			respond()
		}
	})
}

// tell publishes what all other nodes are to know.
func (s *Server) tell(subject string, what any) {
	payload, err := json.Marshal(what)
	if err == nil {
		err = s.options.Signal.Publish(context.Background(), subject, payload)
	}
	if err != nil {
		s.metrics.dropped(dropTell)
		s.options.Logger.Warn("the other nodes were not told", "subject", subject, "error", err)
	}
}
