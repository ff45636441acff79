package primitives

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// One follower of the log serves all subscribers of a node: what it hears is kept for a moment,
// and each subscriber reads on from its own position, there as long as it keeps up and in the log
// otherwise. So a subscriber has no buffer, costs the cluster nothing, and one that is slow holds
// up nobody.
const (
	// tailMessages and tailBytes bound what is kept of the newest signals.
	tailMessages = 4096
	tailBytes    = 8 << 20
	// tailLinger is how long the log is followed after the last subscriber went.
	tailLinger = 10 * time.Second
	// tailPage is how many signals a subscriber takes at a time.
	tailPage = 16
	// catchingUp is how many subscribers of a node read from the log at a time.
	catchingUp = 16
)

// tail is the newest part of the log of signals.
type tail struct {
	server *Server
	log    fabric.Log
	replay *fabric.Replay // reads
	slots  chan struct{}  // holds a token for each subscriber that reads from the log

	mu        sync.Mutex // guards the following fields
	users     int
	following bool // a goroutine follows the log
	stop      context.CancelFunc
	idle      *time.Timer
	current   bool          // the log is being followed, and what follows is right
	from      uint64        // all that was heard behind this position is in kept
	kept      []fabric.Kept // in order
	bytes     int
	changed   chan struct{} // closed and replaced when one of the above changes
}

func newTail(s *Server, log fabric.Log) (*tail, error) {
	replay, err := fabric.NewReplay(log, s.instance())
	if err != nil {
		return nil, err
	}
	return &tail{
		server: s, log: log, replay: replay, slots: make(chan struct{}, catchingUp), changed: make(chan struct{}),
	}, nil
}

// join has the log followed until leave.
func (t *tail) join() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.users++
	if t.idle != nil {
		t.idle.Stop()
	}
	if !t.following {
		t.following = t.server.goes(t.follow)
	}
}

func (t *tail) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users > 0 {
		return
	}
	if t.idle == nil {
		t.idle = time.AfterFunc(tailLinger, t.rest)
	} else {
		t.idle.Reset(tailLinger)
	}
}

// rest stops following if still nobody needs it.
func (t *tail) rest() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users == 0 && t.stop != nil {
		t.stop()
	}
}

// follow hears the log while somebody needs it.
func (t *tail) follow() {
	for {
		ctx, stop := context.WithCancel(t.server.life)
		t.mu.Lock()
		t.stop = stop
		t.mu.Unlock()
		err := t.hear(ctx)
		if err != nil && ctx.Err() == nil {
			t.server.log.Warn("signals cannot be followed, trying again", "error", err)
			_ = pause(ctx, rewatchMax/2) // it ended, or it is time
		}
		stop()
		t.mu.Lock()
		t.current, t.kept, t.bytes, t.stop = false, nil, 0, nil
		done := t.users == 0 || t.server.life.Err() != nil
		t.following = !done
		t.mu.Unlock()
		if done {
			return
		}
	}
}

// hear keeps what comes from now on, until ctx ends.
func (t *tail) hear(ctx context.Context) error {
	position, err := t.replay.Position(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	t.current, t.from = true, position
	t.tell()
	t.mu.Unlock()
	return t.replay.Subscribe(ctx, ">", position, t.keep, nil)
}

// keep adds a signal.
func (t *tail) keep(m fabric.Kept) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, m)
	t.bytes += len(m.Payload)
	if len(t.kept) > tailMessages || t.bytes > tailBytes {
		drop := 0 // a quarter, so that it does not come to this with each signal
		for len(t.kept)-drop > tailMessages*3/4 || t.bytes > tailBytes*3/4 {
			t.bytes -= len(t.kept[drop].Payload)
			t.from = t.kept[drop].Position
			drop++
		}
		t.kept = slices.Delete(t.kept, 0, drop)
	}
	t.tell()
}

// tell wakes those who wait for more. The caller holds t.mu.
func (t *tail) tell() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// view is what a subscriber gets of the tail.
type view struct {
	messages []fabric.Kept
	next     uint64          // the position up to which there is nothing more for it
	covered  bool            // false when it must read in the log first
	from     uint64          // from here on it need not
	changed  <-chan struct{} // closed when there may be more
}

// behind returns what fits behind a position, up to a page.
func (t *tail) behind(position uint64, fits func(subject string) bool) view {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := view{next: position, from: t.from, changed: t.changed}
	if v.covered = t.current && position >= t.from; !v.covered {
		return v
	}
	first := sort.Search(len(t.kept), func(i int) bool { return t.kept[i].Position > position })
	for _, m := range t.kept[first:] {
		v.next = m.Position
		if fits(m.Subject) {
			if v.messages = append(v.messages, m); len(v.messages) == tailPage {
				return v
			}
		}
	}
	return v
}
