package engine_test

import (
	"context"
	"encoding/json"
	"errors"
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
		err := nodes[1].engine.Evict(ctx, who.options.ServerName, replicas, func(step string) { t.Log(time.Since(begin), step) })
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
		err = survivor.engine.Evict(bounded(t), holder.options.ServerName, 1, func(string) {})
		return errors.Is(err, engine.ErrOnlyCopy)
	})
	if err := start(t, t.TempDir()).Evict(bounded(t), "n2", 1, func(string) {}); !errors.Is(err, engine.ErrStandalone) {
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
