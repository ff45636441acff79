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
	step, waits := "", ""
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
			waits = now.Waits
			if step != now.Step {
				step = now.Step
				if _, err := fmt.Fprintf(out, "%s: %s\n", printable(now.Name), printable(step)); err != nil {
					return err
				}
			}
		case slices.ContainsFunc(view.Members, isIt):
			return fmt.Errorf("%s is back and stays a member", member.Name)
		case !slices.ContainsFunc(view.Missing, isIt):
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("not done yet, the node goes on: %s", joinSome("; ", step, waits))
		}
	}
}

func describeForgetting(f admin.Forgetting) string {
	if f.Error != "" {
		return f.Name + ": failed: " + f.Error
	}
	return f.Name + ": " + joinSome("; ", f.Step, f.Waits)
}

// joinSome joins what is not empty.
func joinSome(separator string, parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), separator)
}

// describeReplicas says how many copies there are, and what is done about missing ones.
func describeReplicas(view admin.ClusterView) string {
	r := view.Replicas
	lowering := view.Forgetting != nil && view.Forgetting.Error == ""
	copies := fmt.Sprint(r.Have)
	switch {
	case r.Have == 0:
		copies = "not known, the engine does not answer"
	case len(r.Behind) == 0 || lowering:
	case r.Away > 0:
		copies += fmt.Sprintf(", fewer than %d of %d streams; none is raised while a node with a store is away", r.Want, len(r.Behind))
	default:
		copies += fmt.Sprintf(", to be raised to %d: %d streams are left", r.Want, len(r.Behind))
	}
	return joinSome("; ", copies, r.Work)
}

// describeSurvival says what the cluster can lose, beside what is away.
func describeSurvival(r admin.ReplicaView) string {
	more := r.Survives - r.Away
	switch {
	case r.Have == 0:
		return "not known"
	case r.Away > 0 && more <= 0:
		return fmt.Sprintf("no further loss: %d of %d nodes with a store %s away", r.Away, r.Stores, plural(r.Away, "is", "are"))
	case r.Away > 0:
		return fmt.Sprintf("the loss of %d more: %d of %d nodes with a store %s away", more, r.Away, r.Stores, plural(r.Away, "is", "are"))
	case r.Survives == 0 && r.Stores == 2:
		return "no loss: while one of the 2 nodes with a store is away nothing can be stored; add a third"
	case r.Survives == 0:
		return fmt.Sprintf("no loss of a node with a store, of which there are %d, until there are more copies", r.Stores)
	case r.Stores%2 == 0:
		return fmt.Sprintf("the loss of %d of %d nodes with a store, as %d would", r.Survives, r.Stores, r.Stores-1)
	}
	return fmt.Sprintf("the loss of %d of %d nodes with a store", r.Survives, r.Stores)
}

// plural returns one of two forms.
func plural(count int, one, more string) string {
	if count == 1 {
		return one
	}
	return more
}
