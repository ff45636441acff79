package nats_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/parleyio/parley/internal/fabric"
)

// TestLead has three nodes lead a log in turns.
func TestLead(t *testing.T) {
	if testing.Short() {
		t.Skip("three engines")
	}
	t.Parallel()
	configs := nodeConfigs(t)
	engines := startNodes(t, configs...)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	conn, err := engines[0].Connect("look")
	must(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	must(t, err)
	logs := make([]fabric.PipeLog, len(engines))
	for i, e := range engines {
		l, err := openReplicated(t, e).Log(ctx, fabric.LogConfig{Name: "led"})
		must(t, err)
		logs[i] = l.(fabric.PipeLog)
	}
	// bear lets the test go on after an error that an election explains.
	bear := func(err error) {
		t.Helper()
		if must(t, ctx.Err()); !errors.Is(err, fabric.ErrUnavailable) {
			must(t, err)
		}
	}
	for round := range 2 {
		for i, l := range logs {
			_, err := l.Append(ctx, "a", []byte(fmt.Sprint(round, i)))
			must(t, err)
			for leader := ""; leader != configs[i].Name; { // it may have to catch up first
				bear(l.Lead(ctx))
				brief, cancel := context.WithTimeout(ctx, 5*time.Second)
				if stream, err := js.Stream(brief, "parley-log-led"); err == nil {
					leader = stream.CachedInfo().Cluster.Leader
				}
				cancel()
				must(t, ctx.Err())
			}
			for j, other := range logs {
				for led := i != j; led != (i == j); {
					is, err := other.Led(ctx)
					if bear(err); err == nil {
						led = is
					}
				}
			}
		}
	}
}
