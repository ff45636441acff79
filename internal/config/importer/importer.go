// Package importer turns the configuration files of Sockudo, soketi, Laravel Reverb,
// NocoBase, WSO2 and WuKongIM into Parley's own. Each foreign setting is declared once, in
// the table of its system: with the option that takes its value, or with the reason why it
// has no effect. An option that this version does not declare yet takes its value as soon as
// package config declares it.
//
// The package takes bytes and returns a result: it reads no file and no environment. It may
// import package config and parsers. It must never import another room of Parley.
package importer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// MaxFile bounds the size of a foreign file in bytes.
const MaxFile = 4 << 20

const (
	// maxSettings bounds how many settings one file may hold.
	maxSettings = 100_000
	// maxName bounds the bytes of a setting's name with the tables around it.
	maxName = 1000
	// maxNearest bounds for how many unknown settings the nearest known one is looked for.
	maxNearest = 100
)

var (
	// ErrUnrecognised says that files hold no setting of a known system.
	ErrUnrecognised = errors.New("no configuration of a known system")
	// ErrMixed says that files belong to different systems.
	ErrMixed = errors.New("the files belong to different systems")
	// ErrTooLarge says that a file is larger than MaxFile or holds too many settings.
	ErrTooLarge = errors.New("the file is too large")
)

// File is one foreign file.
type File struct {
	Name string // path or base name; messages and comments show the base name
	Data []byte
}

// Options direct an import. The zero value detects everything.
type Options struct {
	// Format names the system, as in Formats; empty to detect it.
	Format string
	// Service chooses a service of a compose file; empty for the first one of the system.
	Service string
	// Lookup resolves ${NAME} where the files do not define NAME, as os.LookupEnv does.
	Lookup func(name string) (string, bool)
}

// Outcome says what became of a foreign setting.
type Outcome int

// The outcomes of settings.
const (
	Carried  Outcome = iota // its value is an option of Parley
	Merged                  // its value is a part of an option's value
	Waiting                 // its value is kept in a comment, because this version lacks the option
	NoEffect                // Parley needs nothing of the kind, does it another way or cannot do it
	Unknown                 // the system's table does not list it
	Missing                 // Parley needs it and the foreign files cannot say it
)

// Note is what became of one foreign setting, or of several that share a reason.
type Note struct {
	Outcome Outcome
	Name    string // of the foreign setting; of the option if Outcome is Missing
	Source  string // "config.json:12"
	Text    string // why; holds no value of a secret
	Option  string // the option that has or would have the value; nothing for those of apps

	shown string // the value for the comment, where it may be shown
	order int    // position of the setting; 0 for what is none
}

// String returns the note as one line.
func (n Note) String() string {
	if n.Source == "" {
		return n.Name + ": " + n.Text
	}
	return fmt.Sprintf("%s (%s): %s", n.Name, n.Source, n.Text)
}

// Result is what an import has found.
type Result struct {
	System string   // name of the system, for people
	Files  []string // base names
	Notes  []Note   // in the order of the files; settings that were carried over included

	set map[string]assignment // path to its value
}

// Count returns how many notes have the outcome.
func (r *Result) Count(outcome Outcome) int {
	n := 0
	for _, note := range r.Notes {
		if note.Outcome == outcome {
			n++
		}
	}
	return n
}

// Import reads the files of one system. The error is of type config.Problems, with one
// Problem for each mistake, or wraps a sentinel of this package. No error and no note shows
// a secret.
func Import(files []File, o Options) (*Result, error) {
	sys, sources, err := recognise(files, o)
	if err != nil {
		return nil, err
	}
	run := &run{
		system: sys, options: o, result: &Result{System: sys.title, set: map[string]assignment{}},
		declared: declarations(),
	}
	for _, s := range sources {
		run.result.Files = append(run.result.Files, s.name)
		run.problems = append(run.problems, s.problems...)
	}
	run.read(sources)
	run.apply()
	if err := run.finish(); err != nil {
		return nil, err
	}
	return run.result, nil
}

// Imported returns the result in the form that package config loads.
func (r *Result) Imported() *config.Imported {
	return &config.Imported{Name: r.name(), TOML: r.TOML(), Source: r.places()}
}

func (r *Result) name() string { return strings.Join(r.Files, "+") }

// places returns a function that names the place which the value of a path comes from, or
// that of the first value in the nearest table around it.
func (r *Result) places() func(path string) string {
	first := map[string]entry{}
	for path, a := range r.set {
		for p := path; p != ""; p = around(p) {
			if old, ok := first[p]; !ok || a.from.order < old.order {
				first[p] = a.from
			}
		}
	}
	return func(path string) string {
		for ; path != ""; path = around(path) {
			if from, ok := first[path]; ok {
				return from.source()
			}
		}
		return r.name()
	}
}

// around returns the path of the table or list around a path.
func around(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// Formats returns the names that Options.Format accepts, in a stable order.
func Formats() []string {
	var names []string
	for _, s := range systems {
		names = append(names, s.name)
	}
	return names
}

// formatNamed returns the system of that name, or nil.
func formatNamed(name string) *system {
	if i := slices.IndexFunc(systems, func(s *system) bool { return s.name == name }); i >= 0 {
		return systems[i]
	}
	return nil
}
