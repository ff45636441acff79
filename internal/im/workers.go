package im

import (
	"runtime"
	"sync"
)

// workersPerProcessor is how many goroutines handle what clients send, for each processor: they read
// the index, which may wait for the disk, and seal payloads.
const workersPerProcessor = 4

// workers run the inboxes of sessions. Each session is in the queue at most once.
type workers struct {
	mu      sync.Mutex
	some    *sync.Cond
	queue   []*session
	closed  bool
	running sync.WaitGroup
}

func newWorkers() *workers {
	w := &workers{}
	w.some = sync.NewCond(&w.mu)
	for range workersPerProcessor * runtime.GOMAXPROCS(0) {
		w.running.Go(w.run)
	}
	return w
}

// add has a session's inbox worked through.
func (w *workers) add(s *session) {
	w.mu.Lock()
	w.queue = append(w.queue, s)
	w.mu.Unlock()
	w.some.Signal()
}

func (w *workers) run() {
	for {
		w.mu.Lock()
		for len(w.queue) == 0 && !w.closed {
			w.some.Wait()
		}
		if len(w.queue) == 0 {
			w.mu.Unlock()
			return
		}
		s := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		w.mu.Unlock()
		s.work()
	}
}

func (w *workers) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.some.Broadcast()
	w.running.Wait()
}
