package engine_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/engine"
	ports "github.com/parleyio/parley/test/process"
)

const secret = "a secret that all nodes of the test share"

// member is a node of a test cluster, running or not.
type member struct {
	options engine.Options
	engine  *engine.Engine
}

// members reserves addresses for n nodes that know each other.
func members(t testing.TB, n int) []*member {
	t.Helper()
	nodes := make([]*member, n)
	routes := make([]string, n)
	base := t.TempDir()
	for i := range nodes {
		port := ports.FreePorts(t, 1)
		routes[i] = fmt.Sprintf("nats://127.0.0.1:%d", port)
		name := fmt.Sprintf("n%d", i+1)
		nodes[i] = &member{options: engine.Options{
			DataDir:    filepath.Join(base, name),
			Sync:       "2m", // one disk serves all nodes of the test; TestKill has each write on it
			ServerName: name,
			Logger:     quiet(t, slog.LevelError+1),
			Cluster: &engine.Cluster{
				Name: "test", Host: "127.0.0.1", Port: port, Routes: routes, Secret: secret,
			},
		}}
	}
	return nodes
}

func quiet(t testing.TB, level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}

// launch starts nodes together, as a cluster forms.
func launch(t testing.TB, nodes ...*member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wait sync.WaitGroup
	for _, node := range nodes {
		wait.Go(func() {
			e, err := engine.Start(ctx, node.options)
			if err != nil {
				t.Errorf("%s: %v", node.options.ServerName, err)
				return
			}
			node.engine = e
			t.Cleanup(func() { halt(t, node) })
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func halt(t testing.TB, node *member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := node.engine.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func streamOf(t testing.TB, node *member) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := node.engine.Connect("test")
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

// create makes a stream. A leader that has just been elected takes a moment to learn of
// every server.
func create(t testing.TB, js jetstream.JetStream, name string, replicas int) jetstream.Stream {
	t.Helper()
	var s jetstream.Stream
	eventually(t, "stream "+name, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		s, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{name + ".>"}, Replicas: replicas,
		})
		return err == nil
	})
	return s
}

// publish stores one message. An election lasts longer than the library tries, and may take the
// answer along: with its id the message is stored once.
func publish(t testing.TB, js jetstream.JetStream, subject, id string, data []byte) *jetstream.PubAck {
	t.Helper()
	var ack *jetstream.PubAck
	eventually(t, "message "+id+" is stored", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		var err error
		ack, err = js.Publish(ctx, subject, data, jetstream.WithMsgID(id))
		return err == nil
	})
	return ack
}

func names(nodes ...*member) []string {
	var all []string
	for _, node := range nodes {
		all = append(all, node.options.ServerName)
	}
	return all
}

// eventually waits for something that no event tells of.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for begin := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// healthy waits until the nodes say that they are.
func healthy(t testing.TB, nodes ...*member) {
	t.Helper()
	for _, node := range nodes {
		var err error
		for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if err = node.engine.Health(bounded(t)); err == nil {
				break
			}
			if time.Since(begin) > patience {
				t.Fatalf("%s after %v: %v", node.options.ServerName, patience, err)
			}
		}
	}
}

// TestClusterLife forms a cluster, adds a node without a store, loses a node and gets it
// back, and stops everything.
func TestClusterLife(t *testing.T) {
	needsTime(t)
	t.Parallel()
	begin := time.Now()
	nodes := members(t, 3)
	var mu sync.Mutex
	var seen [][]string
	nodes[0].options.Cluster.PeersChanged = func(peers []string) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, peers)
	}
	launch(t, nodes...)
	t.Logf("formed after %v", time.Since(begin))
	healthy(t, nodes...)
	eventually(t, "two peers", func() bool { return slices.Equal(nodes[0].engine.Peers(), names(nodes[1:]...)) })

	extra := members(t, 1)[0]
	extra.options.ServerName = "gateway"
	extra.options.Cluster.NoStore = true
	extra.options.Cluster.Port = 0
	extra.options.Cluster.Routes = nodes[0].options.Cluster.Routes
	begin = time.Now()
	launch(t, extra)
	t.Logf("joined without a store after %v", time.Since(begin))
	healthy(t, extra)
	_, js := streamOf(t, extra)
	create(t, js, "s", 3)
	for i := range 100 {
		publish(t, js, "s.a", fmt.Sprint(i), fmt.Append(nil, i))
	}
	eventually(t, "it has a quorum of three", func() bool {
		status, err := nodes[0].engine.Status()
		return err == nil && status.Quorum && status.Size == 3
	})

	halt(t, nodes[1])
	left := time.Now()
	eventually(t, "the one that left is no peer", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(seen[len(seen)-1], []string{"gateway", "n3"})
	})
	t.Logf("absence told %v after the stop", time.Since(left))
	publish(t, js, "s.a", "last", []byte("two of three"))
	launch(t, nodes[1])
	healthy(t, nodes[1])
	s, err := js.Stream(bounded(t), "s")
	if err != nil {
		t.Fatal(err)
	}
	if state := s.CachedInfo().State; state.Msgs != 101 {
		t.Errorf("stream %+v", state)
	}
}

// TestNoQuorum loses two of three: the last one says that nothing can be stored, and soon.
func TestNoQuorum(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 3)
	launch(t, nodes...)
	_, js := streamOf(t, nodes[0])
	create(t, js, "s", 3)
	halt(t, nodes[2])
	for tries := 1; ; tries++ { // the machine may stand still in one of them
		halt(t, nodes[1])
		begin := time.Now()
		eventually(t, "no quorum", func() bool {
			err := nodes[0].engine.Health(bounded(t))
			return errors.Is(err, engine.ErrNoQuorum) && errors.Is(err, engine.ErrUnhealthy)
		})
		took := time.Since(begin)
		launch(t, nodes[1])
		healthy(t, nodes[0])
		if took <= 5*time.Second {
			return
		}
		if strict || tries == mostElections {
			t.Fatalf("told after %v", took)
		}
	}
}

// TestWrongSecret has a node with another secret knock: it stays outside, and no log has a
// secret or a password.
func TestWrongSecret(t *testing.T) {
	needsTime(t)
	t.Parallel()
	var log lockedBuffer
	nodes := members(t, 4)
	for _, node := range nodes {
		node.options.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	stranger := nodes[3]
	for _, node := range nodes[:3] {
		node.options.Cluster.Routes = node.options.Cluster.Routes[:3]
	}
	stranger.options.Cluster.Secret = "another secret that nobody shares"
	launch(t, nodes[:3]...)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	knocked := make(chan error, 1)
	go func() {
		e, err := engine.Start(ctx, stranger.options)
		if err == nil {
			err = errors.Join(errors.New("it has started"), e.Stop(bounded(t)))
		}
		knocked <- err
	}()
	// Many times: it does not give up, and is not let in later.
	eventually(t, "the refusal is in the log", func() bool { return strings.Count(log.String(), "uthorization") >= 10 })
	cancel()
	if err := <-knocked; !errors.Is(err, context.Canceled) {
		t.Errorf("the stranger: %v", err)
	}
	if peers := nodes[0].engine.Peers(); !slices.Equal(peers, names(nodes[1:3]...)) {
		t.Errorf("peers are %v", peers)
	}
	if err := nodes[0].engine.AddRoutes("127.0.0.1:1"); err != nil {
		t.Error(err)
	}
	for _, hidden := range append(nodes[0].options.Cluster.Passwords(), stranger.options.Cluster.Passwords()...) {
		if strings.Contains(log.String(), hidden) {
			t.Errorf("%q is in the log", hidden)
		}
	}
}

// TestClientListener looks at the listener that the engine cannot do without: it lets nobody
// in who has no password.
func TestClientListener(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 3)
	launch(t, nodes...)
	url := nodes[0].engine.ClientURL()
	if !strings.Contains(url, "127.0.0.1") {
		t.Errorf("it listens at %s", url)
	}
	for _, option := range []nats.Option{nats.Name("none"), nats.Token(secret), nats.Token(""), nats.UserInfo("system", secret)} {
		if conn, err := nats.Connect(url, option); err == nil {
			conn.Close()
			t.Errorf("a stranger came in: %+v", conn.Opts)
		}
	}
}

// TestAddRoutes tells a running cluster of a member. No connection may suffer from it.
func TestAddRoutes(t *testing.T) {
	needsTime(t)
	t.Parallel()
	nodes := members(t, 4)
	all := nodes[0].options.Cluster.Routes
	for _, node := range nodes[:3] {
		node.options.Cluster.Routes = all[:3]
	}
	late := nodes[3]
	late.options.Cluster.NoStore = true
	late.options.Cluster.Routes = nil // it waits to be found
	launch(t, nodes[:3]...)
	conn, js := streamOf(t, nodes[0])
	create(t, js, "s", 3)
	launch(t, late)
	if peers := late.engine.Peers(); len(peers) != 0 {
		t.Fatalf("it has found %v without a route", peers)
	}
	for _, node := range nodes[:3] {
		if err := node.engine.AddRoutes(all...); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it was found", func() bool { return slices.Equal(late.engine.Peers(), names(nodes[:3]...)) })
	if conn.Stats().Reconnects != 0 || !conn.IsConnected() {
		t.Error("the connection was cut")
	}
	if err := late.engine.AddRoutes(all...); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		healthy(t, node)
	}
	_, js = streamOf(t, late)
	eventually(t, "the late one can publish", func() bool { // once it has learnt of the stream
		_, err := js.Publish(bounded(t), "s.a", nil)
		return err == nil
	})
	if err := nodes[0].engine.AddRoutes("no address"); err == nil {
		t.Error("a wrong route was taken")
	}
}

// TestGracefulStop has the leader of everything leave while others write: no write may take
// long. The machine may stand still in one of the tries.
func TestGracefulStop(t *testing.T) {
	needsTime(t)
	nodes := members(t, 3)
	launch(t, nodes...)
	_, js := streamOf(t, nodes[0])
	create(t, js, "s", 3)
	written := 0
	for tries := 1; ; tries++ {
		worst := stopLeader(t, nodes, &written)
		if worst <= 2*time.Second {
			return
		}
		if strict || tries == mostElections {
			t.Fatalf("a write took %v", worst)
		}
	}
}

// stopLeader stops the leader of the stream under writes and starts it again. It returns how long a
// write took at most.
func stopLeader(t *testing.T, nodes []*member, written *int) (worst time.Duration) {
	t.Helper()
	at := -1
	_, js := streamOf(t, nodes[0])
	eventually(t, "the stream has a leader", func() bool {
		s, err := js.Stream(bounded(t), "s")
		if err != nil {
			return false
		}
		group := s.CachedInfo().Cluster
		at = slices.Index(names(nodes...), group.Leader)
		return at >= 0 && !slices.ContainsFunc(group.Replicas, func(r *jetstream.PeerInfo) bool { return !r.Current })
	})
	_, js = streamOf(t, nodes[(at+1)%3])
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		halt(t, nodes[at])
	}()
	worst, *written = writeOn(t, js, *written, stopped)
	t.Logf("%d writes, the longest took %v", *written, worst)
	launch(t, nodes[at])
	return worst
}

// writeUntil writes one message after the other and returns the longest time from one
// acknowledgement to the next, and how many there were. A write that fails is repeated.
func writeUntil(t testing.TB, js jetstream.JetStream, stop <-chan struct{}) (worst time.Duration, written int) {
	return writeOn(t, js, 0, stop)
}

// writeOn does the same after so many writes, and counts these too.
func writeOn(t testing.TB, js jetstream.JetStream, before int, stop <-chan struct{}) (worst time.Duration, written int) {
	written = before
	last := time.Now()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 250*time.Millisecond)
		_, err := js.Publish(ctx, "s.a", fmt.Append(nil, written), jetstream.WithMsgID(fmt.Sprint("w", written)))
		cancel()
		if err == nil {
			written++
			worst = max(worst, time.Since(last))
			last = time.Now()
		} else if time.Since(last) > patience {
			t.Errorf("no write for %v: %v", patience, err)
			return worst, written
		}
		select {
		case <-stop:
			if err == nil {
				return worst, written
			}
		default:
		}
	}
}

// TestRaftTiming hears the leader of an idle cluster say that it lives. It would be every
// second if the server did not see our timing.
func TestRaftTiming(t *testing.T) {
	needsTime(t)
	nodes := members(t, 3)
	launch(t, nodes...)
	conn, err := nodes[0].engine.System()
	if err != nil {
		t.Fatal(err)
	}
	beats, err := conn.SubscribeSync("$NRG.AE.>")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = beats.Unsubscribe() }()
	subject := ""
	beat := func() {
		t.Helper()
		for {
			msg, err := beats.NextMsg(patience)
			if err != nil {
				t.Fatal(err)
			}
			subject = cmp.Or(subject, msg.Subject)
			if msg.Subject == subject {
				return
			}
		}
	}
	beat()
	for tries := 1; ; tries++ { // the machine may stand still in one of them
		first := time.Now()
		for range 4 {
			beat()
		}
		// Four intervals; the server looks each interval whether one has passed, and so may
		// need two.
		took := time.Since(first)
		t.Logf("four intervals took %v", took)
		if took <= 3*time.Second {
			return
		}
		if strict || tries == 5 {
			t.Fatalf("a heartbeat comes every %v: the timing of raft.go does not reach the server", took/4)
		}
	}
}

func TestWrongClusterOptions(t *testing.T) {
	good := members(t, 1)[0].options
	for what, change := range map[string]func(*engine.Options, *engine.Cluster){
		"no server name":  func(o *engine.Options, _ *engine.Cluster) { o.ServerName = "" },
		"no cluster name": func(_ *engine.Options, c *engine.Cluster) { c.Name = "" },
		"short secret":    func(_ *engine.Options, c *engine.Cluster) { c.Secret = "short" },
		"wrong port":      func(_ *engine.Options, c *engine.Cluster) { c.Port = 70000 },
		"wrong route":     func(_ *engine.Options, c *engine.Cluster) { c.Routes = []string{"host"} },
		"route with user": func(_ *engine.Options, c *engine.Cluster) { c.Routes = []string{"nats://u:p@h:1"} },
		"route with path": func(_ *engine.Options, c *engine.Cluster) { c.Routes = []string{"nats://h:1/p"} },
		"no such certificate": func(_ *engine.Options, c *engine.Cluster) {
			c.TLS = &engine.TLSOptions{CertFile: "/nowhere", KeyFile: "/nowhere", CAFile: "/nowhere"}
		},
	} {
		options, cluster := good, *good.Cluster
		options.Cluster = &cluster
		change(&options, &cluster)
		_, err := engine.Start(bounded(t), options)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// lockedBuffer takes a log from many goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
