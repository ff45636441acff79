package primitives

import (
	"context"
	"errors"
	"sync"
	"time"
)

// outcome is how what was held for a client has ended.
type outcome string

// Outcomes. The first four are asked for by clients, the others come by themselves.
const (
	outcomeDone     outcome = "done"     // the job was done
	outcomeFailed   outcome = "failed"   // the job was not done
	outcomeGivenUp  outcome = "given_up" // the job cannot be done
	outcomeReleased outcome = "released" // the lock, or the job untouched, goes back

	outcomeExpired outcome = "expired" // nobody extended it in time
	outcomeLost    outcome = "lost"    // the store has it no longer, or the node stops
)

// errLost says that what a client holds was not held for it any more.
var errLost = errors.New("it is not held any more: it ran out, was given back or lost, or its node has ended")

// endedMemory is how long the outcome of what has ended is remembered, so that a client who did
// not hear the answer can ask again.
const endedMemory = time.Minute

// endedShare is how many that have ended are remembered at most, for each that may be held.
const endedShare = 4

// holding is one thing that this node holds for a client until a deadline: a job or a lock.
// Whoever made it waits for ended, does what the outcome says and calls settle.
type holding struct {
	id      string
	owner   string               // the kind, namespace and name of the thing
	limit   func() time.Duration // for how long it is certainly held; nil if that depends on nobody else
	ended   chan struct{}        // closed when there is an outcome
	settled chan struct{}        // closed when that is stored

	mu       sync.Mutex // guards the following fields
	deadline time.Time
	timer    *time.Timer // at the deadline
	outcome  outcome     // empty while it is held
	reason   string      // why a job was not done
	err      error       // of storing the outcome
}

// end gives the holding an outcome, unless it has one, and returns the one that it has.
func (h *holding) end(o outcome, reason string) outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.outcome == "" {
		h.outcome, h.reason = o, reason
		if h.timer != nil {
			h.timer.Stop()
		}
		close(h.ended)
	}
	return h.outcome
}

// settle tells that the outcome is stored, or why it may not be. It is called once.
func (h *holding) settle(err error) {
	h.mu.Lock()
	h.err = err
	h.mu.Unlock()
	close(h.settled)
}

// result returns how it has ended.
func (h *holding) result() (outcome, string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.outcome, h.reason
}

// extend has the holding last for length from now on, or as long as it certainly can, and
// returns for how long that is.
func (h *holding) extend(length time.Duration) (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.outcome != "" {
		return 0, errLost
	}
	if h.limit != nil {
		length = min(length, h.limit())
	}
	if length <= 0 {
		return 0, errLost
	}
	h.deadline = time.Now().Add(length)
	if h.timer == nil {
		h.timer = time.AfterFunc(length, h.expire)
	} else {
		h.timer.Reset(length)
	}
	return length, nil
}

// expire ends the holding at its deadline, unless that was moved while the timer went off.
func (h *holding) expire() {
	h.mu.Lock()
	early := time.Until(h.deadline)
	if early > 0 && h.outcome == "" {
		h.timer.Reset(early)
	}
	h.mu.Unlock()
	if early <= 0 {
		h.end(outcomeExpired, "")
	}
}

// holdings is what this node holds for clients, by id, and for a while what it held.
type holdings struct {
	most int // held at a time

	mu    sync.Mutex // guards the following fields
	live  int
	known map[string]*holding
	past  []pastHolding // of known, those that have ended, oldest first
}

// pastHolding is one that has ended, and when.
type pastHolding struct {
	id string
	at time.Time
}

func newHoldings(most int) *holdings { return &holdings{most: most, known: map[string]*holding{}} }

// room tells whether another one can be held.
func (t *holdings) room() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live < t.most
}

// count returns how many are held.
func (t *holdings) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// add begins to hold something, which ends by itself only when it was extended once. It returns
// false when too much is held. The caller calls drop when it has ended.
func (t *holdings) add(id, owner string, limit func() time.Duration) (*holding, bool) {
	h := &holding{id: id, owner: owner, limit: limit, ended: make(chan struct{}), settled: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.live >= t.most {
		return nil, false
	}
	t.live++
	t.known[id] = h
	return h, true
}

// drop makes room: the holding has ended, and is remembered for a while.
func (t *holdings) drop(h *holding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live--
	t.past = append(t.past, pastHolding{h.id, time.Now()})
	old := 0
	for len(t.past)-old > endedShare*t.most || old < len(t.past) && time.Since(t.past[old].at) > endedMemory {
		delete(t.known, t.past[old].id)
		old++
	}
	t.past = t.past[old:]
}

func (t *holdings) find(id, owner string) (*holding, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.known[id]
	if h == nil || h.owner != owner {
		return nil, errLost
	}
	return h, nil
}

// extend has what a client holds last for length from now on, and returns for how long it does.
func (t *holdings) extend(id, owner string, length time.Duration) (time.Duration, error) {
	h, err := t.find(id, owner)
	if err != nil {
		return 0, err
	}
	return h.extend(length)
}

// end ends what a client holds and returns when that is stored. Repeating it does nothing;
// errLost when it has ended otherwise.
func (t *holdings) end(ctx context.Context, id, owner string, o outcome, reason string) error {
	h, err := t.find(id, owner)
	if err != nil {
		return err
	}
	if h.end(o, reason) != o {
		return errLost
	}
	select {
	case <-h.settled:
		return h.err // set before settled was closed
	case <-ctx.Done():
		return ctx.Err()
	}
}
