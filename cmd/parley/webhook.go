package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

// newWebhookCommand returns the command tree that manages the webhooks of a running node.
func newWebhookCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhook",
		Short: "List, replay and discard the webhooks that a running node gave up",
		Long: "List, replay and discard webhooks that were given up, through the admin API of a\n" +
			"running node.\n\n" + adminHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	remote := addAdminFlags(cmd)
	dead := &cobra.Command{
		Use:   "dead-letters",
		Short: "Requests to webhooks that failed for so long that they were given up",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	dead.AddCommand(newDeadListCommand(remote), newDeadReplayCommand(remote), newDeadDiscardCommand(remote))
	cmd.AddCommand(dead)
	return cmd
}

func newDeadListCommand(remote *adminFlags) *cobra.Command {
	var after string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, oldest first",
		Args:  cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			list, err := client.ListDead(cmd.Context(), after, limit)
			if err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), list)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "ID\tFAILED AT\tAPP\tADDRESS\tEVENTS\tATTEMPTS\tREASON")
			for _, letter := range list.DeadLetters {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", printable(letter.ID),
					letter.FailedAt.UTC().Format(time.RFC3339), printable(letter.AppID), printable(letter.URL),
					countEvents(letter.Events), letter.Attempts, printable(letter.Reason))
			}
			if err := table.Flush(); err != nil {
				return err
			}
			if list.Next == "" {
				return nil
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nThere may be more: --after %s\n", list.Next)
			return err
		}),
	}
	cmd.Flags().StringVar(&after, "after", "", "list those that come after the one with this id")
	cmd.Flags().IntVar(&limit, "limit", 100, fmt.Sprintf("list so many at most, up to %d", webhook.ListDeadMax))
	return cmd
}

func newDeadReplayCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "replay <id>...",
		Short: "Send dead letters again, as if for the first time",
		Args:  cobra.MinimumNArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, ids []string) error {
			for _, id := range ids {
				if err := client.ReplayDead(cmd.Context(), id); err != nil {
					return err
				}
				if err := remote.printDone(cmd.OutOrStdout(), "replayed dead letter", id); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func newDeadDiscardCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "discard <id>...",
		Short: "Remove dead letters for good",
		Args:  cobra.MinimumNArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, ids []string) error {
			for _, id := range ids {
				if err := client.DiscardDead(cmd.Context(), id); err != nil {
					return err
				}
				if err := remote.printDone(cmd.OutOrStdout(), "discarded dead letter", id); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

// countEvents returns each name with its number, in the order of their first appearance.
func countEvents(names []string) string {
	count := map[string]int{}
	var order []string
	for _, name := range names {
		if count[name] == 0 {
			order = append(order, name)
		}
		count[name]++
	}
	for i, name := range order {
		if count[name] > 1 {
			order[i] = fmt.Sprintf("%s x%d", name, count[name])
		}
	}
	return printable(strings.Join(order, ", "))
}
