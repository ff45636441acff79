package primitives

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func (n *node) lock(t *testing.T, name string, body object) lockAnswer {
	t.Helper()
	return parse[lockAnswer](n.post(t, "/v1/locks/"+name, body).want(201))
}

// A lock is taken at one node, kept through another and given back through a third.
func TestLockAcrossNodes(t *testing.T) {
	g := newRig(t, 3, nil)
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	first := a.lock(t, "deploy", object{"ttl_ms": 60_000})
	if first.TTL != 60_000 || first.Token == 0 {
		t.Errorf("got %+v", first)
	}
	b.post(t, "/v1/locks/deploy", nil).wantCode(409, "locked")
	b.post(t, "/v1/locks/deploy", object{"wait_ms": 100}).wantCode(409, "locked")
	b.post(t, "/v1/locks/deploy/extend", object{"lock_id": first.ID, "ttl_ms": 30_000}).want(200).wantBody(`{"ttl_ms":30000}`)
	waited := make(chan lockAnswer, 1)
	go func() { waited <- b.lock(t, "deploy", object{"wait_ms": 20_000}) }()
	c.post(t, "/v1/locks/other/release", object{"lock_id": first.ID}).wantCode(409, "lost")
	c.do(t, call{method: http.MethodPost, path: "/v1/locks/deploy/release", token: tokenOther, body: object{"lock_id": first.ID}}).
		wantCode(409, "lost")
	c.post(t, "/v1/locks/deploy/release", object{"lock_id": first.ID}).want(204)
	c.post(t, "/v1/locks/deploy/release", object{"lock_id": first.ID}).want(204)
	second := <-waited
	if second.Token <= first.Token || second.TTL != defaultLockTTL.Milliseconds() {
		t.Errorf("got %+v after %+v", second, first)
	}
	c.post(t, "/v1/locks/deploy/extend", object{"lock_id": first.ID}).wantCode(409, "lost")
	// The same name in another namespace is another lock.
	c.do(t, call{method: http.MethodPost, path: "/v1/locks/deploy", token: tokenOther}).want(201)
}

// A client that dies frees its lock when its time is over.
func TestLockExpires(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	begin := time.Now()
	first := a.lock(t, "l", object{"ttl_ms": 300})
	second := b.lock(t, "l", object{"wait_ms": 20_000})
	if took := time.Since(begin); took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("free after %v", took)
	}
	if second.Token <= first.Token {
		t.Errorf("token %d after %d", second.Token, first.Token)
	}
	b.post(t, "/v1/locks/l/release", object{"lock_id": first.ID}).wantCode(409, "lost")
	if a.drops.count(dropLockExpired) != 1 {
		t.Error("the expired lock was not counted")
	}
}

// When the node that holds it stops, a lock stays taken for as long as its client may rely on it.
func TestLockOfNodeThatStops(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	const ttl = 800 * time.Millisecond
	begin := time.Now()
	first := a.lock(t, "l", object{"ttl_ms": ttl.Milliseconds()})
	a.stop()
	b.post(t, "/v1/locks/l/extend", object{"lock_id": first.ID}).wantCode(409, "lost")
	second := b.lock(t, "l", object{"wait_ms": 20_000})
	if took := time.Since(begin); took < ttl {
		t.Errorf("free after %v, promised for %v", took, ttl)
	}
	if second.Token <= first.Token {
		t.Errorf("token %d after %d", second.Token, first.Token)
	}
}

// fading is a lock whose renewals have failed for a while.
type fading struct {
	fabric.Lock
	until time.Time
	lost  chan struct{}
}

func (f *fading) Until() time.Time              { return f.until }
func (f *fading) Lost() <-chan struct{}         { return f.lost }
func (f *fading) Token() uint64                 { return 7 }
func (f *fading) Release(context.Context) error { return fabric.ErrLost }

// A client is promised no more than the store has granted.
func TestLockPromise(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	lock := &fading{until: time.Now().Add(time.Minute), lost: make(chan struct{})}
	id, granted, err := n.hold(lock, "o", time.Hour)
	if err != nil || granted > time.Minute || granted < 50*time.Second {
		t.Errorf("granted %v, %v", granted, err)
	}
	if granted, err := n.held.extend(id, "o", time.Second); err != nil || granted != time.Second {
		t.Errorf("granted %v, %v", granted, err)
	}
	close(lock.lost)
	eventually(t, "the loss is known", func() bool { return n.held.count() == 0 })
	if _, err := n.held.extend(id, "o", time.Second); err != errLost {
		t.Errorf("extended a lock that is lost: %v", err)
	}
	if n.drops.count(dropLockLost) != 1 {
		t.Error("the lost lock was not counted")
	}
	lock = &fading{until: time.Now().Add(-time.Second), lost: make(chan struct{})}
	if _, _, err := n.hold(lock, "o", time.Hour); err == nil {
		t.Error("a lock is promised that is over")
	}
}

// Many clients at all nodes hold a lock one after the other, with growing tokens.
func TestLockContended(t *testing.T) {
	g := newRig(t, 3, nil)
	var inside, last int64
	var mu sync.Mutex
	var clients sync.WaitGroup
	for i := range 9 {
		clients.Go(func() {
			n := g.nodes[i%3]
			for range 5 {
				held := n.lock(t, "l", object{"wait_ms": 20_000})
				mu.Lock()
				if inside++; inside != 1 || int64(held.Token) <= last {
					t.Errorf("%d hold it, with token %d after %d", inside, held.Token, last)
				}
				last = int64(held.Token)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				g.nodes[(i+1)%3].post(t, "/v1/locks/l/release", object{"lock_id": held.ID}).want(204)
			}
		})
	}
	clients.Wait()
}

// Who waits for a lock and goes leaves it free.
func TestLockForNobody(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	first := n.lock(t, "l", nil)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		n.doWith(ctx, t, call{method: http.MethodPost, path: "/v1/locks/l", body: object{"wait_ms": 20_000, "ttl_ms": 600_000}})
	}()
	eventually(t, "somebody waits", func() bool { return len(n.waiting) == 1 })
	cancel()
	<-gone
	n.post(t, "/v1/locks/l/release", object{"lock_id": first.ID}).want(204)
	n.lock(t, "l", object{"wait_ms": 20_000})
}

func TestLockParameters(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	for _, body := range []object{{"ttl_ms": 99}, {"ttl_ms": 2_400_001}, {"wait_ms": 60_001}, {"wait_ms": -1}, {"x": 1}} {
		n.post(t, "/v1/locks/l", body).wantCode(400, "invalid")
	}
	n.post(t, "/v1/locks/"+strings.Repeat("n", 201), nil).wantCode(400, "invalid")
	n.lock(t, "a%2Fb%20%C3%A9", nil)
	n.post(t, "/v1/locks/l/extend", nil).wantCode(409, "lost")
	n.post(t, "/v1/locks/l/extend", object{"lock_id": "x.y", "ttl_ms": 1}).wantCode(400, "invalid")
}
