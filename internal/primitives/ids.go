package primitives

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// An id is a whole number of 53 bits, which JavaScript holds exactly: seconds since idEpoch, 5
// bits of a worker and 16 bits of a sequence, as NocoBase lays it out. It is unique because of two
// things: a worker belongs to one holder at a time, which a lock sees to; and each holder, at each
// extension, is given seconds that no other was given for that worker, which a document keeps. So
// a clock that goes back, or a holder that does not notice that its time is over, makes no id
// twice.
const (
	idEpoch      = 1605024000 // 2020-11-11 00:00:00 in China
	idWorkers    = 32
	idPerSecond  = 1 << 16
	workerShift  = 16
	secondsShift = 21

	// maxAhead is by how many seconds ids may be ahead of the clock: after a clock has gone back,
	// a crash, or a burst of more ids than a second has.
	maxAhead = 10
	// maxIDs is how many ids one request is given.
	maxIDs = 1000
	// secondsTries is how often seconds are reserved while others do so.
	secondsTries = 10
)

const areaIDs = "ids"

func (s *Server) idPaths() map[string]methods {
	is := func(method string, serve func(*request) (answer, error)) methods {
		return methods{method: {area: areaIDs, serve: serve}}
	}
	return map[string]methods{
		"ids":                          is(http.MethodGet, s.getIDs),
		"ids/workers":                  is(http.MethodPost, s.leaseWorker),
		"ids/workers/{worker}/extend":  is(http.MethodPost, s.extendWorker),
		"ids/workers/{worker}/release": is(http.MethodPost, s.releaseWorker),
	}
}

// idsAnswer is the answer to GET ids.
type idsAnswer struct {
	IDs []int64 `json:"ids"`
}

// getIDs answers GET ids?count= with new ids, each greater than the one before.
func (s *Server) getIDs(r *request) (answer, error) {
	if err := r.allow(areaIDs, "", ""); err != nil {
		return answer{}, err
	}
	count, err := r.number("count", 1, 1, maxIDs)
	if err != nil {
		return answer{}, err
	}
	ids, err := s.minters.of(s, r.key.Namespace).mint(r.Context(), int(count))
	return answer{status: http.StatusOK, body: idsAnswer{ids}}, err
}

// given is the document of a worker: the seconds that its last holder may use, the first and the
// last. Those before them were given to others.
type given struct {
	Holder string `json:"holder"`
	First  int64  `json:"first"`
	Last   int64  `json:"last"`
}

// errClock says that the seconds that are left are too far ahead of the clock.
var errClock = fail(problemClock, "the clock is behind ids that were made; more are made when it has caught up")

// reserve gives a holder of a worker the seconds up to last: on from its own, or behind those of
// the last holder.
func (s *Server) reserve(ctx context.Context, namespace string, worker int, holder string, last int64) (given, error) {
	return s.changeGiven(ctx, namespace, worker, func(g *given) error {
		now := s.now().Unix()
		if g.Holder != holder {
			g.Holder, g.First = holder, max(g.Last+1, now)
		}
		if g.First > now+maxAhead {
			return errClock
		}
		g.Last = max(g.Last, g.First, last)
		return nil
	})
}

// giveSecondsBack tells that a holder has used no second behind last.
func (s *Server) giveSecondsBack(ctx context.Context, namespace string, worker int, holder string, last int64) error {
	_, err := s.changeGiven(ctx, namespace, worker, func(g *given) error {
		if g.Holder == holder { // nobody was given any since
			g.Last = min(g.Last, max(last, g.First-1))
		}
		return nil
	})
	return err
}

// changeGiven changes the document of a worker.
func (s *Server) changeGiven(
	ctx context.Context, namespace string, worker int, change func(*given) error,
) (g given, err error) {
	documents, err := s.counters.get(ctx)
	if err != nil {
		return g, err
	}
	key := namespace + "/" + strconv.Itoa(worker)
	for range secondsTries {
		d, err := documents.Get(ctx, key)
		g = given{}
		if err == nil {
			err = json.Unmarshal(d.Value, &g)
		} else if errors.Is(err, fabric.ErrNotFound) {
			err = nil
		}
		if err == nil {
			err = change(&g)
		}
		if err != nil {
			return g, err
		}
		text, err := json.Marshal(g)
		if err == nil {
			_, err = documents.Put(ctx, key, text, d.Revision)
		}
		if !errors.Is(err, fabric.ErrConflict) {
			return g, err
		}
	}
	return g, fmt.Errorf("change the seconds of worker %d: %w", worker, fabric.ErrConflict)
}

// workerRequest is the body of POST ids/workers.
type workerRequest struct {
	TTL *int64 `json:"ttl_ms"`
}

// workerAnswer describes a worker that a client holds.
type workerAnswer struct {
	Worker int    `json:"worker"`
	ID     string `json:"lease_id"`
	Token  uint64 `json:"token"` // grows with each holder
	secondsAnswer
}

// secondsAnswer tells until when a client holds a worker, and which seconds its ids may have, in
// Unix time.
type secondsAnswer struct {
	TTL       int64 `json:"ttl_ms"` // from when the request was sent
	NotBefore int64 `json:"not_before"`
	NotAfter  int64 `json:"not_after"`
}

// secondsOf is how many seconds a holder for ttl needs.
func secondsOf(ttl time.Duration) int64 { return int64((ttl + time.Second - 1) / time.Second) }

// leaseWorker answers POST ids/workers with the lowest worker that is free.
func (s *Server) leaseWorker(r *request) (answer, error) {
	if err := r.allow(areaIDs, "", ""); err != nil {
		return answer{}, err
	}
	body, err := decode[workerRequest](r)
	if err != nil {
		return answer{}, err
	}
	ttl, err := lockTTL(body.TTL)
	if err != nil {
		return answer{}, err
	}
	var refused error = fail(problemNoWorker, "all %d workers of the namespace are leased", idWorkers)
	for worker := range idWorkers {
		lock, err := s.take(r.Context(), workerLock(r.key.Namespace, worker), leaseFor(ttl), 0)
		if errors.Is(err, fabric.ErrLocked) {
			continue
		}
		if err != nil {
			return answer{}, err
		}
		owner := workerOwner(r.key.Namespace, worker)
		id, granted, err := s.hold(lock, owner, ttl)
		if err != nil {
			return answer{}, err
		}
		g, err := s.reserve(r.Context(), r.key.Namespace, worker, id, s.now().Unix()+secondsOf(ttl))
		if err != nil {
			_ = s.held.end(r.Context(), id, owner, outcomeReleased, "") // or it runs out
			if errors.Is(err, errClock) {                               // its last holder has not said that it needs its seconds no more
				refused = err
				continue
			}
			return answer{}, err
		}
		return answer{status: http.StatusCreated, body: workerAnswer{
			worker, id, lock.Token(), secondsAnswer{granted.Milliseconds(), g.First, g.Last},
		}}, nil
	}
	return answer{}, refused
}

func workerLock(namespace string, worker int) string {
	return "w:" + namespace + ":" + strconv.Itoa(worker)
}

func workerOwner(namespace string, worker int) string {
	return ownerOf(kindWorker, namespace, strconv.Itoa(worker))
}

// worker returns the worker that the path names.
func (r *request) worker() (int, error) {
	n, err := strconv.Atoi(r.PathValue("worker"))
	if err != nil || n < 0 || n >= idWorkers {
		return 0, invalid("a worker is a number from 0 to %d", idWorkers-1)
	}
	return n, r.allow(areaIDs, "", "")
}

// heldWorkerRequest is the body of POST ids/workers/{worker}/extend and release.
type heldWorkerRequest struct {
	ID  string `json:"lease_id"`
	TTL *int64 `json:"ttl_ms"` // of extend alone
	// LastSecond is the last one that the holder has used: those behind it may be given to others
	// at once. Of release alone.
	LastSecond *int64 `json:"last_second"`
}

// extendWorker answers POST ids/workers/{worker}/extend.
func (s *Server) extendWorker(r *request) (answer, error) {
	worker, err := r.worker()
	if err != nil {
		return answer{}, err
	}
	body, err := decode[heldWorkerRequest](r)
	if err != nil {
		return answer{}, err
	}
	ttl, err := lockTTL(body.TTL)
	if err != nil {
		return answer{}, err
	}
	o := order{Do: doExtend, ID: body.ID, Owner: workerOwner(r.key.Namespace, worker), Length: ttl.Milliseconds()}
	if _, err := s.command(r.Context(), o); err != nil {
		return answer{}, err
	}
	g, err := s.reserve(r.Context(), r.key.Namespace, worker, body.ID, s.now().Unix()+secondsOf(ttl))
	if err != nil {
		return answer{}, err
	}
	granted, err := s.command(r.Context(), o) // to count from now, and not to answer who has just lost it
	return answer{status: http.StatusOK, body: secondsAnswer{granted.Milliseconds(), g.First, g.Last}}, err
}

// releaseWorker answers POST ids/workers/{worker}/release. Repeating it does nothing.
func (s *Server) releaseWorker(r *request) (answer, error) {
	worker, err := r.worker()
	if err != nil {
		return answer{}, err
	}
	body, err := decode[heldWorkerRequest](r)
	if err != nil {
		return answer{}, err
	}
	if body.LastSecond != nil {
		if err := s.giveSecondsBack(r.Context(), r.key.Namespace, worker, body.ID, *body.LastSecond); err != nil {
			return answer{}, err
		}
	}
	_, err = s.command(r.Context(), order{
		Do: doEnd, ID: body.ID, Owner: workerOwner(r.key.Namespace, worker), Outcome: outcomeReleased,
	})
	return answer{status: http.StatusNoContent}, err
}
