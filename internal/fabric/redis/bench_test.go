package redis

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/servers"
)

// stores are what benchmarks run over.
var stores = map[string]func(testing.TB) Options{
	"server": func(t testing.TB) Options {
		return Options{Servers: []string{servers.StartRedis(t, servers.RedisConfig{}).Address()}}
	},
	"cluster": func(t testing.TB) Options {
		return Options{Servers: servers.StartRedisCluster(t, servers.RedisConfig{}).Addresses(), Cluster: true}
	},
}

// BenchmarkSignal sends 256 bytes from one node to another: as fast as they come, when nobody
// subscribes, and one at a time, with the time from Publish to the handler.
func BenchmarkSignal(b *testing.B) {
	for name, store := range stores {
		options := store(b)
		sender, receiver := openSignal(b, options), openSignal(b, options)
		b.Run(name+"/received", func(b *testing.B) { flood(b, sender, receiver, "a.room", "a.room") })
		b.Run(name+"/received by pattern", func(b *testing.B) { flood(b, sender, receiver, "a.room", "a.*") })
		b.Run(name+"/nobody", func(b *testing.B) { flood(b, sender, receiver, "b.room", "") })
		b.Run(name+"/one at a time", func(b *testing.B) { oneByOne(b, sender, receiver) })
	}
}

func openSignal(t testing.TB, options Options) fabric.Signal {
	t.Helper()
	s, err := openProvider(t, options).Signal(context.Background(), "bench")
	check(t, err)
	return s
}

func flood(b *testing.B, sender, receiver fabric.Signal, subject, pattern string) {
	ctx := context.Background()
	flying, done, n := make(chan struct{}, 20_000), make(chan struct{}), 0
	if pattern != "" {
		sub, err := receiver.Subscribe(pattern, func(fabric.Message) {
			<-flying
			if n++; n == b.N {
				close(done)
			}
		})
		check(b, err)
		defer func() { check(b, sub.Unsubscribe()) }()
		check(b, receiver.Flush(ctx))
	}
	payload := make([]byte, 256)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if pattern != "" {
			flying <- struct{}{}
		} else if i%10_000 == 0 {
			check(b, sender.Flush(ctx))
		}
		check(b, sender.Publish(ctx, subject, payload))
	}
	if pattern != "" {
		<-done
	}
	check(b, sender.Flush(ctx))
	b.StopTimer()
}

func oneByOne(b *testing.B, sender, receiver fabric.Signal) {
	ctx := context.Background()
	arrived := make(chan time.Time)
	sub, err := receiver.Subscribe("a.room", func(fabric.Message) { arrived <- time.Now() })
	check(b, err)
	defer func() { check(b, sub.Unsubscribe()) }()
	check(b, receiver.Flush(ctx))
	payload := make([]byte, 256)
	var took []time.Duration
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		check(b, sender.Publish(ctx, "a.room", payload))
		took = append(took, (<-arrived).Sub(began))
	}
	b.StopTimer()
	slices.Sort(took)
	for _, percent := range []int{50, 99} {
		b.ReportMetric(float64(took[len(took)*percent/100].Nanoseconds()), fmt.Sprintf("ns/p%d", percent))
	}
}

// BenchmarkStored does one operation of each kind after the other, and 64 at a time.
func BenchmarkStored(b *testing.B) {
	ctx := context.Background()
	for name, store := range stores {
		p := openProvider(b, store(b))
		d, err := p.Documents(ctx, "bench")
		check(b, err)
		c, err := p.Cache(ctx, fabric.CacheConfig{Name: "bench", MaxBytes: 64 << 20})
		check(b, err)
		l, err := p.Log(ctx, fabric.LogConfig{Name: "bench", MaxPerSubject: 1000})
		check(b, err)
		locks, err := p.Locks(ctx, "bench")
		check(b, err)
		q, err := p.Queue(ctx, fabric.QueueConfig{
			Name: "bench", Visibility: time.Minute, MaxJobs: 1 << 20, MaxDead: 1, Concurrency: 64,
		})
		check(b, err)
		working, stop := context.WithCancel(ctx)
		go func() { _ = q.Work(working, func(context.Context, fabric.Job) error { return nil }) }()
		var number atomic.Int64
		value := make([]byte, 256)
		for what, operation := range map[string]func(key string) error{
			"put":     func(key string) error { _, err := d.Put(ctx, key, value, 0); return err },
			"set":     func(key string) error { return c.Set(ctx, key, value, time.Minute) },
			"get":     func(string) error { _, err := c.Get(ctx, "n"); return err },
			"add":     func(string) error { _, err := c.Add(ctx, "n", 1, 0); return err },
			"append":  func(string) error { _, err := l.Append(ctx, "a", value); return err },
			"enqueue": func(key string) error { _, err := q.Enqueue(ctx, fabric.Job{ID: key, Payload: value}); return err },
			"lock": func(key string) error {
				held, err := locks.TryAcquire(ctx, key, time.Minute)
				if err == nil {
					err = held.Release(ctx)
				}
				return err
			},
		} {
			_, err := c.Add(ctx, "n", 1, 0) // what "get" gets
			check(b, err)
			for _, many := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%s by %d", name, what, many), func(b *testing.B) {
					b.SetParallelism((many + 1) / runtime.GOMAXPROCS(0))
					if many == 1 {
						for range b.N {
							check(b, operation(strconv.FormatInt(number.Add(1), 10)))
						}
						return
					}
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if err := operation(strconv.FormatInt(number.Add(1), 10)); err != nil {
								b.Error(err)
							}
						}
					})
				})
			}
		}
		stop()
	}
}
