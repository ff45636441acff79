package primitives

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// batchLinger is how long a client who gets some jobs waits for the next one of the batch.
	batchLinger = 10 * time.Millisecond
	// minJobWait is the least time in which a client is looked a job for: the store must be
	// asked, on another node perhaps.
	minJobWait = 200 * time.Millisecond
	// workLinger is how long a node is ready to take jobs after the last client was there.
	workLinger = 10 * time.Second
)

// What a node may be unable to hold is counted under these reasons.
const (
	dropJobExpired  = "primitives_job_expired"  // a client did not settle a job in time
	dropLockExpired = "primitives_lock_expired" // a client neither extended nor released a lock
	dropLockLost    = "primitives_lock_lost"    // a lock could not be kept for a client
)

// errJobExpired is why a job has failed whose client neither settled nor extended it.
var errJobExpired = failure{reason: "the lease ran out"}

// failure is why a job was not done, as its client says. A dead letter shows the reason alone.
type failure struct {
	reason  string
	givenUp bool // no retry can mend it
}

// Error implements error.
func (f failure) Error() string { return f.reason }

// Is has a failure be a fabric.ErrGiveUp when it is one.
func (f failure) Is(target error) bool { return f.givenUp && target == fabric.ErrGiveUp }

// leasedJob is a job on lease to a client.
type leasedJob struct {
	fabric.Job
	lease  string
	length time.Duration
	number int64 // grows in the order in which jobs were taken
}

// waiter is a client who waits for jobs.
type waiter struct {
	most   int
	length time.Duration  // of each lease
	got    chan leasedJob // has room for most
	given  int            // jobs that it got or that are meant for it; guarded by worker.mu
	gone   bool           // it waits no longer; guarded by worker.mu
}

// meant says for which client a job was taken whose handler has not been called yet.
type meant struct {
	waiter *waiter
	number int64
}

// worker has one queue open on this node and takes jobs for the clients who ask this node. A
// job is on lease while the handler of the queue's driver runs: that waits for what the client
// says. So the driver keeps the job from others for as long, and has it back when the node dies.
// No job is taken while nobody waits for one.
type worker struct {
	server *Server
	owner  string // of what it holds
	record queueRecord
	queue  *part[fabric.Queue]
	wake   chan struct{} // holds one token when somebody began to wait

	mu       sync.Mutex // guards the following fields
	waiters  []*waiter  // those who are to get more jobs, in the order in which they came
	leased   int
	working  bool                     // a goroutine is in work
	stopWork context.CancelFunc       // of the Work call that runs, if one does
	idle     *time.Timer              // runs while nobody waits and nothing is leased
	retired  chan struct{}            // closed when the queue is gone or is another now
	taken    int64                    // jobs
	meant    map[attemptID][]*meant   // jobs that were taken
	settling map[attemptID][]*holding // what is being stored; nil for no client's
}

// attemptID is by what the driver tells of an attempt.
type attemptID struct {
	id      string
	attempt int
}

func newWorker(s *Server, name queueName, record queueRecord) *worker {
	w := &worker{
		server: s, owner: ownerOf(kindQueue, name.namespace, name.name), record: record,
		wake: make(chan struct{}, 1), retired: make(chan struct{}),
		meant: map[attemptID][]*meant{}, settling: map[attemptID][]*holding{},
	}
	w.queue = newPart("the queue", func(ctx context.Context) (fabric.Queue, error) {
		config := record.config(record.stream(name))
		config.Idle, config.Wake, config.Taken, config.Settled = w.wanted, w.wake, w.take, w.settled
		return s.fabric.Queue(ctx, config)
	})
	return w
}

// wanted tells whether a job is to be taken.
func (w *worker) wanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiters) > 0 && w.server.held.room()
}

// lease returns up to most jobs for a client, each on lease for length, in the order in which they
// were taken. It waits for the first one until wait is over or the client gone; none is no error.
func (w *worker) lease(ctx context.Context, most int, length, wait time.Duration) []leasedJob {
	c := &waiter{most: most, length: length, got: make(chan leasedJob, most)}
	w.join(c)
	var jobs []leasedJob
	timer := time.NewTimer(max(wait, minJobWait))
	defer timer.Stop()
	for waiting := true; waiting && len(jobs) < most; {
		select {
		case job := <-c.got:
			jobs = append(jobs, job)
			timer.Reset(batchLinger)
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		case <-w.retired:
			waiting = false
		case <-w.server.staying.Done():
			waiting = false
		}
	}
	w.leave(c)
	for {
		select {
		case job := <-c.got: // given while leaving
			jobs = append(jobs, job)
			continue
		default:
		}
		break
	}
	if ctx.Err() == nil {
		slices.SortFunc(jobs, func(a, b leasedJob) int { return cmp.Compare(a.number, b.number) })
		return jobs
	}
	for _, job := range jobs { // nobody is there to get them
		if h, err := w.server.held.find(job.lease, w.owner); err == nil {
			h.end(outcomeReleased, "")
		}
	}
	return nil
}

// join has a client wait, and the node look for jobs.
func (w *worker) join(c *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiters = append(w.waiters, c)
	if w.idle != nil {
		w.idle.Stop()
	}
	if !w.working {
		w.working = w.server.goes(w.work)
	}
	w.look()
}

// look has the driver ask again whether a job is wanted.
func (w *worker) look() {
	select {
	case w.wake <- struct{}{}:
	default: // there is one
	}
}

// leave has a client get no more jobs.
func (w *worker) leave(c *waiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.gone = true
	w.remove(c)
	w.rest()
}

// remove takes a client out of those who wait. The caller holds w.mu.
func (w *worker) remove(c *waiter) {
	for i, other := range w.waiters {
		if other == c {
			w.waiters = append(w.waiters[:i:i], w.waiters[i+1:]...)
			return
		}
	}
}

// rest has the node stop looking for jobs soon, if nobody waits and nothing is leased. The
// caller holds w.mu.
func (w *worker) rest() {
	if len(w.waiters) > 0 || w.leased > 0 || w.stopWork == nil {
		return
	}
	linger := workLinger
	select {
	case <-w.retired:
		linger = 0
	default:
	}
	if w.idle == nil {
		w.idle = time.AfterFunc(linger, w.stop)
	} else {
		w.idle.Reset(linger)
	}
}

// stop ends the Work call if still nobody waits and nothing is leased.
func (w *worker) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiters) == 0 && w.leased == 0 && w.stopWork != nil {
		w.stopWork()
	}
}

// retire sends away who waits. What is on lease stays so.
func (w *worker) retire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.retired)
	w.rest()
}

// work takes jobs as long as somebody waits for some, or has some.
func (w *worker) work() {
	for {
		ctx, stop := context.WithCancel(w.server.life)
		w.mu.Lock()
		w.stopWork = stop
		w.mu.Unlock()
		queue, err := w.queue.get(ctx)
		if err == nil {
			err = queue.Work(ctx, w.attempt)
		}
		stop()
		w.mu.Lock()
		w.stopWork = nil
		done := len(w.waiters) == 0 || err != nil || w.server.life.Err() != nil
		w.working = !done
		w.mu.Unlock()
		if done {
			if err != nil && !errors.Is(err, fabric.ErrClosed) {
				w.server.log.Error("no jobs can be taken", "queue", w.owner, "error", err)
			}
			return
		}
	}
}

// attempt is the handler of the queue: it gives the job to the first client who waits, and
// returns what that says of it.
func (w *worker) attempt(ctx context.Context, job fabric.Job) error {
	h := w.give(job)
	at := attemptID{job.ID, job.Attempt}
	if h == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.settling[at] = append(w.settling[at], nil)
		return fabric.ErrPutBack
	}
	select {
	case <-h.ended:
	case <-ctx.Done(): // the node stops
		h.end(outcomeLost, "")
	}
	w.server.held.drop(h)
	how, reason := h.result()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.leased--
	w.rest()
	w.settling[at] = append(w.settling[at], h)
	last := w.record.MaxAttempts > 0 && job.Attempt >= w.record.MaxAttempts
	switch how {
	case outcomeDone:
		return nil
	case outcomeReleased, outcomeLost:
		return fabric.ErrPutBack
	case outcomeExpired:
		w.server.options.Dropped(dropJobExpired)
		return failure{reason: errJobExpired.reason, givenUp: last}
	}
	return failure{reason: reason, givenUp: last || how == outcomeGivenUp}
}

// take hears from the driver which job it has taken, one after the other, and means it for the
// first client who waits. The handlers of several jobs are called in any order, and later: who
// asks for one job would get the second one, and several would be taken for it.
func (w *worker) take(job fabric.Job) (missed func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taken++
	if len(w.waiters) == 0 {
		return nil
	}
	m := &meant{w.serve(), w.taken}
	at := attemptID{job.ID, job.Attempt}
	w.meant[at] = append(w.meant[at], m)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.unmean(at, m) {
			w.unserve(m.waiter)
		}
	}
}

// serve returns the first client who waits, and counts a job for it. The caller holds w.mu.
func (w *worker) serve() *waiter {
	c := w.waiters[0]
	if c.given++; c.given == c.most {
		w.remove(c)
	}
	return c
}

// unserve has a client wait again for a job that it does not get. The caller holds w.mu.
func (w *worker) unserve(c *waiter) {
	if c.given--; !c.gone && c.given == c.most-1 {
		w.waiters = append([]*waiter{c}, w.waiters...)
		w.look()
	}
}

// unmean takes back for whom a job is meant; false if that was done. The caller holds w.mu.
func (w *worker) unmean(at attemptID, m *meant) bool {
	all := w.meant[at]
	i := slices.Index(all, m)
	if i < 0 {
		return false
	}
	if w.meant[at] = slices.Delete(all, i, i+1); len(all) == 1 {
		delete(w.meant, at)
	}
	return true
}

// give has the client hold the job for whom it is meant, or who waits if that is gone; nil when
// there is none, or no room.
func (w *worker) give(job fabric.Job) *holding {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := attemptID{job.ID, job.Attempt}
	var m *meant
	if all := w.meant[at]; len(all) > 0 {
		m = all[0]
		w.unmean(at, m)
	}
	if m == nil || m.waiter.gone {
		if len(w.waiters) == 0 {
			return nil
		}
		m = &meant{w.serve(), w.taken}
	}
	h, ok := w.server.held.add(w.server.newID(), w.owner, nil)
	if !ok {
		w.unserve(m.waiter)
		return nil
	}
	c := m.waiter
	_, _ = h.extend(c.length) // cannot fail: it has just begun
	w.leased++
	c.got <- leasedJob{Job: job, lease: h.id, length: c.length, number: m.number}
	return h
}

// settled hears from the driver that the outcome of an attempt is stored, or may not be.
func (w *worker) settled(job fabric.Job, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := attemptID{job.ID, job.Attempt}
	waiting := w.settling[at]
	if len(waiting) == 0 {
		return // a driver that tells twice
	}
	if h := waiting[0]; h != nil {
		h.settle(err)
	}
	if w.settling[at] = waiting[1:]; len(waiting) == 1 {
		delete(w.settling, at)
	}
}

// onLease tells how many jobs this node has on lease, and how many clients wait.
func (w *worker) onLease() (leased, waiting int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leased, len(w.waiters)
}
