package nats_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/engine"
)

// nodeVariable makes the test binary a node: its value is a nodeConfig.
const nodeVariable = "PARLEY_TEST_NODE"

// nodeConfig is what a node of a test cluster is started with.
type nodeConfig struct {
	DataDir, Name string
	Port          int
	Routes        []string
}

func (c nodeConfig) start(ctx context.Context) (*engine.Engine, error) {
	return engine.Start(ctx, engine.Options{
		DataDir:    c.DataDir,
		Sync:       "2m", // one disk serves all nodes of the test
		ServerName: c.Name,
		Logger:     slog.New(slog.DiscardHandler),
		Cluster: &engine.Cluster{
			Name: "test", Host: "127.0.0.1", Port: c.Port, Routes: c.Routes,
			Secret: "known to the nodes of the test",
		},
	})
}

// runNode runs a node until it is killed or its standard input ends, as it does when the
// parent is gone.
func runNode(config string) error {
	var c nodeConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if _, err := c.start(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err := bufio.NewReader(os.Stdin).ReadByte()
	return err
}

// spawnNode starts a node in a process of its own, which can be killed. The node serves when
// ready returns.
func spawnNode(t testing.TB, c nodeConfig) (ready, kill func()) {
	t.Helper()
	config, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeVariable+"="+string(config))
	cmd.Stderr = os.Stderr
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		_ = cmd.Process.Kill() // it may be gone already
		_ = cmd.Wait()
	}
	t.Cleanup(func() { _ = stdin.Close(); kill() })
	ready = func() {
		t.Helper()
		line, err := bufio.NewReader(stdout).ReadString('\n')
		if line != "ready\n" {
			t.Fatalf("the node did not start: %v", err)
		}
	}
	return ready, kill
}
