package appsql

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// row is one row of the table as it was read.
type row struct {
	layout *layout
	texts  map[*field]*string // nil for null and where there is no column
	policy string             // the JSON of the column policy, empty if it does not count
}

// column names the place of a field, for people.
func (r row) column(f *field) string {
	if r.policy != "" && f.policy != "" {
		return r.layout.policy.name + ": " + f.policy
	}
	return r.layout.held[f].name
}

// id returns the text of the column id.
func (r row) id() string {
	if text := r.texts[idField]; text != nil {
		return *text
	}
	return ""
}

// app returns the app that the row describes, and which parts of the row it leaves out because
// Parley cannot carry them out. The error wraps apps.ErrUnreadable and names the column.
func (r row) app() (app *apps.App, left []string, err error) {
	app, left, err = r.decode()
	if err == nil {
		err = app.Validate()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", apps.ErrUnreadable, err)
	}
	return app, left, nil
}

func (r row) decode() (app *apps.App, left []string, err error) {
	app = &apps.App{Enabled: true}
	texts, err := r.counting()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range fields {
		text := texts[f]
		if text == nil || f.kind != textual && strings.TrimSpace(*text) == "" {
			continue
		}
		if err := f.set(app, *text); err != nil {
			return nil, nil, fmt.Errorf("column %s %w", r.column(f), err)
		}
		if f == webhooksField {
			_, left, _ = decodeWebhooks(*text) // it was fine a moment ago
		}
	}
	return app, left, nil
}

// counting returns the texts that count: those of policy where there is one.
func (r row) counting() (map[*field]*string, error) {
	if r.policy == "" {
		return r.texts, nil
	}
	policy, err := decodePolicy(r.policy)
	if err != nil {
		return nil, err
	}
	texts := map[*field]*string{}
	for _, f := range fields {
		if f.policy == "" {
			texts[f] = r.texts[f]
			continue
		}
		if texts[f], err = policy.text(f.policy); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// policy is the content of a column policy.
type policy map[string]json.RawMessage

var errPolicy = errors.New("column policy is no JSON object")

func decodePolicy(text string) (policy, error) {
	var p policy
	if err := json.Unmarshal([]byte(text), &p); err != nil || p == nil {
		return nil, errPolicy
	}
	return p, nil
}

// text returns the value at a path as a column would hold it, nil for none.
func (p policy) text(path string) (*string, error) {
	group, name, nested := strings.Cut(path, ".")
	raw := p[group]
	if nested {
		if isNull(raw) {
			return nil, nil
		}
		inner, err := decodePolicy(string(raw))
		if err != nil {
			return nil, fmt.Errorf("%w: %s is none", err, group)
		}
		raw = inner[name]
	}
	if isNull(raw) {
		return nil, nil
	}
	text := string(raw)
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, errPolicy
		}
	}
	return &text, nil
}

// with returns the policy with another value at a path.
func (p policy) with(path string, value any) (policy, error) {
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("encode policy: %w", err)
	}
	group, name, nested := strings.Cut(path, ".")
	if nested {
		inner := policy{}
		if !isNull(p[group]) {
			if inner, err = decodePolicy(string(p[group])); err != nil {
				return nil, err
			}
		}
		inner[name] = raw
		if raw, err = json.Marshal(inner); err != nil {
			return nil, fmt.Errorf("encode policy: %w", err)
		}
	}
	p[group] = raw
	return p, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

var errList = errors.New("is no JSON list of strings")

// decodeList reads a list of strings; null is none.
func decodeList(text string) ([]string, error) {
	var list []*string // so that a null in it is noticed
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, errList
	}
	var out []string
	for _, item := range list {
		if item == nil {
			return nil, errList
		}
		out = append(out, *item)
	}
	return out, nil
}

// encodeList is the inverse; no list is the empty text.
func encodeList(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return encode(list)
}

func encode(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return "null" // strings, and maps and lists of them, always encode
	}
	return string(text)
}

// storedWebhook is an element of the column webhooks as Sockudo and soketi write it.
type storedWebhook struct {
	URL        *string           `json:"url,omitempty"`
	EventTypes *[]string         `json:"event_types,omitempty"`
	Filter     *storedFilter     `json:"filter,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"`
}

// storedFilter has the names of Sockudo; those of soketi are only read.
type storedFilter struct {
	Prefix  string `json:"channel_prefix,omitempty"`
	Suffix  string `json:"channel_suffix,omitempty"`
	Pattern string `json:"channel_pattern,omitempty"`

	StartsWith string `json:"channel_name_starts_with,omitempty"`
	EndsWith   string `json:"channel_name_ends_with,omitempty"`
}

var errWebhooks = errors.New("is no JSON list of webhooks")

// decodeWebhooks reads the column webhooks. What Parley cannot do is left out, and listed: a
// webhook without an address calls a function; one that is for none of the events that there are,
// or chooses channels in another way, would be sent what it is not for.
func decodeWebhooks(text string) (hooks []apps.Webhook, left []string, err error) {
	var list []json.RawMessage
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, nil, errWebhooks
	}
	for i, raw := range list {
		var stored storedWebhook
		if isNull(raw) || json.Unmarshal(raw, &stored) != nil {
			return nil, nil, fmt.Errorf("%w: webhooks[%d]", errWebhooks, i)
		}
		unknown := unknownKeys(raw, "url", "event_types", "filter", "headers")
		hook, why := stored.hook(raw)
		switch {
		case why != "":
			unknown = append(unknown, why)
		default:
			hooks = append(hooks, hook)
		}
		if hook.EventTypes != nil && len(hook.EventTypes) < len(*stored.EventTypes) {
			unknown = append(unknown, "event_types")
		}
		for _, key := range unknown {
			if at := fmt.Sprintf("webhooks[%d].%s", i, key); !slices.Contains(left, at) {
				left = append(left, at)
			}
		}
	}
	return hooks, left, nil
}

// hook returns the webhook, or the part of it for which it cannot be.
func (s storedWebhook) hook(raw json.RawMessage) (hook apps.Webhook, why string) {
	if s.URL == nil || *s.URL == "" {
		return hook, "url"
	}
	hook = apps.Webhook{URL: *s.URL, Headers: s.Headers}
	if s.EventTypes != nil {
		for _, name := range *s.EventTypes {
			if slices.Contains(apps.EventTypes, name) {
				hook.EventTypes = append(hook.EventTypes, name)
			}
		}
		if len(hook.EventTypes) == 0 {
			return hook, "event_types"
		}
	}
	if s.Filter != nil {
		var parts struct{ Filter json.RawMessage }
		_ = json.Unmarshal(raw, &parts) // it was fine a moment ago
		for _, key := range unknownKeys(parts.Filter, "channel_prefix", "channel_suffix", "channel_pattern",
			"channel_name_starts_with", "channel_name_ends_with") {
			return hook, "filter." + key
		}
		hook.Filter = apps.Filter{
			ChannelPrefix: s.Filter.Prefix + s.Filter.StartsWith, // one of them is empty
			ChannelSuffix: s.Filter.Suffix + s.Filter.EndsWith,
			ChannelRegexp: s.Filter.Pattern,
		}
	}
	if sameEvents(hook.EventTypes) {
		hook.EventTypes = nil
	}
	return hook, ""
}

// sameEvents tells whether a list has all events that there are.
func sameEvents(names []string) bool {
	for _, name := range apps.EventTypes {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}

// unknownKeys returns the keys of a JSON object that are not known and not null, in order.
func unknownKeys(raw json.RawMessage, known ...string) (unknown []string) {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return nil
	}
	for key, value := range object {
		if !slices.Contains(known, key) && !isNull(value) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// encodeWebhooks is the inverse of decodeWebhooks; no webhooks are the empty text. All events are
// listed, because to other programs a webhook without any is one for none.
func encodeWebhooks(hooks []apps.Webhook) string {
	if len(hooks) == 0 {
		return ""
	}
	var list []storedWebhook
	for _, hook := range hooks {
		events := hook.EventTypes
		if len(events) == 0 {
			events = apps.EventTypes
		}
		stored := storedWebhook{URL: &hook.URL, EventTypes: &events, Headers: hook.Headers}
		if f := hook.Filter; f.ChannelPrefix+f.ChannelSuffix+f.ChannelRegexp != "" {
			stored.Filter = &storedFilter{Prefix: f.ChannelPrefix, Suffix: f.ChannelSuffix, Pattern: f.ChannelRegexp}
		}
		list = append(list, stored)
	}
	return encode(list)
}
