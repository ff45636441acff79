package journal

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

// elsewhere is a log that is led by another node until it is told otherwise. It counts what an old
// leader would have left without an answer.
type elsewhere struct {
	fabric.PipeLog
	led      atomic.Bool
	underWay atomic.Int64
	lost     atomic.Int64
	moves    atomic.Int64
}

func (e *elsewhere) Led(context.Context) (bool, error) { return e.led.Load(), nil }

func (e *elsewhere) Lead(context.Context) error {
	e.lost.Add(e.underWay.Load())
	e.moves.Add(1)
	e.led.Store(true)
	return nil
}

func (e *elsewhere) Send(last uint64, entry fabric.NewEntry, done func(error)) error {
	e.underWay.Add(1)
	return e.PipeLog.Send(last, entry, func(err error) {
		e.underWay.Add(-1)
		done(err)
	})
}

// The lead of a log moves while messages are sent: nothing is under way then, and no message is late.
func TestLeadMoves(t *testing.T) {
	n := startOver(t, memory.New(), t.TempDir(), func(_ *node, log fabric.PipeLog) fabric.PipeLog {
		return &elsewhere{PipeLog: log}
	})
	s := n.slots[n.Slot(group)]
	log := s.log.(*elsewhere)
	s.look(t.Context())
	if log.moves.Load() != 0 {
		t.Error("a node that does not own the slot leads its log")
	}
	n.Own(all)
	var sending sync.WaitGroup
	for sender := range 4 {
		sending.Go(func() {
			for i := range 100 {
				if o := n.send(group, "a", fmt.Sprint(sender, "-", i)); o.Err != nil {
					t.Errorf("message %d of %d: %v", i, sender, o.Err)
				}
			}
		})
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		sending.Wait()
	}()
	for under := true; under; {
		s.mu.Lock()
		moved := s.moved
		s.mu.Unlock()
		select {
		case <-moved: // messages are on their way
			log.led.Store(false)
			s.look(t.Context())
		case <-sent:
			under = false
		}
	}
	if log.moves.Load() == 0 || log.lost.Load() != 0 {
		t.Errorf("%d moves, with %d entries under way", log.moves.Load(), log.lost.Load())
	}
	n.catchUp()
	if got := n.read(group, Range{Limit: 1000}); len(got) != 400 || got[399].Seq != 400 {
		t.Errorf("%d messages", len(got))
	}
}
