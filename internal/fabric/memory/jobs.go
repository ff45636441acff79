package memory

import (
	"container/heap"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// entry is a job with what the queue must remember about it.
type entry struct {
	job          fabric.Job
	order        uint64    // of Enqueue
	readyAt      time.Time // when the next attempt may start
	failures     int
	firstAttempt time.Time // zero before it
}

// jobs is the state that all handles of one queue share.
type jobs struct {
	mu      sync.Mutex // guards the following fields
	order   uint64
	present map[string]*entry // by ID: those that wait and those being worked on
	waiting entryHeap
	dead    []fabric.DeadLetter // oldest first
	recent  map[string]struct{} // IDs enqueued within the window
	recency []sighting          // the same, oldest first
	changed chan struct{}       // closed and replaced whenever a worker may have to look again
}

// sighting is one ID that the queue remembers, and since when.
type sighting struct {
	id string
	at time.Time
}

func newJobs() *jobs {
	return &jobs{
		present: map[string]*entry{},
		recent:  map[string]struct{}{},
		changed: make(chan struct{}),
	}
}

// add stores a job unless its ID is known. The caller holds j.mu.
func (j *jobs) add(job fabric.Job, limit int) error {
	if j.present[job.ID] != nil {
		return nil
	}
	if len(j.present) >= limit {
		return fabric.ErrFull
	}
	j.order++
	e := &entry{job: job, order: j.order, readyAt: time.Now()}
	if job.NotBefore.After(e.readyAt) {
		e.readyAt = job.NotBefore
	}
	j.present[job.ID] = e
	j.wait(e)
	return nil
}

// wait puts an entry among the waiting ones. The caller holds j.mu.
func (j *jobs) wait(e *entry) {
	heap.Push(&j.waiting, e)
	close(j.changed)
	j.changed = make(chan struct{})
}

// seen says whether id was enqueued within the window. The caller holds j.mu.
func (j *jobs) seen(id string) bool {
	limit := time.Now().Add(-fabric.DedupWindow)
	for len(j.recency) > 0 && !j.recency[0].at.After(limit) {
		delete(j.recent, j.recency[0].id)
		j.recency = j.recency[1:]
	}
	_, ok := j.recent[id]
	return ok
}

// remember has seen(id) return true for the window. The caller holds j.mu.
func (j *jobs) remember(id string) {
	j.recent[id] = struct{}{}
	j.recency = append(j.recency, sighting{id: id, at: time.Now()})
}

// take returns an entry whose time has come. Otherwise it returns how long until the next
// one (negative: none waits) and a channel that is closed when that may be otherwise.
func (j *jobs) take() (*entry, time.Duration, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.waiting) == 0 {
		return nil, -1, j.changed
	}
	if wait := time.Until(j.waiting[0].readyAt); wait > 0 {
		return nil, wait, j.changed
	}
	return heap.Pop(&j.waiting).(*entry), 0, nil
}

// putBack has an entry wait again until readyAt.
func (j *jobs) putBack(e *entry, readyAt time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.readyAt = readyAt
	j.wait(e)
}

// done forgets an entry.
func (j *jobs) done(e *entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.present, e.job.ID)
}

// bury moves an entry to the dead letters, of which it keeps limit, and returns how many it
// pushed out.
func (j *jobs) bury(e *entry, reason string, limit int) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.present, e.job.ID)
	if i := j.deadIndex(e.job.ID); i >= 0 {
		j.dead = slices.Delete(j.dead, i, i+1)
	}
	job := e.job
	job.Attempt = e.failures
	j.dead = append(j.dead, fabric.DeadLetter{Job: job, Reason: reason, FailedAt: time.Now()})
	over := max(0, len(j.dead)-limit)
	j.dead = slices.Delete(j.dead, 0, over)
	return over
}

// deadIndex returns the place of the dead letter with id, or -1. The caller holds j.mu.
func (j *jobs) deadIndex(id string) int {
	return slices.IndexFunc(j.dead, func(letter fabric.DeadLetter) bool { return letter.ID == id })
}

// entryHeap orders entries by the time of their next attempt, then by Enqueue.
type entryHeap []*entry

func (h entryHeap) Len() int      { return len(h) }
func (h entryHeap) Swap(a, b int) { h[a], h[b] = h[b], h[a] }
func (h entryHeap) Less(a, b int) bool {
	if c := h[a].readyAt.Compare(h[b].readyAt); c != 0 {
		return c < 0
	}
	return h[a].order < h[b].order
}

// Push implements heap.Interface.
func (h *entryHeap) Push(e any) { *h = append(*h, e.(*entry)) }

// Pop implements heap.Interface.
func (h *entryHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
