package nats_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// TestWorkerAtOnce forms queues under load, with a worker on another node that asks for a job
// as soon as the queue's consumer is there, and measures how late the first job is. A request
// for a job is lost when the worker's node has not yet learnt of the way to the consumer.
func TestWorkerAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("three engines")
	}
	nodes := startNodes(t, nodeConfigs(t)...)
	opener, worker := openReplicated(t, nodes[0]), openReplicated(t, nodes[1])
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	busy, rest := context.WithCancel(ctx)
	var load sync.WaitGroup
	defer load.Wait()
	defer rest()
	for range runtime.NumCPU() {
		load.Go(func() {
			for n := 0; busy.Err() == nil; n++ {
				_ = strconv.Itoa(n)
			}
		})
	}
	count := 3
	if n, err := strconv.Atoi(os.Getenv(roundsVariable)); err == nil {
		count = n
	}
	var late []time.Duration
	for n := range count {
		config := fabric.QueueConfig{
			Name: fmt.Sprint("q", n), Visibility: 30 * time.Second, MaxJobs: 1000, MaxDead: 10, Concurrency: 1,
		}
		_, err := opener.Queue(ctx, config)
		must(t, err)
		q, err := worker.Queue(ctx, config)
		must(t, err)
		began := make(chan time.Time, 1)
		work, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- q.Work(work, func(context.Context, fabric.Job) error {
				began <- time.Now()
				return nil
			})
		}()
		due := time.Now().Add(100 * time.Millisecond)
		_, err = q.Enqueue(ctx, fabric.Job{NotBefore: due})
		must(t, err)
		select {
		case at := <-began:
			late = append(late, at.Sub(due))
		case <-ctx.Done():
			t.Fatal("no job")
		}
		stop()
		must(t, <-done)
	}
	slices.Sort(late)
	t.Logf("figure: first job late by: median %v, worst %v", late[len(late)/2], late[len(late)-1])
	// A lost request is noticed after 1.2 s. On a machine that does other things too, only what
	// hangs is an error.
	limit := hangLimit
	if os.Getenv(roundsVariable) != "" {
		limit = followLimit
	}
	if worst := late[len(late)-1]; worst > limit {
		t.Errorf("a first job was late by %v", worst)
	}
}
