package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/node"
	"github.com/parleyio/parley/internal/pusher/apps/appsql"
)

// migrateTimeout bounds the making of a table, which may have to wait for other programs that use it.
const migrateTimeout = time.Minute

// newAppMigrateCommand returns the command that makes the table of apps. It asks the database
// itself, because a node without the table waits for it.
func newAppMigrateCommand(remote *adminFlags) *cobra.Command {
	var addColumns, dryRun bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create the table of apps in the database, if it is not there",
		Long: `Create the table that app_store.table names in the database of apps (app_store.driver mysql or
postgres), if it is not there. It has the columns of Sockudo's table and two more, name and
enable_subscription_count. An existing table is not touched, unless --add-columns is given: then it
gets the columns that it lacks, all of which may be null.

The database is the one of the configuration (--config, environment, flags). No node need run.`,
		Example: `  parley app migrate --config parley.toml --dry-run
  PARLEY_APP_STORE_URL=mysql://parley:secret@db:3306/parley parley app migrate --app_store.driver mysql`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			if !c.AppStore.InDatabase() {
				return errors.New("app_store.driver is " + c.AppStore.Driver + ": set it to mysql or postgres")
			}
			table, err := node.AppTable(c.AppStore)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), migrateTimeout)
			defer cancel()
			done, err := table.Migrate(ctx, addColumns, dryRun)
			err = errors.Join(err, table.Close())
			if err != nil {
				return err
			}
			if remote.json {
				return printJSON(cmd.OutOrStdout(), done)
			}
			return printMigration(cmd.OutOrStdout(), c.AppStore.Table, done, dryRun)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&addColumns, "add-columns", false, "add the columns that an existing table lacks")
	flags.BoolVar(&dryRun, "dry-run", false, "print the statements and execute none")
	options := pflag.NewFlagSet("", pflag.ContinueOnError)
	config.RegisterFlags(options)
	for _, key := range []string{
		"driver", "url", "host", "port", "user", "password", "database", "table", "tls", "ca_file", "cert_file", "key_file",
	} {
		flags.AddFlag(options.Lookup("app_store." + key))
	}
	return cmd
}

// printMigration says what was done, or would be.
func printMigration(out io.Writer, table string, m appsql.Migration, dryRun bool) error {
	var lines []string
	switch {
	case dryRun:
		for _, statement := range m.Statements {
			lines = append(lines, statement+";")
		}
	case m.Created:
		lines = append(lines, "created table "+table)
	case len(m.Added) > 0:
		lines = append(lines, fmt.Sprintf("added to table %s: %s", table, strings.Join(m.Added, ", ")))
	}
	if len(m.Statements) == 0 {
		lines = append(lines, "table "+table+" is there, and was not changed")
	}
	if len(m.Missing) > 0 {
		lines = append(lines, "it has no columns for: "+strings.Join(m.Missing, ", ")+"; --add-columns adds them")
	}
	_, err := fmt.Fprintln(out, strings.Join(lines, "\n"))
	return err
}
