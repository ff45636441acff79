package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Names of the roles that are no keys of background work.
var roles = []string{"gateway", "keymanager", "manager", "store", "worker"}

// roleTransient is the role of a node that has no part in anything.
const roleTransient = "transient"

// workKey is a key of background work, such as workflow:process. A - or : is in it, so that a
// role that is spelled wrongly is not taken for one.
var workKey = regexp.MustCompile(`^[a-z0-9][a-z0-9_.]*[-:][a-z0-9:_.-]*$`)

const maxWorkKeySize = 255 // bytes

func isWorkKey(s string) bool { return len(s) <= maxWorkKeySize && workKey.MatchString(s) }

// areRoles accepts the names of roles and keys of background work.
func areRoles(names []string) error {
	for _, name := range names {
		if !slices.Contains(roles, name) && name != roleTransient && !isWorkKey(name) {
			return fmt.Errorf("holds %q, which is no role; the nearest is %s; the roles are %s, and keys "+
				"of background work, in lower case, have a - or : in them",
				shorten(name), nearestKey(name, roles), strings.Join(roles, ", "))
		}
	}
	return nil
}

func shorten(text string) string {
	if runes := []rune(text); len(runes) > shownRunes {
		return string(runes[:shownRunes]) + "…"
	}
	return text
}

// isWorkerMode accepts what NocoBase accepts in WORKER_MODE.
func isWorkerMode(mode string) error {
	if mode == "" || mode == "!" || mode == "*" || mode == "-" {
		return nil
	}
	for i, part := range splitList(mode) {
		switch {
		case part == "!" && i == 0:
		case part == "*":
			return errors.New(`has a * beside others, which means nothing; * alone is background work only, ` +
				`and empty is everything`)
		case !isWorkKey(part):
			return fmt.Errorf("holds %q, which is none of !, * and keys such as workflow:process", shorten(part))
		}
	}
	return nil
}

// WorkerModeRoles returns the roles of a node that NocoBase's WORKER_MODE describes; nil, all,
// for an empty one. The text is one that the option accepts. What NocoBase leaves to a database
// beside it, the role store, is the node's own, but for a transient one.
//
//	mode       serves requests                background work
//	(empty)    yes                            all
//	!          gateway, manager, keymanager   none
//	*          no                             all: worker
//	a:b,c:d    no                             those keys
//	!,a:b      gateway, manager, keymanager   that key
//	-          no                             none
func WorkerModeRoles(mode string) []string {
	switch mode {
	case "":
		return nil
	case "*":
		return []string{"store", "worker"}
	case "-":
		return []string{roleTransient}
	}
	result := []string{"store"}
	for _, part := range splitList(mode) {
		if part == "!" {
			result = append(result, "gateway", "manager", "keymanager")
		} else {
			result = append(result, part)
		}
	}
	slices.Sort(result)
	return slices.Compact(result)
}

// Works tells whether the node works on a key of background work, such as workflow:process, by
// its roles: with none or with worker on all, else on those among them. As in NocoBase's
// WORKER_MODE a * is not one beside others: "!,*" is refused, where NocoBase takes it for a key
// that nobody has.
func (n Node) Works(key string) bool {
	return len(n.Roles) == 0 || slices.Contains(n.Roles, "worker") || isWorkKey(key) && slices.Contains(n.Roles, key)
}

// ServesRequests tells whether the node serves clients, by its roles.
func (n Node) ServesRequests() bool {
	return len(n.Roles) == 0 || slices.Contains(n.Roles, "gateway")
}

// applyWorkerMode has the roles of the node follow from node.worker_mode where that is set.
func (l *loader) applyWorkerMode() {
	node := &l.config.Node
	switch {
	case node.WorkerMode == "":
	case len(node.Roles) > 0:
		l.conflict("node.worker_mode", []string{"node.roles"}, "says the same as node.roles: set only one of them")
	default:
		node.Roles = WorkerModeRoles(node.WorkerMode)
	}
}

// isSubDomain accepts one word.
func isSubDomain(s string) error {
	if s != "" && !subDomain.MatchString(s) {
		return errors.New("must be letters, digits, - _ and dots, such as worker")
	}
	return nil
}

var subDomain = regexp.MustCompile(`^[A-Za-z0-9_$][A-Za-z0-9_$.-]{0,254}$`)

// Limits of cluster.properties; those of package cluster are wider.
const (
	maxProperties    = 24
	maxPropertyKey   = 255  // bytes
	maxPropertyValue = 1024 // bytes
	maxPropertiesAll = 8 << 10
	ownProperties    = "parley." // begins what the node tells itself
)

// areProperties checks what a node tells of itself.
func areProperties(properties map[string]string) error {
	if len(properties) > maxProperties {
		return fmt.Errorf("holds %d properties, and may hold %d", len(properties), maxProperties)
	}
	size := 0
	for key, value := range properties {
		size += len(key) + len(value)
		switch {
		case key == "" || len(key) > maxPropertyKey || strings.ContainsFunc(key, unicode.IsControl):
			return fmt.Errorf("holds %q, which is no key of a property", shorten(key))
		case strings.HasPrefix(key, ownProperties):
			return fmt.Errorf("holds %q, but keys that begin with %s are for the node itself", shorten(key), ownProperties)
		case len(value) > maxPropertyValue || strings.ContainsFunc(value, unicode.IsControl):
			return fmt.Errorf("the value of %q is over %d bytes or has control characters", shorten(key), maxPropertyValue)
		}
	}
	if size > maxPropertiesAll {
		return fmt.Errorf("takes %d bytes, and may take %d", size, maxPropertiesAll)
	}
	return nil
}
