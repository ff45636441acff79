package importer

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/config"
)

// run is one import under way.
type run struct {
	system   *system
	options  Options
	result   *Result
	declared map[string]config.Declared // by table and key
	problems config.Problems

	settings  map[string]entry  // by name in the table; what counts
	order     []string          // of settings
	variables map[string]string // environment variables of the files, for references
	looked    int               // unknown settings so far
	strangers []entry           // variables that seem to belong to something else
	groups    map[string]*group // settings outside, by the name of their rule

	undefinedOptions []Note // options whose settings refer to a variable that nobody defines
}

// group is the settings of one rule for a part of a file that is not read.
type group struct {
	rule  rule
	first entry
	count int
}

// assignment is the value of one path of Parley's configuration.
type assignment struct {
	path    string
	value   any // string, []string
	from    entry
	target  target
	waiting string // why the value stays a comment, if it does
}

// declarations returns all keys of Parley by their path, with [] for indexes.
func declarations() map[string]config.Declared {
	all := map[string]config.Declared{}
	for _, d := range config.Declarations() {
		switch d.Table {
		case config.AppsTable:
			all["apps[]."+d.Key] = d
		case config.WebhooksTable:
			all["apps[].webhooks[]."+d.Key] = d
		case config.KeysTable:
			all["primitives.keys[]."+d.Key] = d
		default:
			all[d.Key] = d
		}
	}
	return all
}

// read collects the settings of all files. A later one wins over an earlier one of the same
// name, and the environment over files.
func (r *run) read(sources []*source) {
	r.settings, r.variables, r.groups = map[string]entry{}, map[string]string{}, map[string]*group{}
	order := 0
	for _, s := range sources {
		for _, e := range r.entriesFor(s) {
			order++
			e.order = order
			if e.env {
				r.variables[e.name] = e.text()
			}
			name, ok := r.system.setting(e)
			if !ok {
				r.unknown(e)
				continue
			}
			if name != e.name {
				e.name, e.label = name, e.name
			}
			r.keep(e)
		}
	}
}

func (r *run) note(e entry, outcome Outcome, option, text string) {
	r.result.Notes = append(r.result.Notes, Note{
		Outcome: outcome, Name: e.shown(), Source: e.source(), Text: text, Option: option, order: e.order,
	})
}

// missing notes an option that Parley needs and the files cannot say.
func (r *run) missing(option, text string) {
	r.result.Notes = append(r.result.Notes, Note{Outcome: Missing, Name: option, Text: text, Option: option})
}

// unknown notes a setting that the table does not list. A variable that resembles none of
// the system's belongs to something else that shares the file.
func (r *run) unknown(e entry) {
	if r.looked++; r.looked > maxNearest {
		r.note(e, Unknown, "", fmt.Sprintf("no setting of %s is known by this name", r.system.title))
		return
	}
	known := r.system.index.known
	if e.env && len(r.system.aliases) > 0 {
		known = slices.Sorted(maps.Keys(r.system.aliases))
	}
	nearest, edits := config.Nearest(e.name, known)
	own := slices.ContainsFunc(r.system.prefixes, func(p string) bool { return strings.HasPrefix(e.name, p) })
	if e.env && !own && edits > max(1, len(e.name)/6) {
		r.strangers = append(r.strangers, e)
		return
	}
	r.note(e, Unknown, "", fmt.Sprintf("no setting of %s is known by this name; the nearest is %s",
		r.system.title, nearest))
}

// apply turns every setting into what its rules say.
func (r *run) apply() {
	if r.system.derive != nil {
		r.system.derive(r)
	}
	done := map[string]bool{}
	for _, name := range r.order {
		e, ok := r.settings[name]
		if !ok || done[name] {
			continue // dropped, or taken away and put back
		}
		done[name] = true
		rules := r.system.rulesOf(name)
		if len(rules) == 0 {
			r.unknown(e)
		}
		for _, rule := range rules {
			r.applyRule(rule, e)
		}
	}
	if r.system.complete != nil {
		r.system.complete(r)
	}
	r.noteUndefined()
	r.noteGroups()
	r.noteStrangers()
}

func (r *run) applyRule(rule rule, e entry) {
	switch {
	case rule.outside:
		r.group(rule, e)
		return
	case !r.isOn(rule.when):
		r.noEffect(rule, e, "because "+r.switchName(rule.when)+" is off")
		return
	case rule.into != "":
		if !e.quiet {
			r.note(e, Merged, rule.into, "is a part of "+rule.into)
		}
		return
	case rule.to == "":
		r.noEffect(rule, e, rule.why)
		return
	}
	value, missing := r.resolve(e.value)
	if missing != "" && !rule.fills {
		r.undefined(rule, e, missing)
		return
	}
	if e.text() == "" {
		r.noEffect(rule, e, "it is empty")
		return
	}
	if rule.as != nil {
		converted, err := rule.as(value)
		var without noEffect
		if errors.As(err, &without) {
			r.noEffect(rule, e, string(without))
			return
		}
		if err != nil {
			r.problem(rule, e, err)
			return
		}
		value = converted
	}
	r.assign(rule, e, value)
}

// undefined notes a setting that refers to a variable which nobody defines, and the option that lacks it.
func (r *run) undefined(rule rule, e entry, variable string) {
	why := fmt.Sprintf("refers to ${%s}, which neither the files nor the environment define", variable)
	r.noEffect(rule, e, "it "+why)
	if t := r.targetOf(rule, e.name); t.exists && t.declared.Table == "" {
		r.undefinedOptions = append(r.undefinedOptions, Note{Name: t.path, Text: e.shown() + " " + why})
	}
}

// noteUndefined notes the options that lack a value because of a variable, and got it from nothing else.
func (r *run) noteUndefined() {
	for _, n := range r.undefinedOptions {
		noted := slices.ContainsFunc(r.result.Notes, func(m Note) bool { return m.Outcome == Missing && m.Name == n.Name })
		if _, ok := r.result.set[n.Name]; !ok && !noted {
			r.missing(n.Name, n.Text)
		}
	}
}

// group counts a setting of a rule that stands for many.
func (r *run) group(rule rule, e entry) {
	if r.groups[rule.name] == nil {
		r.groups[rule.name] = &group{rule: rule, first: e}
	}
	r.groups[rule.name].count++
}

// noteGroups adds one note for each group.
func (r *run) noteGroups() {
	for _, name := range sortedPaths(r.groups) {
		g := r.groups[name]
		if g.count == 1 {
			r.noEffect(g.rule, g.first, g.rule.why)
			continue
		}
		r.note(g.first, NoEffect, "", g.rule.why)
		last := &r.result.Notes[len(r.result.Notes)-1]
		last.Name = fmt.Sprintf("%s and %d more like it", last.Name, g.count-1)
	}
}

// target is the place of a value in Parley's configuration.
type target struct {
	path     string // "apps[0].webhooks[0].headers.X-From"
	free     string // the key below a table of free keys, here "X-From"
	declared config.Declared
	exists   bool // package config declares it
}

// targetOf finds where a rule puts the value of a setting.
func (r *run) targetOf(rule rule, name string) target {
	pattern, indexes := patternOf(name)
	t := target{path: fill(rule.to, indexes)}
	key, isFree := strings.CutSuffix(rule.to, ".*")
	if isFree {
		t.free = strings.TrimPrefix(pattern, strings.TrimSuffix(rule.name, "*"))
		t.path = strings.TrimSuffix(t.path, "*") + t.free
	}
	t.declared, t.exists = r.declared[indexPattern(key)]
	return t
}

// assign gives an option its value, or keeps the value in a comment if this version has no
// such option.
func (r *run) assign(rule rule, e entry, value any) {
	t, waiting := r.targetOf(rule, e.name), ""
	if !t.exists {
		waiting = "this version has no " + t.path
	} else {
		check := value
		if t.free != "" {
			check = map[string]string{t.free: textOf(value)}
		}
		err := t.declared.Check(check)
		if list, ok := value.([]string); ok && err != nil && rule.mayLack {
			if list = r.allowed(rule, t, e, list); len(list) > 0 {
				value, err = list, nil
			}
		}
		switch {
		case err != nil && rule.mayLack:
			waiting = fmt.Sprintf("this version cannot do %s = %s", t.path,
				shownValue(value, rule.secret || t.declared.Private))
		case err != nil:
			r.problem(rule, e, err)
			return
		}
	}
	if old, ok := r.result.set[t.path]; ok && textOf(old.value) != textOf(value) {
		r.note(old.from, NoEffect, "", fmt.Sprintf("%s in %s sets %s as well, and wins",
			e.shown(), e.source(), t.path))
	}
	if old, ok := r.result.set[t.path]; ok && waiting != "" && textOf(old.value) == textOf(value) {
		r.note(e, NoEffect, "", "says the same as "+old.from.shown()+"; "+waiting)
		return
	}
	r.result.set[t.path] = assignment{path: t.path, value: value, from: e, target: t, waiting: waiting}
	if waiting != "" {
		r.note(e, Waiting, t.path, waiting)
	} else {
		r.note(e, Carried, t.path, "is "+t.path)
	}
}

// allowed returns the items of a list that the option allows, and notes the others.
func (r *run) allowed(rule rule, t target, e entry, list []string) []string {
	var kept, lacking []string
	for _, item := range list {
		if t.declared.Check([]string{item}) == nil {
			kept = append(kept, item)
		} else {
			lacking = append(lacking, item)
		}
	}
	if len(kept) > 0 {
		r.note(e, NoEffect, "", "this version cannot do "+t.path+" = "+
			shownValue(lacking, rule.secret || t.declared.Private))
	}
	return kept
}

var anyIndex = regexp.MustCompile(`\[[0-9]*\]`)

// indexPattern replaces the indexes of a path by [].
func indexPattern(path string) string { return anyIndex.ReplaceAllString(path, "[]") }

func (r *run) noEffect(rule rule, e entry, why string) {
	if e.quiet {
		return
	}
	r.note(e, NoEffect, rule.to, why)
	if !rule.secret && !secretName(e.shown()) {
		r.result.Notes[len(r.result.Notes)-1].shown = shownValue(e.value, false)
	}
}

// problem records a value that is out of range. Where the value may be shown, the error of
// the check or the conversion shows it.
func (r *run) problem(rule rule, e entry, err error) {
	if rule.secret || secretName(e.shown()) {
		err = hideValue(err)
	}
	r.problems = append(r.problems, config.Problem{Key: e.shown(), Source: e.source(), Err: err})
}

// isOn tells whether the switch of a rule is on.
func (r *run) isOn(name string) bool {
	if name == "" {
		return true
	}
	text := r.get(name)
	if text == "" {
		text = r.system.switches[name]
	}
	value, err := boolean(text)
	return err != nil || value == "true" // a value that is no bool is a problem of its own
}

func (r *run) switchName(name string) string {
	if e, ok := r.settings[name]; ok {
		return e.shown()
	}
	return name
}

// maxNamed bounds how many names one note lists.
const maxNamed = 12

func (r *run) noteStrangers() {
	if len(r.strangers) == 0 {
		return
	}
	var names []string
	seen := map[string]bool{}
	for _, e := range r.strangers {
		if !seen[e.name] {
			seen[e.name], names = true, append(names, e.name)
		}
	}
	count := len(names)
	if count > maxNamed {
		names = append(names[:maxNamed], "…")
	}
	r.result.Notes = append(r.result.Notes, Note{
		Outcome: NoEffect, Name: strings.Join(names, ", "), Source: r.strangers[0].file,
		Text: fmt.Sprintf("%d variables that are none of %s", count, r.system.title),
	})
}

// settleParts corrects the notes of settings whose whole has no effect.
func (r *run) settleParts() {
	for i := range r.result.Notes {
		n := &r.result.Notes[i]
		if n.Outcome != Merged {
			continue
		}
		if a, ok := r.result.set[n.Option]; !ok {
			n.Outcome, n.Text = NoEffect, "is a part of "+n.Option+", which has no value"
		} else if a.waiting != "" {
			n.Outcome, n.Text = NoEffect, "is a part of "+n.Option+"; "+a.waiting
		}
	}
}

// finish numbers the apps anew, sorts the notes and checks the whole.
func (r *run) finish() error {
	r.dropIncomplete()
	r.settleParts()
	r.renumber()
	slices.SortStableFunc(r.result.Notes, func(a, b Note) int { return cmp.Compare(a.order, b.order) })
	if len(r.problems) > 0 {
		return r.problems
	}
	_, err := config.Load(config.Sources{Imported: r.result.Imported()})
	return err
}
