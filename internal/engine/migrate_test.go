package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	fabricnats "github.com/parleyio/parley/internal/fabric/nats"
)

var queueConfig = fabric.QueueConfig{
	Name: "mail", Visibility: 2 * time.Second, MaxJobs: 1000, MaxDead: 10, Concurrency: 1,
	Retry: fabric.RetryPolicy{Initial: time.Millisecond, Max: time.Millisecond, Elapsed: time.Minute},
}

const jobs, documents = 50, 40

// open returns the parts of the fabric over an engine.
func open(t testing.TB, e *engine.Engine, replicas int) (fabric.Documents, fabric.Queue) {
	t.Helper()
	conn, err := e.Connect("fabric")
	if err != nil {
		t.Fatal(err)
	}
	p, err := fabricnats.New(conn, fabricnats.Options{Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	docs, err := p.Documents(bounded(t), "apps")
	if err != nil {
		t.Fatal(err)
	}
	queue, err := p.Queue(bounded(t), queueConfig)
	if err != nil {
		t.Fatal(err)
	}
	return docs, queue
}

// fill writes what a house has: documents that changed and went, a queue of which some jobs
// are done, and a stream with a gap. It returns the revisions of the documents.
func fill(t testing.TB, e *engine.Engine, replicas int) map[string]uint64 {
	t.Helper()
	ctx := bounded(t)
	docs, queue := open(t, e, replicas)
	revisions := map[string]uint64{}
	for i := range documents {
		key := fmt.Sprint("app", i)
		for version := range 2 {
			revision, err := docs.Put(ctx, key, fmt.Append(nil, key, " v", version), revisions[key])
			if err != nil {
				t.Fatal(err)
			}
			revisions[key] = revision
		}
	}
	if err := docs.Delete(ctx, "app0", revisions["app0"]); err != nil {
		t.Fatal(err)
	}
	delete(revisions, "app0")
	for i := range jobs {
		if _, err := queue.Enqueue(ctx, fabric.Job{ID: fmt.Sprint("job", i), Payload: []byte("p")}); err != nil {
			t.Fatal(err)
		}
	}
	if done := work(t, queue, 10); len(done) != 10 {
		t.Fatalf("%d jobs done", len(done))
	}
	conn, err := e.Connect("log")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	log := create(t, js, "parley-log", replicas)
	for i := range 200 {
		publish(t, js, "parley-log.a", fmt.Sprint(i), fmt.Append(nil, i))
	}
	if err := log.DeleteMsg(ctx, 100); err != nil {
		t.Fatal(err)
	}
	return revisions
}

// work does up to limit jobs and returns their IDs.
func work(t testing.TB, queue fabric.Queue, limit int) map[string]int {
	t.Helper()
	ctx, stop := context.WithCancel(bounded(t))
	done := map[string]int{}
	err := queue.Work(ctx, func(_ context.Context, job fabric.Job) error {
		done[job.ID]++
		if len(done) == limit {
			stop()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// survived checks what fill wrote, and that the rest of the jobs is there once each.
func survived(t testing.TB, e *engine.Engine, revisions map[string]uint64, replicas int) {
	t.Helper()
	ctx := bounded(t)
	docs, queue := open(t, e, replicas)
	all, err := docs.List(ctx)
	if err != nil || len(all) != len(revisions) {
		t.Fatalf("%d documents, want %d: %v", len(all), len(revisions), err)
	}
	for _, doc := range all {
		if doc.Revision != revisions[doc.Key] || string(doc.Value) != doc.Key+" v1" {
			t.Errorf("%s is %q at %d, want revision %d", doc.Key, doc.Value, doc.Revision, revisions[doc.Key])
		}
	}
	if _, err := docs.Put(ctx, "app1", []byte("changed"), revisions["app1"]); err != nil {
		t.Errorf("write at the revision that was kept: %v", err)
	}
	if n, err := queue.Len(ctx); err != nil || n != jobs-10 {
		t.Errorf("%d jobs, want %d: %v", n, jobs-10, err)
	}
	if done := work(t, queue, jobs-10); len(done) != jobs-10 {
		t.Errorf("%d jobs done", len(done))
	}
	conn, err := e.Connect("log")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	log, err := js.Stream(ctx, "parley-log")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.GetMsg(ctx, 100); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("the gap is filled: %v", err)
	}
	if msg, err := log.GetMsg(ctx, 101); err != nil || string(msg.Data) != "100" {
		t.Errorf("message 101 is %+v, %v", msg, err)
	}
	if ack := publish(t, js, "parley-log.a", "next", nil); ack.Sequence != 201 {
		t.Errorf("next message is %+v", ack)
	}
	if info := log.CachedInfo(); info.Config.Replicas != replicas {
		t.Errorf("%d replicas, want %d", info.Config.Replicas, replicas)
	}
}

// alone is the node of a cluster before there is one.
func alone(node *member) engine.Options {
	options := node.options
	options.Cluster = nil
	return options
}

// TestMigration takes the store of a single node into a cluster of three. The process may
// die at every step, which here means that the step before is done again or that the engine
// is started anew.
func TestMigration(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 3)
	first := nodes[0]
	dir := first.options.DataDir
	single, err := engine.Start(bounded(t), alone(first))
	if err != nil {
		t.Fatal(err)
	}
	revisions := fill(t, single, 1)
	stop(t, single)

	export := leave(t, first)
	launch(t, nodes...)
	interrupted(t, first, export)
	halt(t, first)
	launch(t, first)
	begin := time.Now()
	if err := first.engine.Restore(bounded(t), export, 3); err != nil {
		t.Fatal(err)
	}
	t.Logf("restored in %v", time.Since(begin))
	if err := first.engine.Restore(bounded(t), export, 3); err != nil {
		t.Errorf("again: %v", err)
	}
	kept, size, err := engine.ReleaseStandalone(dir)
	if err != nil || filepath.Dir(kept) != dir || size == 0 {
		t.Fatalf("kept %q of %d bytes, %v", kept, size, err)
	}
	if kept, _, err := engine.ReleaseStandalone(dir); err != nil || kept != "" {
		t.Fatalf("again: kept %q, %v", kept, err)
	}
	if _, pending := engine.PendingImport(dir); pending {
		t.Error("the import is still pending")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "engine.*")); len(left) != 2 {
		t.Errorf("left are %v, want the lock and what was kept", left)
	}
	survived(t, nodes[1].engine, revisions, 3)
	halt(t, first)
	if _, err := engine.Start(bounded(t), alone(first)); !errors.Is(err, engine.ErrClusterStore) {
		t.Errorf("the store of a member was opened alone: %v", err)
	}
	launch(t, first)
}

// leave has a single node leave its standalone store, and returns what is to be imported.
func leave(t testing.TB, node *member) string {
	t.Helper()
	dir := node.options.DataDir
	if !engine.HasStandaloneStore(dir) {
		t.Error("the standalone store is not seen")
	}
	if _, err := engine.Start(bounded(t), node.options); !errors.Is(err, engine.ErrStandaloneStore) {
		t.Fatalf("a cluster opened a standalone store: %v", err)
	}
	// A process that died while it copied has left a part.
	partial := filepath.Join(dir, "engine.export.partial", "0001.snapshot")
	if err := os.MkdirAll(filepath.Dir(partial), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(partial, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	single, err := engine.Start(bounded(t), alone(node))
	if err != nil {
		t.Fatal(err)
	}
	if err := single.LeaveStandalone(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := single.Connect("late"); err == nil {
		t.Error("a connection was handed out after the copy")
	}
	if _, err := engine.Start(bounded(t), alone(node)); !errors.Is(err, engine.ErrImportPending) {
		t.Fatalf("the node started alone and empty: %v", err)
	}
	export, pending := engine.PendingImport(dir)
	if !pending {
		t.Fatal("no import is pending")
	}
	return export
}

// interrupted restores until the first stream is there, and then gives up as a process that
// dies does: in the middle of the next, as a rule.
func interrupted(t testing.TB, node *member, export string) {
	t.Helper()
	_, js := streamOf(t, node)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- node.engine.Restore(ctx, export, 3) }()
	eventually(t, "a stream is there", func() bool {
		for range js.StreamNames(bounded(t)).Name() {
			return true
		}
		return false
	})
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) { // nil when it was through already
		t.Errorf("an interrupted restore returned %v", err)
	}
}

// TestBackup copies a cluster that is written to, and restores it elsewhere, alone.
func TestBackup(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 3)
	launch(t, nodes...)
	revisions := fill(t, nodes[1].engine, 3)
	dir := filepath.Join(t.TempDir(), "backup")
	_, js := streamOf(t, nodes[2])
	create(t, js, "s", 3)
	stopWriting := make(chan struct{})
	written := make(chan int)
	go func() {
		_, n := writeUntil(t, js, stopWriting)
		written <- n
	}()
	manifest, err := nodes[0].engine.Backup(bounded(t), dir)
	close(stopWriting)
	<-written
	if err != nil || len(manifest.Streams) != 5 || len(manifest.Omitted) != 0 {
		t.Fatalf("manifest %+v, %v", manifest, err)
	}
	if _, err := nodes[0].engine.Backup(bounded(t), dir); err == nil {
		t.Error("a backup was overwritten")
	}
	if err := nodes[0].engine.Restore(bounded(t), dir, 3); !errors.Is(err, engine.ErrStreamExists) {
		t.Errorf("restored over what is there: %v", err)
	}
	single := start(t, t.TempDir())
	if err := single.Restore(bounded(t), dir, 1); err != nil {
		t.Fatal(err)
	}
	survived(t, single, revisions, 1)
	damage(t, dir, manifest)
}

// damage changes one byte of a backup, and then takes its manifest.
func damage(t testing.TB, dir string, manifest *engine.Manifest) {
	t.Helper()
	path := filepath.Join(dir, manifest.Streams[0].File)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.ReadManifest(dir); !errors.Is(err, engine.ErrBadBackup) {
		t.Errorf("damaged: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := engine.ReadManifest(dir); !errors.Is(err, engine.ErrBadBackup) {
		t.Errorf("without a manifest: %v", err)
	}
}
