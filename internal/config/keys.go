package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// keysKey is the name of the tables that hold keys of the primitives.
const keysKey = "primitives.keys"

// keyFields declares every key of a [[primitives.keys]] table.
var keyFields = []field[PrimitiveKey]{
	option("id", "", stringKind,
		"Names the key in lists; letters, digits, - and _.",
		func(k *PrimitiveKey) *string { return &k.ID }, isKeyID),
	option("namespace", "", stringKind,
		"Namespace that the key opens; letters, digits and -.",
		func(k *PrimitiveKey) *string { return &k.Namespace }, isNamespace),
	option("token", "", stringKind,
		"What its bearer sends: 16 characters or more.",
		func(k *PrimitiveKey) *string { return &k.Token }, printable, isKeyToken).secret(),
	option("token_sha256", "", stringKind,
		"SHA-256 of the token in hexadecimal digits, in place of token.",
		func(k *PrimitiveKey) *string { return &k.TokenSHA256 }, isSHA256).secret(),
	option("scopes", "", listKind,
		"What its bearer may do.",
		func(k *PrimitiveKey) *[]string { return &k.Scopes }, areScopes),
	option("requests_per_second", "0", intKind,
		"Requests of the key; 0 for primitives.requests_per_second.",
		func(k *PrimitiveKey) *int { return &k.RequestsPerSecond }, atLeast(0)),
}

// requiredKeyKeys have no default.
var requiredKeyKeys = []string{"id", "namespace", "scopes"}

// The rules of package primitives, which must not be known here.
var (
	keyID     = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	namespace = regexp.MustCompile(`^[A-Za-z0-9-]{1,40}$`)
	sha256Hex = regexp.MustCompile(`^([0-9A-Fa-f]{64})?$`)

	scopeActions = map[string][]string{
		"cache": {"read", "write"}, "signals": {"publish", "subscribe"}, "queues": {"publish", "work", "admin"},
		"locks": nil, "ids": nil,
	}
)

const (
	minKeyToken  = 16 // bytes
	maxScopes    = 100
	maxScopeSize = 300 // bytes
)

func isKeyID(s string) error {
	if !keyID.MatchString(s) {
		return errors.New("must be 1 to 64 letters, digits, - and _")
	}
	return nil
}

func isNamespace(s string) error {
	if !namespace.MatchString(s) {
		return errors.New("must be 1 to 40 letters, digits and -")
	}
	return nil
}

func isKeyToken(s string) error {
	if s != "" && len(s) < minKeyToken {
		return fmt.Errorf("must have %d characters or more; make one with: openssl rand -hex 32", minKeyToken)
	}
	return nil
}

func isSHA256(s string) error {
	if !sha256Hex.MatchString(s) {
		return errors.New("must be 64 hexadecimal digits; make them with: printf %s TOKEN | sha256sum")
	}
	return nil
}

func areScopes(scopes []string) error {
	if len(scopes) == 0 || len(scopes) > maxScopes {
		return fmt.Errorf("must hold from 1 to %d scopes", maxScopes)
	}
	for _, scope := range scopes {
		if err := isScope(scope); err != nil {
			return fmt.Errorf("holds %q, %w", shorten(scope), err)
		}
	}
	return nil
}

// isScope accepts *, area and area:action, the last two with =name, where a * can be at the end.
func isScope(scope string) error {
	what, name, named := strings.Cut(scope, "=")
	area, action, hasAction := strings.Cut(what, ":")
	known, found := scopeActions[area]
	switch {
	case scope == "*":
		return nil
	case len(scope) > maxScopeSize:
		return fmt.Errorf("which is over %d bytes", maxScopeSize)
	case !found:
		return errors.New("whose area is none of cache, signals, queues, locks and ids")
	case hasAction && !slices.Contains(known, action):
		return fmt.Errorf("but %s has no action %s", area, shorten(action))
	case named && name == "", area == "ids" && named, strings.Contains(strings.TrimSuffix(name, "*"), "*"):
		return errors.New("whose name must not be missing, may have a * at its end only, and ids have none")
	}
	return nil
}

// primitiveKeys reads all [[primitives.keys]] tables.
func (l *loader) primitiveKeys(d *document, path string, value any) {
	used := map[string]string{} // as for apps
	l.eachTable(d, path, value, func(at string, table map[string]any) {
		key := preset(keyFields)
		before := len(l.problems)
		tableReader[PrimitiveKey]{
			loader: l, document: d, fields: keyFields, store: storeIn(l, d, &key),
		}.read(scope{path: at}, table)
		l.require(d, at, table, requiredKeyKeys)
		if len(l.problems) == before && (key.Token == "") == (key.TokenSHA256 == "") {
			l.failAt(d, join(at, "token"), errors.New("or token_sha256 must be set, and not both"))
		}
		l.unique(d, join(at, "id"), "id", key.ID, used)
		if first, twice := used["token="+key.Token]; key.Token != "" && twice { // not with its value
			l.failAt(d, join(at, "token"), fmt.Errorf("is that of %s already", first))
		}
		used["token="+key.Token] = join(at, "token")
		l.config.Primitives.Keys = append(l.config.Primitives.Keys, key)
	})
}
