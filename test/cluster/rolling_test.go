package cluster

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws/wsutil"

	"github.com/parleyio/parley/internal/pusher/protocol"
)

// What a rolling restart is done with. The delay is what HAProxy needs to notice that a node
// drains: two checks, a second apart.
const (
	rollingClients = 240
	rollingRate    = 40 // clients that a node sends away each second
	rollingDelay   = 3 * time.Second
	publishers     = 2
	publishPause   = 20 * time.Millisecond // of each
)

// backMargin is how long after the last one was sent away everybody must be back, and how long
// a single client may take. Only PARLEY_FAULTS_STRICT=1 judges it: that is for a machine that does
// nothing else.
var backMargin = map[bool]time.Duration{false: patience, true: time.Second}[os.Getenv("PARLEY_FAULTS_STRICT") == "1"]

// TestRollingDrain restarts all nodes behind HAProxy one after the other as an operator does:
// drain, wait until nobody is left, SIGTERM, start. No publish may be refused, by HAProxy or by
// the node that drains, and every client must be sent away and be back at the pace.
func TestRollingDrain(t *testing.T) {
	t.Parallel()
	program := installed(t, "haproxy", "/usr/sbin/haproxy")
	b := &balancer{nodes: start(t), sticky: "cookie"}
	launch(t, nil, program, "-db", "-f", b.configure("haproxy"))
	eventually(t, "a node answers through the balancer", func() bool { return b.status("/up") == http.StatusOK })
	f := newFlock(b)
	steady := startSteady(t, publishers, func() error { return publish(b.client, b.url(), "steady", "e", "{}") })
	began := time.Now()
	for _, n := range b.list {
		f.restart(n)
	}
	t.Logf("figure: rolling restart of three nodes with drain: %v", time.Since(began).Round(time.Millisecond))
	steady.check("through the balancer")
	f.check()
}

// restart restarts one node.
func (f *flock) restart(n *node) {
	t := f.balancer.T
	t.Helper()
	f.complete()
	had := n.clients()
	if had < rollingClients/6 {
		t.Errorf("%s has %d of %d clients: it proves little", n.name, had, rollingClients)
	}
	// What a node that drains still gets from balancers that have not noticed.
	direct := startSteady(t, 1, func() error { return publish(f.balancer.client, n.url(), "steady", "e", "{}") })
	mark, began := f.mark(), time.Now()
	if _, err := f.balancer.command("cluster", "drain", "--server", n.url(), "--rate", strconv.Itoa(rollingRate), "--delay", rollingDelay.String()); err != nil {
		t.Fatal(err)
	}
	eventually(t, n.name+" has no client", func() bool { return f.moved(mark) >= had && n.clients() == 0 })
	direct.check("to " + n.name + ", which drains")
	f.paced(n, mark, had, began)

	stopping := time.Now()
	if code := n.Terminate(); code != 0 {
		t.Errorf("%s ended with %d", n.name, code)
	}
	t.Logf("figure: %s drained, stopped by SIGTERM: %v", n.name, time.Since(stopping).Round(time.Millisecond))
	n.start()
	for _, each := range f.balancer.list {
		eventually(t, each.name+" sees all nodes", func() bool { return each.ready() && each.sees("ready") == count })
	}
}

// complete waits until the nodes have all clients.
func (f *flock) complete() {
	f.balancer.Helper()
	eventually(f.balancer.T, "the nodes have all clients", func() bool {
		all := 0
		for _, clients := range f.balancer.counts() {
			all += clients
		}
		return all == rollingClients
	})
}

// move is how a client lost its connection and got another one.
type move struct {
	code       int // of the close frame
	lost, back time.Time
	refused    int // tries that were
}

// flock are clients that connect again through the balancer when they are sent away, with the
// cookie that they have got, as browsers do.
type flock struct {
	balancer *balancer

	mu    sync.Mutex // guards the following fields
	moves []move
	over  bool // connections that end now are no moves
	open  map[*socket]bool
}

func newFlock(b *balancer) *flock {
	b.Helper()
	f := &flock{balancer: b, open: map[*socket]bool{}}
	var connecting, running sync.WaitGroup
	slots := make(chan struct{}, 8) // connecting at a time
	for range rollingClients {
		connecting.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			d := b.wss(0)
			s, err := f.connect(&d)
			if err != nil {
				b.Error(err)
				return
			}
			running.Go(func() { f.follow(d, s) })
		})
	}
	connecting.Wait()
	b.Cleanup(func() {
		f.end()
		running.Wait()
	})
	if b.Failed() {
		b.FailNow()
	}
	return f
}

// end closes all connections and has no more opened.
func (f *flock) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	for s := range f.open {
		_ = s.Close() // it is of no use any more
	}
}

func (f *flock) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

// connect returns a connection that is subscribed.
func (f *flock) connect(d *dialing) (*socket, error) {
	s, err := d.connect()
	if err != nil {
		return nil, err
	}
	d.cookie = s.cookie
	err = wsutil.WriteClientText(s, []byte(`{"event":"pusher:subscribe","data":{"channel":"flock"}}`))
	if err == nil {
		var event, data string
		if event, data, err = s.next(); err == nil && event != "pusher_internal:subscription_succeeded" {
			err = fmt.Errorf("got %s %s", event, data)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.over {
		err = errors.New("the test is over")
	}
	if err != nil {
		_ = s.Close() // it is of no use
		return nil, err
	}
	f.open[s] = true
	return s, nil
}

// follow notes each move of a client until the test is over.
func (f *flock) follow(d dialing, s *socket) {
	for {
		m := move{code: s.lastCode(), lost: time.Now()}
		_ = s.Close() // the node has closed it
		f.mu.Lock()
		delete(f.open, s)
		f.mu.Unlock()
		for {
			if f.ended() {
				return
			}
			var err error
			if s, err = f.connect(&d); err == nil {
				break
			}
			m.refused++
			time.Sleep(publishPause) // client libraries wait for a second
		}
		m.back = time.Now()
		f.mu.Lock()
		f.moves = append(f.moves, m)
		f.mu.Unlock()
	}
}

// mark is where the moves begin that follow.
func (f *flock) mark() int { return f.moved(0) }

// moved counts the moves since a mark.
func (f *flock) moved(since int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.moves) - since
}

// paced demands that so many clients were sent away at the pace and are back.
func (f *flock) paced(n *node, since, clients int, began time.Time) {
	t := f.balancer.T
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var last move
	var gap time.Duration
	refused := 0
	for _, m := range f.moves[since:] {
		if m.lost.After(last.lost) {
			last.lost = m.lost
		}
		if m.back.After(last.back) {
			last.back = m.back
		}
		gap = max(gap, m.back.Sub(m.lost))
		refused += m.refused
	}
	pace := time.Duration(clients) * time.Second / rollingRate
	went, back := last.lost.Sub(began)-rollingDelay, last.back.Sub(began)-rollingDelay
	t.Logf("figure: %s drained of %d clients at %d/s, which takes %v: the last one is sent away after %v and back after %v; "+
		"longest time without a connection: %v; tries refused: %d", n.name, clients, rollingRate, pace,
		went.Round(time.Millisecond), back.Round(time.Millisecond), gap.Round(time.Millisecond), refused)
	if least := pace - 2*time.Second/rollingRate; went < least {
		t.Errorf("all clients of %s are sent away after %v, at the pace it takes %v", n.name, went, pace)
	}
	if back > pace+backMargin {
		t.Errorf("the last client of %s is back after %v, at the pace %v is the time", n.name, back, pace)
	}
	if gap > backMargin {
		t.Errorf("a client of %s was without a connection for %v", n.name, gap)
	}
}

// check demands that everybody is connected, and that nobody lost a connection but by a drain.
func (f *flock) check() {
	t := f.balancer.T
	t.Helper()
	f.complete()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.moves {
		if m.code != protocol.CodeReconnect {
			t.Errorf("a connection ended with %d", m.code)
		}
	}
	t.Logf("figure: clients moved: %d times, %d are connected", len(f.moves), len(f.open))
	if len(f.open) != rollingClients {
		t.Errorf("%d of %d clients are connected", len(f.open), rollingClients)
	}
}

// steady publishes at a steady pace and notes what is not accepted.
type steady struct {
	t       *testing.T
	stop    chan struct{}
	running sync.WaitGroup

	mu       sync.Mutex // guards the following fields
	accepted int
	longest  time.Duration
	errs     []error
}

func startSteady(t *testing.T, publishers int, publish func() error) *steady {
	s := &steady{t: t, stop: make(chan struct{})}
	for range publishers {
		s.running.Go(func() { s.run(publish) })
	}
	return s
}

func (s *steady) run(publish func() error) {
	ticker := time.NewTicker(publishPause)
	defer ticker.Stop()
	for {
		begun := time.Now()
		err := publish()
		s.mu.Lock()
		if err == nil {
			s.accepted++
		} else {
			s.errs = append(s.errs, fmt.Errorf("%s: %w", begun.Format(time.StampMilli), err))
		}
		s.longest = max(s.longest, time.Since(begun))
		s.mu.Unlock()
		select {
		case <-ticker.C:
		case <-s.stop:
			return
		case <-s.t.Context().Done(): // the test has failed
			return
		}
	}
}

// check ends the publishing and demands that all of it was accepted.
func (s *steady) check(what string) {
	s.t.Helper()
	close(s.stop)
	s.running.Wait()
	s.t.Logf("figure: publishes %s: %d accepted, %d not, the longest took %v", what, s.accepted, len(s.errs), s.longest.Round(time.Millisecond))
	if len(s.errs) > 0 {
		s.t.Errorf("%d publishes %s were not accepted, the first: %v", len(s.errs), what, s.errs[0])
	}
	if s.accepted == 0 {
		s.t.Errorf("no publish %s was accepted", what)
	}
}
