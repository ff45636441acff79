package primitives

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func (n *node) ids(t *testing.T, count int) []int64 {
	t.Helper()
	return parse[idsAnswer](n.get(t, fmt.Sprintf("/v1/ids?count=%d", count)).want(200)).IDs
}

// Ids are unique over all nodes, grow at each, and say when they were made.
func TestIDs(t *testing.T) {
	g := newRig(t, 3, nil)
	var mu sync.Mutex
	seen := map[int64]bool{}
	var clients sync.WaitGroup
	begin := time.Now().Unix()
	for _, n := range g.nodes {
		clients.Go(func() {
			last := int64(0)
			for range 20 {
				for _, id := range n.ids(t, 500) {
					if id <= last || id >= 1<<53 {
						t.Errorf("%d after %d", id, last)
					}
					last = id
					mu.Lock()
					if seen[id] {
						t.Errorf("%d came twice", id)
					}
					seen[id] = true
					mu.Unlock()
				}
			}
		})
	}
	clients.Wait()
	workers := map[int64]bool{}
	for id := range seen {
		workers[id>>workerShift&(idWorkers-1)] = true
		if second := id>>secondsShift + idEpoch; second < begin || second > time.Now().Unix()+maxAhead {
			t.Fatalf("made at %d, which was between %d and %d", second, begin, time.Now().Unix())
		}
	}
	if len(workers) != 3 || !workers[31] || !workers[30] || !workers[29] {
		t.Errorf("made by %v", workers)
	}
	g.nodes[0].get(t, "/v1/ids?count=0").wantCode(400, "invalid")
	g.nodes[0].get(t, "/v1/ids?count=1001").wantCode(400, "invalid")
}

// clock is a clock that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(by)
}

// A clock that goes back a little makes no difference; further back, no ids are made until it has
// caught up. None is made twice, whoever makes them.
func TestIDsClockGoesBack(t *testing.T) {
	g := newRig(t, 2, nil)
	c := &clock{at: time.Now()}
	for _, n := range g.nodes {
		n.now = c.now
	}
	a, b := g.nodes[0], g.nodes[1]
	seen := map[int64]bool{}
	mint := func(n *node) (last int64) {
		t.Helper()
		ids, err := n.minters.of(n.Server, "one").mint(t.Context(), 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if seen[id] {
				t.Fatalf("%d came twice", id)
			}
			seen[id] = true
		}
		return ids[len(ids)-1]
	}
	before := mint(a)
	c.move(-5 * time.Second)
	if after := mint(a); after <= before {
		t.Errorf("%d after %d", after, before)
	}
	c.move(-time.Hour)
	if _, err := a.minters.of(a.Server, "one").mint(t.Context(), 1); !errors.Is(err, errClock) {
		t.Errorf("an hour back: %v", err)
	}
	a.get(t, "/v1/ids").wantCode(503, "clock_behind")
	c.move(time.Hour + 4*time.Second)
	mint(a)
	// The worker of a node that is gone goes to another, whose clock is behind.
	a.stop()
	c.move(-3 * time.Second)
	mint(b)
	if m := b.minters.of(b.Server, "one"); m.worker != 31 {
		t.Errorf("the other node has worker %d", m.worker)
	}
}

// A burst borrows from the seconds to come, a little.
func TestIDsBurst(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	c := &clock{at: time.Now()}
	n.now = c.now
	m := n.minters.of(n.Server, "one")
	last, made := int64(0), 0
	for {
		ids, err := m.mint(t.Context(), 1000)
		if errors.Is(err, errClock) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if made += len(ids); made > 2*maxAhead*idPerSecond {
			t.Fatal("there is no end")
		}
		for _, id := range ids {
			if id <= last {
				t.Fatalf("%d after %d", id, last)
			}
			last = id
		}
	}
	if made < maxAhead*idPerSecond {
		t.Errorf("%d were made", made)
	}
}

func (n *node) leaseWorker(t *testing.T, body object) workerAnswer {
	t.Helper()
	return parse[workerAnswer](n.post(t, "/v1/ids/workers", body).want(201))
}

// Clients get the lowest worker that is free, and seconds that nobody else has.
func TestWorkers(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	var held []workerAnswer
	for i := range 4 {
		w := g.nodes[i%2].leaseWorker(t, object{"ttl_ms": 60_000})
		if w.Worker != i || w.TTL != 60_000 || w.Token == 0 || w.NotAfter-w.NotBefore < 60 {
			t.Errorf("got %+v", w)
		}
		held = append(held, w)
	}
	release := func(w workerAnswer, body object) reply {
		body["lease_id"] = w.ID
		return b.post(t, fmt.Sprintf("/v1/ids/workers/%d/release", w.Worker), body)
	}
	extended := parse[secondsAnswer](b.post(t, "/v1/ids/workers/1/extend", object{"lease_id": held[1].ID, "ttl_ms": 60_000}).want(200))
	if extended.TTL != 60_000 || extended.NotBefore != held[1].NotBefore || extended.NotAfter < held[1].NotAfter {
		t.Errorf("extended from %+v to %+v", held[1], extended)
	}
	b.post(t, "/v1/ids/workers/2/extend", object{"lease_id": held[1].ID}).wantCode(409, "lost")

	// Its seconds are not over, and nobody knows which were used: the next free one.
	release(held[1], object{}).want(204)
	if w := a.leaseWorker(t, nil); w.Worker != 4 {
		t.Errorf("got %+v", w)
	}
	// Who says what was used frees the rest.
	used := time.Now().Unix()
	release(held[0], object{"last_second": used}).want(204)
	release(held[0], object{"last_second": used}).want(204)
	w := a.leaseWorker(t, nil)
	if w.Worker != 0 || w.NotBefore <= used || w.Token <= held[0].Token {
		t.Errorf("got %+v after second %d", w, used)
	}
	b.post(t, "/v1/ids/workers/0/extend", object{"lease_id": held[0].ID}).wantCode(409, "lost")
	for _, path := range []string{"32/extend", "-1/release", "x/extend"} {
		a.post(t, "/v1/ids/workers/"+path, nil).wantCode(400, "invalid")
	}
	// In another namespace all are free.
	r := a.do(t, call{method: http.MethodPost, path: "/v1/ids/workers", token: tokenOther})
	if w := parse[workerAnswer](r.want(201)); w.Worker != 0 {
		t.Errorf("got %+v", w)
	}
}

func TestAllWorkersLeased(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.ids(t, 1) // has the highest
	for range idWorkers - 1 {
		n.leaseWorker(t, nil)
	}
	n.post(t, "/v1/ids/workers", nil).wantCode(409, "no_worker_free")
	if m := n.minters.of(n.Server, "one"); m.worker != 31 {
		t.Errorf("the node has worker %d", m.worker)
	}
}

// Two who hold a worker after each other, or think so, get different seconds.
func TestReserve(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	ctx, now := t.Context(), time.Now().Unix()
	reserve := func(holder string, last int64) given {
		t.Helper()
		g, err := n.reserve(ctx, "one", 3, holder, last)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	first := reserve("a", now+5)
	if again := reserve("a", now+7); again.First != first.First || again.Last != now+7 {
		t.Errorf("%+v became %+v", first, again)
	}
	second := reserve("b", now+1)
	if second.First != now+8 || second.Last != now+8 {
		t.Errorf("got %+v", second)
	}
	if third := reserve("a", now+2); third.First != now+9 {
		t.Errorf("got %+v", third)
	}
	if err := n.giveSecondsBack(ctx, "one", 3, "b", now); err != nil {
		t.Error(err)
	}
	if err := n.giveSecondsBack(ctx, "one", 3, "a", now); err != nil {
		t.Error(err)
	}
	if fourth := reserve("c", now); fourth.First != now+9 {
		t.Errorf("got %+v", fourth)
	}
	reserve("c", now+100)
	if _, err := n.reserve(ctx, "one", 3, "d", now); !errors.Is(err, errClock) {
		t.Errorf("got %v", err)
	}
	var mu sync.Mutex
	var all []int64
	var holders sync.WaitGroup
	for i := range 4 {
		holders.Go(func() {
			g, err := n.reserve(ctx, "one", 4, fmt.Sprint(i), 0)
			if err != nil && !errors.Is(err, fabric.ErrConflict) {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				all = append(all, g.First)
			}
		})
	}
	holders.Wait()
	slices.Sort(all)
	if len(slices.Compact(all)) != len(all) {
		t.Errorf("some have the same: %v", all)
	}
}
