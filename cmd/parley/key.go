package main

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/pusher/admin"
)

// newKeyCommand returns the command tree that manages the keys of the primitives of a running node.
func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Create, list and revoke keys for cache, signals, queues, locks and ids",
		Long: "Create, list and revoke keys of the primitives, through the admin API of a running\n" +
			"node.\n\n" + adminHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	remote := addAdminFlags(cmd)
	cmd.AddCommand(newKeyCreateCommand(remote), newKeyListCommand(remote), newKeyRevokeCommand(remote))
	return cmd
}

func newKeyCreateCommand(remote *adminFlags) *cobra.Command {
	var key admin.NewKey
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a key and show its token, once",
		Long: `Create a key and show its token. Nobody can read the token again: keep it.

A scope is an area (cache, signals, queues, locks, ids) or area:action (cache:read,
cache:write, signals:publish, signals:subscribe, queues:publish, queues:work,
queues:admin), with =name for one name or =name* for those that begin so; * alone is
everything in the namespace.`,
		Args: cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			created, err := client.CreateKey(cmd.Context(), key)
			if err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), created)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, row := range [][2]string{
				{"id", created.ID}, {"namespace", created.Namespace}, {"scopes", strings.Join(created.Scopes, " ")},
				{"token", created.Token},
			} {
				_, _ = fmt.Fprintf(table, "%s\t%s\n", row[0], printable(row[1])) // Flush reports its error
			}
			return table.Flush()
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&key.ID, "id", "", "name of the key in lists (default random)")
	flags.StringVar(&key.Namespace, "namespace", "default", "namespace that the key opens")
	flags.StringArrayVar(&key.Scopes, "scope", nil, "what its bearer may do; may be repeated")
	flags.IntVar(&key.RequestsPerSecond, "requests-per-second", 0, "requests of the key, 0 for the default of the node")
	_ = cmd.MarkFlagRequired("scope") // it is there
	return cmd
}

func newKeyListCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all keys, without their tokens",
		Args:  cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			keys, err := client.ListKeys(cmd.Context())
			if err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), keys)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "ID\tNAMESPACE\tSCOPES\tLIMIT\tCREATED\tSOURCE") // Flush reports its error
			for _, key := range keys {
				limit, created, from := "-", "-", "store"
				if key.RequestsPerSecond > 0 {
					limit = strconv.Itoa(key.RequestsPerSecond) + "/s"
				}
				if key.Static {
					from = "configuration file"
				} else {
					created = key.CreatedAt.Format(time.RFC3339)
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(key.ID), printable(key.Namespace),
					printable(strings.Join(key.Scopes, " ")), limit, created, from)
			}
			return table.Flush()
		}),
	}
}

func newKeyRevokeCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke <id>...",
		Short: "Revoke keys: from then on no node lets their bearers in",
		Args:  cobra.MinimumNArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, ids []string) error {
			for _, id := range ids {
				if err := client.RevokeKey(cmd.Context(), id); err != nil {
					return err
				}
				if err := remote.printDone(cmd.OutOrStdout(), "revoked key", id); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
