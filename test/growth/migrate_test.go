package growth

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
)

// ranAlone has the first node run alone until it has an app and a webhook that waits in its
// queue, and stops it.
func ranAlone(s *site, to *receiver) admin.AppView {
	s.Helper()
	n := s.nodes[0]
	n.launch(s.alone)
	eventually(s.T, "the single node is ready", n.ready)
	app := makeApp(n, "77", to)
	c := subscribe(n, app.Key, "waited-for")
	eventually(s.T, "the webhook is tried in vain", func() bool { return to.tried() > 0 })
	n.Kill() // before it could say that the channel is vacated
	_ = c.Close()
	return app
}

// cameAlong demands that the app is on every node and works, and that the webhook comes once.
func cameAlong(s *site, app admin.AppView, to *receiver) {
	s.Helper()
	for _, n := range s.nodes {
		got, err := n.admin.ShowApp(s.Context(), app.ID, true)
		if err != nil || got.Key != app.Key || got.Secret != app.Secret || got.Name != app.Name {
			s.Errorf("%s has app %+v, %v", n.name, got, err)
		}
	}
	to.accept()
	eventually(s.T, "the webhook comes", func() bool { return to.count("channel_occupied waited-for") > 0 })
	for i, n := range s.nodes {
		works(app, n, s.nodes[(i+1)%len(s.nodes)])
	}
	time.Sleep(3 * time.Second) // that it does not come again cannot be awaited otherwise
	if times := to.count("channel_occupied waited-for"); times != 1 {
		s.Errorf("the webhook came %d times", times)
	}
}

// A node that ran alone gets a cluster section, and two new nodes come: everything is there.
func TestFromOneToThree(t *testing.T) {
	t.Parallel()
	s, to := build(t, 3, 3), newReceiver(t)
	app := ranAlone(s, to)
	for _, n := range s.nodes {
		n.join()
	}
	s.awaitReady(s.nodes...)
	cameAlong(s, app, to)
	first := s.nodes[0]
	for _, part := range []string{"everything that this node stored alone is in the cluster", "engine.alone", "bytes="} {
		first.says(part)
	}
	if !first.has("engine.alone") || first.has("engine.standalone") || first.has("engine.export") {
		t.Error("the old store is not kept, or not let go")
	}
	if out, err := first.command("cluster", "status"); err != nil || !strings.Contains(out, "replicas  3\n") ||
		!strings.Contains(out, "the loss of 1 of 3") {
		t.Errorf("status: %v\n%s", err, out)
	}
	// Back to a node of its own it does not go, and it says why.
	first.Terminate()
	first.launch(s.alone)
	if code := first.Await(); code == 0 || !strings.Contains(first.Output(), "belongs to the member of a cluster") {
		t.Errorf("alone again it ends with %d", code)
	}
	first.join()
	s.awaitReady(s.nodes...)
}

// The node that brings its data dies at every step, and the others do while they wait.
func TestFromOneToThreeWithKills(t *testing.T) {
	t.Parallel()
	s, to := build(t, 3, 3), newReceiver(t)
	app := ranAlone(s, to)
	first, second, third := s.nodes[0], s.nodes[1], s.nodes[2]
	first.join()
	first.says("cluster discovery started")
	first.Kill()
	second.join()
	third.join()
	second.says("cluster discovery started")
	for i, step := range []func() bool{
		func() bool { return strings.Contains(first.Output(), "cluster found") },
		func() bool { return strings.Contains(first.Output(), "copying what this node stored") },
		func() bool { return first.has("engine.export.partial") || first.has("engine.export") },
		func() bool { return first.has("engine.export") || first.has("engine.standalone") },
		func() bool { return first.has("engine.standalone") },
		func() bool { return strings.Contains(first.Output(), "bringing what this node") },
		func() bool { return first.streams() > 0 },
		func() bool { return first.streams() > 2 },
		func() bool { return strings.Contains(first.Output(), "everything that this node") || first.ready() },
		func() bool { return first.has("engine.alone") },
	} {
		first.join()
		eventually(t, fmt.Sprintf("step %d", i), step)
		first.Kill()
		if second.ready() && !first.has("engine.alone") && !strings.Contains(first.Output(), "everything that this node") {
			t.Fatalf("step %d: another node uses what is stored before all of it is there", i)
		}
		if i == 5 {
			second.Kill()
			second.join()
		}
		if i == 7 {
			third.Kill()
			third.join()
		}
	}
	if !first.has("engine.alone") {
		t.Error("the old store is not there")
	}
	first.join()
	s.awaitReady(s.nodes...)
	cameAlong(s, app, to)
	if first.has("engine.standalone") || first.has("engine.export") {
		t.Error("the copy is not removed")
	}
}

// streams counts those that the clustered engine of the node has on its disk.
func (n *node) streams() int {
	list, _ := os.ReadDir(filepath.Join(n.dir, "engine", "jetstream", "$G", "streams")) // none yet
	return len(list)
}

// Two nodes ran alone: neither is merged into the other, and a person decides.
func TestTwoNodesRanAlone(t *testing.T) {
	t.Parallel()
	s, to := build(t, 4, 3), newReceiver(t)
	app := ranAlone(s, to)
	rival, late := s.nodes[1], s.nodes[3]
	for _, n := range []*node{rival, late} {
		n.launch(s.alone)
		eventually(t, "it is ready alone", n.ready)
		makeApp(n, "of-"+n.name, nil)
		n.Terminate()
	}
	for _, n := range s.nodes[:3] {
		n.join()
	}
	for _, n := range s.nodes[:2] {
		n.says("both have data from running alone")
		eventually(t, n.name+" says so in /ready", func() bool {
			status, body, _ := n.get("/ready")
			return status == 503 && strings.Contains(body, "whose data") && strings.Contains(body, "empty data directory")
		})
	}
	for _, n := range s.nodes[:3] {
		if n.ready() || n.has("engine.standalone") {
			t.Errorf("%s went on", n.name)
		}
	}
	rival.Terminate()
	kept := rival.dir + ".kept"
	if err := os.Rename(rival.dir, kept); err != nil {
		t.Fatal(err)
	}
	rival.join()
	s.awaitReady(s.nodes[:3]...)
	// The third one comes to a cluster that has data.
	late.join()
	if code := late.Await(); code == 0 || !strings.Contains(late.Output(), "Parley does not merge the two") {
		t.Errorf("a late one with data ends with %d", code)
	}
	late.launch(s.alone)
	eventually(t, "what it had is untouched", func() bool {
		_, err := late.admin.ShowApp(t.Context(), "of-node4", false)
		return err == nil
	})
	late.Terminate()
	s.nodes = s.nodes[:3]
	cameAlong(s, app, to)
	rival.dir = kept
	rival.Terminate()
	rival.launch(s.alone)
	eventually(t, "what the rival had is untouched", func() bool {
		_, err := rival.admin.ShowApp(t.Context(), "of-node2", false)
		return err == nil
	})
}
