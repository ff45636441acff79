package primitives

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

const (
	// mintLease is that of a worker which a node holds to make ids itself.
	mintLease = 10 * time.Second
	// mintAhead is how many seconds a node reserves at a time. So many at most are skipped when
	// it dies, and a store is written to once for all ids of such a time.
	mintAhead = 2
	// mintLinger is how long a node holds a worker of a namespace for which it makes no ids.
	mintLinger = time.Minute
)

// minters make the ids of a node, one for each namespace.
type minters struct {
	mu  sync.Mutex // guards all
	all map[string]*minter
}

func (m *minters) of(s *Server, namespace string) *minter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[string]*minter{}
	}
	if m.all[namespace] == nil {
		m.all[namespace] = &minter{server: s, namespace: namespace, turn: make(chan struct{}, 1)}
	}
	return m.all[namespace]
}

// stop gives all workers back.
func (m *minters) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all sync.WaitGroup
	for _, each := range m.all {
		all.Go(each.giveBack)
	}
	all.Wait()
}

// minter makes the ids of one namespace with a worker of the node's own. It takes the highest one
// that is free, as clients are given the lowest.
type minter struct {
	server    *Server
	namespace string
	turn      chan struct{} // of size 1: holds a token while somebody uses the following fields
	lock      fabric.Lock   // nil without a worker
	worker    int
	holder    string // by which the seconds are reserved
	second    int64  // of the last id
	sequence  int64  // of the next id within it
	last      int64  // second that may be used
	idle      *time.Timer
}

// mint makes ids.
func (m *minter) mint(ctx context.Context, count int) ([]int64, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := m.hold(ctx); err != nil {
		return nil, err
	}
	ids := make([]int64, count)
	for i := range ids {
		now := m.server.now().Unix()
		if now > m.second {
			m.second, m.sequence = now, 0
		}
		if m.sequence == idPerSecond {
			m.second, m.sequence = m.second+1, 0
		}
		if m.second > now+maxAhead {
			return nil, errClock
		}
		if m.second > m.last {
			if err := m.reserve(ctx); err != nil {
				return nil, err
			}
		}
		ids[i] = (m.second-idEpoch)<<secondsShift | int64(m.worker)<<workerShift | m.sequence
		m.sequence++
	}
	return ids, nil
}

// reserve reserves the second and some more.
func (m *minter) reserve(ctx context.Context) error {
	g, err := m.server.reserve(ctx, m.namespace, m.worker, m.holder, m.second+mintAhead)
	if err != nil {
		return err
	}
	if g.First > m.second { // those before are of others
		m.second, m.sequence = g.First, 0
	}
	m.last = g.Last
	return nil
}

// hold sees to it that the node has a worker.
func (m *minter) hold(ctx context.Context) error {
	if m.idle != nil {
		m.idle.Reset(mintLinger)
	}
	if m.lock != nil {
		select {
		case <-m.lock.Lost():
			m.lock = nil
		default:
			return nil
		}
	}
	for worker := idWorkers - 1; worker >= 0; worker-- {
		lock, err := m.server.take(ctx, workerLock(m.namespace, worker), mintLease, 0)
		if errors.Is(err, fabric.ErrLocked) {
			continue
		}
		if err != nil {
			return err
		}
		m.lock, m.worker, m.holder = lock, worker, m.server.newID()
		m.sequence, m.last = 0, 0 // nothing is reserved
		m.second++                // that of the last id may be shared with its new worker's
		if m.idle == nil {
			m.idle = time.AfterFunc(mintLinger, m.rest)
		}
		return nil
	}
	return fail(problemNoWorker, "all %d workers of the namespace are leased", idWorkers)
}

// rest gives the worker back that nobody needs.
func (m *minter) rest() { m.server.goes(m.giveBack) }

// giveBack gives the worker back, if there is one.
func (m *minter) giveBack() {
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	if m.lock != nil {
		_ = m.server.giveBack(m.lock, workerOwner(m.namespace, m.worker)) // or it is free after its lease
		m.lock = nil
	}
}
