package rabbitmq_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/test/servers"
)

// BenchmarkQueue measures jobs of 256 bytes, with the bookkeeping in memory.
func BenchmarkQueue(b *testing.B) {
	server := servers.StartRabbitMQ(b, servers.RabbitMQOptions{})
	p := open(b, options(server, memory.New()))
	payload := make([]byte, 256)
	b.Run("enqueue", func(b *testing.B) {
		q := openQueue(b, p, benchConfig("bench-enqueue", 1))
		for b.Loop() {
			enqueue(b, q, fabric.Job{Payload: payload})
		}
	})
	b.Run("enqueue by 64", func(b *testing.B) {
		q := openQueue(b, p, benchConfig("bench-enqueue-64", 1))
		fill(b, q, payload)
	})
	for name, concurrency := range map[string]int{"work 1": 1, "work 16": 16, "work 64": 64} {
		b.Run(name, func(b *testing.B) {
			q := openQueue(b, p, benchConfig("bench-"+name[:4]+name[5:], concurrency))
			fill(b, q, payload)
			var done sync.WaitGroup
			done.Add(b.N)
			b.ResetTimer()
			stop := work(b, q, func(context.Context, fabric.Job) error {
				done.Done()
				return nil
			})
			done.Wait()
			b.StopTimer()
			stop()
		})
	}
	b.Run("enqueue to handler", func(b *testing.B) {
		q := openQueue(b, p, benchConfig("bench-latency", 1))
		started := make(chan struct{}, 1)
		work(b, q, func(context.Context, fabric.Job) error {
			started <- struct{}{}
			return nil
		})
		for b.Loop() {
			enqueue(b, q, fabric.Job{Payload: payload})
			<-started
		}
	})
	b.Run("len", func(b *testing.B) {
		q := openQueue(b, p, benchConfig("bench-len", 1))
		for b.Loop() {
			if _, err := q.Len(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func benchConfig(name string, concurrency int) fabric.QueueConfig {
	c := config(name)
	c.Concurrency, c.MaxJobs = concurrency, 10_000_000
	c.Retry.Elapsed = time.Minute
	return c
}

// fill enqueues b.N jobs by 64 callers.
func fill(b *testing.B, q fabric.Queue, payload []byte) {
	b.Helper()
	jobs := make(chan struct{})
	var running sync.WaitGroup
	for range 64 {
		running.Go(func() {
			for range jobs {
				enqueue(b, q, fabric.Job{Payload: payload})
			}
		})
	}
	for range b.N {
		jobs <- struct{}{}
	}
	close(jobs)
	running.Wait()
}
