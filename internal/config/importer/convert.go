package importer

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// conversion turns the value of a foreign setting, a string or a []string, into that of an
// option in the notation of the environment. An error of type noEffect says that this very
// value has none.
type conversion func(value any) (any, error)

// noEffect is why a value has no effect.
type noEffect string

func (n noEffect) Error() string { return string(n) }

// badValue is a value that a conversion does not accept.
type badValue struct {
	text  string
	value string
}

func (b badValue) Error() string {
	return fmt.Sprintf("%s, not %s", b.text, shownValue(b.value, false))
}

// hideValue returns the error without the value that it refuses.
func hideValue(err error) error {
	var bad badValue
	if errors.As(err, &bad) {
		return errors.New(bad.text)
	}
	text, _, _ := strings.Cut(err.Error(), ", not ")
	return errors.New(text)
}

func textOf(value any) string { return entry{value: value}.text() }

// listOf splits a text at its commas.
func listOf(value any) []string {
	if list, ok := value.([]string); ok {
		return list
	}
	var list []string
	for item := range strings.SplitSeq(textOf(value), ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}

func list(value any) (any, error) { return listOf(value), nil }

// words splits a text at its spaces, as WuKongIM does in the environment.
func words(value any) []string {
	if list, ok := value.([]string); ok {
		return list
	}
	return strings.FieldsFunc(textOf(value), func(r rune) bool { return r == ' ' || r == ',' })
}

func whole(value any) (int, error) {
	text := strings.TrimSpace(textOf(value))
	n, err := strconv.Atoi(strings.ReplaceAll(text, "_", ""))
	if err != nil {
		return 0, badValue{"must be a whole number", text}
	}
	return n, nil
}

func number(value any) (any, error) {
	n, err := whole(value)
	return strconv.Itoa(n), err
}

// limited is a number that means no limit if it is not positive.
func limited(value any) (any, error) {
	n, err := whole(value)
	if err == nil && n <= 0 {
		return nil, noEffect("it means no limit of its own, which is the default here")
	}
	return strconv.Itoa(n), err
}

// in returns the conversion of a whole number into a duration or a size with that unit.
func in(unit string) conversion {
	return func(value any) (any, error) {
		n, err := whole(value)
		return strconv.Itoa(n) + unit, err
	}
}

// millis is the conversion of milliseconds.
func millis(value any) (any, error) {
	n, err := whole(value)
	if err == nil && n%1000 == 0 {
		return strconv.Itoa(n/1000) + "s", nil
	}
	return strconv.Itoa(n) + "ms", err
}

// limitedIn is in for a number that means no limit if it is not positive.
func limitedIn(unit string) conversion {
	return func(value any) (any, error) {
		text, err := limited(value)
		if err != nil {
			return nil, err
		}
		return in(unit)(text)
	}
}

func boolean(text string) (string, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "1", "yes", "on":
		return "true", nil
	case "false", "0", "no", "off":
		return "false", nil
	}
	return "", badValue{"must be true or false", text}
}

func flag(value any) (any, error) {
	text, err := boolean(textOf(value))
	return text, err
}

// when returns the conversion of a bool into one of two values. An empty one has no effect.
func when(yes, no, why string) conversion {
	return func(value any) (any, error) {
		text, err := boolean(textOf(value))
		if err != nil {
			return nil, err
		}
		result := no
		if text == "true" {
			result = yes
		}
		if result == "" {
			return nil, noEffect(why)
		}
		return result, nil
	}
}

// choice returns the conversion of names into others. A name that maps to nothing has no
// effect, and so has one that is not listed.
func choice(why string, names map[string]string) conversion {
	return func(value any) (any, error) {
		if to := names[strings.ToLower(strings.TrimSpace(textOf(value)))]; to != "" {
			return to, nil
		}
		return nil, noEffect(why)
	}
}

// bareHost takes the brackets off an IPv6 address.
func bareHost(value any) (any, error) {
	return strings.Trim(strings.TrimSpace(textOf(value)), "[]"), nil
}

// rooted puts a slash in front of a path.
func rooted(value any) (any, error) {
	return "/" + strings.Trim(strings.TrimSpace(textOf(value)), "/"), nil
}

// mode reads permissions, which are octal digits even where they are a number.
func mode(value any) (any, error) {
	return "0" + strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(textOf(value)), "0o"), "0"), nil
}

// address splits host:port, with or without a scheme in front.
func address(value any) (host, port string, err error) {
	text := strings.TrimSpace(textOf(value))
	if _, rest, ok := strings.Cut(text, "://"); ok {
		text = rest
	}
	host, port, err = net.SplitHostPort(strings.TrimSuffix(text, "/"))
	if err != nil {
		return "", "", badValue{"must be host:port", text}
	}
	return host, port, nil
}

func hostOf(value any) (any, error) {
	host, _, err := address(value)
	if err == nil && host == "" {
		return nil, noEffect("it names no host")
	}
	return host, err
}

func portOf(value any) (any, error) {
	_, port, err := address(value)
	if err != nil {
		return nil, err
	}
	return number(port)
}

// connection builds the address of a service, such as redis://user:password@host:6379/0.
func connection(scheme, host, port, user, password, path string) string {
	u := url.URL{Scheme: scheme, Host: host}
	if port != "" {
		u.Host = net.JoinHostPort(host, port)
	}
	switch {
	case password != "":
		u.User = url.UserPassword(user, password)
	case user != "":
		u.User = url.User(user)
	}
	if path != "" {
		u.Path = "/" + path
	}
	return u.String()
}

// secretPattern matches names of settings whose values are not shown. Addresses are among
// them because they may carry a password.
var secretPattern = regexp.MustCompile(`(?i)pass|secret|token|credential|license|key$|ur[li]$|dsn|sasl|auth|users$|headers|options`)

func secretName(name string) bool { return secretPattern.MatchString(name) }

var userinfo = regexp.MustCompile(`://[^@/\s]*@`)

// maxShown bounds the runes of a value in notes and comments.
const maxShown = 60

// shownValue returns a value for notes and comments, in quotes.
func shownValue(value any, private bool) string {
	if private {
		return "(not shown)"
	}
	text := userinfo.ReplaceAllString(textOf(value), "://…@")
	if runes := []rune(text); len(runes) > maxShown {
		text = string(runes[:maxShown]) + "…"
	}
	return quote(text)
}
