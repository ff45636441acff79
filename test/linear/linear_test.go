//go:build linux

package linear

import (
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/parleyio/parley/client"
	"github.com/parleyio/parley/test/process"
)

// drainTime bounds how long jobs and signals may take when the faults are over.
const drainTime = process.Patience

// drainLease is that of a job then: an Ack comes in time, and the job again whose lease nobody heard of.
const drainLease = 15 * time.Second

func TestLinear(t *testing.T) {
	c := newCluster(t)
	l := newLoad(t, c)
	settings := client.DefaultQueueSettings()
	settings.Visibility, settings.MaxAttempts = jobLease, 0
	settings.RetryInitial, settings.RetryMax = 50*time.Millisecond, time.Second
	if err := l.steady.Queue(queueName).Configure(t.Context(), settings); err != nil {
		t.Fatal(err)
	}
	hearing, deaf := context.WithCancel(t.Context())
	l.listening.Go(func() { l.hear(hearing) })
	l.run(6, 20*time.Millisecond, l.count)
	l.run(6, 20*time.Millisecond, l.swap)
	l.run(12, 10*time.Millisecond, l.hold)
	l.run(4, 80*time.Millisecond, l.publish)
	l.run(6, 0, l.work)
	l.run(3, 100*time.Millisecond, l.mint)
	l.run(2, 50*time.Millisecond, l.say)
	if long, err := time.ParseDuration(os.Getenv("PARLEY_LINEAR")); err == nil {
		c.randomFaults(long)
	} else {
		c.eachFault()
	}
	const least = 50 // fewer would prove little
	process.Until(process.Patience, func() bool { return slices.Min(slices.Collect(maps.Values(l.sizes()))) >= least })
	close(l.stop)
	l.running.Wait() // what is under way is a publish or an Ack that counts
	l.drain()
	deaf()
	l.listening.Wait()
	c.sound()
	l.counters.check(t, "counters", counters.ToModel())
	l.registers.check(t, "registers", registers.ToModel())
	l.locks.check(t, "locks", locks)
	l.jobs.check(t, "jobs", jobs.ToModel())
	t.Logf("%d ids, %d signals", len(l.ids), len(l.heard))
	for name, size := range l.sizes() {
		if size < least {
			t.Errorf("%s: only %d", name, size)
		}
	}
}

// eachFault stops a node for a while, kills another and stops a third while that is dead, so that
// no majority is left for a moment.
func (c *cluster) eachFault() {
	time.Sleep(700 * time.Millisecond) // nothing is wrong
	c.pause(c.nodes[1], longPause)
	time.Sleep(700 * time.Millisecond)
	c.nodes[2].process.Kill()
	time.Sleep(1500 * time.Millisecond)
	c.pause(c.nodes[0], shortPause)
	time.Sleep(700 * time.Millisecond)
	c.nodes[2].start()
	c.nodes[2].ready()
	time.Sleep(700 * time.Millisecond)
}

// pause stops a node for a while.
func (c *cluster) pause(n *node, length time.Duration) {
	n.process.Pause()
	time.Sleep(length) // is what is tested
	n.process.Resume()
}

// randomFaults does the same in random order for a time.
func (c *cluster) randomFaults(length time.Duration) {
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("PARLEY_LINEAR_SEED"), 10, 64); err == nil {
		seed = given
	}
	c.t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for end := time.Now().Add(length); time.Now().Before(end); {
		order := random.Perm(nodeCount)
		first, second := c.nodes[order[0]], c.nodes[order[1]]
		time.Sleep(time.Duration(random.Int64N(int64(4 * time.Second))))
		if random.IntN(2) == 0 {
			c.pause(first, time.Duration(random.Int64N(int64(8*time.Second))))
			continue
		}
		first.process.Kill()
		if random.IntN(2) == 0 {
			time.Sleep(time.Duration(random.Int64N(int64(3 * time.Second))))
			c.pause(second, time.Duration(random.Int64N(int64(2*time.Second))))
		}
		time.Sleep(time.Duration(random.Int64N(int64(3 * time.Second))))
		first.start()
		first.ready()
	}
}

// drain works until no job is left, and demands that all were done that were published, and that
// all signals were heard.
func (l *load) drain() {
	ctx, cancel := context.WithTimeout(l.t.Context(), drainTime)
	defer cancel()
	name := int(l.names.Add(1))
	for ctx.Err() == nil {
		state, err := l.steady.Queue(queueName).State(ctx)
		if err == nil && state.Jobs == 0 {
			break
		}
		o := client.LeaseOptions{Max: 1, Wait: time.Second, Lease: drainLease}
		l.take(&name, l.direct[rand.IntN(len(l.direct))], o)
	}
	heard := process.Until(drainTime, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for text := range l.said {
			if !l.heard[text] {
				return false
			}
		}
		return true
	})
	if !heard {
		l.t.Error("some signals were not heard")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.published {
		if !l.finished[id] {
			l.t.Errorf("%s was published, and is lost", id)
		}
	}
	l.t.Logf("%d jobs were published", len(l.published))
}
