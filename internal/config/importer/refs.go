package importer

import "regexp"

var reference = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_.]*)(?::?-([^}]*))?\}`)

// maxResolved bounds the bytes of a value with its references replaced.
const maxResolved = 64 << 10

// resolve replaces ${NAME} and ${NAME:-default} by variables of the files, then of the
// lookup. It returns the first name that neither knows.
func (r *run) resolve(value any) (resolved any, missing string) {
	switch value := value.(type) {
	case string:
		return r.resolveText(value)
	case []string:
		list := make([]string, len(value))
		for i := range value {
			if list[i], missing = r.resolveText(value[i]); missing != "" {
				return value, missing
			}
		}
		return list, ""
	}
	return value, ""
}

func (r *run) resolveText(text string) (string, string) {
	missing := ""
	size := len(text)
	resolved := reference.ReplaceAllStringFunc(text, func(found string) string {
		parts := reference.FindStringSubmatch(found)
		value, ok := r.variables[parts[1]]
		if ok && reference.MatchString(value) {
			ok = false // one that refers again, perhaps to itself
		}
		if !ok && r.options.Lookup != nil {
			value, ok = r.options.Lookup(parts[1])
		}
		if !ok || value == "" {
			value = parts[2]
		}
		if size += len(value); value == "" && !ok || size > maxResolved {
			missing = parts[1]
		}
		return value
	})
	if missing != "" {
		return text, missing
	}
	return resolved, ""
}
