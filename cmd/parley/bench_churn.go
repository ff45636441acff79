package main

import (
	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/bench"
)

const benchChurnHelp = `Have clients change their channels all the time, and measure how long a subscription takes.

All clients connect and subscribe to one channel each, evenly spread. Then there are --rate
cycles a second in total: a client leaves its channel and subscribes to another one, both
in one write. The cycle ends when the client has pusher_internal:subscription_succeeded; a
client begins no other one before that.

"since due" counts from the time when the cycle was to begin, "since sent" from when the
client had begun it. A cycle for which no client is free counts as missed, one that the
server answers with an error as refused, and one that is open when, after the end, nothing
comes for a second as never acknowledged.

--presence is the share of presence channels. A member that comes or goes is told to all
others of its channel, so there the server's work grows with the subscribers of a channel;
"member events" counts those that the clients got.

Channel names, --pid, limits and the environment are as in "parley bench channels".`

const benchChurnExamples = `  # 5000 clients on one node, 500 cycles a second
  parley bench churn --app-id 1 --key key --secret secret

  # over three nodes, half of the channels with presence, with the CPU of the servers
  parley bench churn --url http://10.0.0.5:6001,http://10.0.0.6:6001,http://10.0.0.7:6001 --presence 0.5

  # result for a machine
  parley bench churn --connections 1000 --channels 400 --rate 100 --duration 20s --json`

func newBenchChurnCommand() *cobra.Command {
	cfg := bench.DefaultChurnConfig()
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "churn",
		Short:   "Measure subscriptions while clients change their channels",
		Long:    benchChurnHelp,
		Example: benchChurnExamples,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			benchDefaults(cmd, &cfg)
			return runBench(cmd, "churn", cfg, asJSON)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	serverFlags(flags, &cfg)
	flags.IntVarP(&cfg.Connections, "connections", "n", cfg.Connections, "clients")
	flags.IntVarP(&cfg.Channels, "channels", "c", cfg.Channels, "channels that they move between")
	flags.Float64VarP(&cfg.Rate, "rate", "r", cfg.Rate, "cycles a second in total")
	flags.Float64Var(&cfg.Presence, "presence", cfg.Presence, "`share` of presence channels, 0 to 1")
	runFlags(flags, &cfg)
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}
