package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/bench"
)

const benchIMHelp = `Generate load on a server that speaks the protocol of WuKongIM, and measure it.

Senders send to groups over TCP, at a fixed total rate or flat out with --rate 0, each with at most
--window messages that are not acknowledged. Reported are acknowledged sends and received messages
per second, the time from SEND to SENDACK and from SEND to RECV, and what was refused. With a rate,
times count from when a message was due, so a server that makes senders wait cannot hide it.

Every message is stored unless --persist=false says otherwise: it is acknowledged from the disks of a
majority. Groups are made through the HTTP API, which asks for the token in node.data_dir/im-token;
PARLEY_BENCH_IM_TOKEN is the default of --token. Groups and users are new ones in each run, unless
they have a --name.

With --fill each channel gets that many messages, flat out, and the run ends when all are answered.
With --newest nothing is sent: the newest messages of channels that an earlier run has filled are read
over the HTTP API, in random order, each channel at most once: give the same --name, --persons and
--senders. Restart the server between the two, and the channels are cold.`

const benchIMExamples = `  # 64 senders to 64 channels, flat out
  parley bench im --token $(cat parley-data/im-token)

  # one hot channel
  parley bench im --channels 1

  # 50 messages a second to a group of 2000 who are all online
  parley bench im --senders 1 --channels 1 --receivers 2000 --rate 50

  # three nodes, half of what they can do, result for a machine
  parley bench im --tcp 10.0.0.5:5100,10.0.0.6:5100,10.0.0.7:5100 --rate 4000 --json

  # a million channels with a message each, a sample of them with 60; how long the newest 50 take
  parley bench im --persons --name wide --channels 1000000 --fill 1
  parley bench im --persons --name deep --channels 4000 --fill 60
  parley bench im --persons --name deep --channels 4000 --newest 50 --rate 50`

func newBenchIMCommand() *cobra.Command {
	cfg := bench.DefaultIMConfig()
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "im",
		Short:   "Measure sends, receives and their latencies of messaging",
		Long:    benchIMHelp,
		Example: benchIMExamples,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("token") {
				cfg.Token = os.Getenv("PARLEY_BENCH_IM_TOKEN")
			}
			return runBenchIM(cmd, cfg, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringSliceVar(&cfg.TCP, "tcp", cfg.TCP, "`address` of each node for clients, host:port")
	flags.StringVar(&cfg.API, "api", cfg.API, "`address` of the HTTP API of any node, http://host:port")
	flags.StringVar(&cfg.Token, "token", "", "`token` of the HTTP API")
	flags.IntVarP(&cfg.Senders, "senders", "s", cfg.Senders, "clients that send")
	flags.IntVarP(&cfg.Channels, "channels", "c", cfg.Channels, "channels that are sent to")
	flags.BoolVar(&cfg.Persons, "persons", false, "send to one person who is not online for each channel, instead of to groups")
	flags.IntVar(&cfg.GroupSize, "group-size", 0, "members of each group; those beyond senders and receivers are not online")
	flags.IntVar(&cfg.Receivers, "receivers", 0, "clients that are members of every group and only receive")
	flags.BoolVar(&cfg.Persist, "persist", cfg.Persist, "have messages stored")
	flags.IntVar(&cfg.Payload, "payload", cfg.Payload, fmt.Sprintf("`bytes` of each message, at least %d", bench.MinIMPayload))
	flags.Float64VarP(&cfg.Rate, "rate", "r", 0, "messages a second in total, 0 for flat out")
	flags.IntVar(&cfg.Window, "window", cfg.Window, "messages of one sender that are not acknowledged")
	flags.DurationVarP(&cfg.Duration, "duration", "d", cfg.Duration, "measured time")
	flags.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "load before the measured time")
	flags.DurationVar(&cfg.Timeout, "timeout", cfg.Timeout, "for connecting, and for an answer")
	flags.IntVar(&cfg.Concurrency, "concurrency", cfg.Concurrency, "requests and logins in flight")
	flags.StringVar(&cfg.Name, "name", "", "`prefix` of channels and users, so that a later run finds them; random by default")
	flags.IntVar(&cfg.Fill, "fill", 0, "store that many messages in each channel, then stop")
	flags.IntVar(&cfg.Newest, "newest", 0, "only read, that many messages of each channel that was filled")
	flags.IntSliceVar(&cfg.PIDs, "pid", nil, "`ids` of the server's processes, for memory and CPU")
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func runBenchIM(cmd *cobra.Command, cfg bench.IMConfig, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report, err := runIM(ctx, cfg, cmd.ErrOrStderr())
	if err != nil {
		return fmt.Errorf("bench im: %w", err)
	}
	if !asJSON {
		return report.WriteText(cmd.OutOrStdout())
	}
	out := json.NewEncoder(cmd.OutOrStdout())
	out.SetIndent("", "  ")
	if err := out.Encode(report); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// imReport is a report of either kind.
type imReport interface{ WriteText(w io.Writer) error }

func runIM(ctx context.Context, cfg bench.IMConfig, progress io.Writer) (imReport, error) {
	if cfg.Newest > 0 {
		return bench.RunIMRead(ctx, cfg, progress)
	}
	return bench.RunIM(ctx, cfg, progress)
}
