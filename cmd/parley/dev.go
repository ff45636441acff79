package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/dev"
)

func newDevCommand() *cobra.Command {
	var o dev.Options
	cmd := &cobra.Command{
		Use:   "dev [-- FLAGS OF SERVE]",
		Short: "Run a cluster on this machine, to see it survive",
		Long: `Run a cluster on this machine: real node processes with shifted ports, and a balancer in
front of them on port 6001 that asks /ready. The log of all nodes comes to this terminal, and
commands are typed in:

  kill 2      end node 2 as a crash does (kill -9)
  stop 2      ask node 2 to stop
  restart 2   stop node 2 if it runs, and start it
  drain 2     take node 2 out of the rotation and send its clients to the others
  undrain 2   take it back
  status      show how the nodes are
  quit        stop all, as Ctrl-C does

It listens on this machine only. What comes after -- goes to "parley serve" of every node.`,
		Example: "  parley dev --nodes 5 --data-dir cluster -- --log.level=warn",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return fmt.Errorf("%q: flags for the nodes come after --", args[0])
			}
			var err error
			if o.Program, err = os.Executable(); err != nil {
				return fmt.Errorf("find this program: %w", err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			// A closed pipe on the standard output ends dev.Run, which stops the nodes and removes
			// their data. Uncaught it would end this program at once; ignored, the nodes would inherit that.
			pipes := make(chan os.Signal, 1)
			signal.Notify(pipes, syscall.SIGPIPE)
			defer signal.Stop(pipes)
			context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
			o.Args, o.In, o.Out = args, cmd.InOrStdin(), cmd.OutOrStdout()
			return dev.Run(ctx, o)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&o.Nodes, "nodes", 3, fmt.Sprintf("how many nodes, %d to %d", dev.MinNodes, dev.MaxNodes))
	flags.StringVar(&o.DataDir, "data-dir", "", "keeps the data of all nodes (default a directory that is removed at the end)")
	flags.IntVar(&o.PortOffset, "port_offset", 0, "added to every port; node N listens 100 N above the balancer")
	return cmd
}
