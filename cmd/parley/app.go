package main

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// newAppCommand returns the command tree that manages the apps of a running node.
func newAppCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "app",
		Short: "Create, show, change and delete apps of a running node",
		Long: "Create, show, change and delete apps through the admin API of a running node.\n\n" +
			adminHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	remote := addAdminFlags(cmd)
	cmd.AddCommand(
		newAppListCommand(remote),
		newAppShowCommand(remote),
		newAppCreateCommand(remote),
		newAppUpdateCommand(remote),
		newAppRotateCommand(remote),
		newAppDeleteCommand(remote),
		newAppMigrateCommand(remote),
	)
	return cmd
}

func newAppListCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all apps",
		Args:  cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			list, err := client.ListApps(cmd.Context())
			if err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), list)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "ID\tNAME\tKEY\tENABLED\tSOURCE") // Flush reports its error
			for _, app := range list {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", app.ID, printable(app.Name), app.Key,
					yesNo(app.Enabled), source(app))
			}
			return table.Flush()
		}),
	}
}

func newAppShowCommand(remote *adminFlags) *cobra.Command {
	var secret bool
	cmd := &cobra.Command{
		Use:   "show <id>",
		Short: "Show one app",
		Args:  cobra.ExactArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, args []string) error {
			app, err := client.ShowApp(cmd.Context(), args[0], secret)
			if err != nil {
				return err
			}
			return remote.printApp(cmd.OutOrStdout(), app)
		}),
	}
	cmd.Flags().BoolVar(&secret, "secret", false, "show the secret, and what else is hidden in webhooks")
	return cmd
}

func newAppCreateCommand(remote *adminFlags) *cobra.Command {
	var app admin.NewApp
	var webhooks []string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an app and show its secret",
		Args:  cobra.NoArgs,
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, _ []string) error {
			for _, address := range webhooks {
				app.Webhooks = append(app.Webhooks, apps.Webhook{URL: address})
			}
			created, err := client.CreateApp(cmd.Context(), app)
			if err != nil {
				return err
			}
			return remote.printApp(cmd.OutOrStdout(), created)
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&app.ID, "id", "", "id (default random)")
	flags.StringVar(&app.Key, "key", "", "public key that clients connect with (default random)")
	flags.StringVar(&app.Secret, "secret", "",
		"secret (default random, which keeps it out of the shell's history)")
	addAppFields(cmd, &app, &webhooks)
	return cmd
}

func newAppUpdateCommand(remote *adminFlags) *cobra.Command {
	var app admin.NewApp
	var webhooks []string
	var enabled bool
	cmd := &cobra.Command{
		Use:   "update <id>",
		Short: "Change what the flags name, and nothing else",
		Args:  cobra.ExactArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, args []string) error {
			patch := appPatch(cmd, &app, enabled, webhooks)
			if len(patch) == 0 {
				return errors.New("nothing to change: name it with a flag, see --help")
			}
			updated, err := client.PatchApp(cmd.Context(), args[0], patch)
			if err != nil {
				return err
			}
			return remote.printApp(cmd.OutOrStdout(), updated)
		}),
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&enabled, "enabled", true, "admit clients and requests")
	addAppFields(cmd, &app, &webhooks)
	return cmd
}

// addAppFields adds the flags that create and update have in common.
func addAppFields(cmd *cobra.Command, app *admin.NewApp, webhooks *[]string) {
	flags := cmd.Flags()
	flags.StringVar(&app.Name, "name", "", "name for people")
	flags.BoolVar(&app.EnableClientMessages, "client-messages", false, "clients may send client events")
	flags.BoolVar(&app.EnableUserAuthentication, "user-authentication", false,
		"clients may sign in; those that authorize themselves for nothing in time are closed")
	flags.BoolVar(&app.EnableWatchlistEvents, "watchlist", false,
		"clients learn when users they watch come and go")
	flags.BoolVar(&app.EnableSubscriptionCount, "subscription-count", false, "subscribers learn how many they are")
	flags.IntVar(&app.Limits.MaxConnections, "max-connections", 0, "connections, 0 for no limit")
	flags.StringSliceVar(&app.AllowedOrigins, "allowed-origin", nil,
		"origin that browsers may connect from, with at most one *; may be repeated (default all)")
	flags.StringArrayVar(webhooks, "webhook", nil, "address that events are posted to; may be repeated")
}

// appPatch returns the merge patch for the flags that were given.
func appPatch(cmd *cobra.Command, app *admin.NewApp, enabled bool, webhooks []string) map[string]any {
	hooks := []apps.Webhook{}
	for _, address := range webhooks {
		if address != "" { // --webhook "" removes all
			hooks = append(hooks, apps.Webhook{URL: address})
		}
	}
	patch := map[string]any{}
	for flag, change := range map[string]struct {
		field string
		value any
	}{
		"name":                {"name", app.Name},
		"enabled":             {"enabled", enabled},
		"client-messages":     {"enable_client_messages", app.EnableClientMessages},
		"user-authentication": {"enable_user_authentication", app.EnableUserAuthentication},
		"watchlist":           {"enable_watchlist_events", app.EnableWatchlistEvents},
		"subscription-count":  {"enable_subscription_count", app.EnableSubscriptionCount},
		"max-connections":     {"limits", map[string]any{"max_connections": app.Limits.MaxConnections}},
		"allowed-origin":      {"allowed_origins", app.AllowedOrigins},
		"webhook":             {"webhooks", hooks},
	} {
		if cmd.Flags().Changed(flag) {
			patch[change.field] = change.value
		}
	}
	return patch
}

func newAppRotateCommand(remote *adminFlags) *cobra.Command {
	var key bool
	cmd := &cobra.Command{
		Use:   "rotate <id>",
		Short: "Give an app a new secret and show it; the old one is refused from then on",
		Args:  cobra.ExactArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, args []string) error {
			app, err := client.RotateApp(cmd.Context(), args[0], key)
			if err != nil {
				return err
			}
			return remote.printApp(cmd.OutOrStdout(), app)
		}),
	}
	cmd.Flags().BoolVar(&key, "key", false, "give it a new key as well")
	return cmd
}

func newAppDeleteCommand(remote *adminFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "delete <id>",
		Short: "Delete an app",
		Args:  cobra.ExactArgs(1),
		RunE: remote.run(func(cmd *cobra.Command, client *admin.Client, args []string) error {
			if err := client.DeleteApp(cmd.Context(), args[0]); err != nil {
				return err
			}
			return remote.printDone(cmd.OutOrStdout(), "deleted app", args[0])
		}),
	}
}

// printApp prints all of an app that is set.
func (f *adminFlags) printApp(out io.Writer, app admin.AppView) error {
	if f.json {
		return printJSON(out, app)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(name, value string) {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", name, printable(value)) // Flush reports its error
	}
	row("id", app.ID)
	row("name", app.Name)
	row("key", app.Key)
	if app.Secret != "" {
		row("secret", app.Secret)
	}
	row("enabled", yesNo(app.Enabled))
	row("client messages", yesNo(app.EnableClientMessages))
	row("user authentication", yesNo(app.EnableUserAuthentication))
	row("watchlist events", yesNo(app.EnableWatchlistEvents))
	row("subscription count", yesNo(app.EnableSubscriptionCount))
	for _, limit := range limitRows(app.Limits) {
		switch limit.value {
		case 0:
		case apps.Unlimited:
			row(limit.name, "no limit")
		default:
			row(limit.name, strconv.FormatInt(limit.value, 10))
		}
	}
	if len(app.AllowedOrigins) > 0 {
		row("allowed origins", strings.Join(app.AllowedOrigins, " "))
	}
	for _, hook := range app.Webhooks {
		row("webhook", describeWebhook(hook))
	}
	row("source", source(app))
	return table.Flush()
}

// limitRow is one limit as people read it.
type limitRow struct {
	name  string
	value int64
}

func limitRows(l apps.Limits) []limitRow {
	return []limitRow{
		{"max connections", int64(l.MaxConnections)},
		{"max client events per second", int64(l.MaxClientEventsPerSecond)},
		{"max backend events per second", int64(l.MaxBackendEventsPerSecond)},
		{"max read requests per second", int64(l.MaxReadRequestsPerSecond)},
		{"max presence members", int64(l.MaxPresenceMembers)},
		{"max presence member size", l.MaxPresenceMemberSize},
		{"max channel name length", int64(l.MaxChannelNameLength)},
		{"max event channels", int64(l.MaxEventChannels)},
		{"max event name length", int64(l.MaxEventNameLength)},
		{"max event payload", l.MaxEventPayload},
		{"max event batch", int64(l.MaxEventBatch)},
	}
}

func describeWebhook(hook apps.Webhook) string {
	parts := []string{hook.URL}
	for _, part := range []struct{ name, value string }{
		{"events", strings.Join(hook.EventTypes, ",")},
		{"prefix", hook.Filter.ChannelPrefix},
		{"suffix", hook.Filter.ChannelSuffix},
		{"pattern", hook.Filter.ChannelRegexp},
	} {
		if part.value != "" {
			parts = append(parts, part.name+"="+part.value)
		}
	}
	return strings.Join(parts, " ")
}

// source says who can change the app.
func source(app admin.AppView) string {
	if app.Static {
		return "configuration file"
	}
	return "store"
}
