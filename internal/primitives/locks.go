package primitives

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// A lock that a client holds is a lock of the fabric that this node holds for it. The fabric
// renews by itself for as long as the process lives, so that the node gives the lock back when
// the client has not extended it in time. When the node dies the lock is free after its lease in
// the fabric, and the client, who counts from before it asked, must have noticed before that.
//
// The lease is half as long again as the time the client asks for: renewed each third of it, it
// has two thirds left at least while the store works, which is that time. What is left when the
// store does not work is told to the client, who gets no more.
const (
	minLockTTL     = 100 * time.Millisecond
	maxLockTTL     = 40 * time.Minute // for the lease in the fabric is fabric.MaxLease at most
	defaultLockTTL = 30 * time.Second
	// releaseTimeout bounds giving a lock back; after that it is free when its lease is over.
	releaseTimeout = 5 * time.Second
)

func leaseFor(ttl time.Duration) time.Duration {
	return min(max(ttl+ttl/2, fabric.MinLease), fabric.MaxLease)
}

const areaLocks = "locks"

func (s *Server) lockPaths() map[string]methods {
	named := func(waits bool, serve func(*request) (answer, error)) methods {
		return methods{http.MethodPost: {area: areaLocks, named: "name", waits: waits, serve: serve}}
	}
	return map[string]methods{
		"locks/{name}":         named(true, s.acquireLock),
		"locks/{name}/extend":  named(false, s.extendLock),
		"locks/{name}/release": named(false, s.releaseLock),
	}
}

// lockRequest is the body of POST locks/{name}.
type lockRequest struct {
	TTL  *int64 `json:"ttl_ms"`
	Wait int64  `json:"wait_ms"`
}

// lockAnswer describes a lock that the client holds.
type lockAnswer struct {
	ID    string `json:"lock_id"`
	Token uint64 `json:"token"`  // grows with each holder
	TTL   int64  `json:"ttl_ms"` // from when the request was sent
}

// acquireLock answers POST locks/{name}.
func (s *Server) acquireLock(r *request) (answer, error) {
	body, err := decode[lockRequest](r)
	if err != nil {
		return answer{}, err
	}
	ttl, err := lockTTL(body.TTL)
	if err == nil {
		err = between("wait_ms", body.Wait, 0, maxWait.Milliseconds())
	}
	name := r.PathValue("name")
	if err == nil {
		err = checkName("the name of a lock", name)
	}
	if err != nil {
		return answer{}, err
	}
	lock, err := s.take(r.Context(), lockName(r.key.Namespace, name), leaseFor(ttl), milliseconds(body.Wait))
	if err != nil {
		return answer{}, err
	}
	h, granted, err := s.hold(lock, ownerOf(kindLock, r.key.Namespace, name), ttl)
	return answer{status: http.StatusCreated, body: lockAnswer{h, lock.Token(), granted.Milliseconds()}}, err
}

func lockTTL(ms *int64) (time.Duration, error) {
	if ms == nil {
		return defaultLockTTL, nil
	}
	return milliseconds(*ms), between("ttl_ms", *ms, minLockTTL.Milliseconds(), maxLockTTL.Milliseconds())
}

func lockName(namespace, name string) string { return "l:" + namespace + ":" + name }

// take takes a lock in the fabric.
func (s *Server) take(ctx context.Context, name string, lease, wait time.Duration) (fabric.Lock, error) {
	locks, err := s.locks.get(ctx)
	if err != nil {
		return nil, err
	}
	if wait == 0 {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return locks.TryAcquire(ctx, name, lease)
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(s.staying, cancel)()
	lock, err := locks.Acquire(waiting, name, lease)
	switch {
	case err != nil && waiting.Err() != nil && ctx.Err() == nil:
		return nil, fabric.ErrLocked
	case err == nil && ctx.Err() != nil: // nobody is there to get it
		s.giveBack(lock, name)
		return nil, ctx.Err()
	}
	return lock, err
}

// hold holds a lock for a client who asked for it for ttl, and returns its id and for how long the
// client may rely on it.
func (s *Server) hold(lock fabric.Lock, owner string, ttl time.Duration) (id string, granted time.Duration, err error) {
	h, ok := s.held.add(s.newID(), owner, func() time.Duration { return time.Until(lock.Until()) })
	if !ok {
		s.giveBack(lock, owner)
		return "", 0, fail(problemFull, "the node holds as much as it may (primitives.max_held)")
	}
	if granted, err = h.extend(ttl); err != nil { // the store took longer than the lease
		h.end(outcomeLost, "")
		err = fabric.ErrUnavailable
	}
	if !s.goes(func() { s.keep(h, lock) }) {
		s.held.drop(h)
		return "", 0, fabric.ErrClosed
	}
	return h.id, granted, err
}

// keep holds a lock until its client or its time ends that. When the node stops it is not given
// back: the client may rely on it for a while.
func (s *Server) keep(h *holding, lock fabric.Lock) {
	defer s.held.drop(h)
	select {
	case <-h.ended:
	case <-lock.Lost():
		if h.end(outcomeLost, "") == outcomeLost {
			s.options.Dropped(dropLockLost)
		}
	case <-s.life.Done():
		if h.end(outcomeLost, "") == outcomeLost {
			h.settle(nil)
			return
		}
	}
	if how, _ := h.result(); how == outcomeExpired {
		s.options.Dropped(dropLockExpired)
	}
	h.settle(s.giveBack(lock, h.owner))
}

// giveBack releases a lock in the fabric.
func (s *Server) giveBack(lock fabric.Lock, owner string) error {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	err := lock.Release(ctx)
	if err != nil && !errors.Is(err, fabric.ErrLost) {
		s.log.Info("a lock is free only when its lease is over", "lock", owner, "error", err)
	}
	return err
}

// heldRequest is the body of POST locks/{name}/extend and locks/{name}/release.
type heldRequest struct {
	ID  string `json:"lock_id"`
	TTL *int64 `json:"ttl_ms,omitempty"` // of extend alone
}

// extendLock answers POST locks/{name}/extend.
func (s *Server) extendLock(r *request) (answer, error) {
	body, err := decode[heldRequest](r)
	if err != nil {
		return answer{}, err
	}
	ttl, err := lockTTL(body.TTL)
	if err != nil {
		return answer{}, err
	}
	granted, err := s.command(r.Context(), order{
		Do: doExtend, ID: body.ID, Owner: ownerOf(kindLock, r.key.Namespace, r.PathValue("name")), Length: ttl.Milliseconds(),
	})
	return answer{status: http.StatusOK, body: extendedAnswer{granted.Milliseconds()}}, err
}

// extendedAnswer tells for how long a client may rely on what it holds.
type extendedAnswer struct {
	TTL int64 `json:"ttl_ms"` // from when the request was sent
}

// releaseLock answers POST locks/{name}/release. Repeating it does nothing.
func (s *Server) releaseLock(r *request) (answer, error) {
	body, err := decode[heldRequest](r)
	if err != nil {
		return answer{}, err
	}
	_, err = s.command(r.Context(), order{
		Do: doEnd, ID: body.ID, Owner: ownerOf(kindLock, r.key.Namespace, r.PathValue("name")), Outcome: outcomeReleased,
	})
	return answer{status: http.StatusNoContent}, err
}
