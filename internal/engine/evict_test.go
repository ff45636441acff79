package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/engine"
)

// TestEvict grows from three nodes to five and shrinks to three again, while others write.
func TestEvict(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 5)
	all := nodes[0].options.Cluster.Routes
	for _, node := range nodes[:3] {
		node.options.Cluster.Routes = all[:3]
	}
	launch(t, nodes[:3]...)
	_, js := streamOf(t, nodes[0])
	s := create(t, js, "s", 3)
	create(t, js, "other", 3)
	if _, err := s.CreateConsumer(bounded(t), jetstream.ConsumerConfig{Durable: "workers"}); err != nil {
		t.Fatal(err)
	}
	stopWriting := make(chan struct{})
	written := make(chan int)
	go func() {
		_, n := writeUntil(t, js, stopWriting)
		written <- n
	}()
	for _, node := range nodes[3:] {
		launch(t, node)
		healthy(t, node)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var begun []string
	if err := nodes[1].engine.Raise(ctx, 5, func(stream string) { begun = append(begun, stream) }); err != nil {
		t.Fatal(err)
	}
	if len(begun) != 2 {
		t.Errorf("raised %v", begun)
	}
	expectReplicas(t, nodes[2], 5)
	if err := nodes[1].engine.Raise(ctx, 3, func(stream string) { t.Errorf("%s is lowered", stream) }); err != nil {
		t.Fatal(err)
	}
	checkPeerIDs(t, nodes)

	evict := func(who *member, replicas int) error {
		begin := time.Now()
		tell := func(step string, waits error) { t.Log(time.Since(begin), step, waits) }
		err := nodes[1].engine.Evict(ctx, who.options.ServerName, replicas, tell)
		if err == nil {
			err = nodes[1].engine.AwaitWithout(ctx, who.options.ServerName, tell)
		}
		t.Logf("evicted after %v: %v", time.Since(begin), err)
		return err
	}
	if err := evict(nodes[4], 3); !errors.Is(err, engine.ErrPeerAlive) {
		t.Errorf("a living member: %v", err)
	}
	halt(t, nodes[4])
	if err := evict(nodes[4], 3); err != nil {
		t.Fatal(err)
	}
	expectReplicas(t, nodes[0], 3)
	if err := evict(nodes[4], 3); err != nil {
		t.Errorf("again: %v", err)
	}
	halt(t, nodes[3])
	if err := evict(nodes[3], 3); err != nil {
		t.Fatal(err)
	}
	expectReplicas(t, nodes[0], 3)
	status, err := nodes[0].engine.Status()
	if err != nil || status.Size != 3 {
		t.Errorf("status %+v, %v", status, err)
	}
	close(stopWriting)
	verifyWrites(t, js, <-written)

	halt(t, nodes[2]) // it survives the loss of one as it should
	eventually(t, "a write with one of three dead", func() bool {
		_, err := js.Publish(bounded(t), "s.a", nil)
		return err == nil
	})
}

// Two of five are killed and taken out at once, while consumers that nobody lets expire are on
// them, and the others were not told that they end.
func TestEvictTheKilled(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := processes(t, 5)
	spawn(t, nodes...)
	client := members(t, 1)[0]
	client.options.ServerName = "client"
	client.options.Cluster.NoStore = true
	client.options.Cluster.Routes = nodes[0].config.Routes
	launch(t, client)
	_, js := streamOf(t, client)
	s := create(t, js, "s", 5)
	held := map[string]bool{} // servers with a consumer
	eventually(t, "consumers on the two that die", func() bool {
		consumer, err := s.CreateConsumer(bounded(t), jetstream.ConsumerConfig{
			InactiveThreshold: time.Hour, Replicas: 1, MemoryStorage: true,
		})
		if err == nil {
			held[consumer.CachedInfo().Cluster.Leader] = true
		}
		return held["n4"] && held["n5"]
	})
	kill(nodes[3].cmd)
	kill(nodes[4].cmd)
	begin := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	others := []string{"n1", "n2", "n3", "n4"}
	for i, name := range []string{"n5", "n4"} {
		tell := func(step string, waits error) { t.Log(time.Since(begin), name, step, waits) }
		if err := client.engine.Evict(ctx, name, 3, tell); err != nil {
			t.Fatal(err)
		}
		if counted, err := client.engine.Counted(ctx, append(others, name)); err != nil || counted != 4-i {
			t.Errorf("%d are counted without %s, %v", counted, name, err)
		}
		if err := client.engine.AwaitWithout(ctx, name, tell); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("both are out after %v", time.Since(begin))
	expectReplicas(t, client, 3)
	info, err := s.Info(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, peer := range info.Cluster.Replicas {
		if peer.Name == "n4" || peer.Name == "n5" {
			t.Errorf("%s still has a replica", peer.Name)
		}
	}
}

// A node that was taken out while it is there says so, and not that its disk is full, whether or not
// it led the cluster.
func TestTakenOutAlive(t *testing.T) {
	needsTime(t)
	t.Parallel()
	for name, leads := range map[string]bool{"leader": true, "follower": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := members(t, 3)
			launch(t, nodes...)
			victim := memberThat(t, nodes, leads)
			takeOut(t, nodes, victim)
			eventually(t, "it says so", func() bool {
				err := victim.engine.Health(bounded(t))
				return err != nil && strings.Contains(err.Error(), "taken out of the cluster for good")
			})
		})
	}
}

// memberThat returns a member that leads the cluster, or one that does not.
func memberThat(t *testing.T, nodes []*member, leads bool) *member {
	t.Helper()
	var found *member
	eventually(t, "a leader", func() bool {
		status, err := nodes[0].engine.Status()
		if err != nil || status.Leader == "" {
			return false
		}
		found = nodes[slices.IndexFunc(nodes, func(node *member) bool {
			return (node.options.ServerName == status.Leader) == leads
		})]
		return true
	})
	return found
}

// takeOut has the cluster take a member out that is there.
func takeOut(t *testing.T, nodes []*member, victim *member) {
	t.Helper()
	other := nodes[0]
	if other == victim {
		other = nodes[1]
	}
	conn, err := other.engine.System()
	if err != nil {
		t.Fatal(err)
	}
	order, err := json.Marshal(server.JSApiMetaServerRemoveRequest{Server: victim.options.ServerName})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is taken out", func() bool {
		brief, cancel := context.WithTimeout(bounded(t), time.Second) // nobody answers while there is no leader
		defer cancel()
		answer, err := conn.RequestWithContext(brief, "$JS.API.SERVER.REMOVE", order)
		// The answer to an earlier try may have been lost: then it is no member any more (10044).
		return err == nil && (strings.Contains(string(answer.Data), `"success":true`) || strings.Contains(string(answer.Data), `"err_code":10044`))
	})
}

// A stream whose only copy the dead member has is not given up.
func TestEvictSparesTheOnlyCopy(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 3)
	launch(t, nodes...)
	_, js := streamOf(t, nodes[0])
	s := create(t, js, "single", 1)
	var holder *member
	for _, node := range nodes {
		if node.options.ServerName == s.CachedInfo().Cluster.Leader {
			holder = node
		}
	}
	halt(t, holder)
	survivor := nodes[0]
	if survivor == holder {
		survivor = nodes[1]
	}
	var err error
	eventually(t, "it is refused", func() bool {
		err = survivor.engine.Evict(bounded(t), holder.options.ServerName, 1, func(string, error) {})
		return errors.Is(err, engine.ErrOnlyCopy)
	})
	if err := start(t, t.TempDir()).Evict(bounded(t), "n2", 1, func(string, error) {}); !errors.Is(err, engine.ErrStandalone) {
		t.Errorf("alone: %v", err)
	}
}

func expectReplicas(t *testing.T, node *member, want int) {
	t.Helper()
	var replicas map[string]engine.Replication
	eventually(t, "the replicas are told", func() (done bool) {
		var err error
		replicas, err = node.engine.Replicas(bounded(t))
		return err == nil && len(replicas) > 0
	})
	for name, have := range replicas {
		if have.Have != want || have.Want != want {
			t.Errorf("stream %s has %+v replicas, want %d", name, have, want)
		}
	}
}

// checkPeerIDs compares our ids with the server's own.
func checkPeerIDs(t *testing.T, nodes []*member) {
	t.Helper()
	conn, err := nodes[0].engine.System()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := conn.RequestWithContext(bounded(t), "$SYS.REQ.SERVER.PING.JSZ", []byte(`{"leader_only":true}`))
	if err != nil {
		t.Fatal(err)
	}
	var view struct {
		Data struct {
			Meta *server.MetaClusterInfo `json:"meta_cluster"`
		} `json:"data"`
	}
	if err := json.Unmarshal(answer.Data, &view); err != nil || view.Data.Meta == nil || len(view.Data.Meta.Replicas) != len(nodes)-1 {
		t.Fatalf("%s, %v", answer.Data, err)
	}
	for _, peer := range view.Data.Meta.Replicas {
		if id := engine.PeerID(peer.Name); id != peer.Peer {
			t.Errorf("id of %s is %s, the server has %s", peer.Name, id, peer.Peer)
		}
	}
}

// Two of three come back after all were killed, though a stream is kept in memory.
func TestMemoryAfterRestart(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 3)
	launch(t, nodes...)
	_, js := streamOf(t, nodes[0])
	eventually(t, "a stream in memory", func() bool {
		_, err := js.CreateStream(bounded(t), jetstream.StreamConfig{
			Name: "m", Subjects: []string{"m.>"}, Storage: jetstream.MemoryStorage, Replicas: 3,
		})
		return err == nil
	})
	for _, node := range nodes {
		halt(t, node)
	}
	begin := time.Now()
	launch(t, nodes[:2]...)
	t.Logf("two of three are there after %v", time.Since(begin))
	_, js = streamOf(t, nodes[1])
	eventually(t, "it takes messages", func() bool {
		_, err := js.Publish(bounded(t), "m.a", nil)
		return err == nil
	})
}
