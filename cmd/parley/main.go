// Command parley is the whole of Parley: the server and the tools to run it.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/node"
)

func main() {
	if err := newRootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "parley:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "parley",
		Short: "A clustered realtime server in one binary",
		Long: `Parley is a realtime server in one binary. It speaks the Pusher protocol: point
pusher-js, laravel-echo and any Pusher server library at it.

  parley serve                 start a node
  parley app list              the applications that may use it
  parley publish my-channel my-event '{"hello":"world"}'
`,
		Version:       node.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		newServeCommand(),
		newDevCommand(),
		newConfigCommand(),
		newAppCommand(),
		newPublishCommand(),
		newWebhookCommand(),
		newKeyCommand(),
		newClusterCommand(),
		newBenchCommand(),
		newHealthcheckCommand(),
		newVersionCommand(),
	)
	return root
}
