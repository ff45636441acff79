package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// network carries signals between the nodes of a test, at once and in order, where it is
// whole.
type network struct {
	mu       sync.Mutex // guards the following fields
	handlers map[port]func(fabric.Message)
	cut      map[[2]string]bool // from, to
}

func newNetwork() *network {
	return &network{handlers: map[port]func(fabric.Message){}, cut: map[[2]string]bool{}}
}

// lose cuts the way from one node to another, in this direction only.
func (n *network) lose(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{from, to}] = true
}

// divide cuts every way between two sides.
func (n *network) divide(one, other []string) {
	for _, a := range one {
		for _, b := range other {
			n.lose(a, b)
			n.lose(b, a)
		}
	}
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

// port is one node's Signal.
type port struct {
	network  *network
	id       string
	instance string
}

func (p port) Publish(_ context.Context, subject string, payload []byte) error {
	p.network.mu.Lock()
	var handlers []func(fabric.Message)
	for to, handler := range p.network.handlers {
		if to != p && !p.network.cut[[2]string{p.id, to.id}] {
			handlers = append(handlers, handler)
		}
	}
	p.network.mu.Unlock()
	for _, handler := range handlers {
		handler(fabric.Message{Subject: subject, Payload: payload, Sender: p.id})
	}
	return nil
}

func (p port) Subscribe(_ string, handler func(fabric.Message), _ ...fabric.SubscribeOption) (
	fabric.Subscription, error) {
	p.network.mu.Lock()
	defer p.network.mu.Unlock()
	p.network.handlers[p] = handler
	return p, nil
}

func (p port) Unsubscribe() error {
	p.network.mu.Lock()
	defer p.network.mu.Unlock()
	delete(p.network.handlers, p)
	return nil
}

func (p port) Flush(context.Context) error { return nil }

var _ Signal = fabric.Signal(nil)

// testNode is a Membership under test with what it told.
type testNode struct {
	*Membership
	record  Member
	evicted atomic.Int32
	// outcasts counts how often it was told that it is forgotten.
	outcasts atomic.Int32
	drops    sync.Map
	changes  []string // what a subscriber saw, guarded by log
	log      sync.Mutex
}

// saw returns what a subscriber saw since the last call, such as "+n1 -n2 ~n3".
func (n *testNode) saw() string {
	n.log.Lock()
	defer n.log.Unlock()
	text := strings.Join(n.changes, " ")
	n.changes = nil
	return text
}

// members names the nodes of the view.
func (n *testNode) members() string {
	var names []string
	for _, member := range n.View().Members {
		names = append(names, member.Name)
	}
	return strings.Join(names, " ")
}

// room is a set of nodes on one network within a synctest bubble.
type room struct {
	overBus bool // of the nodes that are started
	t       *testing.T
	network *network
	dirs    map[int]string
	nodes   map[int]*testNode
	starts  int
	dead    sync.Map // instances whose process has ended, for verification
}

func newRoom(t *testing.T, nodes ...int) *room {
	r := emptyRoom(t)
	for _, n := range nodes {
		r.start(n, 1)
	}
	return r
}

// emptyRoom is one without nodes.
func emptyRoom(t *testing.T) *room {
	r := &room{t: t, network: newNetwork(), dirs: map[int]string{}, nodes: map[int]*testNode{}}
	t.Cleanup(func() {
		for _, node := range r.nodes {
			node.Stop()
		}
	})
	return r
}

// start starts node n for the boots-th time.
func (r *room) start(n int, boots uint64) *testNode {
	r.t.Helper()
	if r.dirs[n] == "" {
		r.dirs[n] = r.t.TempDir()
	}
	node := &testNode{record: testMember(n)}
	node.record.Incarnation = boots << bootShift
	r.starts++
	node.record.Instance = fmt.Sprintf("%016x", r.starts)
	options, err := Options{
		DataDir: r.dirs[n], Secret: strings.Repeat("s", 32), Domain: "test", OverBus: r.overBus,
		Logger:  slog.New(slog.DiscardHandler),
		Dropped: func(reason string) { node.drops.Store(reason, true) },
		Evicted: func() { node.evicted.Add(1) }, Forgotten: func() { node.outcasts.Add(1) },
	}.withDefaults()
	if err != nil {
		r.t.Fatal(err)
	}
	verify := func(_ context.Context, member Member) bool {
		_, dead := r.dead.Load(member.Instance)
		return dead
	}
	decision := Decision{Kind: Join, Cluster: "c", Self: node.record, Members: []Member{node.record}}
	signal := port{r.network, node.record.ID, node.record.Instance}
	node.Membership, err = start(options, decision, signal, verify)
	if err != nil {
		r.t.Fatal(err)
	}
	r.nodes[n] = node
	go follow(node, node.Subscribe())
	return node
}

func follow(node *testNode, subscription *Subscription) {
	for {
		change, err := subscription.Next(context.Background())
		if err != nil {
			return
		}
		node.log.Lock()
		for sign, members := range map[string][]Member{"-": change.Left, "+": change.Joined, "~": change.Changed} {
			for _, member := range members {
				node.changes = append(node.changes, sign+member.Name)
			}
		}
		slices.Sort(node.changes)
		node.log.Unlock()
	}
}

// kill ends a process as SIGKILL does: no word, and nobody listens any more.
func (r *room) kill(n int) {
	node := r.nodes[n]
	delete(r.nodes, n)
	r.dead.Store(node.record.Instance, true)
	node.Stop()
}

// pause stops a process as SIGSTOP does and returns what lets it go on.
func (r *room) pause(n int) (resume func()) {
	stopped := make(chan struct{})
	go r.nodes[n].command(func() { <-stopped })
	synctest.Wait()
	return func() { close(stopped) }
}

func (r *room) ids(nodes ...int) []string {
	var ids []string
	for _, n := range nodes {
		ids = append(ids, r.nodes[n].record.ID)
	}
	return ids
}

// pass lets time pass and everything that follows from it happen.
func (r *room) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// expect demands that each of the nodes has this view.
func (r *room) expect(members string, nodes ...int) {
	r.t.Helper()
	for _, n := range nodes {
		if got := r.nodes[n].members(); got != members {
			r.t.Errorf("view of n%d is %q, want %q", n, got, members)
		}
	}
}

// expectSaw demands what the subscriber of each node saw since the last time.
func (r *room) expectSaw(want string, nodes ...int) {
	r.t.Helper()
	for _, n := range nodes {
		if got := r.nodes[n].saw(); got != want {
			r.t.Errorf("n%d saw %q, want %q", n, got, want)
		}
	}
}

func (r *room) expectEvictions(want int32, nodes ...int) {
	r.t.Helper()
	for _, n := range nodes {
		if got := r.nodes[n].evicted.Load(); got != want {
			r.t.Errorf("n%d was evicted %d times, want %d", n, got, want)
		}
	}
}

// forgetSaw drops what was seen until now.
func (r *room) forgetSaw() {
	for _, node := range r.nodes {
		node.saw()
	}
}

func TestSubscriptionEndsWithTheMembership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, 1)
		subscription := r.nodes[1].Subscribe()
		if change, err := subscription.Next(t.Context()); err != nil || len(change.Joined) != 1 {
			t.Fatalf("first change is %+v, %v", change, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := subscription.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error is %v", err)
		}
		r.nodes[1].Stop()
		if _, err := subscription.Next(t.Context()); !errors.Is(err, ErrStopped) {
			t.Fatalf("error is %v, want ErrStopped", err)
		}
		r.nodes[1].SetState(StateReady) // must return
		if err := r.nodes[1].Leave(t.Context()); !errors.Is(err, ErrStopped) {
			t.Fatalf("leave after stop: %v", err)
		}
	})
}
