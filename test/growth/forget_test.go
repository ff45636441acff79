package growth

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/test/process"
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

	s.returnsWhileForgotten(nodes[4], "")       // at once
	s.returnsWhileForgotten(nodes[4], "stream") // while replicas are lowered

	// Two die, and are forgotten as soon as they are missed, each at another node.
	nodes[3].Kill()
	nodes[4].Kill()
	for _, n := range nodes[:2] {
		n.misses("node4", "node5")
	}
	begin, first, second := time.Now(), make(chan error, 1), make(chan error, 1)
	go func() { first <- nodes[0].forgetAtLast("node5") }()
	go func() { second <- nodes[1].forgetAtLast("node4") }()
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

// returnsWhileForgotten kills a node, has the first one forget it, and starts it again when that
// has come to a step. It is a member then, or it is out and comes back as a new node.
func (s *site) returnsWhileForgotten(n *node, step string) {
	s.Helper()
	n.Kill()
	first := s.nodes[0]
	eventually(s.T, n.name+" is missed", func() bool { return len(missing(first.view())) == 1 })
	ended := make(chan error, 1)
	go func() { ended <- first.forget(n.name) }()
	eventually(s.T, "it is being forgotten", func() bool {
		f := first.view().Forgetting
		return f != nil && strings.HasPrefix(f.Step, step) || len(ended) > 0 // what ended is judged below
	})
	n.join()
	switch err := <-ended; {
	case err == nil:
		s.Logf("%s came back too late", n.name)
		select {
		case <-n.Ended():
		case <-time.After(5 * time.Second): // it had found the cluster already, and waits for its engine
			n.Kill()
			n.join()
		}
		if code := n.Await(); code == 0 || !strings.Contains(n.Output(), "empty its data directory") {
			s.Errorf("%s ends with %d", n.name, code)
		}
		n.empty()
		n.join()
	case strings.Contains(err.Error(), "is back"), strings.Contains(err.Error(), "is alive"):
		s.Logf("%s is back: %v", n.name, err)
	case strings.Contains(err.Error(), lostLock): // by a busy machine, and it stays a member
		s.Logf("%s is not forgotten: %v", n.name, err)
	default:
		s.Fatalf("forget who comes back: %v", err)
	}
	s.awaitReady(s.nodes...)
	s.replicas(first, 5, 5)
	eventually(s.T, "what is over is shown no more", func() bool { return first.view().Forgetting == nil })
}

// forget takes a member out, asking this node.
func (n *node) forget(name string) error {
	_, err := n.command("cluster", "forget", name)
	return err
}

// lostLock is how it ends for who could not keep the others from changing the members.
const lostLock = "lock lost"

// forgetAtLast is forget for who repeats it when it is asked to, as another node does the same.
func (n *node) forgetAtLast(name string) (err error) {
	process.Until(process.Patience, func() bool {
		err = n.forget(name)
		return err == nil || !slices.ContainsFunc([]string{"repeat this when it is done", "one has just come or gone", "count the members", lostLock},
			func(says string) bool { return strings.Contains(err.Error(), says) })
	})
	return err
}

// misses waits until the node knows that these are away, and no others.
func (n *node) misses(names ...string) {
	n.site.Helper()
	eventually(n.site.T, fmt.Sprint(n.name, " misses ", names), func() bool { return slices.Equal(missing(n.view()), names) })
}
