package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/pusher/admin"
)

// forgetPoll is between two questions how far it is.
const forgetPoll = 300 * time.Millisecond

func newClusterForgetCommand(remote *adminFlags) *cobra.Command {
	var force bool
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "forget NODE",
		Short: "Take a dead member out of the cluster for good",
		Long: `Take a member, by its name or id, out of the cluster for good. It must be stopped or dead; ask
any other node. If fewer nodes with a store remain than there are copies, the copies are brought
down first (5 to 3), one stream at a time; then its copies go to others and nobody counts it any
more. It cannot come back with the data that it has: to use the machine again, empty the node's
data directory. Replacing a machine: let the new node join first, then forget the old one.

The command waits until all is done, at the longest --wait; the work goes on without it.
"parley cluster status" shows how far it is. If it fails, repeat it: it goes on from there.`,
		Args: cobra.ExactArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, args []string) error {
			member, err := client.Forget(cmd.Context(), args[0], force)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			progress := cmd.OutOrStdout()
			if remote.json {
				progress = io.Discard
			}
			if err := awaitForgotten(ctx, client, member, progress); err != nil {
				return err
			}
			return remote.printDone(cmd.OutOrStdout(), "forgotten:", member.ID)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if those that remain survive the loss of none")
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Minute, "longest wait for the end")
	return cmd
}

// awaitForgotten prints the steps until the member is gone, or it has failed.
func awaitForgotten(ctx context.Context, client *admin.Client, member admin.ClusterMember, out io.Writer) error {
	step := ""
	ticker := time.NewTicker(forgetPoll)
	defer ticker.Stop()
	for {
		view, err := client.Cluster(ctx)
		if err != nil {
			return err
		}
		isIt := func(m admin.ClusterMember) bool { return m.ID == member.ID }
		now := view.Forgetting
		switch {
		case now != nil && now.ID == member.ID && now.Error != "":
			return errors.New(now.Error)
		case now != nil && now.ID == member.ID:
			if step != now.Step {
				step = now.Step
				if _, err := fmt.Fprintf(out, "%s: %s\n", printable(now.Name), printable(step)); err != nil {
					return err
				}
			}
		case !slices.ContainsFunc(slices.Concat(view.Members, view.Missing), isIt):
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("not done yet, the node goes on: %s", step)
		}
	}
}

func describeForgetting(f admin.Forgetting) string {
	if f.Error != "" {
		return f.Name + ": failed: " + f.Error
	}
	return f.Name + ": " + f.Step
}

// describeReplicas says how many copies there are, and what is done about missing ones.
func describeReplicas(r admin.ReplicaView) string {
	parts := []string{fmt.Sprint(r.Have)}
	if r.Have == 0 {
		parts[0] = "not known, the engine does not answer"
	}
	if len(r.Behind) > 0 {
		parts[0] += fmt.Sprintf(", to be raised to %d: %d streams are left", r.Want, len(r.Behind))
	}
	if r.Work != "" {
		parts = append(parts, r.Work)
	}
	return strings.Join(parts, "; ")
}

// describeSurvival says what the cluster can lose.
func describeSurvival(r admin.ReplicaView) string {
	switch {
	case r.Have == 0:
		return "not known"
	case r.Survives == 0 && r.Stores == 2:
		return "no loss: while one of the 2 nodes with a store is away nothing can be stored; add a third"
	case r.Survives == 0:
		return fmt.Sprintf("no loss of a node with a store, of which there are %d, until there are more copies", r.Stores)
	case r.Stores%2 == 0:
		return fmt.Sprintf("the loss of %d of %d nodes with a store, as %d would", r.Survives, r.Stores, r.Stores-1)
	}
	return fmt.Sprintf("the loss of %d of %d nodes with a store", r.Survives, r.Stores)
}
