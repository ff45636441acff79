package webhook

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// follow keeps the facts as the ledger has them, until ctx ends.
func (l *ledger) follow(ctx context.Context) {
	for ctx.Err() == nil {
		err := l.followOnce(ctx)
		if ctx.Err() != nil || err == nil {
			continue
		}
		l.log.Warn("webhook ledger not followed", "error", err)
		select {
		case <-time.After(retryMax):
		case <-ctx.Done():
		}
	}
}

// followOnce follows the ledger until the watch breaks, or is to begin anew.
func (l *ledger) followOnce(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	var stopping sync.WaitGroup
	stopping.Go(func() {
		select {
		case <-l.again:
			cancel()
		case <-ctx.Done():
		}
	})
	defer stopping.Wait()
	defer cancel()
	facts, ready := newFacts(), false
	defer l.following.Store(false)
	return l.Ledger.Watch(ctx, func(c fabric.Change) {
		if l.told(facts, c) && ready {
			l.behind.Store(true)
		}
		if ready && c.Key == l.outboxKey() {
			token(l.heard)
		}
	}, func() {
		l.facts.Store(facts)
		ready = true
		l.following.Store(true)
		l.once.Do(func() { close(l.known) })
		l.behind.Store(true)
		token(l.heard)
	})
}

// catchUpTime is how long a watch may take to tell what was just written. One that takes
// longer hangs, as it may after a cut, and begins anew.
const catchUpTime = time.Second

// CatchUp returns true when this node knows everything that was in the ledger at the time of
// the call: it writes something and waits until the watch tells it. It returns false if the
// store does not answer or ctx ends. One call at a time.
func (e *Emitter) CatchUp(ctx context.Context) bool {
	l := e.ledger
	if l == nil {
		return false
	}
	mark := make(chan uint64, 1)
	e.mu.Lock()
	if l.ended {
		e.mu.Unlock()
		return false
	}
	l.marks = append(l.marks, mark)
	l.nudge()
	e.mu.Unlock()
	var revision uint64
	select {
	case revision = <-mark:
	case <-ctx.Done():
	}
	if revision == 0 {
		return false
	}
	late := time.After(catchUpTime)
	for !l.facts.Load().passed(revision) {
		select {
		case <-l.heard:
		case <-late:
			if l.following.Load() { // one that has just begun is left to read what there is
				l.log.Warn("webhook ledger is followed anew, the watch hangs")
				token(l.again)
			}
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (l *ledger) wantedMarks() []chan<- uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := l.marks
	l.marks = nil
	return wanted
}

// giveMarks writes the outbox, which is empty or in the queue, and tells its new revision, or
// 0 if that failed.
func (l *ledger) giveMarks(ctx context.Context, marks []chan<- uint64) {
	if l.revision == 0 {
		if err := l.open(ctx); err != nil {
			l.log.Debug("webhook outbox not opened", "error", err)
		}
	}
	if l.revision > 0 && !l.unsent {
		l.clear(ctx)
	}
	for _, mark := range marks {
		mark <- l.revision
	}
}

// readAtOnce bounds the documents that are read at once after a failure.
const readAtOnce = 16

// read asks the store for the revisions of a batch's facts; what cannot be read is left out.
func (l *ledger) read(parent context.Context, batch []change) map[fact]uint64 {
	ctx, cancel := context.WithTimeout(parent, storeTimeout)
	defer cancel()
	var mu sync.Mutex
	var reading sync.WaitGroup
	found, slots := make(map[fact]uint64, len(batch)), make(chan struct{}, readAtOnce)
	for _, c := range batch {
		slots <- struct{}{}
		reading.Go(func() {
			defer func() { <-slots }()
			document, err := l.get(ctx, c.key())
			if err != nil && !errors.Is(err, fabric.ErrNotFound) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found[c.fact] = document.Revision // 0 if there is none
		})
	}
	reading.Wait()
	return found
}

// get reads a document, with as many tries as ctx lasts.
func (l *ledger) get(ctx context.Context, key string) (fabric.Document, error) {
	for {
		trying, done := context.WithTimeout(ctx, getTimeout)
		document, err := l.Ledger.Get(trying, key)
		done()
		if err == nil || errors.Is(err, fabric.ErrNotFound) || errors.Is(err, fabric.ErrClosed) {
			return document, err
		}
		select {
		case <-time.After(retryMin):
		case <-ctx.Done():
			return document, err
		}
	}
}

// others returns the nodes besides this one that have an outbox.
func (l *ledger) others() []string {
	l.outboxMu.Lock()
	defer l.outboxMu.Unlock()
	return slices.Sorted(maps.Keys(l.outboxes))
}

// forget notes that a node has no outbox any more.
func (l *ledger) forget(node string) {
	l.outboxMu.Lock()
	defer l.outboxMu.Unlock()
	delete(l.outboxes, node)
}

// told takes a change of the ledger from the watch. It tells whether it came from another
// node and is about something that this node reports: then both may have missed something.
func (l *ledger) told(facts *facts, c fabric.Change) bool {
	if c.Key == l.outboxKey() {
		facts.pass(c.Revision)
		return false
	}
	if node, is := strings.CutPrefix(c.Key, outboxPrefix); is {
		l.outboxMu.Lock()
		defer l.outboxMu.Unlock()
		if c.Deleted {
			delete(l.outboxes, node)
		} else {
			l.outboxes[node] = struct{}{}
		}
		return false
	}
	if !isFact(c.Key) {
		return false
	}
	if c.Deleted {
		about, isNews := facts.drop(c.Key, c.Revision, false)
		return isNews && l.Reports(about.appID, about.channel)
	}
	about, err := decodeFact(c.Value)
	if err != nil {
		l.log.Error("webhook ledger", "key", c.Key, "error", err)
		return false
	}
	return facts.put(c.Key, about, c.Revision) && l.Reports(about.appID, about.channel)
}
