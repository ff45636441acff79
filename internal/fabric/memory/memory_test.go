package memory_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/memory"
)

func TestContract(t *testing.T) {
	fabrictest.Run(t, func(*testing.T) fabric.Provider { return memory.New() })
}

func TestSharedContract(t *testing.T) {
	first := memory.New()
	fabrictest.RunShared(t, func(*testing.T) fabric.Provider { return first.Join(memory.Options{}) })
}

// TestDedupWindow enqueues one ID before and after the window that follows the first.
func TestDedupWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		q, err := memory.New().Queue(ctx, fabric.QueueConfig{
			Name: "q", Visibility: time.Second, MaxJobs: 10, MaxDead: 10, Concurrency: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		done := 0
		go q.Work(ctx, func(context.Context, fabric.Job) error { done++; return nil })
		enqueue := func(want int) {
			t.Helper()
			if _, err := q.Enqueue(ctx, fabric.Job{ID: "same"}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if done != want {
				t.Errorf("%d jobs done, want %d", done, want)
			}
		}
		enqueue(1)
		time.Sleep(fabric.DedupWindow - time.Nanosecond)
		enqueue(1)
		time.Sleep(time.Nanosecond)
		enqueue(2)
		stop()
		synctest.Wait()
	})
}

// TestDeadLetterReplaced has one ID die twice: only the latest letter is kept, as the newest.
func TestDeadLetterReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		q, err := memory.New().Queue(ctx, fabric.QueueConfig{
			Name: "q", Visibility: time.Second, MaxJobs: 10, MaxDead: 10, Concurrency: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		go q.Work(ctx, func(_ context.Context, job fabric.Job) error {
			return errors.New(string(job.Payload))
		})
		for _, job := range []fabric.Job{
			{ID: "a", Payload: []byte("old")}, {ID: "b"}, {ID: "a", Payload: []byte("new")},
		} {
			if _, err := q.Enqueue(ctx, job); err != nil {
				t.Fatal(err)
			}
			time.Sleep(fabric.DedupWindow)
		}
		letters, err := q.DeadLetters(ctx, "", 10)
		if err != nil || len(letters) != 2 || letters[0].ID != "b" || letters[1].ID != "a" ||
			letters[1].Reason != "new" {
			t.Errorf("got %+v, %v", letters, err)
		}
		stop()
		synctest.Wait()
	})
}
