package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
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
(/ready answers 503), sends its clients away spread over the grace period, flushes its
queues and exits with 0; a second signal ends it at once. SIGHUP reloads the certificate.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			log, err := telemetry.NewLogger(cmd.ErrOrStderr(), c.Log.Level, c.Log.Format)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, log, cmd.OutOrStdout())
		},
	}
	addConfigFlags(cmd)
	return cmd
}

// gcPercent is the default of GOGC. Half of Go's own takes 2.0 KB instead of 2.6 KB for an
// idle connection, at a cost in CPU that is within the noise of "parley bench channels".
const gcPercent = 50

// serve runs a node until it is told to stop or one of its parts fails.
func serve(ctx context.Context, c config.Config, log *slog.Logger, out io.Writer) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	// Signals first, so that none is missed while the node starts.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	starting, cancel := context.WithCancel(ctx)
	defer cancel()

	started := time.Now()
	n, err := node.Start(starting, c, log)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	log.Info("ready", "address", n.Address("channels"), "metrics", n.Address("metrics"),
		"connections", n.Mode(), "version", node.Version(), "after", time.Since(started).Round(time.Millisecond))
	greet(out, n, c)

	reason := error(nil)
	for waiting := true; waiting; {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP {
				if err := n.ReloadTLS(); err != nil {
					log.Error("certificate not reloaded", "error", err)
				}
				continue
			}
			log.Info("stopping", "signal", s.String(), "grace", c.Shutdown.Grace)
			waiting = false
		case reason = <-n.Failed():
			log.Error("a part of the node failed, stopping", "error", reason)
			waiting = false
		}
	}
	go func() {
		for s := range signals {
			if s != syscall.SIGHUP {
				log.Warn("second signal, ending at once")
				os.Exit(1)
			}
		}
	}()
	stopping, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), c.Shutdown.Grace)
	defer cancelStop()
	err = errors.Join(reason, n.Stop(stopping))
	log.Info("stopped")
	return err
}

// greet tells a person what runs and how to try it.
func greet(out io.Writer, n *node.Node, c config.Config) {
	host, port, err := net.SplitHostPort(n.Address("channels"))
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	base := n.Scheme() + "://" + net.JoinHostPort(host, port)
	fmt.Fprintf(out, "\nParley serves the Pusher protocol on %s\n", base)
	if n.FirstApp != nil {
		fmt.Fprintf(out, `
There was no app, so one was made. This is the only time its secret is shown here;
"parley app show --secret %s" tells it again.

  app id  %s
  key     %s
  secret  %s
`, n.FirstApp.ID, n.FirstApp.ID, n.FirstApp.Key, n.FirstApp.Secret)
	}
	page := base + "/"
	if keys := n.Keys(); len(keys) == 1 {
		page += "?key=" + keys[0]
	}
	server := ""
	if port != "6001" || n.Scheme() != "http" {
		server = " --server " + base
	}
	if c.Node.DataDir != "parley-data" {
		server += " --node.data_dir " + c.Node.DataDir
	}
	fmt.Fprintf(out, `
Open        %s
Then run    %s publish%s my-channel my-event '{"hello":"world"}'

`, page, os.Args[0], server)
}
