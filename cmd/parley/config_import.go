package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/config/importer"
)

// newConfigImportCommand returns the command that turns foreign configurations into Parley's.
func newConfigImportCommand() *cobra.Command {
	var o importer.Options
	var output string
	cmd := &cobra.Command{
		Use:   "import FILE...",
		Short: "Write Parley's configuration from that of another system",
		Long: `Read the configuration of another system and write Parley's, with a comment beside each value
that has no effect and why. Files of one system are given together:

  sockudo   config.json, .env, compose files
  soketi    its JSON file, .env, compose files
  reverb    the .env of the Laravel application
  nocobase  .env, compose files
  wso2      axis2.xml, carbon.xml, catalina-server.xml
  wukongim  wk.yaml, .env, compose files

The system is found by the names of the settings. ${NAME} stands for a variable of the files, or
of the environment. The result holds the secrets of the files. "parley serve --config" takes the
same files and does the same in memory.`,
		Example: `  parley config import config.json .env --output parley.toml
  parley config import axis2.xml carbon.xml
  parley config import docker-compose.yml --service sockudo-node2`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			cmd.SilenceUsage = true
			result, err := importFiles(names, o)
			if err != nil {
				return err
			}
			if err := writeImported(cmd.OutOrStdout(), output, result.TOML()); err != nil {
				return err
			}
			return summarise(cmd.ErrOrStderr(), result)
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVarP(&output, "output", "o", "", "new file to write, for you alone (default the standard output)")
	flags.StringVar(&o.Format, "format", "", "system of the files (default found by their settings): "+
		strings.Join(importer.Formats(), ", "))
	flags.StringVar(&o.Service, "service", "", "service of a compose file (default the first of the system)")
	return cmd
}

// importFiles reads and imports files.
func importFiles(names []string, o importer.Options) (*importer.Result, error) {
	var files []importer.File
	for _, name := range names {
		data, err := readForeign(name)
		if err != nil {
			return nil, fmt.Errorf("import %s: %w", name, err)
		}
		files = append(files, importer.File{Name: name, Data: data})
	}
	o.Lookup = os.LookupEnv
	result, err := importer.Import(files, o)
	var problems config.Problems
	if errors.As(err, &problems) {
		return nil, fmt.Errorf("the configuration cannot be imported:\n%w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", strings.Join(names, ", "), err)
	}
	return result, nil
}

// readForeign reads a file up to one byte more than the importer accepts.
func readForeign(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, importer.MaxFile+1))
}

// writeImported writes to out, or to a new file that only its owner may read: it may hold
// secrets.
func writeImported(out io.Writer, name string, text []byte) error {
	if name == "" {
		_, err := out.Write(text)
		return err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Close())
}

// summarise counts what became of the settings, and names those that ask for something.
func summarise(out io.Writer, r *importer.Result) error {
	_, err := fmt.Fprintf(out, "%s: %d carried over, %d in comments until there is an option for them, "+
		"%d without effect, %d unknown\n", r.System, r.Count(importer.Carried)+r.Count(importer.Merged),
		r.Count(importer.Waiting), r.Count(importer.NoEffect), r.Count(importer.Unknown))
	for _, n := range r.Notes {
		if n.Outcome == importer.Unknown || n.Outcome == importer.Missing {
			_, line := fmt.Fprintln(out, n)
			err = errors.Join(err, line)
		}
	}
	return err
}

// takeForeign imports the file of the sources if it is one of another system. The result is
// nil if it is not, or cannot be read: config.Load explains that.
func takeForeign(sources *config.Sources) (*importer.Result, error) {
	name := sources.FileName()
	if name == "" {
		return nil, nil
	}
	data, err := readForeign(name)
	if err != nil {
		return nil, nil //nolint:nilerr // config.Load meets the same error and explains it
	}
	if !importer.IsForeign(importer.File{Name: name, Data: data}) {
		return nil, nil
	}
	result, err := importFiles([]string{name}, importer.Options{})
	if err != nil {
		return nil, err
	}
	sources.Imported = result.Imported()
	return result, nil
}

// givenBesides tells whether a flag or the environment sets an option.
func givenBesides(cmd *cobra.Command, option string) bool {
	_, inEnvironment := os.LookupEnv("PARLEY_" + strings.ToUpper(strings.ReplaceAll(option, ".", "_")))
	return inEnvironment || cmd.Flags().Changed(option)
}

// logNotes logs once what has no effect in a configuration that was imported in memory for a
// command, and what it needs that nothing else gives.
func logNotes(cmd *cobra.Command, log *slog.Logger, r *importer.Result) {
	if r == nil {
		return
	}
	log.Info("configuration imported", "system", r.System, "files", strings.Join(r.Files, ","),
		"carried", r.Count(importer.Carried)+r.Count(importer.Merged))
	for _, n := range r.Notes {
		switch n.Outcome {
		case importer.Carried, importer.Merged:
		case importer.Missing:
			if givenBesides(cmd, n.Option) {
				continue
			}
			log.Warn("option needed besides the imported configuration", "option", n.Name, "reason", n.Text)
		default:
			log.Warn("setting without effect", "setting", n.Name, "source", n.Source, "reason", n.Text)
		}
	}
}
