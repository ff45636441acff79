package importer

import (
	"fmt"
	"slices"
	"strings"
)

// The settings of a run, by their names in the table of its system.

// keep makes e the setting of its name, unless what is there is stronger.
func (r *run) keep(e entry) {
	old, ok := r.settings[e.name]
	if !ok {
		r.order = append(r.order, e.name)
		r.settings[e.name] = e
		return
	}
	winner, loser := e, old
	if old.env && !e.env {
		winner, loser = old, e
	}
	r.settings[e.name] = winner
	if rules := r.system.rulesOf(e.name); len(rules) > 0 && rules[0].outside {
		return // elements that repeat
	}
	r.note(loser, NoEffect, "", fmt.Sprintf("%s in %s sets it as well, and wins", winner.shown(), winner.source()))
}

// get returns the text of a setting, or nothing.
func (r *run) get(name string) string { return r.settings[name].text() }

// put adds a setting that was derived from others.
func (r *run) put(e entry) {
	if _, ok := r.settings[e.name]; !ok {
		r.order = append(r.order, e.name)
	}
	r.settings[e.name] = e
}

// move gives a setting another name in the table, and another value. It is shown under the name that
// it has in the file.
func (r *run) move(from, to string, value any) {
	e, ok := r.settings[from]
	if !ok {
		return
	}
	delete(r.settings, from)
	e.label, e.name, e.value = e.shown(), to, value
	r.put(e)
}

// omit removes a setting, with a note that says why.
func (r *run) omit(name, why string) {
	if e, ok := r.settings[name]; ok {
		r.noEffect(r.ruleOf(name), e, why)
		delete(r.settings, name)
	}
}

// dropUnder removes the settings whose names begin with one of the prefixes.
func (r *run) dropUnder(why string, prefixes ...string) {
	for _, name := range slices.Clone(r.order) {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			r.omit(name, why)
		}
	}
}

// ruleOf returns the first rule of a setting.
func (r *run) ruleOf(name string) rule {
	if rules := r.system.rulesOf(name); len(rules) > 0 {
		return rules[0]
	}
	return rule{}
}
