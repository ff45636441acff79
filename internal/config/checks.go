package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The checks of single values. They never repeat the value: the loader adds it where it
// may be shown.

func atLeast[T int | int64](low T) func(T) error {
	return func(value T) error {
		if value < low {
			return fmt.Errorf("must be at least %d", low)
		}
		return nil
	}
}

// atMost refuses numbers over high.
func atMost[T int | int64](high T) func(T) error {
	return func(value T) error {
		if value > high {
			return fmt.Errorf("must be at most %d", high)
		}
		return nil
	}
}

// zeroOrLasting refuses durations shorter than low, but for 0.
func zeroOrLasting(low time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value != 0 && value < low {
			return fmt.Errorf("must be 0 or at least %v", low)
		}
		return nil
	}
}

// lasting refuses durations shorter than low.
func lasting(low time.Duration) func(time.Duration) error {
	return func(value time.Duration) error {
		if value < low {
			return fmt.Errorf("must be at least %v", low)
		}
		return nil
	}
}

func wholeSeconds(value time.Duration) error {
	if value%time.Second != 0 {
		return errors.New("must be a whole number of seconds")
	}
	return nil
}

// maxPort is the highest TCP port.
const maxPort = 65535

func isPort(port int) error {
	if port < 0 || port > maxPort {
		return fmt.Errorf("must be between 0 and %d", maxPort)
	}
	return nil
}

// isHost accepts an address, a name and nothing, and refuses what also names a port.
func isHost(host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if strings.ContainsAny(host, ":/[] \t") {
		return errors.New("must be a plain host name or address, without brackets or port")
	}
	return nil
}

// maxMembers is that of package cluster.
const maxMembers = 256

// isExpect accepts how many nodes form a cluster, by the rule of package cluster.
func isExpect(nodes int) error {
	if nodes < 0 || nodes == 1 || nodes > maxMembers {
		return fmt.Errorf("must be 0 (only join) or 2 to %d; a node of its own has no cluster section, and "+
			"takes its data along when it gets one: start it without cluster.seeds and "+
			"cluster.bootstrap_expect", maxMembers)
	}
	return nil
}

var clusterDomain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,254}$`)

// isDomain accepts the name of a cluster, by the rule of package cluster.
func isDomain(s string) error {
	if !clusterDomain.MatchString(s) {
		return errors.New("must be letters, digits, - _ and dots")
	}
	return nil
}

func notEmpty(s string) error {
	if s == "" {
		return errRequired
	}
	return nil
}

func startsWithSlash(path string) error {
	if !strings.HasPrefix(path, "/") {
		return errors.New(`must start with "/"`)
	}
	return nil
}

// absolute accepts an empty path, and on every system paths from the root in Unix notation.
func absolute(path string) error {
	if path != "" && !strings.HasPrefix(path, "/") && !filepath.IsAbs(path) {
		return errors.New("must be an absolute path")
	}
	return nil
}

// printable refuses what cannot stand in an Authorization header.
func printable(s string) error {
	for _, r := range s {
		if r > unicode.MaxASCII || !unicode.IsGraphic(r) || unicode.IsSpace(r) {
			return errors.New("must consist of visible ASCII characters, without spaces")
		}
	}
	return nil
}

var metricPrefix = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)?$`)

func isMetricPrefix(s string) error {
	if !metricPrefix.MatchString(s) {
		return errors.New("must consist of letters, digits and underscores, no digit first")
	}
	return nil
}

// syncAlways is the value of engine.sync that writes through to the disk every time.
const syncAlways = "always"

func isSync(s string) error {
	if s == syncAlways {
		return nil
	}
	if d, err := parseDuration(s); err != nil || d == 0 {
		return errors.New(`must be "always" or an interval such as "2m"`)
	}
	return nil
}

var identifier = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func isIdentifier(s string) error {
	if s == "" {
		return errRequired
	}
	if !identifier.MatchString(s) {
		return errors.New("must consist of letters, digits, - and _")
	}
	return nil
}

// areOrigins checks patterns of origins: at most one * in each, and a host.
func areOrigins(patterns []string) error {
	for _, pattern := range patterns {
		if strings.Count(pattern, "*") > 1 {
			return fmt.Errorf("holds %q, which has more than one *", pattern)
		}
		_, host, found := strings.Cut(pattern, "://")
		if !found {
			host = pattern
		}
		if host == "" || strings.HasPrefix(host, ":") || strings.HasPrefix(host, "/") {
			return fmt.Errorf("holds %q, which has no host", pattern)
		}
	}
	return nil
}

// isWebhookURL never repeats the address, which may carry a password.
func isWebhookURL(s string) error {
	if s == "" {
		return errRequired
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return errors.New("must be an absolute http or https address")
	}
	return nil
}

// isOptionalURL is isWebhookURL for an address that may be missing.
func isOptionalURL(s string) error {
	if s == "" {
		return nil
	}
	return isWebhookURL(s)
}

// isOptionalAddress accepts host:port and nothing.
func isOptionalAddress(s string) error {
	if s == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(s)
	number, bad := strconv.Atoi(port)
	if err != nil || bad != nil || host == "" || number < 1 || number > maxPort {
		return errors.New("must be host:port")
	}
	return nil
}

// isPattern accepts an empty text and a regular expression in the notation of RE2.
func isPattern(s string) error {
	if _, err := regexp.Compile(s); err != nil {
		return errors.New("must be a regular expression in the notation of RE2")
	}
	return nil
}

// eventTypes are the events that a webhook can ask for.
var eventTypes = []string{
	"channel_occupied", "channel_vacated", "member_added", "member_removed",
	"client_event", "cache_miss", "subscription_count",
}

func areEventTypes(types []string) error {
	for _, t := range types {
		known := false
		for _, e := range eventTypes {
			known = known || t == e
		}
		if !known {
			return fmt.Errorf("holds %q, but the event types are %s",
				t, strings.Join(eventTypes, ", "))
		}
	}
	return nil
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// areHeaders checks names and values of HTTP headers and never repeats a value.
func areHeaders(headers map[string]string) error {
	for name, value := range headers {
		if !headerName.MatchString(name) {
			return fmt.Errorf("%q is no name of an HTTP header", name)
		}
		for _, r := range value {
			if r != '\t' && unicode.IsControl(r) {
				return fmt.Errorf("the value of %s holds control characters", name)
			}
		}
	}
	return nil
}
