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

// composeURL puts the setting name, an address, together from the settings under prefix,
// unless it is given. A part that refers to an undefined variable becomes the whole value,
// so that the setting is noted for it.
func (r *run) composeURL(name, scheme, prefix, host, defaultPort, user, password, path string) {
	e, ok := r.settings[prefix+host]
	if _, given := r.settings[name]; given || !ok || e.text() == "" {
		return
	}
	value := func(key string) string { return r.resolvedText(prefix + key) }
	port := value("port")
	if port == "" {
		port = defaultPort
	}
	e.label, e.name = e.shown(), name
	e.value = connection(scheme, value(host), port, value(user), value(password), value(path))
	for _, key := range []string{host, "port", user, password, path} {
		if text := value(key); reference.MatchString(text) {
			part := r.settings[prefix+key]
			e.label, e.line, e.value = part.shown(), part.line, text
		}
	}
	r.put(e)
}

// resolvedText is get with references replaced where they can be.
func (r *run) resolvedText(name string) string {
	resolved, _ := r.resolve(r.settings[name].value)
	return textOf(resolved)
}
