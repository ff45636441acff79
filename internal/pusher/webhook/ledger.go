package webhook

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// LedgerName is the name of the collection of documents given to Join.
const LedgerName = "webhook-ledger"

// Cluster is what the emitters of several nodes share.
type Cluster struct {
	// Ledger says what was reported, see the package comment.
	Ledger fabric.Documents
	// Node is the id of this node, letters, digits and -.
	Node string
	// Reports tells whether this node reports the changes of a channel now: it is the
	// channel's owner, sees a majority and knows what the others have.
	Reports func(appID, channel string) bool
	// Settling tells whether this node has just lost sight of another and cannot tell yet
	// which of them is cut off. Changes wait meanwhile. Nil for never.
	Settling func() bool
	// TakesOver tells whether another node is dead and this one acts for it.
	TakesOver func(node string) bool
	// View numbers this node's views of who lives, from 1. A change that was seen in another view
	// than the present one is reported only if it is still so: it may have been a mistake of this
	// node being cut off. Nil for one view for ever.
	View func() uint64
	// Holds tells whether a channel is occupied as this node sees it or, with a user, whether that
	// is a member. It is called without locks.
	Holds func(appID, channel, userID string) bool
}

// Times of the ledger.
const (
	storeTimeout = 5 * time.Second // of one operation
	getTimeout   = time.Second     // of one try to read: one that met a dead leader is never answered
	closeTimeout = time.Second     // of the last one
	clearAfter   = time.Second     // without a change, the outbox is emptied
	retryMin     = 20 * time.Millisecond
	retryMax     = time.Second
	settlePause  = 50 * time.Millisecond // between two looks whether the view has settled
)

// maxChanges bounds the changes of one commit, which has a write for each and one more.
const maxChanges = 200

// ledger reports the changes of channels that this node owns: each is written to the ledger
// first, in one step with the outbox that has it sent, and not at all if the ledger says so
// already. So a change is reported once, whoever thinks that it is the owner.
type ledger struct {
	*Emitter
	Cluster

	facts     atomic.Pointer[facts]
	behind    atomic.Bool // a comparison is wanted
	following atomic.Bool // the watch has told what there was and tells what changes

	wake  chan struct{} // of size 1: there is news for the loop
	again chan struct{} // of size 1: the watch is to begin anew
	heard chan struct{} // of size 1: the watch has come to this node's outbox
	known chan struct{} // closed when the watch has told what there is
	once  sync.Once     // of closing it

	// Guarded by Emitter.mu.
	queue     []change        // in order
	takeOvers bool            // look for outboxes of dead nodes
	marks     []chan<- uint64 // who wants a new revision of the outbox, see CatchUp
	ended     bool            // the loop has

	outboxMu sync.Mutex
	outboxes map[string]struct{} // nodes that have one, guarded by outboxMu

	// Of the loop.
	revision uint64 // of this node's outbox, 0 when it is not known
	full     bool   // the outbox has changes
	unsent   bool   // and not all of them are in the queue
}

// change is what is to be reported, or who waits for what was before.
type change struct {
	fact
	event   Event
	view    uint64        // in which it was seen, 0 for before the present one
	due     time.Time     // when it is committed although there are few
	flushed chan struct{} // closed when it is reached; then it is no change
}

// bytes is about what a change takes in memory.
func (c change) bytes() int { return len(c.channel) + len(c.userID) + 128 }

// Join has the changes of channels go through a ledger that several nodes share. It must be
// called before Run and before the first event.
func (e *Emitter) Join(c Cluster) {
	e.ledger = &ledger{
		Emitter: e, Cluster: c,
		wake: make(chan struct{}, 1), known: make(chan struct{}),
		again: make(chan struct{}, 1), heard: make(chan struct{}, 1),
		outboxes: make(map[string]struct{}),
	}
	e.ledger.facts.Store(newFacts())
}

// change takes a change of a channel from Emit.
func (e *Emitter) change(appID string, event Event) {
	about, l := event.about(appID), e.ledger
	// A fact is followed while some hook wants its begin or its end; one that is in the
	// ledger ends there in any case.
	app, found := e.apps.ByID(appID)
	wanted := found && (len(wantedBy(app, event.name, event.channel)) > 0 ||
		len(wantedBy(app, event.opposite(), event.channel)) > 0)
	if !wanted && !(event.leaves() && l.facts.Load().revision(about) > 0) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.takeDueLeaves(now)
	if event.leaves() && !e.stopped && e.leaves.hold(about, event, now) {
		e.signal()
		return
	}
	if !event.leaves() {
		// The return may be no news; the ledger knows.
		e.leaves.cancel(about)
		e.found.cancel(about)
	}
	l.add(about, event, l.view())
}

// view numbers the present view.
func (l *ledger) view() uint64 {
	if l.View == nil {
		return 0
	}
	return l.View()
}

// stale tells whether a change that was seen in an earlier view is not so any more.
func (l *ledger) stale(c change) bool {
	if l.View == nil || c.view == l.View() {
		return false
	}
	return l.Holds(c.appID, c.channel, c.userID) == c.event.leaves()
}

// Observe takes note of an event that another node reports: the return of somebody whose
// leave this node holds back, from when it was the one to report.
func (e *Emitter) Observe(appID string, event Event) {
	if e.ledger == nil || event.leaves() || event.opposite() == "" {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	about := event.about(appID)
	e.leaves.cancel(about)
	e.found.cancel(about)
}

// add queues a change for the loop that was seen in a view. Emitter.mu is held.
func (l *ledger) add(about fact, event Event, view uint64) {
	c := change{fact: about, event: event, view: view, due: time.Now().Add(l.options.BatchInterval)}
	switch {
	case l.ended:
		return // the next comparison finds it, on this or another node
	case l.pending >= l.options.MaxPending || l.pendingBytes+c.bytes() > l.options.MaxPendingBytes:
		l.metrics.Dropped(DropPendingFull, 1)
		l.behind.Store(true)
		return
	}
	l.pending++
	l.pendingBytes += c.bytes()
	l.queue = append(l.queue, c)
	if len(l.queue) == 1 || len(l.queue) == maxChanges {
		l.nudge()
	}
}

func (l *ledger) nudge() { token(l.wake) }

// token puts one into a channel of size 1, unless there is one.
func token(into chan<- struct{}) {
	select {
	case into <- struct{}{}:
	default:
	}
}

// flush returns a channel that is closed when everything that is queued now was dealt with.
// Emitter.mu is held.
func (l *ledger) flush() <-chan struct{} {
	done := make(chan struct{})
	if l.ended {
		close(done)
		return done
	}
	l.queue = append(l.queue, change{flushed: done})
	l.nudge()
	return done
}

// run follows the ledger and reports until ctx ends.
func (l *ledger) run(ctx context.Context) {
	var following sync.WaitGroup
	following.Go(func() { l.follow(ctx) })
	defer following.Wait()
	defer l.end()
	select {
	case <-l.known:
	case <-ctx.Done():
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if l.Settling != nil && l.Settling() {
			select {
			case <-time.After(settlePause):
			case <-ctx.Done():
			}
			continue
		}
		// Before the next batch: while commits are slower than changes come, one is always due.
		if l.wantsTakeOver() {
			l.takeOver(ctx)
		}
		if marks := l.wantedMarks(); len(marks) > 0 {
			l.giveMarks(ctx, marks)
		}
		batch, wait := l.take(time.Now())
		if len(batch) > 0 {
			l.report(ctx, batch)
			l.release(batch)
			continue
		}
		l.rest(ctx, timer, wait)
	}
}

// rest waits for news, or for as long as given: 0 says that nothing is queued. Meanwhile it
// opens the outbox, or empties it.
func (l *ledger) rest(ctx context.Context, timer *time.Timer, wait time.Duration) {
	var expired <-chan time.Time
	quiet := wait == 0
	if quiet && l.revision == 0 {
		if err := l.open(ctx); err != nil {
			l.log.Debug("webhook outbox not opened", "error", err)
			wait = retryMax
		}
	}
	if quiet && l.full {
		wait = clearAfter
	}
	if wait > 0 {
		timer.Reset(wait)
		expired = timer.C
	}
	select {
	case <-ctx.Done():
	case <-l.wake:
	case <-expired:
		if quiet && l.full && !l.unsent && l.revision > 0 {
			l.clear(ctx)
		}
	}
}

// end gives back what is queued. It is not lost: the next comparison finds it.
func (l *ledger) end() {
	l.mu.Lock()
	l.ended = true
	for _, c := range l.queue {
		if c.flushed != nil {
			close(c.flushed)
			continue
		}
		l.pending--
		l.pendingBytes -= c.bytes()
	}
	l.queue = nil
	for _, mark := range l.marks {
		mark <- 0
	}
	l.marks = nil
	l.mu.Unlock()
	l.close()
}

// TakeOver has the outboxes of nodes that died looked for.
func (e *Emitter) TakeOver() {
	if e.ledger == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ledger.takeOvers = true
	e.ledger.nudge()
}

func (l *ledger) wantsTakeOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := l.takeOvers
	l.takeOvers = false
	return wanted
}

// take removes from the queue what one commit may carry and is due: no fact twice. Without
// any it returns how long to wait, 0 when nothing is queued.
func (l *ledger) take(now time.Time) (batch []change, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := make(map[fact]struct{})
	size, taken, flushing := 0, 0, false
	for _, c := range l.queue {
		if c.flushed != nil {
			flushing = true
			break
		}
		_, twice := seen[c.fact]
		if size += c.bytes(); twice || len(seen) == maxChanges || size > softBodyBytes {
			flushing = true // no use to wait for more
			break
		}
		seen[c.fact] = struct{}{}
		taken++
	}
	switch {
	case len(l.queue) == 0:
		return nil, 0
	case taken == 0:
		close(l.queue[0].flushed)
		l.queue = l.queue[1:]
		return nil, time.Nanosecond
	case !flushing && l.queue[0].due.After(now):
		return nil, l.queue[0].due.Sub(now)
	}
	batch = slices.Clone(l.queue[:taken])
	if l.queue = l.queue[taken:]; len(l.queue) == 0 {
		l.queue = nil // the array is not kept
	}
	return batch, 0
}

// release forgets changes that were dealt with.
func (l *ledger) release(batch []change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range batch {
		l.pending--
		l.pendingBytes -= c.bytes()
	}
}

// report commits what is news to the ledger and has it sent.
func (l *ledger) report(ctx context.Context, batch []change) {
	var read map[fact]uint64 // the truth after a failure, where the watch may lag behind
	deadline := time.Now().Add(l.options.EnqueueTimeout)
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := l.tryReport(ctx, batch, read)
		if err == nil || ctx.Err() != nil {
			return
		}
		l.revision = 0 // the outbox may have changed, or be about to
		if errors.Is(err, fabric.ErrConflict) {
			l.metrics.Ledger(LedgerConflict, len(batch))
		}
		if time.Now().After(deadline) {
			l.metrics.Dropped(DropLedgerFailed, len(batch))
			l.log.Error("webhook ledger takes nothing, the next comparison will tell", "events", len(batch), "error", err)
			l.behind.Store(true)
			return
		}
		l.log.Debug("webhook ledger tried again", "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		read = l.read(ctx, batch)
	}
}

// tryReport makes one try. An error says that it is unknown what became of it.
func (l *ledger) tryReport(parent context.Context, batch []change, read map[fact]uint64) error {
	if !slices.ContainsFunc(batch, func(c change) bool { return l.Reports(c.appID, c.channel) }) {
		l.metrics.Ledger(LedgerPassed, len(batch))
		return nil
	}
	if l.revision == 0 {
		if err := l.open(parent); err != nil {
			return err
		}
	}
	news := l.news(batch, read)
	if len(news.box.Changes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(parent, storeTimeout)
	defer cancel()
	facts := l.facts.Load()
	facts.write(slices.Collect(maps.Keys(news.facts))...)
	defer facts.write()
	last := len(news.writes)
	revisions, err := l.Ledger.Commit(ctx, append(news.writes, fabric.Write{
		Key: l.outboxKey(), Value: encodeJSON(news.box), Revision: l.revision,
	}))
	if err != nil {
		return err
	}
	for i, w := range news.writes {
		if w.Value == nil {
			facts.drop(w.Key, revisions[i], true)
		} else {
			facts.put(w.Key, news.facts[w.Key], revisions[i])
		}
	}
	l.revision, l.full = revisions[last], true
	l.metrics.Ledger(LedgerReported, len(news.box.Changes))
	l.log.Debug("webhook changes reported", "changes", len(news.box.Changes), "outbox", news.box.ID)
	l.unsent = !l.send(parent, news.box)
	return nil
}

// news is the part of a batch that is to be reported.
type news struct {
	box    outbox
	writes []fabric.Write
	facts  map[string]fact // by their keys
}

func (l *ledger) news(batch []change, read map[fact]uint64) news {
	n := news{box: outbox{ID: rand.Text(), TimeMS: time.Now().UnixMilli()}, facts: make(map[string]fact, len(batch))}
	known, passed, stale := 0, 0, 0
	for _, c := range batch {
		revision, isRead := read[c.fact]
		if !isRead {
			revision = l.facts.Load().revision(c.fact)
		}
		comes := !c.event.leaves()
		switch {
		case !l.Reports(c.appID, c.channel):
			passed++
			continue
		case l.stale(c):
			stale++
			continue
		case comes == (revision > 0):
			known++
			continue
		}
		w := fabric.Write{Key: c.key(), Revision: revision}
		if comes {
			w.Value = c.encode()
		}
		n.writes = append(n.writes, w)
		n.facts[w.Key] = c.fact
		n.box.Changes = append(n.box.Changes, record{c.appID, c.event.name, c.channel, c.userID})
	}
	if known > 0 {
		l.metrics.Ledger(LedgerKnown, known)
	}
	if passed > 0 {
		l.metrics.Ledger(LedgerPassed, passed)
	}
	if stale > 0 {
		l.metrics.Ledger(LedgerStale, stale)
	}
	return n
}
