package config

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

const (
	// envPrefix starts the name of every environment variable that sets an option.
	envPrefix = "PARLEY_"
	// envFile names the configuration file where Sources.File does not.
	envFile = "PARLEY_CONFIG"
	// envBench begins the variables of "parley bench", which are no options.
	envBench = "PARLEY_BENCH_"
	// fallbackName is the name of a node whose system tells none.
	fallbackName = "parley"
)

// Sources says where Load looks for options. A later source wins over an earlier one:
// defaults, file, environment, flags.
type Sources struct {
	File     string         // path of a TOML file; empty for the one that PARLEY_CONFIG names, if any
	Imported *Imported      // in place of that file, may be nil
	Environ  []string       // NAME=value, as of os.Environ; only names with PARLEY_ count
	Flags    *pflag.FlagSet // as of RegisterFlags, may be nil; only flags that were given count
	// Serve asks for what only a node that serves needs as well: the secret of its cluster.
	// Who looks for a node has the same file, and not always the node's environment.
	Serve bool
}

// Summary counts what each source has set.
type Summary struct {
	FileName    string // the file that was read, empty for none
	File        int    // options set by the file, without those of apps
	Environment int    // options set by the environment
	Flags       int    // options set by flags
	Apps        int    // [[apps]] tables
}

// Problem is one mistake in the configuration. Its text never holds a secret.
type Problem struct {
	Key    string // the option, such as "channels.port" or "apps[0].key"
	Source string // "parley.toml:12", "environment PARLEY_X", "flag --x" or "default"
	Err    error  // what is wrong; wraps fs.ErrNotExist and the like for an unreadable file
}

// Error names the option, the source and the mistake.
func (p Problem) Error() string { return fmt.Sprintf("%s (%s): %v", p.Key, p.Source, p.Err) }

// Unwrap returns what is wrong.
func (p Problem) Unwrap() error { return p.Err }

// Problems is the error of Load: all mistakes, first those of the file, then those of the
// environment, of the flags, and of options that do not fit together.
type Problems []Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns every Problem, for errors.Is and errors.As.
func (p Problems) Unwrap() []error {
	errs := make([]error, len(p))
	for i := range p {
		errs[i] = p[i]
	}
	return errs
}

// Default returns the configuration in which no source sets anything. The node has the
// name of the host.
func Default() Config {
	c := preset(options)
	c.resolve()
	return c
}

// Load reads all sources and checks the result. The error is of type Problems and holds
// all mistakes of all sources.
func Load(sources Sources) (Config, error) {
	c, _, err := LoadSummary(sources)
	return c, err
}

// LoadSummary is Load that also counts what each source has set.
func LoadSummary(sources Sources) (Config, Summary, error) {
	l := newLoader()
	l.serve = sources.Serve
	if sources.Imported != nil {
		l.imported(sources.Imported)
	} else if name := sources.FileName(); name != "" {
		l.file(name)
	}
	l.environment(sources.Environ)
	l.flags(sources.Flags)
	return l.finish()
}

// Port returns the port p shifted by PortOffset. Port 0, any free port, stays 0.
func (c Config) Port(p int) int {
	if p == 0 {
		return 0
	}
	return p + c.PortOffset
}

// resolve fills in what depends on the machine.
func (c *Config) resolve() {
	if c.Node.Name != "" {
		return
	}
	c.Node.Name = fallbackName
	if name, err := os.Hostname(); err == nil && name != "" {
		c.Node.Name = name
	}
}

// FileName returns the file that the sources name, or nothing.
func (s Sources) FileName() string {
	name := s.File
	if name == "" {
		name = environMap(s.Environ)[envFile]
	}
	return name
}
