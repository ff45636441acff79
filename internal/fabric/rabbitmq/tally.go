package rabbitmq

import (
	"sync"
	"time"
)

// transit is for how long a job may be on its way between the broker and a worker, or between
// two of the broker's queues, before it is taken for gone. Such a job is in nobody's count.
const transit = time.Second

// tally makes the number of jobs out of what the broker tells and what this process has seen:
// each count of the broker says how many jobs there are at least, and stands for the time of
// transit, less those that this process has finished since. The zero value is ready.
type tally struct {
	mu       sync.Mutex // guards the following fields
	running  int        // handlers here
	finished int        // jobs that left the queue here, ever
	counts   []count    // of the time of transit, oldest first
}

// count is one that the broker made.
type count struct {
	at   time.Time
	jobs int // with those that had been finished here before it was made
}

// start notes that a handler begins.
func (t *tally) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running++
}

// stop notes that a handler has ended and its job is settled, and whether it has left the
// queue.
func (t *tally) stop(finished bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if finished {
		t.finished++
	}
}

// finish notes that a job has left the queue for which no handler ran.
func (t *tally) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finished++
}

// before is what add must be given of the time before the broker counted.
func (t *tally) before() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

// add takes a count of the broker's and returns how many jobs there are.
func (t *tally) add(now time.Time, before int, e extent) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	jobs := before + e.waiting + max(e.running, t.running)
	for len(t.counts) > 0 && now.Sub(t.counts[0].at) > transit {
		t.counts = t.counts[1:]
	}
	t.counts = append(t.counts, count{now, jobs})
	for _, c := range t.counts {
		jobs = max(jobs, c.jobs)
	}
	return max(0, jobs-t.finished)
}
