package engine_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/engine"
)

// childVariable makes the test binary a node: its value is a childConfig.
const childVariable = "PARLEY_ENGINE_TEST_CHILD"

type childConfig struct {
	DataDir, Name string
	Port          int
	Routes        []string
}

func TestMain(m *testing.M) {
	if config := os.Getenv(childVariable); config != "" {
		if err := child(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child runs a node until it is killed or its standard input ends, as it does when the
// parent is gone.
func child(config string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := engine.Start(ctx, engine.Options{
		DataDir: c.DataDir, ServerName: c.Name, Logger: slog.New(slog.DiscardHandler),
		Cluster: &engine.Cluster{
			Name: "test", Host: "127.0.0.1", Port: c.Port, Routes: c.Routes, Secret: secret,
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = bufio.NewReader(os.Stdin).ReadByte()
	return err
}

// process is a node in a process of its own.
type process struct {
	config childConfig
	cmd    *exec.Cmd
}

func processes(t testing.TB, n int) []*process {
	t.Helper()
	var all []*process
	for _, node := range members(t, n) {
		all = append(all, &process{config: childConfig{
			DataDir: node.options.DataDir, Name: node.options.ServerName,
			Port: node.options.Cluster.Port, Routes: node.options.Cluster.Routes,
		}})
	}
	return all
}

// spawn starts processes together and waits until all are ready.
func spawn(t testing.TB, all ...*process) {
	t.Helper()
	ready := make(chan error)
	for _, p := range all {
		config, err := json.Marshal(p.config)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		p.cmd = cmd
		cmd.Env = append(os.Environ(), childVariable+"="+string(config))
		cmd.Stderr = os.Stderr
		stdin, err1 := cmd.StdinPipe()
		stdout, err2 := cmd.StdoutPipe()
		if err := errors.Join(err1, err2, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stdin.Close(); kill(cmd) })
		go func() {
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if line == "ready\n" {
				err = nil
			}
			ready <- err
		}()
	}
	for range all {
		if err := <-ready; err != nil {
			t.Fatalf("a node did not start: %v", err)
		}
	}
}

// kill ends a process at once and waits for its end. It may be over already.
func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// What a write takes at most when the leader dies, to be reached and at least: the election
// takes 1 to 2 s, the rest is for votes that were lost. With the server's own timing it is 4 s
// at least, so the shortest of some kills tells on any machine whether ours has an effect.
const (
	writeLimit    = 2500 * time.Millisecond
	untunedLimit  = 3500 * time.Millisecond
	noticeLimit   = time.Second
	mostElections = 3
)

// strict has every kill keep to what is to be reached, not just one of them.
var strict = os.Getenv("PARLEY_FAULTS_STRICT") == "1"

// TestKill has three processes store, kills the leader of the stream, and then all of them.
// Nothing that was acknowledged may be missing or be there twice.
func TestKill(t *testing.T) {
	needsTime(t)
	nodes := processes(t, 3)
	spawn(t, nodes...)
	client := members(t, 1)[0]
	client.options.ServerName = "client"
	client.options.Cluster.NoStore = true
	client.options.Cluster.Routes = nodes[0].config.Routes
	launch(t, client)
	_, js := streamOf(t, client)
	s := create(t, js, "s", 3)
	written := 0
	for kills, done := 0, false; !done; {
		worst, noticed := killLeader(t, client, js, s, nodes, &written)
		kills++
		late := worst > untunedLimit || noticed > noticeLimit
		switch {
		case strict && (worst > writeLimit || noticed > noticeLimit), late && kills == mostElections:
			t.Errorf("a write took %v, the death was noticed after %v", worst, noticed)
			done = true
		default:
			done = kills == mostElections || !strict && !late
		}
	}
	for _, p := range nodes {
		kill(p.cmd)
	}
	spawn(t, nodes...)
	verifyWrites(t, js, written)
}

// killLeader kills the leader of the stream under writes and starts it again. It returns how
// long a write took at most, and after which time the death was noticed.
func killLeader(t *testing.T, client *member, js jetstream.JetStream, s jetstream.Stream, nodes []*process, written *int) (worst, noticed time.Duration) {
	t.Helper()
	var leader *process
	eventually(t, "the stream has a leader", func() bool {
		info, err := s.Info(bounded(t))
		if err != nil {
			return false
		}
		at := slices.IndexFunc(nodes, func(p *process) bool { return p.config.Name == info.Cluster.Leader })
		if at >= 0 {
			leader = nodes[at]
		}
		return at >= 0 && !slices.ContainsFunc(info.Cluster.Replicas, func(r *jetstream.PeerInfo) bool { return !r.Current })
	})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		worst, *written = writeOn(t, js, *written, stop)
	}()
	at := last(t, js)
	eventually(t, "some writes", func() bool { return last(t, js) > at+50 })
	at = last(t, js)
	kill(leader.cmd)
	killed := time.Now()
	eventually(t, "the death is noticed", func() bool {
		return !slices.Contains(client.engine.Peers(), leader.config.Name)
	})
	noticed = time.Since(killed)
	eventually(t, "writes go on", func() bool { return last(t, js) > at+50 })
	close(stop)
	<-stopped
	t.Logf("figure: stream leader killed, longest pause of %d writes: %v, noticed after %v", *written, worst, noticed)
	spawn(t, leader)
	return worst, noticed
}

// last returns the last sequence of the stream, or 0 when nobody can tell now.
func last(t testing.TB, js jetstream.JetStream) uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	s, err := js.Stream(ctx, "s")
	if err != nil {
		return 0
	}
	return s.CachedInfo().State.LastSeq
}

// verifyWrites compares the stream with what writeUntil wrote.
func verifyWrites(t testing.TB, js jetstream.JetStream, written int) {
	t.Helper()
	eventually(t, "the stream is there", func() bool { return last(t, js) > 0 })
	s, err := js.Stream(bounded(t), "s")
	if err != nil {
		t.Fatal(err)
	}
	// The last write may have been stored without its acknowledgement.
	found := int(s.CachedInfo().State.Msgs)
	if found < written || found > written+1 {
		t.Fatalf("%d messages, %d were acknowledged", found, written)
	}
	for i := range written {
		msg, err := s.GetMsg(bounded(t), uint64(i+1))
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if string(msg.Data) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, msg.Data)
		}
	}
}
