package primitives

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Actions that a scope may allow, as area:action. The area alone allows all of its actions, and
// * everything.
var actions = map[string][]string{
	"cache":   {"read", "write"},
	"signals": {"publish", "subscribe"},
	"queues":  {"publish", "work", "admin"},
	"locks":   nil,
	"ids":     nil,
}

// everything is the scope that allows all.
const everything = "*"

// scope is what a key may do, with which names.
type scope struct {
	area   string // * for all
	action string // empty for all of the area
	name   string // empty for all
	prefix bool   // name is the beginning of the names
}

// parseScope reads area, area:action, or one of them with =name, where a * at the end of the
// name stands for anything.
func parseScope(text string) (scope, error) {
	what, name, named := strings.Cut(text, "=")
	area, action, hasAction := strings.Cut(what, ":")
	s := scope{area: area, action: action, name: name}
	if text == everything {
		return s, nil
	}
	known, found := actions[area]
	switch {
	case !found:
		return scope{}, fmt.Errorf("scope %.80q: there is no area %.40q", text, area)
	case hasAction && !slices.Contains(known, action):
		return scope{}, fmt.Errorf("scope %.80q: %s has no action %.40q", text, area, action)
	case named && name == "":
		return scope{}, fmt.Errorf("scope %.80q: the name is missing", text)
	case area == "ids" && named:
		return scope{}, fmt.Errorf("scope %.80q: ids have no names", text)
	}
	if s.name, s.prefix = strings.CutSuffix(name, "*"); strings.Contains(s.name, "*") {
		return scope{}, fmt.Errorf("scope %.80q: a * can only be at the end", text)
	}
	return s, nil
}

// covers tells whether the scope allows an action with a name. The subject of a subscription,
// which may have wildcards, is covered when every subject that it stands for is.
func (s scope) covers(area, action, name string) bool {
	switch {
	case s.area == everything:
		return true
	case s.area != area || s.action != "" && s.action != action:
		return false
	case s.prefix:
		return strings.HasPrefix(name, s.name) // wildcards behind it only choose among those
	}
	return s.name == "" || s.name == name
}

// Limits of names.
const (
	maxName      = 200 // bytes of the name of a cached value, a lock or a subject
	maxSubject   = 500 // bytes
	maxScopes    = 100
	maxScopeSize = 300 // bytes
)

var (
	namespacePattern = regexp.MustCompile(`^[A-Za-z0-9-]{1,40}$`)
	queuePattern     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	keyIDPattern     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
)

// parseScopes reads the scopes of a key.
func parseScopes(texts []string) ([]scope, error) {
	if len(texts) == 0 || len(texts) > maxScopes {
		return nil, fmt.Errorf("a key has from 1 to %d scopes, not %d", maxScopes, len(texts))
	}
	scopes := make([]scope, len(texts))
	for i, text := range texts {
		if len(text) > maxScopeSize {
			return nil, fmt.Errorf("scope %.80q is over %d bytes", text, maxScopeSize)
		}
		var err error
		if scopes[i], err = parseScope(text); err != nil {
			return nil, err
		}
	}
	return scopes, nil
}
