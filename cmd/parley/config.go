package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/config/importer"
)

// configFlag is the flag that names the configuration file.
const configFlag = "config"

// addConfigFlags gives a command the flag for the configuration file and one for every
// option. loadConfig reads them. Flags of its own the command adds afterwards.
func addConfigFlags(cmd *cobra.Command) {
	cmd.Flags().SortFlags = false // the order of the reference page tells more
	cmd.Flags().StringP(configFlag, "c", "", "TOML file with options, or a file that \"config import\" reads (default $PARLEY_CONFIG)")
	config.RegisterFlags(cmd.Flags())
	cmd.SetFlagErrorFunc(explainFlagError)
}

// explainFlagError adds the nearest option to the error about an unknown flag, and keeps
// the long list of all options from hiding it.
func explainFlagError(cmd *cobra.Command, err error) error {
	cmd.SilenceUsage = true
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		nearest := config.NearestKey(unknown.GetSpecifiedName())
		return fmt.Errorf("%w; the nearest option is --%s", err, nearest)
	}
	return err
}

// configSources returns where a command with addConfigFlags finds its options. Its flags
// are understood by now, so later errors need no explanation of its usage.
// A file of another system is imported in memory; the result is nil for Parley's own.
func configSources(cmd *cobra.Command) (config.Sources, *importer.Result, error) {
	cmd.SilenceUsage = true
	file, err := cmd.Flags().GetString(configFlag)
	if err != nil {
		return config.Sources{}, nil, fmt.Errorf("read flag --%s: %w", configFlag, err)
	}
	sources := config.Sources{File: file, Environ: os.Environ(), Flags: cmd.Flags()}
	imported, err := takeForeign(&sources)
	return sources, imported, err
}

// loadConfig reads file, environment and flags of a command with addConfigFlags that looks for
// a node. The error holds all mistakes, one a line, and no secret.
func loadConfig(cmd *cobra.Command) (config.Config, error) {
	sources, _, err := configSources(cmd)
	if err != nil {
		return config.Config{}, err
	}
	c, _, err := loadSummary(sources)
	return c, err
}

// loadServed is loadConfig of a node that serves. It also tells what was imported, if the file
// is one of another system.
func loadServed(cmd *cobra.Command) (config.Config, *importer.Result, error) {
	sources, imported, err := configSources(cmd)
	if err != nil {
		return config.Config{}, nil, err
	}
	sources.Serve = true
	c, _, err := loadSummary(sources)
	return c, imported, err
}

// loadSummary is config.LoadSummary with an error for people.
func loadSummary(sources config.Sources) (config.Config, config.Summary, error) {
	c, s, err := config.LoadSummary(sources)
	if err == nil {
		err = cluster.CheckSeeds(c.Cluster.Seeds)
	}
	if err != nil {
		err = fmt.Errorf("the configuration is not valid:\n%w", err)
	}
	return c, s, err
}

// newConfigCommand returns the command that checks and documents the configuration.
func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check, import and document the configuration",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newConfigCheckCommand(),
		newConfigImportCommand(),
		newPrintCommand("reference", "Print the reference page of all options as Markdown",
			config.Reference),
		newPrintCommand("default", "Print a configuration file with all defaults",
			config.DefaultFile),
	)
	return cmd
}

// newConfigCheckCommand returns the command that reports every mistake.
func newConfigCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report every mistake in file, environment and flags",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sources, _, err := configSources(cmd)
			if err != nil {
				return err
			}
			sources.Serve = true
			_, s, err := loadSummary(sources)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "configuration is valid: "+
				"%d options set by file, %d by environment, %d by flags; %d apps\n",
				s.File, s.Environment, s.Flags, s.Apps)
			return err
		},
	}
	addConfigFlags(cmd)
	return cmd
}

// newPrintCommand returns a command that prints one text.
func newPrintCommand(name, short string, text func() string) *cobra.Command {
	return &cobra.Command{
		Use:   name,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), text())
			return err
		},
	}
}
