package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/node"
	"github.com/parleyio/parley/internal/telemetry"
)

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Start a node",
		Long: `Start a node and serve until SIGTERM or SIGINT. The node then leaves the rotation
(/ready answers 503), sends its clients away spread over half of the grace period, flushes its
queues and exits with 0; a second signal ends it at once. SIGHUP reloads the certificate.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, imported, err := loadServed(cmd)
			if err != nil {
				// What the file lacks and what has no effect help to mend it. How to log is not known.
				logNotes(cmd, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)), imported)
				return err
			}
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), c.Log.Level, c.Log.Format)
			if err != nil {
				return err
			}
			logNotes(cmd, log, imported)
			file, err := cmd.Flags().GetString(configFlag)
			if err != nil {
				return fmt.Errorf("read flag --%s: %w", configFlag, err)
			}
			return serve(cmd.Context(), c, file, log, cmd.OutOrStdout())
		},
	}
	addConfigFlags(cmd)
	return cmd
}

// gcPercent is the default of GOGC. Half of Go's own takes 2.0 KB instead of 2.6 KB for an
// idle connection, at a cost in CPU that is within the noise of "parley bench channels".
const gcPercent = 50

// addProcessors gives the Go scheduler one more processor for each event loop, unless
// GOMAXPROCS is set. A loop that waits for its sockets is in a system call and keeps a
// processor there for up to 10 ms; when all are kept so, the sockets of HTTP and of the engine
// are not served for as long.
func addProcessors(loops int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + loops)
	}
}

// serve runs a node until it is told to stop or one of its parts fails.
func serve(ctx context.Context, c config.Config, configFile string, log *slog.Logger, out io.Writer) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// Signals first, so that none is missed while the node starts.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer close(signals)
	defer signal.Stop(signals)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	reload := make(chan struct{}, 1)
	go follow(signals, log, stop, reload)

	started := time.Now()
	n, err := node.Start(serving, c, log)
	if err != nil && serving.Err() != nil {
		log.Info("stopped before the start was done", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	log.Info("ready", "address", n.Address("channels"), "metrics", n.Address("metrics"),
		"connections", n.Mode(), "version", node.Version(), "after", time.Since(started).Round(time.Millisecond))
	if n.Mode() == "event-loop" {
		addProcessors(cmp.Or(c.Transport.EventLoops, runtime.GOMAXPROCS(0)))
	}
	greet(out, n, c, configFile)

	reason := wait(serving, n, reload, log)
	log.Info("stopping", "delay", c.Shutdown.Delay, "grace", c.Shutdown.Grace)
	n.Leave(context.WithoutCancel(ctx))
	stopping, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), c.Shutdown.Grace)
	defer cancelStop()
	err = errors.Join(reason, n.Stop(stopping))
	log.Info("stopped")
	return err
}

// follow does what signals ask for: SIGHUP a reload, the first other one the end of
// serving, a second one the end of the process. It returns when the channel is closed.
func follow(signals <-chan os.Signal, log *slog.Logger, stop func(), reload chan<- struct{}) {
	stopping := false
	for s := range signals {
		switch {
		case s == syscall.SIGHUP:
			select {
			case reload <- struct{}{}:
			default: // one that has not begun reads the same files
			}
		case stopping:
			log.Warn("second signal, ending at once", "signal", s.String())
			os.Exit(1)
		default:
			log.Info("asked to stop", "signal", s.String())
			stopping = true
			stop()
		}
	}
}

// wait returns when serving ends, with nil, or a part of the node has failed.
func wait(serving context.Context, n *node.Node, reload <-chan struct{}, log *slog.Logger) error {
	for {
		select {
		case <-reload:
			if err := n.ReloadTLS(); err != nil {
				log.Error("certificate not reloaded", "error", err)
			}
		case <-serving.Done():
			return nil
		case err := <-n.Failed():
			log.Error("a part of the node failed, stopping", "error", err)
			return err
		}
	}
}
