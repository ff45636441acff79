//go:build linux

package linear

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/client"
)

const (
	// attempt is how long a client waits for an answer.
	attempt = 2 * time.Second
	// lockTTL is that of the locks, and jobLease that of the jobs. A node keeps a lock for half as
	// long again; longPause is more than all of that.
	lockTTL  = time.Second
	jobLease = 1500 * time.Millisecond
	// longPause is for how long a node is stopped, so that who held something through it, or was
	// asking it, has lost it to others when it goes on; shortPause is over in time for some.
	longPause  = 2500 * time.Millisecond
	shortPause = 1200 * time.Millisecond
	// mostUnknown is how many operations of a key may be unknown, before clients use another: each
	// makes the search longer.
	mostUnknown = 4
)

// load is what all clients do, until stop is closed.
type load struct {
	t       *testing.T
	cluster *cluster
	direct  []*client.Client // of one node each, that try nothing twice
	steady  *client.Client   // of all nodes
	http    *http.Client
	stop    chan struct{}
	running sync.WaitGroup
	// listening is who hears signals, which goes on when the others have stopped.
	listening sync.WaitGroup
	names     atomic.Int64 // of clients that go on as others

	counters, registers, locks, jobs history
	unknowns                         map[string]int // operations by key; guarded by mu
	mu                               sync.Mutex
	published, finished              map[string]bool // jobs; guarded by mu
	ids                              map[int64]bool  // guarded by mu
	said                             map[string]bool // signals that were published; guarded by mu
	heard                            map[string]bool // guarded by mu
}

func newLoad(t *testing.T, c *cluster) *load {
	t.Helper()
	l := &load{
		t: t, cluster: c, http: &http.Client{Timeout: attempt + lockTTL}, stop: make(chan struct{}), unknowns: map[string]int{},
		published: map[string]bool{}, finished: map[string]bool{}, ids: map[int64]bool{}, said: map[string]bool{}, heard: map[string]bool{},
	}
	o := client.Options{Token: token, AttemptTimeout: attempt}
	for _, n := range c.nodes {
		o.Endpoints = append(o.Endpoints, n.url())
	}
	l.steady = l.client(o)
	for _, endpoint := range o.Endpoints {
		l.direct = append(l.direct, l.client(client.Options{
			Token: token, AttemptTimeout: attempt, RetryFor: -1, Endpoints: []string{endpoint},
		}))
	}
	return l
}

// sizes tells how much there is of each kind.
func (l *load) sizes() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[string]int{
		"counters": l.counters.size(), "registers": l.registers.size(), "locks": l.locks.size(), "jobs": l.jobs.size(), "ids": len(l.ids),
	}
}

func (l *load) client(o client.Options) *client.Client {
	c, err := client.New(o)
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// run has so many clients do something again and again, each with a name of its own.
func (l *load) run(count int, pause time.Duration, do func(name *int, node *client.Client)) {
	for range count {
		l.running.Go(func() {
			name := int(l.names.Add(1))
			for {
				select {
				case <-l.stop:
					return
				case <-time.After(time.Duration(rand.Int64N(int64(2*pause) + 1))):
				}
				do(&name, l.direct[rand.IntN(len(l.direct))])
			}
		})
	}
}

// outcome tells what an error says of an operation, and returns when it ended. The client whose
// operation may never end goes on under another name.
func (l *load) outcome(name *int, key string, err error, refusal error) (answerOf, int64) {
	switch {
	case err == nil:
		return done, now()
	case refusal != nil && errors.Is(err, refusal):
		return refused, now()
	case !errors.Is(err, client.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded):
		l.t.Errorf("%s: %v", key, err)
	}
	*name = int(l.names.Add(1))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknowns[key]++
	return unknown, forEver
}

// key returns a name that not too many operations are unknown of.
func (l *load) key(kind string, among int) string {
	slot := rand.IntN(among)
	l.mu.Lock()
	defer l.mu.Unlock()
	for generation := 0; ; generation++ {
		key := fmt.Sprintf("%s-%d-%d", kind, slot, generation)
		if l.unknowns[key] < mostUnknown {
			return key
		}
	}
}

// count adds to counters.
func (l *load) count(name *int, node *client.Client) {
	input := counterInput{l.key("counter", 3), rand.Int64N(3)}
	by, call := *name, time.Now()
	sum, err := node.Cache().Add(l.t.Context(), input.key, input.delta, 0)
	answer, end := l.outcome(name, input.key, err, nil)
	l.counters.add(by, call, end, input, counterOutput{answer, sum})
}

// staleRefusal is how old what a swap is refused for may be: a leader that was stopped with its node
// answers from what it had until it hears of the next one. What is done is exact.
const staleRefusal = 2 * time.Second

// swap changes registers. What it reads first may be stale.
func (l *load) swap(name *int, node *client.Client) {
	input := swapInput{key: l.key("register", 3), new: fmt.Sprint(rand.IntN(5) + 1)}
	current, err := node.Cache().Get(l.t.Context(), input.key)
	if err != nil && !errors.Is(err, client.ErrNotFound) {
		return
	}
	var old []byte
	if err == nil {
		old, input.old = current, string(current)
	}
	by, call := *name, time.Now()
	err = node.Cache().CompareAndSwap(l.t.Context(), input.key, old, []byte(input.new), 0)
	answer, end := l.outcome(name, input.key, err, client.ErrConflict)
	if answer == refused { // by a client of its own, as it begins before others of this one end
		by, call = int(l.names.Add(1)), call.Add(-staleRefusal)
	}
	l.registers.add(by, call, end, input, answer)
}

// post sends a request without any help, and returns the status, 0 for no answer.
func (l *load) post(node int, path string, body, answer any) int {
	text, err := json.Marshal(body)
	if err != nil {
		l.t.Error(err)
		return 0
	}
	request, err := http.NewRequestWithContext(l.t.Context(), http.MethodPost, l.cluster.nodes[node].url()+path, bytes.NewReader(text))
	if err != nil {
		l.t.Error(err)
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := l.http.Do(request)
	if err != nil {
		return 0
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode/100 == 2 && answer != nil && json.NewDecoder(response.Body).Decode(answer) != nil {
		return 0
	}
	return response.StatusCode
}

// hold takes a lock at one node, extends it at others perhaps, and gives it back, or does not.
func (l *load) hold(name *int, _ *client.Client) {
	lock := fmt.Sprint("lock-", rand.IntN(4))
	path := "/v1/locks/" + lock
	var held struct {
		ID    string `json:"lock_id"`
		Token uint64 `json:"token"`
		TTL   int64  `json:"ttl_ms"`
	}
	begin := time.Now()
	body := map[string]int64{"ttl_ms": lockTTL.Milliseconds(), "wait_ms": lockTTL.Milliseconds()}
	if l.post(rand.IntN(nodeCount), path, body, &held) != http.StatusCreated {
		return // nobody believes to have it
	}
	told := time.Now()
	until := begin.Add(time.Duration(held.TTL) * time.Millisecond)
	if told.After(until) {
		return // it was over when the answer came
	}
	l.locks.add(*name, begin, told.UnixNano(), lockInput{lock, true, held.Token}, nil)
	ended := lockInput{lock, false, held.Token}
	ref := map[string]any{"lock_id": held.ID, "ttl_ms": lockTTL.Milliseconds()}
	for rand.IntN(3) == 0 && time.Now().Before(until) {
		time.Sleep(time.Duration(rand.Int64N(int64(lockTTL / 4)))) // it works under the lock
		begin = time.Now()
		status := l.post(rand.IntN(nodeCount), path+"/extend", ref, &held)
		if status == http.StatusConflict && begin.Before(until) { // lost, and told so
			l.locks.add(*name, begin, now(), ended, nil)
			return
		}
		if more := begin.Add(time.Duration(held.TTL) * time.Millisecond); status == http.StatusOK && begin.Before(until) {
			until = later(until, more)
		}
	}
	if rand.IntN(20) == 0 || !time.Now().Before(until) { // it dies, or has overslept
		l.locks.add(*name, until, forEver, ended, nil)
		*name = int(l.names.Add(1))
		return
	}
	delete(ref, "ttl_ms")
	if begin = time.Now(); begin.After(until) {
		begin = until // it has overslept since
	}
	l.post(rand.IntN(nodeCount), path+"/release", ref, nil)
	l.locks.add(*name, begin, forEver, ended, nil) // whatever the answer, from begin on it does not rely on it
	*name = int(l.names.Add(1))
}

// later returns the later one: an extension never takes away what was promised before.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

const queueName = "linear"

// publish puts a job into the queue.
func (l *load) publish(name *int, node *client.Client) {
	id := fmt.Sprintf("job-%d", l.names.Add(1))
	by, call := *name, time.Now()
	_, err := node.Queue(queueName).Publish(l.t.Context(), client.NewJob{ID: id, Payload: []byte(id)})
	answer, end := l.outcome(name, "jobs", err, nil)
	l.jobs.add(by, call, end, jobStep{id, "publish"}, answer)
	if answer == done {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.published[id] = true
	}
}

// work takes a job and says what became of it, at another node.
func (l *load) work(name *int, node *client.Client) {
	l.take(name, node, client.LeaseOptions{Max: 3, Wait: time.Second, Lease: jobLease})
}

func (l *load) take(name *int, node *client.Client, o client.LeaseOptions) {
	call := time.Now()
	leases, err := node.Queue(queueName).Lease(l.t.Context(), o)
	if err != nil {
		return
	}
	end := now()
	for _, lease := range leases {
		l.jobs.add(*name, call, end, jobStep{lease.ID, "deliver"}, done)
		l.settle(name, lease)
		*name = int(l.names.Add(1)) // porcupine has one operation of a client at a time
	}
}

func (l *load) settle(name *int, lease *client.Lease) {
	chance := rand.IntN(12)
	select {
	case <-l.stop:
		chance = 2 // the last jobs are to be done
	default:
	}
	switch chance {
	case 0: // the worker dies
		return
	case 1:
		_ = lease.Nack(l.t.Context(), "not now") // or the lease runs out
		return
	}
	by, call := int(l.names.Add(1)), time.Now()
	err := lease.Ack(l.t.Context())
	if errors.Is(err, client.ErrLost) {
		return // it says nothing: another may have it, and may finish it
	}
	answer, end := l.outcome(name, "jobs", err, nil)
	l.jobs.add(by, call, end, jobStep{lease.ID, "finish"}, answer)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished[lease.ID] = true // or nobody knows, and it is not demanded that it comes again
}

// mint takes ids, none of which may come twice.
func (l *load) mint(_ *int, node *client.Client) {
	ids, err := node.NewIDs(l.t.Context(), 50)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if l.ids[id] {
			l.t.Errorf("id %d came twice", id)
		}
		l.ids[id] = true
	}
}

// say publishes a signal.
func (l *load) say(_ *int, node *client.Client) {
	text := fmt.Sprint(l.names.Add(1))
	if _, err := node.Signals().Publish(l.t.Context(), client.NewSignal{Subject: "linear.said", Payload: []byte(text)}); err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[text] = true
}

// hear subscribes to the signals until ctx ends: each must come behind the last one.
func (l *load) hear(ctx context.Context) {
	after, last := uint64(0), uint64(0)
	o := client.SubscribeOptions{Subjects: []string{"linear.*"}, After: &after, Gap: func(uint64) { l.t.Error("there is a gap between signals") }}
	err := l.steady.Signals().Subscribe(ctx, o, func(s client.Signal) error {
		if s.Position <= last {
			l.t.Errorf("signal %d after %d", s.Position, last)
		}
		last = s.Position
		l.mu.Lock()
		defer l.mu.Unlock()
		l.heard[string(s.Payload)] = true
		return nil
	})
	if err != nil {
		l.t.Error(err)
	}
}
