package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parleyio/parley/internal/bench"
)

// newBenchCommand is the load generator's command tree.
func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Generate load and measure a running server",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newBenchChannelsCommand(), newBenchChurnCommand(), newBenchIMCommand())
	return cmd
}

const benchChannelsHelp = `Generate load on a server that speaks the Pusher protocol, and measure it.

Three measurements:

  (default)  Subscribers are spread evenly over the channels. Publishers send events at a
             fixed total rate, or flat out with --rate 0. Reported are accepted publishes
             and delivered frames per second, the delivery ratio, and latencies.
  --idle     Connect and subscribe everybody, then rest for --settle. Reported are the
             connect rate, and with --pid the memory per connection.
  --drop     Connect everybody, let new connections arrive at --connect-rate, drop all the
             old ones at once after --warmup (their TCP connections are reset), and go on
             for --duration. Reported is how long the new ones take until
             pusher:connection_established, before and after the drop.

Latency. Every event carries the time when it was due and the time when it was sent.
"since due" counts from the schedule, so a server that makes the publishers wait cannot
hide the events they could not send in time; "since sent" counts from the send. What the
bench's own timers are late by shows under "schedule" and in neither of them. All
deliveries are measured up to 20 000 a second, beyond that a random sample.

Publishers. With --via http each is one keep-alive connection that waits for its response
before the next event: too few of them for a rate show as "missed" and as a growing "since
due". With --via client-events each is a socket of its own; events count as accepted
unless the server answers with pusher:error.

The delivery ratio counts the warm-up too, and what arrives after the window until nothing
is outstanding or nothing arrives for a second. Channel names are unique to each run.

The server's processes are read from /proc, so --pid works on linux and on the server's
machine only. Memory per connection is what the processes have grown by since before the
first one: start the server afresh, or it reuses memory of earlier runs. The bench shares that machine: "bench CPU" says how much of it.

Limits. Each connection takes a file descriptor ("too many open files": raise ulimit -n)
and a local port, of which there are about 28 000 for each local address ("cannot assign
requested address": give several with --source).

Environment: PARLEY_BENCH_URL, PARLEY_BENCH_APP_ID, PARLEY_BENCH_KEY and
PARLEY_BENCH_SECRET are the defaults of the flags of those names. A secret on the command
line is visible to other users of the machine; one in the environment is not.`

const benchChannelsExamples = `  # 1000 subscribers on 10 channels, 100 events a second: 10 000 deliveries a second
  parley bench channels --app-id 1 --key key --secret secret

  # 100 000 deliveries a second, with the server's CPU and memory
  parley bench channels --connections 1000 --channels 1 --rate 100 --pid $(pidof parley)

  # as many publishes as eight connections can make
  parley bench channels --connections 100 --channels 100 --rate 0

  # client events from 20 sockets, result for a machine
  parley bench channels --via client-events --publishers 20 --rate 2000 --json

  # memory of 20 000 idle connections
  parley bench channels --idle --connections 20000 --source 127.0.0.1,127.0.0.2 --pid 4711

  # connects during a mass disconnect
  parley bench channels --drop --connections 10000 --connect-rate 200 --duration 5s

  # two nodes of a cluster
  parley bench channels --url http://10.0.0.5:6001,http://10.0.0.6:6001`

func newBenchChannelsCommand() *cobra.Command {
	cfg := bench.DefaultConfig()
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "channels",
		Short:   "Measure deliveries, latency, connects and memory of the Pusher surface",
		Long:    benchChannelsHelp,
		Example: benchChannelsExamples,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			benchDefaults(cmd, &cfg)
			return runBench(cmd, "channels", cfg, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	serverFlags(flags, &cfg)
	flags.BoolVar(&cfg.Idle, "idle", false, "measure connecting and memory, publish nothing")
	flags.BoolVar(&cfg.Drop, "drop", false, "measure new connects while all others are dropped")
	flags.IntVarP(&cfg.Connections, "connections", "n", cfg.Connections, "subscribers")
	flags.IntVarP(&cfg.Channels, "channels", "c", cfg.Channels,
		"channels that the subscribers are spread over")
	flags.StringVar(&cfg.ChannelPrefix, "channel-prefix", cfg.ChannelPrefix,
		"beginning of channel names; with private- subscribers authenticate")
	flags.StringVar(&cfg.Via, "via", cfg.Via, "publish by http or client-events")
	flags.IntVarP(&cfg.Publishers, "publishers", "p", cfg.Publishers,
		"HTTP connections, or publishing sockets")
	flags.Float64VarP(&cfg.Rate, "rate", "r", cfg.Rate, "events a second in total, 0 for flat out")
	flags.IntVar(&cfg.Payload, "payload", cfg.Payload,
		fmt.Sprintf("`bytes` of each event's data, at least %d", bench.MinPayload))
	flags.Float64Var(&cfg.ConnectRate, "connect-rate", cfg.ConnectRate,
		"new connections a second with --drop")
	runFlags(flags, &cfg)
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

// serverFlags say which app of which server is measured.
func serverFlags(flags *pflag.FlagSet, cfg *bench.Config) {
	flags.StringSliceVar(&cfg.URLs, "url", cfg.URLs,
		"`address` of each node, http://host:port[/prefix]")
	flags.StringVar(&cfg.AppID, "app-id", "", "`id` of the app")
	flags.StringVar(&cfg.Key, "key", "", "`key` of the app")
	flags.StringVar(&cfg.Secret, "secret", "", "`secret` of the app")
}

// runFlags say how long a run takes and with what means.
func runFlags(flags *pflag.FlagSet, cfg *bench.Config) {
	flags.DurationVarP(&cfg.Duration, "duration", "d", cfg.Duration, "measured time")
	flags.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "load before the measured time")
	flags.DurationVar(&cfg.Settle, "settle", cfg.Settle,
		"rest after the last subscription (10s with --idle)")
	flags.IntVar(&cfg.ConnectConcurrency, "connect-concurrency", cfg.ConnectConcurrency,
		"handshakes in flight")
	flags.DurationVar(&cfg.ConnectTimeout, "connect-timeout", cfg.ConnectTimeout,
		"for connecting and for subscribing, each")
	flags.StringSliceVar(&cfg.Sources, "source", nil, "local `addresses` to connect from, in turn")
	flags.IntVar(&cfg.Loops, "loops", cfg.Loops, "receiving event loops")
	flags.IntSliceVar(&cfg.PIDs, "pid", nil, "`ids` of the server's processes")
}

// benchDefaults fills in what was not given as a flag from the environment and the mode.
// The names are not those of the server's own options, which also begin with PARLEY_.
func benchDefaults(cmd *cobra.Command, cfg *bench.Config) {
	for flag, field := range map[string]*string{
		"app-id": &cfg.AppID, "key": &cfg.Key, "secret": &cfg.Secret,
	} {
		name := "PARLEY_BENCH_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
		if !cmd.Flags().Changed(flag) {
			*field = os.Getenv(name)
		}
	}
	if urls := os.Getenv("PARLEY_BENCH_URL"); urls != "" && !cmd.Flags().Changed("url") {
		cfg.URLs = strings.Split(urls, ",")
	}
	if cfg.Idle && !cmd.Flags().Changed("settle") {
		cfg.Settle = 10 * time.Second
	}
}

func runBench(cmd *cobra.Command, name string, cfg bench.Config, asJSON bool) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	addProcessors(cfg.Loops)
	report, err := bench.Run(ctx, cfg, cmd.ErrOrStderr())
	if err != nil {
		return fmt.Errorf("bench %s: %w", name, err)
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
