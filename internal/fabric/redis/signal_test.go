package redis

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/test/process"
	"github.com/parleyio/parley/test/servers"
)

// hear subscribes and returns the payloads that come and the gaps that are told.
func hear(t *testing.T, s fabric.Signal, pattern string) (<-chan string, <-chan fabric.Gap) {
	t.Helper()
	messages, gaps := make(chan string, 200_000), make(chan fabric.Gap, 1000)
	_, err := s.Subscribe(pattern, func(m fabric.Message) { messages <- string(m.Payload) },
		fabric.OnGap(func(gap fabric.Gap) { gaps <- gap }))
	check(t, err)
	check(t, s.Flush(t.Context()))
	return messages, gaps
}

// TestSignalStale sends, as a connection that was given up would, what is behind newer messages.
func TestSignalStale(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	lost := make(chan string, 10)
	p := openProvider(t, Options{
		Servers: []string{server.Address()}, Dropped: func(reason, _ string, _ int) { lost <- reason },
	})
	s, err := p.Signal(t.Context(), "s")
	check(t, err)
	messages, _ := hear(t, s, "x.a")
	channel := p.channel("signal", "s") + "ex.a"
	server.Do("SPUBLISH", channel, "nothing that a signal writes")
	for _, number := range []uint64{5, 6, 3, 7} {
		f := frame{kind: frameMessage, sender: "other", number: number}
		server.Do("SPUBLISH", channel, string(f.encode([]byte(strconv.FormatUint(number, 10)))))
	}
	for _, want := range []string{"5", "6", "7"} {
		if got := next(t, "message "+want, messages); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if reason := next(t, "a loss", lost); reason != fabric.DropSignalStale {
		t.Errorf("lost for %q", reason)
	}
}

// TestSignalInterest looks at what the server sends to whom.
func TestSignalInterest(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	options := Options{Servers: []string{server.Address()}}
	one, err := openProvider(t, options).Signal(t.Context(), "s")
	check(t, err)
	two, err := openProvider(t, options).Signal(t.Context(), "s")
	check(t, err)
	hear(t, one, "events.a.b")
	hear(t, two, "events.a.b")
	sub, err := two.Subscribe("events.a.c", func(fabric.Message) {})
	check(t, err)
	hear(t, two, "control.*")
	hear(t, two, "*.x")
	check(t, sub.Unsubscribe())
	check(t, two.Flush(t.Context()))
	channels := strings.Split(server.Do("PUBSUB", "SHARDCHANNELS"), "\n")
	slices.Sort(channels)
	want := []string{"parley:{signal:s}eevents.a.b", "parley:{signal:s}p*", "parley:{signal:s}pcontrol"}
	if !slices.Equal(channels, want) {
		t.Errorf("the server knows %q, want %q", channels, want)
	}
	if got := server.Do("PUBSUB", "SHARDNUMSUB", want[0]); got != want[0]+"\n2" {
		t.Errorf("it counts %q", got)
	}
}

// TestSignalInterestLearnt has a node publish at once, and after pauses, while another begins to
// subscribe to a pattern: after its Flush it hears everything.
func TestSignalInterestLearnt(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	options := Options{Servers: []string{server.Address()}}
	sender, err := openProvider(t, options).Signal(t.Context(), "s")
	check(t, err)
	receiving := openProvider(t, options)
	for round := range 20 {
		receiver, err := receiving.Signal(t.Context(), "s")
		check(t, err)
		pattern := "a" + strconv.Itoa(round) + ".*"
		subject := "a" + strconv.Itoa(round) + ".x"
		for range round { // what is known of the pattern is of any age
			check(t, sender.Publish(t.Context(), subject, nil))
			check(t, sender.Flush(t.Context()))
			time.Sleep(interestTime / 10)
		}
		messages, _ := hear(t, receiver, pattern)
		check(t, sender.Publish(t.Context(), subject, []byte("heard")))
		if got := next(t, "message", messages); got != "heard" {
			t.Errorf("got %q", got)
		}
	}
}

// TestSignalNobody asks where somebody hears, but nobody subscribes to just that.
func TestSignalNobody(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	options := Options{Servers: []string{server.Address()}}
	one, err := openProvider(t, options).Signal(t.Context(), "s")
	check(t, err)
	for _, pattern := range []string{"a.*", "*.b"} {
		other, err := openProvider(t, options).Signal(t.Context(), "s")
		check(t, err)
		hear(t, other, pattern)
	}
	_, err = one.Subscribe("a.b.c", func(fabric.Message) { t.Error("it asked itself") }, fabric.SkipSelf())
	check(t, err)
	for _, subject := range []string{"a.b.c", "c", "b.b.b"} {
		began := time.Now()
		_, err := one.Request(t.Context(), subject, nil)
		if took := time.Since(began); !errors.Is(err, fabric.ErrNoResponder) || took > fabric.RequestTimeout/2 {
			t.Errorf("request on %s: %v after %v", subject, err, took)
		}
	}
	if n := len(one.(*signal).waiting); n != 0 {
		t.Errorf("%d requests are remembered", n)
	}
}

// TestSignalOffline publishes while there is no server: nobody waits, and what is not delivered
// later is counted.
func TestSignalOffline(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	var dropped atomic.Int64
	told := &lines{}
	p := openProvider(t, Options{
		Servers: []string{server.Address()}, Logger: newLogger(told),
		Dropped: func(reason, _ string, n int) {
			if reason != fabric.DropSignalOffline {
				t.Errorf("%d were dropped as %s", n, reason)
			}
			dropped.Add(int64(n))
		},
	})
	s, err := p.Signal(t.Context(), "s")
	check(t, err)
	messages, gaps := hear(t, s, "a")
	server.Kill()
	eventually(t, "the loss is noticed", func() bool { return !s.(*signal).bus.isConnected() })
	const count = 1000
	for i := range count {
		began := time.Now()
		check(t, s.Publish(t.Context(), "a", []byte(strconv.Itoa(i))))
		if took := time.Since(began); took > time.Second {
			t.Errorf("publish took %v", took)
		}
		time.Sleep(2 * offlinePatience / count)
	}
	_, err = s.Request(t.Context(), "a", nil)
	if !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("request: %v", err)
	}
	if err := briefly(t.Context(), s.Flush); !errors.Is(err, fabric.ErrUnavailable) {
		t.Errorf("flush: %v", err)
	}
	server.Restart()
	if gap := next(t, "a gap", gaps); gap != fabric.GapReconnect {
		t.Errorf("got gap %q", gap)
	}
	check(t, s.Publish(t.Context(), "a", []byte("end")))
	received := 0
	for next(t, "message", messages) != "end" {
		received++
	}
	// The request was dropped too.
	if sum := received + int(dropped.Load()); sum != count+1 || dropped.Load() == 0 {
		t.Errorf("%d were received and %d dropped of %d", received, dropped.Load(), count)
	}
	// When the machine is busy it may last for so long that it is told once more.
	if n := told.count("lost, trying on"); len(gaps) > 0 || n == 0 || n > 2 || told.count("is back") != 1 {
		t.Errorf("%d more gaps were told; the log says %q", len(gaps), told.all())
	}
}

// TestSignalBacklog publishes to a server that stands still: nobody waits, and what is too much
// is refused and counted.
func TestSignalBacklog(t *testing.T) {
	t.Parallel()
	server := servers.StartRedis(t, servers.RedisConfig{})
	var dropped atomic.Int64
	p := openProvider(t, Options{
		Servers: []string{server.Address()}, Logger: newLogger(&lines{}),
		Dropped: func(reason, _ string, n int) {
			if reason == fabric.DropSignalBacklog {
				dropped.Add(int64(n))
			}
		},
	})
	s, err := p.Signal(t.Context(), "s")
	check(t, err)
	check(t, s.Flush(t.Context()))
	server.Pause()
	payload := make([]byte, fabric.MaxValueSize)
	refused := 0
	began := time.Now()
	for range 3 * fabric.MaxSignalBacklogBytes / fabric.MaxValueSize {
		if err := s.Publish(t.Context(), "a", payload); errors.Is(err, fabric.ErrFull) {
			refused++
		} else {
			check(t, err)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if refused == 0 || int(dropped.Load()) != refused {
		t.Errorf("%d publishes were refused, %d counted", refused, dropped.Load())
	}
	server.Resume()
	messages, _ := hear(t, s, "b")
	eventually(t, "it goes on", func() bool {
		err := s.Publish(t.Context(), "b", nil)
		return err == nil && len(messages) > 0
	})
	eventually(t, "nothing waits", func() bool { return s.(*signal).backlog.messages.Load() == 0 })
	if n := s.(*signal).backlog.bytes.Load(); n != 0 {
		t.Errorf("%d bytes wait without a message", n)
	}
}

// testSlotMoves has another master take over the hash slot of a signal.
func testSlotMoves(t *testing.T, cluster *servers.RedisCluster) {
	t.Parallel()
	options := Options{Servers: cluster.Addresses()[:1], Cluster: true, Logger: newLogger(&lines{})}
	one, err := openProvider(t, options).Signal(t.Context(), "moves")
	check(t, err)
	two, err := openProvider(t, options).Signal(t.Context(), "moves")
	check(t, err)
	messages, gaps := hear(t, two, "a.b")
	byPattern, _ := hear(t, two, "a.*")
	key := "parley:{signal:moves}"
	from, _ := cluster.MasterOf(key)
	to := cluster.Nodes[0]
	if from == to {
		to = cluster.Nodes[1]
	}
	cluster.MoveSlot(key, from, to)
	next(t, "a gap", gaps)
	for _, heard := range []<-chan string{messages, byPattern} {
		process.Eventually(t, "messages come again", func() bool {
			check(t, one.Publish(t.Context(), "a.b", []byte("x")))
			return len(heard) > 0
		})
	}
}
