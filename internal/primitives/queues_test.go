package primitives

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Jobs go in at one node, out at another, and are settled at a third.
func TestJobAcrossNodes(t *testing.T) {
	g := newRig(t, 3, nil)
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	id := a.put(t, "mail", "hello")
	job := b.leaseOne(t, "mail", nil)
	if job.ID != id || job.Payload != "hello" || job.Attempt != 1 || job.TTL != 30_000 {
		t.Errorf("leased %+v", job)
	}
	if got := a.lease(t, "mail", nil); len(got) != 0 {
		t.Errorf("leased twice: %+v", got)
	}
	c.settle(t, "mail", job.Lease, "extend", object{"lease_ms": 5000}).want(200).wantBody(`{"lease_ms":5000}`)
	c.settle(t, "mail", job.Lease, "ack", nil).want(204)
	c.settle(t, "mail", job.Lease, "ack", nil).want(204) // the answer may have got lost
	a.settle(t, "mail", job.Lease, "extend", nil).wantCode(409, "lost")
	a.settle(t, "mail", job.Lease, "nack", nil).wantCode(409, "lost")
	a.wantJobs(t, "mail", 0)
	if n := b.held.count(); n != 0 {
		t.Errorf("%d are held", n)
	}
}

// A lease belongs to its queue and namespace.
func TestLeaseOfOthers(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.put(t, "mail", "x")
	job := n.leaseOne(t, "mail", nil)
	n.settle(t, "other", job.Lease, "ack", nil).wantCode(409, "lost")
	path := "/v1/queues/mail/leases/" + job.Lease + "/ack"
	n.do(t, call{method: http.MethodPost, path: path, token: tokenOther}).wantCode(409, "lost")
	for _, lease := range []string{"x", "x.y", "*.y", "%2E", strings.Repeat("a", 2000) + ".b"} {
		n.settle(t, "mail", lease, "ack", nil).wantCode(409, "lost")
	}
	n.settle(t, "mail", job.Lease, "ack", nil).want(204)
}

// What a client says of a job decides what becomes of it.
func TestJobOutcomes(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.do(t, call{method: http.MethodPut, path: "/v1/queues/q", body: object{"retry_initial_ms": 1, "max_attempts": 3}}).want(201)

	n.put(t, "q", "released")
	job := n.leaseOne(t, "q", nil)
	n.settle(t, "q", job.Lease, "nack", object{"release": true}).want(204)
	if job = n.leaseOne(t, "q", nil); job.Attempt != 1 {
		t.Errorf("a released job is in attempt %d", job.Attempt)
	}
	n.settle(t, "q", job.Lease, "nack", object{"reason": "try again"}).want(204)
	if job = n.leaseOne(t, "q", nil); job.Attempt != 2 {
		t.Errorf("a failed job is in attempt %d", job.Attempt)
	}
	n.settle(t, "q", job.Lease, "nack", object{"reason": "hopeless", "dead": true}).want(204)
	wantList(t, "dead", n.deadOf(t, "q"), job.ID+": hopeless")

	// The last attempt.
	second := n.put(t, "q", "fails")
	for attempt := range 3 {
		failed := n.leaseOne(t, "q", nil)
		if failed.Attempt != attempt+1 {
			t.Errorf("attempt %d instead of %d", failed.Attempt, attempt+1)
		}
		n.settle(t, "q", failed.Lease, "nack", nil).want(204)
	}
	wantList(t, "dead", n.deadOf(t, "q"), job.ID+": hopeless", second+": no reason was given")

	// Nobody says anything.
	n.put(t, "q", "expires")
	expired := n.leaseOne(t, "q", object{"lease_ms": 100})
	if again := n.leaseOne(t, "q", nil); again.Attempt != 2 || again.ID != expired.ID {
		t.Errorf("after its lease there is %+v", again)
	} else {
		n.settle(t, "q", expired.Lease, "ack", nil).wantCode(409, "lost")
		n.settle(t, "q", again.Lease, "nack", object{"dead": true, "release": true}).wantCode(400, "invalid")
		n.settle(t, "q", again.Lease, "ack", nil).want(204)
	}
	if n.drops.count(dropJobExpired) != 1 {
		t.Error("the expired lease was not counted")
	}
	n.wantJobs(t, "q", 0)

	n.post(t, "/v1/queues/q/dead-letters/"+job.ID+"/replay", nil).want(204)
	if again := n.leaseOne(t, "q", nil); again.ID != job.ID || again.Attempt != 1 || again.Payload != "released" {
		t.Errorf("replayed as %+v", again)
	}
	n.do(t, call{method: http.MethodDelete, path: "/v1/queues/q/dead-letters/" + second}).want(204)
	n.do(t, call{method: http.MethodDelete, path: "/v1/queues/q/dead-letters/" + second}).wantCode(404, "not_found")
	wantList(t, "dead", n.deadOf(t, "q"))
}

// Dead letters come page by page.
func TestDeadPages(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	for _, payload := range []string{"a", "b", "c"} {
		n.put(t, "q", payload)
		n.settle(t, "q", n.leaseOne(t, "q", nil).Lease, "nack", object{"dead": true}).want(204)
	}
	var got []string
	for after := ""; ; {
		page := parse[deadList](n.get(t, "/v1/queues/q/dead-letters?limit=2&after="+after).want(200))
		for _, letter := range page.DeadLetters {
			got = append(got, *letter.Payload)
		}
		if after = page.Next; after == "" {
			break
		}
	}
	wantList(t, "dead", got, "a", "b", "c")
	n.get(t, "/v1/queues/q/dead-letters?limit=0").wantCode(400, "invalid")
	n.get(t, "/v1/queues/q/dead-letters?after=unknown").wantCode(404, "not_found")
}

// A client who waits gets a job as soon as there is one, and takes none when it has gone.
func TestLongPoll(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	got := make(chan leased, 1)
	go func() { got <- a.leaseOne(t, "q", nil) }()
	eventually(t, "somebody waits", func() bool {
		return parse[queueState](a.get(t, "/v1/queues/q")).Waiting == 1
	})
	begin := time.Now()
	b.put(t, "q", "x")
	job := <-got
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
	a.settle(t, "q", job.Lease, "ack", nil).want(204)

	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		a.doWith(ctx, t, call{method: http.MethodPost, path: "/v1/queues/q/lease", body: object{"wait_ms": 20_000}})
	}()
	eventually(t, "somebody waits", func() bool { _, waiting := workerFor(a, "q").onLease(); return waiting == 1 })
	cancel()
	<-gone
	eventually(t, "nobody waits", func() bool { _, waiting := workerFor(a, "q").onLease(); return waiting == 0 })
	b.put(t, "q", "y")
	if job := b.leaseOne(t, "q", nil); job.Payload != "y" || job.Attempt != 1 {
		t.Errorf("leased %+v", job)
	}
}

func workerFor(n *node, queue string) *worker {
	n.queuesMu.Lock()
	defer n.queuesMu.Unlock()
	return n.queues[queueName{"one", queue}]
}

// A job that comes for a client who has just gone is not kept from the next one.
func TestJobForNobody(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.put(t, "q", "x")
	w, err := n.workerOf(t.Context(), queueName{"one", "q"}, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			for _, job := range w.lease(ctx, 1, time.Minute, time.Minute) { // it was faster
				n.settle(t, "q", job.lease, "nack", object{"release": true}).want(204)
			}
		})
		cancel()
		wait.Wait()
	}
	if job := n.leaseOne(t, "q", nil); job.Attempt != 1 {
		t.Errorf("leased %+v", job)
	}
	eventually(t, "one job is held", func() bool { return n.held.count() == 1 })
}

// Jobs are leased in the order in which they were put into the queue, one by one and many at a time.
func TestJobOrder(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	const jobs = 12 // of each queue: all stay on lease
	for _, most := range []int{1, 5, 100} {
		queue := fmt.Sprint("by-", most)
		for i := range jobs {
			n.put(t, queue, fmt.Sprint(i))
		}
		for i := 0; i < jobs; {
			got := n.lease(t, queue, object{"max": most, "wait_ms": 20_000})
			for _, job := range got {
				if job.Payload != fmt.Sprint(i) {
					t.Fatalf("by %d: job %s in the place of %d", most, job.Payload, i)
				}
				i++
			}
		}
	}
}

// A job that was taken for a client, and whose handler is not called after all, leaves the client
// waiting for another.
func TestJobMissed(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	w := newWorker(n.Server, queueName{"one", "q"}, defaultQueue())
	c := &waiter{most: 1, length: time.Minute, got: make(chan leasedJob, 1)}
	w.waiters = append(w.waiters, c)
	missed := w.take(fabric.Job{ID: "a", Attempt: 1})
	if w.wanted() {
		t.Error("another job is wanted beside the one that was taken")
	}
	missed()
	missed()
	if !w.wanted() {
		t.Error("no job is wanted in place of the one that was missed")
	}
	b := fabric.Job{ID: "b", Attempt: 1}
	missed = w.take(b)
	if h := w.give(b); h == nil {
		t.Fatal("nobody has the second job")
	}
	missed() // too late
	if got := <-c.got; got.ID != "b" || w.wanted() || len(w.meant) != 0 {
		t.Errorf("the client got %s, and %d jobs are meant for others", got.ID, len(w.meant))
	}
	w.waiters = append(w.waiters, &waiter{most: 1, length: time.Minute, got: make(chan leasedJob, 1)})
	w.take(b)
	w.leave(w.meant[attemptID{"b", 1}][0].waiter)
	if h := w.give(b); h != nil || len(w.meant) != 0 {
		t.Error("a client that is gone has a job")
	}
}

// Several jobs come in one answer, and several clients share what there is.
func TestBatches(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	for range 25 {
		n.put(t, "q", "x")
	}
	if got := n.lease(t, "q", object{"max": 10, "wait_ms": 20_000}); len(got) != 10 {
		t.Errorf("leased %d of 10", len(got))
	}
	seen := map[string]bool{}
	var mu sync.Mutex
	var clients sync.WaitGroup
	for range 5 {
		clients.Go(func() {
			for {
				jobs := n.lease(t, "q", object{"max": 2})
				if len(jobs) == 0 {
					return
				}
				mu.Lock()
				for _, job := range jobs {
					if seen[job.ID] {
						t.Errorf("%s is leased twice", job.ID)
					}
					seen[job.ID] = true
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	if len(seen) != 15 {
		t.Errorf("leased %d of 15", len(seen))
	}
	n.post(t, "/v1/queues/q/lease", object{"max": 101}).wantCode(400, "invalid")
}

// A node holds no more than it may, and neither does a queue.
func TestHeldBound(t *testing.T) {
	n := newRig(t, 1, func(o *Options) { o.MaxHeld = 3 }).nodes[0]
	n.do(t, call{method: http.MethodPut, path: "/v1/queues/narrow", body: object{"max_leases": 2}}).want(201)
	for range 5 {
		n.put(t, "narrow", "x")
		n.put(t, "wide", "x")
	}
	jobs := n.lease(t, "narrow", object{"max": 5})
	if len(jobs) != 2 {
		t.Errorf("leased %d of 2", len(jobs))
	}
	if got := n.lease(t, "wide", object{"max": 5}); len(got) != 1 {
		t.Errorf("leased %d of 1", len(got))
	}
	n.post(t, "/v1/queues/wide/lease", nil).wantCode(503, "full")
	n.post(t, "/v1/locks/l", nil).wantCode(503, "full")
	n.settle(t, "narrow", jobs[0].Lease, "ack", nil).want(204)
	n.post(t, "/v1/locks/l", nil).want(201)
}

// A node that stops gives its jobs back, and who waits is told at once.
func TestJobsOfNodeThatStops(t *testing.T) {
	g := newRig(t, 2, nil)
	a, b := g.nodes[0], g.nodes[1]
	a.put(t, "q", "x")
	job := a.leaseOne(t, "q", nil)
	waited := make(chan int, 1)
	go func() { waited <- len(a.lease(t, "q", object{"wait_ms": 60_000})) }()
	eventually(t, "somebody waits", func() bool { _, waiting := workerFor(a, "q").onLease(); return waiting == 1 })
	a.stop()
	if n := <-waited; n != 0 {
		t.Errorf("leased %d jobs", n)
	}
	if again := b.leaseOne(t, "q", nil); again.ID != job.ID || again.Attempt != 1 {
		t.Errorf("leased %+v", again)
	}
	b.settle(t, "q", job.Lease, "ack", nil).wantCode(409, "lost")
}

// The settings of a queue are the same on all nodes at once, and a queue can be removed.
func TestQueueSettings(t *testing.T) {
	g := newRig(t, 2, func(o *Options) { o.MaxQueues = 2 })
	a, b := g.nodes[0], g.nodes[1]
	put := func(n *node, name string, body any) reply {
		return n.do(t, call{method: http.MethodPut, path: "/v1/queues/" + name, body: body})
	}
	put(a, "q", object{"visibility_ms": 1000}).want(201)
	put(a, "q", object{"visibility_ms": 2000, "max_dead": 7}).want(200)
	eventually(t, "the other node knows", func() bool {
		state := parse[queueState](b.get(t, "/v1/queues/q"))
		return state.VisibilityMS == 2000 && state.MaxDead == 7 && state.MaxJobs == defaultSettings.MaxJobs
	})
	b.put(t, "q", "x")
	job := b.leaseOne(t, "q", nil)
	if job.TTL != 2000 {
		t.Errorf("a lease of %d ms", job.TTL)
	}
	// A change leaves what is on lease alone.
	put(a, "q", object{"visibility_ms": 3000}).want(200)
	eventually(t, "the other node knows", func() bool { return parse[queueState](b.get(t, "/v1/queues/q")).VisibilityMS == 3000 })
	b.settle(t, "q", job.Lease, "ack", nil).want(204)
	b.put(t, "q", "y")
	if job := b.leaseOne(t, "q", nil); job.TTL != 3000 || job.Payload != "y" {
		t.Errorf("leased %+v", job)
	}

	put(b, "r", nil).want(201)
	put(a, "s", nil).wantCode(409, "too_many_queues")
	a.post(t, "/v1/queues/s/jobs", object{"payload": ""}).wantCode(409, "too_many_queues")
	eventually(t, "both nodes know both", func() bool {
		return len(parse[queueList](a.get(t, "/v1/queues")).Queues) == 2
	})
	a.do(t, call{method: http.MethodDelete, path: "/v1/queues/q"}).want(204)
	a.do(t, call{method: http.MethodDelete, path: "/v1/queues/q"}).wantCode(404, "not_found")
	a.get(t, "/v1/queues/q").wantCode(404, "not_found")
	put(a, "q", nil).want(201)
	eventually(t, "the other node knows", func() bool { return b.get(t, "/v1/queues/q").status == 200 })
	b.wantJobs(t, "q", 0)
	for _, body := range []object{
		{"visibility_ms": 0}, {"max_jobs": 0}, {"retry_jitter": 2}, {"retry_initial_ms": 10, "retry_max_ms": 5}, {"unknown": 1},
		{"max_leases": "x"},
	} {
		put(a, "q", body).wantCode(400, "invalid")
	}
	put(a, "no.good", nil).wantCode(400, "invalid")
	put(a, strings.Repeat("n", 65), nil).wantCode(400, "invalid")
}

// A queue that is full says so, and a delayed job comes late.
func TestJobLimits(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.do(t, call{method: http.MethodPut, path: "/v1/queues/q", body: object{"max_jobs": 1}}).want(201)
	n.post(t, "/v1/queues/q/jobs", object{"payload": "x", "delay_ms": 300, "id": "a b/c"}).want(201).wantBody(`{"id":"a b/c"}`)
	n.post(t, "/v1/queues/q/jobs", object{"payload": "x", "id": "a b/c"}).want(201) // is the same
	n.post(t, "/v1/queues/q/jobs", object{"payload": "y"}).wantCode(503, "full")
	begin := time.Now()
	if job := n.leaseOne(t, "q", nil); job.ID != "a b/c" || time.Since(begin) < 100*time.Millisecond {
		t.Errorf("leased %+v after %v", job, time.Since(begin))
	}
	for _, body := range []any{
		object{}, object{"payload": "x", "payload_base64": "eA=="}, object{"payload": "x", "delay_ms": -1}, "{", "[]", `{"payload":"x"}{}`,
		object{"payload": "x", "id": strings.Repeat("i", 256)},
	} {
		n.post(t, "/v1/queues/q/jobs", body).wantCode(400, "invalid")
	}
	n.post(t, "/v1/queues/q/jobs", object{"payload": strings.Repeat("x", 512<<10+1)}).wantCode(413, "too_large")
	n.post(t, "/v1/queues/q/jobs", object{"payload": strings.Repeat("x", 1<<20)}).wantCode(413, "too_large")
}

// A node that does not work on a key gives no jobs of it.
func TestLeaseByRole(t *testing.T) {
	n := newRig(t, 1, nil).nodes[0]
	n.put(t, "q", "x")
	n.post(t, "/v1/queues/q/lease", object{"key": "other:work"}).want(200).wantBody(`{"jobs":[],"serves":false}`)
	if job := n.leaseOne(t, "q", object{"key": "some:work"}); job.Payload != "x" {
		t.Errorf("leased %+v", job)
	}
	n.get(t, "/v1/roles?key=some:work&key=other:work").want(200).
		wantBody(`{"roles":["gateway","some:work"],"serves_requests":true,"works":{"other:work":false,"some:work":true}}`)
}
