package importer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// IsForeign tells whether a file is a configuration of another system, or seems to be one by
// its name. A name that ends in .toml is that of Parley's own.
func IsForeign(f File) bool {
	name := strings.ToLower(f.Name)
	for _, suffix := range []string{".json", ".yaml", ".yml", ".xml", ".env"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	if strings.HasSuffix(name, ".toml") {
		return false
	}
	_, _, err := recognise([]File{f}, Options{})
	return err == nil
}

// recognise decodes the files and finds the system that they belong to.
func recognise(files []File, o Options) (*system, []*source, error) {
	var sources []*source
	var problems config.Problems
	for _, f := range files {
		s, err := decode(f)
		var found config.Problems
		if errors.As(err, &found) {
			problems = append(problems, found...)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, s)
	}
	if len(problems) > 0 {
		return nil, nil, problems
	}
	if o.Format != "" {
		sys := formatNamed(o.Format)
		if sys == nil {
			return nil, nil, fmt.Errorf("format %q is none of %s", o.Format, strings.Join(Formats(), ", "))
		}
		return sys, sources, nil
	}
	sys, err := bestOf(sources)
	return sys, sources, err
}

// exclusive is the weight of a setting that one system alone has, compared with 1 for each
// setting that several have.
const exclusive = 10

// bestOf returns the system that most settings of all files belong to.
func bestOf(sources []*source) (*system, error) {
	scores := make([][]int, len(sources)) // by source, by system
	totals := make([]int, len(systems))
	for i, s := range sources {
		scores[i] = score(s)
		for j, n := range scores[i] {
			totals[j] += n
		}
	}
	best := 0
	for j, n := range totals {
		if n > totals[best] {
			best = j
		}
	}
	if len(totals) == 0 || totals[best] == 0 {
		return nil, fmt.Errorf("%w: known are %s; --format names one", ErrUnrecognised, strings.Join(titles(), ", "))
	}
	for i, s := range sources {
		if own := slices.Max(scores[i]); scores[i][best] == 0 && own > 0 {
			return nil, fmt.Errorf("%w: %s is of %s; import those of one system at a time", ErrMixed,
				s.name, systems[slices.Index(scores[i], own)].title)
		}
	}
	return systems[best], nil
}

func titles() []string {
	var out []string
	for _, s := range systems {
		out = append(out, s.title)
	}
	return out
}

// score tells for each system how much of a file is its own.
func score(s *source) []int {
	scores := make([]int, len(systems))
	count := func(entries []entry) {
		for _, e := range entries {
			var claims []int
			for j, sys := range systems {
				if _, ok := sys.setting(e); ok {
					claims = append(claims, j)
				}
			}
			for _, j := range claims {
				if len(claims) == 1 {
					scores[j] += exclusive
				} else {
					scores[j]++
				}
			}
		}
	}
	count(s.entries)
	for _, service := range s.services {
		count(service.entries)
	}
	if s.syntax == syntaxBalancer || len(s.services) > 0 && slices.Max(scores) == 0 {
		scores[slices.Index(systems, infrastructure)] = 1
	}
	return scores
}

// entriesFor returns the settings of a file, for a compose file those of one service, and
// notes what else the file holds.
func (r *run) entriesFor(s *source) []entry {
	if len(s.services) == 0 {
		return s.entries
	}
	chosen := -1
	for i, service := range s.services {
		owned := slices.ContainsFunc(service.entries, func(e entry) bool {
			_, ok := r.system.setting(e)
			return ok
		})
		wanted := r.options.Service == service.name || r.options.Service == "" && owned
		if chosen < 0 && wanted {
			chosen = i
			continue
		}
		r.noteService(s, service, owned)
	}
	if chosen >= 0 {
		return s.services[chosen].entries
	}
	if r.options.Service != "" {
		r.problems = append(r.problems, syntaxProblem(s.name, 0, "has no service %q", r.options.Service))
	}
	return nil
}

func (r *run) noteService(s *source, service service, owned bool) {
	place := entry{file: s.name, line: service.line}
	note := Note{
		Outcome: NoEffect, Name: "service " + service.name, Source: place.source(), Text: imageNote(cmp.Or(service.image, service.name)),
	}
	if owned {
		note.Text = fmt.Sprintf("is a node of its own: import it with --service %s", service.name)
	}
	r.result.Notes = append(r.result.Notes, note)
}

// isBalancer tells whether a file is a configuration of nginx or HAProxy.
func isBalancer(data []byte) bool {
	for line := range bytes.Lines(data) {
		words := strings.Fields(string(line))
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		last := words[len(words)-1]
		switch words[0] {
		case "upstream", "server", "http", "stream", "events":
			return strings.HasSuffix(last, "{")
		case "user", "worker_processes", "error_log", "pid":
			return strings.HasSuffix(last, ";")
		case "global", "defaults":
			return len(words) == 1
		case "frontend", "backend", "listen":
			return len(words) == 2
		}
		return false
	}
	return false
}
