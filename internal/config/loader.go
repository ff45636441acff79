package config

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// loader applies one source after the other and collects every problem.
type loader struct {
	config   Config
	summary  Summary
	problems Problems
	origins  map[string]string // option to the source that set it last
	failed   map[string]bool   // options with a problem
	broken   bool              // the file could not be read, so that its options are unknown
	serve    bool              // as of Sources
}

func newLoader() *loader {
	return &loader{
		config: Default(), origins: map[string]string{}, failed: map[string]bool{},
	}
}

// fail records a problem.
func (l *loader) fail(key, source string, err error) {
	l.failed[key] = true
	l.problems = append(l.problems, Problem{key, source, err})
}

// failAt records a problem with a path of the file.
func (l *loader) failAt(d *document, path string, err error) {
	l.fail(path, d.source(path), err)
}

// apply sets one option from one source.
func (l *loader) apply(f *field[Config], source string, value raw, count *int) {
	if err := f.set(&l.config, value); err != nil {
		l.fail(f.key, source, f.explain(err, value))
		return
	}
	l.origins[f.key] = source
	*count++
}

// environment applies every PARLEY_ variable.
func (l *loader) environment(environ []string) {
	values := environMap(environ)
	for _, f := range options {
		name := f.environment()
		value, ok := values[name]
		delete(values, name)
		if !ok {
			name, value, ok = f.foreign(environ)
		}
		if ok {
			l.apply(&f, "environment "+name, raw{value, true}, &l.summary.Environment)
		}
	}
	delete(values, envFile)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if strings.HasPrefix(name, envBench) {
			continue
		}
		l.fail(name, "environment "+name, unknownVariable(name, values[name]))
	}
}

// foreign returns the variable of another program that sets the field, the first of them that
// is not empty, with its value.
func (f field[S]) foreign(environ []string) (name, value string, found bool) {
	for _, other := range f.others {
		for _, entry := range environ {
			if key, text, ok := strings.Cut(entry, "="); ok && key == other.name && text != "" {
				name, value, found = key, other.text(text), true
			}
		}
		if found {
			break
		}
	}
	return name, value, found
}

// unknownVariable explains a PARLEY_ variable that is no option.
func unknownVariable(name, value string) error {
	if isServiceLink(name, value) {
		return errors.New("no such option; Kubernetes sets this for a service of that name, " +
			"unless the pod has enableServiceLinks: false")
	}
	return fmt.Errorf("no such option; the nearest is %s", nearestVariable(name))
}

// serviceLink matches the variables that Kubernetes sets for services.
var serviceLink = regexp.MustCompile(`_SERVICE_(HOST|PORT)|_PORT_[0-9]+_(TCP|UDP|SCTP)`)

func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) ||
		strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// environMap returns the PARLEY_ variables; of equal names the last one counts.
func environMap(environ []string) map[string]string {
	values := map[string]string{}
	for _, entry := range environ {
		name, value, ok := strings.Cut(entry, "=")
		if ok && strings.HasPrefix(name, envPrefix) {
			values[name] = value
		}
	}
	return values
}

// finish checks what options have to do with one another and returns the result.
func (l *loader) finish() (Config, Summary, error) {
	l.config.resolve()
	l.applyWorkerMode()
	if !l.broken {
		l.checkTogether()
	}
	l.summary.Apps = len(l.config.Apps)
	if len(l.problems) > 0 {
		return Config{}, l.summary, l.problems
	}
	return l.config, l.summary, nil
}

// file applies a TOML file.
func (l *loader) file(name string) {
	l.summary.FileName = name
	d, err := readDocument(name)
	if err != nil {
		l.unreadable(name, err)
		return
	}
	l.document(d)
}

// unreadable records that a file could not be read or decoded.
func (l *loader) unreadable(name string, err error) {
	source := name
	var syntax syntaxError
	if errors.As(err, &syntax) {
		source = fmt.Sprintf("%s:%d", name, syntax.line)
	}
	l.broken = true
	l.fail("config", source, err)
}

// document applies a decoded file. Its problems are put in the order of the lines, which
// missing and repeated keys are not found in.
func (l *loader) document(d *document) {
	first := len(l.problems)
	tableReader[Config]{
		loader: l, document: d, fields: options,
		store: func(f *field[Config], path string, value raw) {
			l.apply(f, d.source(path), value, &l.summary.File)
		},
		nested: map[string]func(string, any){
			appsKey: func(path string, value any) { l.apps(d, path, value) },
			keysKey: func(path string, value any) { l.primitiveKeys(d, path, value) },
		},
	}.read(scope{}, d.root)
	found := l.problems[first:]
	sort.SliceStable(found, func(i, j int) bool {
		return d.line(found[i].Key) < d.line(found[j].Key)
	})
}
