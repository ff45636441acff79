package growth

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws/wsutil"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/test/process"
)

// A node that waits for others says so on every port, at once, to probes, people and clients.
func TestWhileItWaits(t *testing.T) {
	t.Parallel()
	s := build(t, 3, 3)
	first := s.nodes[0]
	first.join()
	waits(s, first, "looking for the cluster: waiting for 3 nodes with role store")
	s.nodes[1].join()
	waits(s, first, "2 are here: this one, node2")
	s.nodes[2].join()
	s.awaitReady(s.nodes...)
	// Two die, and one of them comes back alone: then the other.
	for _, n := range s.nodes {
		n.Kill()
	}
	first.join()
	waits(s, first, "a majority of the 3 store members")
	s.nodes[2].join()
	s.awaitReady(first, s.nodes[2])
	first.Kill()
	first.join() // it finds a running cluster that has no majority while it is away
	s.awaitReady(first, s.nodes[2])
}

// waits demands of a node that waits what it owes to everybody.
func waits(s *site, n *node, reason string) {
	s.Helper()
	eventually(s.T, n.name+" answers", func() bool {
		status, body, _ := n.get("/ready")
		return status == http.StatusServiceUnavailable && strings.Contains(body, reason)
	})
	for path, want := range map[string]int{"/live": 200, "/up": 503, "/up/77": 503, "/apps/77/channels": 503, "/nothing": 503} {
		status, body, header := n.get(path)
		if status != want || want == 503 && !strings.Contains(body, reason) {
			s.Errorf("%s: %d %s", path, status, body)
		}
		if strings.Contains(path[1:], "p") && !strings.HasPrefix(path, "/up") && header.Get("Retry-After") == "" {
			s.Errorf("%s: no Retry-After", path)
		}
	}
	probes := &node{site: s, name: n.name, port: n.port + 10}
	if status, body, _ := probes.get("/ready"); status != 503 || !strings.Contains(body, reason) {
		s.Errorf("metrics port, /ready: %d %s", status, body)
	}
	for path, want := range map[string]int{"/live": 200, "/metrics": 200} {
		if status, body, _ := probes.get(path); status != want {
			s.Errorf("metrics port, %s: %d %s", path, status, body)
		}
	}
	c, err := dial(n, "any")
	if err != nil {
		s.Fatalf("a client: %v", err)
	}
	event, data, err := c.next()
	if err != nil || event != "pusher:error" || !strings.Contains(data, "4100") {
		s.Errorf("a client gets %s %s, %v", event, data, err)
	}
	var closed wsutil.ClosedError
	if _, _, err = c.next(); !errors.As(err, &closed) || closed.Code != 4100 {
		s.Errorf("a client is closed with %v", err)
	}
	_ = c.Close()
	if out, err := n.command("cluster", "status"); err != nil || !strings.Contains(out, reason) {
		s.Errorf("status: %v\n%s", err, out)
	}
	if _, err := n.command("app", "list"); err == nil || !strings.Contains(err.Error(), "the node is starting") {
		s.Errorf("app list: %v", err)
	}
}

// From three to five and back: replicas follow, who is forgotten stays out, and what was
// stored is there all the time.
func TestFromThreeToFiveAndBack(t *testing.T) {
	t.Parallel()
	s := build(t, 5, 3)
	nodes := s.nodes
	for _, n := range nodes[:3] {
		n.join()
	}
	s.awaitReady(nodes[:3]...)
	app := makeApp(nodes[0], "77", nil)
	s.replicas(nodes[1], 3, 3)
	stopped := s.staysReady(nodes[:3]...)
	nodes[3].join()
	nodes[4].join()
	s.awaitReady(nodes...)
	s.replicas(nodes[1], 5, 5)
	stopped()
	works(app, nodes[4], nodes[0])

	for _, member := range []string{"node5", nodes[4].view().Self} {
		if _, err := nodes[0].command("cluster", "forget", member); err == nil || !strings.Contains(err.Error(), "it is alive; drain it") {
			t.Errorf("forget the living %s: %v", member, err)
		}
	}
	if _, err := nodes[0].command("cluster", "forget", "nobody"); err == nil || !strings.Contains(err.Error(), "no such member") {
		t.Errorf("forget nobody: %v", err)
	}
	if _, err := nodes[0].command("cluster", "forget", "node1"); err == nil || !strings.Contains(err.Error(), "the node that was asked") {
		t.Errorf("forget itself: %v", err)
	}

	// A node that is merely down takes nothing away, also when others restart meanwhile.
	nodes[4].Kill()
	nodes[3].Kill()
	nodes[2].Terminate()
	nodes[2].join()
	s.awaitReady(nodes[:3]...)
	time.Sleep(3 * time.Second) // that nothing is lowered cannot be awaited
	s.replicas(nodes[2], 5, 5)
	if missing := missing(nodes[2].view()); !slices.Equal(missing, []string{"node4", "node5"}) {
		t.Errorf("missing are %v", missing)
	}
	nodes[3].join()
	s.awaitReady(nodes[:4]...)

	out, err := nodes[0].command("cluster", "forget", "node5")
	if err != nil || !strings.Contains(out, "forgotten: ") {
		t.Fatalf("forget node5: %v\n%s", err, out)
	}
	nodes[0].says("from 5 to 3 replicas") // the command may look too late
	for _, n := range nodes[:4] {
		s.replicas(n, 3, 4)
		if missing := missing(n.view()); len(missing) > 0 {
			t.Errorf("%s misses %v", n.name, missing)
		}
	}
	nodes[4].join()
	if code := nodes[4].Await(); code == 0 || !strings.Contains(nodes[4].Output(), "empty its data directory") {
		t.Errorf("the forgotten one ends with %d", code)
	}
	nodes[3].Terminate()
	nodes[1].misses("node4")
	if out, err = nodes[1].command("cluster", "forget", "node4"); err != nil {
		t.Fatalf("forget node4: %v\n%s", err, out)
	}
	s.replicas(nodes[0], 3, 3)
	nodes[2].Terminate()
	nodes[1].misses("node3")
	if _, err = nodes[1].command("cluster", "forget", "node3"); err == nil || !strings.Contains(err.Error(), "let another join first") {
		t.Errorf("forget node3: %v", err)
	}

	// A machine is replaced: an empty node joins first, then the dead one is forgotten.
	nodes[4].empty()
	nodes[4].join()
	s.awaitReady(nodes[0], nodes[1], nodes[4])
	if out, err = nodes[1].command("cluster", "forget", "node3"); err != nil {
		t.Fatalf("forget node3: %v\n%s", err, out)
	}
	s.replicas(nodes[4], 3, 3)
	works(app, nodes[4], nodes[0])
	// All restart: who is known is known still.
	left := []*node{nodes[0], nodes[1], nodes[4]}
	for _, n := range left {
		n.Kill()
	}
	for _, n := range left {
		n.join()
	}
	s.awaitReady(left...)
	s.replicas(nodes[0], 3, 3)
	works(app, nodes[0], nodes[4])
}

// replicas waits until a node sees so many copies of everything, and nodes with a store.
func (s *site) replicas(n *node, copies, stores int) {
	s.Helper()
	var view admin.ClusterView
	defer func() {
		if s.Failed() {
			s.Logf("%s sees %+v", n.name, view)
		}
	}()
	if !process.Until(2*process.Patience, func() bool { // who could not raise them tries again after a minute
		view = n.view()
		return view.Replicas.Have == copies && len(view.Replicas.Behind) == 0 && view.Replicas.Stores == stores && view.Engine.Healthy
	}) {
		s.Fatalf("%s does not see %d replicas and %d stores", n.name, copies, stores)
	}
	if want := min(stores-1, copies-1) / 2; view.Replicas.Survives != want {
		s.Errorf("%s: it survives %d, want %d", n.name, view.Replicas.Survives, want)
	}
}

// staysReady demands that nodes stay in the rotation until the returned function is called. Only
// who is not ready while everything has a leader has left it: a busy machine may have elections.
func (s *site) staysReady(nodes ...*node) (stop func()) {
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, n := range nodes {
				if n.unready() && n.led() && n.unready() && n.led() {
					_, body, header := n.get("/ready")
					s.Errorf("%s leaves the rotation: now %s %v", n.name, body, header)
				}
			}
			select {
			case <-ended:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() { close(ended); <-done }
}

// unready tells that the node says so; who is slow to answer does not.
func (n *node) unready() bool {
	status, _, _ := n.get("/ready")
	return status == http.StatusServiceUnavailable
}

// led tells whether the engine of the node and all that it stores have a leader.
func (n *node) led() bool {
	view, err := n.admin.Cluster(n.site.Context())
	return err == nil && view.Engine.Leader != "" && len(view.Engine.Leaderless) == 0
}

func missing(view admin.ClusterView) (names []string) {
	for _, m := range view.Missing {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

// Two nodes are a cluster that survives nothing, and say so; a third makes it one.
func TestTwoNodesAndAThird(t *testing.T) {
	t.Parallel()
	s := build(t, 3, 2)
	for _, n := range s.nodes[:2] {
		n.join()
	}
	s.awaitReady(s.nodes[:2]...)
	app := makeApp(s.nodes[0], "77", nil)
	s.nodes[0].says("survives the loss of neither")
	if out, err := s.nodes[1].command("cluster", "status"); err != nil || !strings.Contains(out, "survives  no loss: while one of the 2") {
		t.Errorf("status: %v\n%s", err, out)
	}
	s.nodes[2].join()
	s.awaitReady(s.nodes...)
	s.replicas(s.nodes[0], 3, 3)
	s.nodes[1].Kill()
	eventually(t, "an app is created without one of three", func() bool {
		_, err := s.nodes[0].admin.CreateApp(t.Context(), admin.NewApp{ID: "78"})
		return err == nil
	})
	eventually(t, "the status says that one is away", func() bool {
		out, err := s.nodes[0].command("cluster", "status")
		return err == nil && strings.Contains(out, "no further loss: 1 of 3 nodes with a store is away")
	})
	works(app, s.nodes[2], s.nodes[0])
}

// A cluster of one is refused with what to do instead.
func TestClusterOfOne(t *testing.T) {
	t.Parallel()
	s := build(t, 1, 1)
	s.nodes[0].join()
	if code := s.nodes[0].Await(); code == 0 || !strings.Contains(s.nodes[0].Output(), "a node of its own has no cluster section") {
		t.Errorf("it ends with %d", code)
	}
}
