package importer

import (
	"regexp"
	"strconv"
	"strings"
)

// system is one foreign system: what its settings are called and what becomes of each.
type system struct {
	name  string // for Options.Format
	title string // for people

	rules    []rule
	aliases  map[string]string                           // environment variable to the setting that it sets
	prefixes []string                                    // of environment variables that are the system's without doubt
	switches map[string]string                           // setting that rule.when names, to its default
	env      func(name string) (setting string, ok bool) // like aliases; may be nil
	normal   func(name string) string                    // name in the table of a setting; may be nil
	derive   func(*run)                                  // completes the settings before the rules apply; may be nil
	complete func(*run)                                  // adds what Parley needs besides; may be nil
	index    *ruleIndex
}

// rule declares a foreign setting. A setting with several rules sets several options.
type rule struct {
	// name is the setting; [] stands for an index and a trailing * for any rest.
	name string
	// to is the path of the option, with [] for each index of the setting.
	to string
	// as converts the value; nil takes it as it is.
	as conversion
	// why says why the setting has no effect, if to is empty.
	why string
	// into is the option that the value becomes a part of, if to is empty.
	into string
	// when names a setting that must be true for this one to have an effect.
	when string
	// fills says that the option fills in references itself, so that they may stay.
	fills bool
	// secret forbids to show the value.
	secret bool
	// mayLack says that a value which the option refuses is one that this version lacks.
	mayLack bool
	// outside says that the name stands for a part of the file which is not read, so that
	// one note is enough for all of it.
	outside bool
}

// takes is a rule for a setting that an option takes over.
func takes(name, to string, as conversion) rule { return rule{name: name, to: to, as: as} }

// chooses is a rule for a setting whose value may be one that this version lacks.
func chooses(name, to string, as conversion) rule {
	return rule{name: name, to: to, as: as, mayLack: true}
}

// lacks is a rule for settings that have no effect, all for the same reason.
func lacks(why string, names ...string) []rule {
	rules := make([]rule, len(names))
	for i, name := range names {
		rules[i] = rule{name: name, why: why}
	}
	return rules
}

// outside is a rule for parts of a file that are not read.
func outside(why string, names ...string) []rule {
	rules := hidden(lacks(why, names...))
	for i := range rules {
		rules[i].outside = true
	}
	return rules
}

// parts is a rule for settings whose values become part of an option's value.
func parts(into string, names ...string) []rule {
	rules := make([]rule, len(names))
	for i, name := range names {
		rules[i] = rule{name: name, into: into, secret: true}
	}
	return rules
}

// under makes rules depend on a switch.
func under(when string, rules ...rule) []rule {
	for i := range rules {
		rules[i].when = when
	}
	return rules
}

// hidden forbids to show the values of rules.
func hidden(rules []rule) []rule {
	for i := range rules {
		rules[i].secret = true
	}
	return rules
}

// together puts single rules and lists of rules into one table.
func together(lists ...[]rule) []rule {
	var all []rule
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// ruleIndex finds rules by the name of a setting.
type ruleIndex struct {
	exact map[string][]rule
	wild  map[string][]rule // name without the *
	known []string          // names for suggestions
}

func (s *system) rulesOf(name string) []rule {
	if s.index == nil {
		return nil
	}
	pattern, _ := patternOf(name)
	if rules, ok := s.index.exact[pattern]; ok {
		return rules
	}
	return s.index.wildOf(pattern)
}

// wildOf returns the rules of the longest name with a * that a pattern begins with.
func (x *ruleIndex) wildOf(pattern string) []rule {
	for end := min(len(pattern), maxName); end > 0; end-- {
		if rules, ok := x.wild[pattern[:end]]; ok {
			return rules
		}
	}
	return nil
}

// buildIndex fills in the index, once when the program starts.
func (s *system) buildIndex() {
	s.index = &ruleIndex{exact: map[string][]rule{}, wild: map[string][]rule{}}
	for _, r := range s.rules {
		if prefix, ok := strings.CutSuffix(r.name, "*"); ok {
			s.index.wild[prefix] = append(s.index.wild[prefix], r)
			continue
		}
		if _, ok := s.index.exact[r.name]; !ok {
			s.index.known = append(s.index.known, r.name)
		}
		s.index.exact[r.name] = append(s.index.exact[r.name], r)
	}
}

var indexes = regexp.MustCompile(`\[([0-9]{1,9})\]`)

// patternOf replaces the indexes of a name by [] and returns them.
func patternOf(name string) (string, []int) {
	if !strings.Contains(name, "[") {
		return name, nil
	}
	var found []int
	for _, match := range indexes.FindAllStringSubmatch(name, -1) {
		n, err := strconv.Atoi(match[1])
		if err != nil {
			n = 0 // nine digits always fit
		}
		found = append(found, n)
	}
	return indexes.ReplaceAllString(name, "[]"), found
}

// fill puts indexes into the [] of a path, as many as there are.
func fill(path string, values []int) string {
	for _, v := range values {
		path = strings.Replace(path, "[]", "["+strconv.Itoa(v)+"]", 1)
	}
	return path
}

// setting returns the name in the table of what an entry sets, and whether it is listed.
func (s *system) setting(e entry) (string, bool) {
	name := e.name
	switch alias, ok := s.aliases[name]; {
	case e.env && ok:
		name = alias
	case e.env && s.env != nil:
		if name, ok = s.env(name); !ok {
			return e.name, false
		}
	case e.env && s.aliases != nil:
		return name, len(s.index.wildOf(name)) > 0 || isVariable(name) && len(s.index.exact[name]) > 0
	case s.normal != nil:
		name = s.normal(name)
	}
	return name, len(s.rulesOf(name)) > 0
}

// isVariable tells whether a rule's name is that of an environment variable, not of a setting in
// a file.
func isVariable(name string) bool { return name == strings.ToUpper(name) }

// systems are all systems; of equal claims the first one wins.
var systems []*system

func init() {
	systems = []*system{sockudo, soketi, reverb, nocobase, wso2, wukongim, infrastructure}
	for _, s := range systems {
		s.buildIndex()
	}
}
