package growth

import (
	"strings"
	"testing"
	"time"
)

// Who is killed is forgotten soon after, two as well as one; who comes back meanwhile is a
// member as before or is out, and nothing between.
func TestForgetTheKilled(t *testing.T) {
	t.Parallel()
	s := build(t, 5, 5)
	nodes := s.nodes
	for _, n := range nodes {
		n.join()
	}
	s.awaitReady(nodes...)
	app := makeApp(nodes[0], "77", nil)
	s.replicas(nodes[0], 5, 5)

	// It is back before anything has happened.
	ended := s.forgetKilled(nodes[4], "looking")
	nodes[4].join()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "is back") && !strings.Contains(err.Error(), "is alive") {
		t.Fatalf("forget who is back: %v", err)
	}
	s.awaitReady(nodes...)
	s.replicas(nodes[0], 5, 5)
	if f := nodes[0].view().Forgetting; f != nil {
		t.Errorf("what is over is shown: %+v", f)
	}

	// It is back while the replicas are lowered: it may be too late.
	ended = s.forgetKilled(nodes[4], "stream")
	nodes[4].join()
	err := <-ended
	t.Logf("who came back later: %v", err)
	if err == nil {
		if code := nodes[4].awaitEnd(); code == 0 || !strings.Contains(nodes[4].out.String(), "empty its data directory") {
			t.Errorf("it ends with %d", code)
		}
		nodes[4].empty()
		nodes[4].join()
	}
	s.awaitReady(nodes...)
	s.replicas(nodes[0], 5, 5)

	// Two die, and are forgotten a second later, each at another node.
	nodes[3].kill()
	nodes[4].kill()
	time.Sleep(time.Second) // long enough to be missed, and too short to be given up by the engine
	begin, first, second := time.Now(), make(chan error, 1), make(chan error, 1)
	go func() { first <- nodes[0].forget("node5") }()
	go func() { second <- nodes[1].forget("node4") }()
	if err := <-first; err != nil {
		t.Fatalf("forget node5: %v", err)
	}
	if err := <-second; err != nil {
		t.Fatalf("forget node4: %v", err)
	}
	t.Logf("two were forgotten after %v", time.Since(begin))
	for _, n := range nodes[:3] {
		s.replicas(n, 3, 3)
	}
	works(app, nodes[0], nodes[2])
}

// forgetKilled kills a node and has the first one forget it. It returns when that has come to
// a step, and the outcome later.
func (s *site) forgetKilled(n *node, step string) <-chan error {
	s.Helper()
	n.kill()
	first := s.nodes[0]
	eventually(s.T, n.name+" is missed", func() bool { return len(missing(first.view())) == 1 })
	ended := make(chan error, 1)
	go func() { ended <- first.forget(n.name) }()
	eventually(s.T, "it is forgotten", func() bool {
		f := first.view().Forgetting
		return f != nil && strings.HasPrefix(f.Step, step)
	})
	return ended
}

// forget takes a member out, asking this node.
func (n *node) forget(name string) error {
	_, err := n.command("cluster", "forget", name)
	return err
}
