package apps

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// EventTypes are the events that a webhook can ask for, as in Webhook.EventTypes.
var EventTypes = []string{
	"channel_occupied", "channel_vacated", "member_added", "member_removed",
	"client_event", "cache_miss", "subscription_count",
}

const (
	maxIdentifierLength = 128 // bytes
	maxSecretLength     = 256 // bytes
	maxNameLength       = 256 // bytes
)

// Validate returns an error that wraps ErrInvalid and names every field with a value that it
// cannot have. It never repeats a secret, a header's value or an address.
func (a *App) Validate() error {
	var problems []string
	check := func(field string, err error) {
		if err != nil {
			problems = append(problems, field+" "+err.Error())
		}
	}
	check("id", checkIdentifier(a.ID))
	check("key", checkIdentifier(a.Key))
	check("name", checkLength(a.Name, 0, maxNameLength))
	check("secret", checkLength(a.Secret, 1, maxSecretLength))
	a.Limits.validate(check)
	for i, origin := range a.AllowedOrigins {
		check(fmt.Sprintf("allowed_origins[%d]", i), checkOrigin(origin))
	}
	for i := range a.Webhooks {
		a.Webhooks[i].validate(func(field string, err error) {
			check(fmt.Sprintf("webhooks[%d].%s", i, field), err)
		})
	}
	if problems == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrInvalid, strings.Join(problems, "; "))
}

func (l *Limits) validate(check func(field string, err error)) {
	for _, limit := range []struct {
		field string
		value int64
	}{
		{"max_connections", int64(l.MaxConnections)},
		{"max_client_events_per_second", int64(l.MaxClientEventsPerSecond)},
		{"max_backend_events_per_second", int64(l.MaxBackendEventsPerSecond)},
		{"max_read_requests_per_second", int64(l.MaxReadRequestsPerSecond)},
		{"max_presence_members_per_channel", int64(l.MaxPresenceMembers)},
		{"max_presence_member_size", l.MaxPresenceMemberSize},
		{"max_channel_name_length", int64(l.MaxChannelNameLength)},
		{"max_event_channels_at_once", int64(l.MaxEventChannels)},
		{"max_event_name_length", int64(l.MaxEventNameLength)},
		{"max_event_payload", l.MaxEventPayload},
		{"max_event_batch_size", int64(l.MaxEventBatch)},
	} {
		if limit.value < 0 {
			check("limits."+limit.field, errors.New("must be at least 0"))
		}
	}
}

func (w *Webhook) validate(check func(field string, err error)) {
	check("url", checkURL(w.URL))
	for _, name := range w.EventTypes {
		if !slices.Contains(EventTypes, name) {
			check("event_types", fmt.Errorf("holds %.100q, but the event types are %s",
				name, strings.Join(EventTypes, ", ")))
		}
	}
	if _, err := regexp.Compile(w.Filter.ChannelRegexp); err != nil {
		check("filter.channel_pattern", fmt.Errorf("must be a regular expression (RE2): %w", err))
	}
	for name, value := range w.Headers {
		check("headers", checkHeader(name, value))
	}
}

var identifier = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func checkIdentifier(s string) error {
	if len(s) > maxIdentifierLength || !identifier.MatchString(s) {
		return fmt.Errorf("must be 1 to %d letters, digits, - and _", maxIdentifierLength)
	}
	return nil
}

func checkLength(s string, low, high int) error {
	if len(s) < low || len(s) > high {
		return fmt.Errorf("must have %d to %d bytes", low, high)
	}
	return nil
}

func checkOrigin(pattern string) error {
	if strings.Count(pattern, "*") > 1 {
		return errors.New("must have at most one *")
	}
	_, host, found := strings.Cut(pattern, "://")
	if !found {
		host = pattern
	}
	if host == "" || strings.HasPrefix(host, ":") || strings.HasPrefix(host, "/") {
		return errors.New("must name a host")
	}
	return nil
}

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return errors.New("must be an absolute http or https address")
	}
	return nil
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

func checkHeader(name, value string) error {
	if !headerName.MatchString(name) {
		return fmt.Errorf("holds %.100q, which is no name of an HTTP header", name)
	}
	for _, r := range value {
		if r != '\t' && unicode.IsControl(r) {
			return fmt.Errorf("holds control characters in the value of %s", name)
		}
	}
	return nil
}
