package appsql

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// field is one part of an app, and which columns hold it.
type field struct {
	name string // as in the administration API, for people
	kind kind
	// columns are the names that the column may have, as simple makes them; the first one is
	// that of the column that Migrate creates.
	columns []string
	// policy is the path of the value in the column policy of Sockudo 4 and later, which counts
	// instead of all other columns where it is not null.
	policy string
	// unlimited says that -1 means no limit, and must not mean the default.
	unlimited bool
	required  bool // the table must have a column for it

	get func(*apps.App) value
	set func(*apps.App, string) error // of what is not null
}

// simple returns a name without what differs between programs: capitals and underscores.
func simple(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// fields are all parts of an app, in the order of the columns that Migrate creates. The names of
// columns are those of Sockudo, then those of soketi.
var fields = []*field{
	text("id", func(a *apps.App) *string { return &a.ID }, "id", "app_id").must(),
	text("key", func(a *apps.App) *string { return &a.Key }, "key", "app_key").must(),
	text("secret", func(a *apps.App) *string { return &a.Secret }, "secret", "app_secret").must(),
	text("name", func(a *apps.App) *string { return &a.Name }, "name"),
	limit("max_connections", func(a *apps.App) *int { return &a.Limits.MaxConnections }, "max_connections").orNone(),
	boolean("enable_client_messages", func(a *apps.App) *bool { return &a.EnableClientMessages },
		"features", "enable_client_messages"),
	boolean("enabled", func(a *apps.App) *bool { return &a.Enabled }, "", "enabled"),
	limit("max_backend_events_per_second", func(a *apps.App) *int { return &a.Limits.MaxBackendEventsPerSecond },
		"max_backend_events_per_second", "max_backend_events_per_sec").orNone(),
	limit("max_client_events_per_second", func(a *apps.App) *int { return &a.Limits.MaxClientEventsPerSecond },
		"max_client_events_per_second", "max_client_events_per_sec").orNone(),
	limit("max_read_requests_per_second", func(a *apps.App) *int { return &a.Limits.MaxReadRequestsPerSecond },
		"max_read_requests_per_second", "max_read_req_per_sec").orNone(),
	limit("max_presence_members_per_channel", func(a *apps.App) *int { return &a.Limits.MaxPresenceMembers },
		"max_presence_members_per_channel"),
	kibibytes("max_presence_member_size", func(a *apps.App) *int64 { return &a.Limits.MaxPresenceMemberSize },
		"max_presence_member_size_in_kb"),
	limit("max_channel_name_length", func(a *apps.App) *int { return &a.Limits.MaxChannelNameLength },
		"max_channel_name_length"),
	limit("max_event_channels_at_once", func(a *apps.App) *int { return &a.Limits.MaxEventChannels },
		"max_event_channels_at_once"),
	limit("max_event_name_length", func(a *apps.App) *int { return &a.Limits.MaxEventNameLength },
		"max_event_name_length"),
	kibibytes("max_event_payload", func(a *apps.App) *int64 { return &a.Limits.MaxEventPayload },
		"max_event_payload_in_kb"),
	limit("max_event_batch_size", func(a *apps.App) *int { return &a.Limits.MaxEventBatch }, "max_event_batch_size"),
	boolean("enable_user_authentication", func(a *apps.App) *bool { return &a.EnableUserAuthentication },
		"features", "enable_user_authentication"),
	boolean("enable_watchlist_events", func(a *apps.App) *bool { return &a.EnableWatchlistEvents },
		"features", "enable_watchlist_events"),
	boolean("enable_subscription_count", func(a *apps.App) *bool { return &a.EnableSubscriptionCount },
		"", "enable_subscription_count"),
	webhooksField,
	{
		name: "allowed_origins", kind: document, columns: []string{"allowed_origins"}, policy: "channels.allowed_origins",
		get: func(a *apps.App) value { return value{kind: document, text: encodeList(a.AllowedOrigins)} },
		set: func(a *apps.App, s string) (err error) { a.AllowedOrigins, err = decodeList(s); return err },
	},
}

// The fields that are named on their own.
var (
	idField       = fieldNamed("id")
	keyField      = fieldNamed("key")
	enabledField  = fieldNamed("enabled")
	webhooksField = &field{
		name: "webhooks", kind: document, columns: []string{"webhooks"}, policy: "webhooks",
		get: func(a *apps.App) value { return value{kind: document, text: encodeWebhooks(a.Webhooks)} },
		set: func(a *apps.App, s string) (err error) { a.Webhooks, _, err = decodeWebhooks(s); return err },
	}
)

func fieldNamed(name string) *field {
	for _, f := range fields {
		if f.name == name {
			return f
		}
	}
	panic("appsql: no field " + name) // a mistake in the table
}

func text(name string, at func(*apps.App) *string, columns ...string) *field {
	return &field{
		name: name, kind: textual, columns: columns,
		get: func(a *apps.App) value { return value{kind: textual, text: *at(a)} },
		set: func(a *apps.App, s string) error { *at(a) = s; return nil },
	}
}

func boolean(name string, at func(*apps.App) *bool, policy string, columns ...string) *field {
	f := &field{
		name: name, kind: flag, columns: columns,
		get: func(a *apps.App) value {
			v := value{kind: flag}
			if *at(a) {
				v.number = 1
			}
			return v
		},
		set: func(a *apps.App, s string) (err error) { *at(a), err = parseFlag(s); return err },
	}
	if policy != "" {
		f.policy = policy + "." + name
	}
	return f
}

func limit(name string, at func(*apps.App) *int, columns ...string) *field {
	f := &field{
		name: "limits." + name, kind: amount, columns: columns, policy: "limits." + columns[0],
		get: func(a *apps.App) value { return value{kind: amount, number: int64(*at(a))} },
	}
	f.set = func(a *apps.App, s string) error {
		n, err := parseNumber(s)
		switch {
		case err != nil:
			return err
		case n != math.Trunc(n):
			return errors.New("is not a whole number")
		}
		*at(a) = f.amount(n)
		return nil
	}
	return f
}

// amount returns the limit that a column's number means.
func (f *field) amount(n float64) int {
	if n < 0 {
		n = 0
		if f.name == clientEvents { // has a default where the other unlimited ones have no limit
			n = apps.Unlimited
		}
	}
	return int(min(n, apps.Unlimited))
}

// clientEvents is the limit whose absence means a default, and whose -1 means no limit.
const clientEvents = "limits.max_client_events_per_second"

func kibibytes(name string, at func(*apps.App) *int64, columns ...string) *field {
	return &field{
		name: "limits." + name, kind: size, columns: columns, policy: "limits." + columns[0],
		get: func(a *apps.App) value { return value{kind: size, number: *at(a)} },
		set: func(a *apps.App, s string) error {
			n, err := parseNumber(s)
			if err != nil {
				return err
			}
			const kib, most = 1 << 10, 1 << 32 // KiB
			*at(a) = int64(math.Round(min(max(n, 0), most) * kib))
			return nil
		},
	}
}

func (f *field) must() *field { f.required = true; return f }

// orNone says that -1 means no limit.
func (f *field) orNone() *field { f.unlimited = true; return f }

// layout says which column holds which field of an app.
type layout struct {
	held    map[*field]column
	policy  *column
	created *column  // when the row was made, for other programs
	updated *column  // and when it was changed
	strange []string // columns that must be given, and of which Parley knows nothing
}

// noLimit is what the table holds for a limit that is not set and cannot be null: 0, or in a table
// of soketi, which is known by the names of its columns, -1 where that means no limit.
func (l *layout) noLimit(f *field) int64 {
	for _, other := range fields {
		if c, ok := l.held[other]; f.unlimited && ok && strings.HasSuffix(simple(c.name), "persec") {
			return -1
		}
	}
	return 0
}

// newLayout finds out which column holds what.
func newLayout(columns []column) (*layout, error) {
	l := &layout{held: map[*field]column{}}
	byName := map[string]column{}
	for _, c := range columns {
		byName[simple(c.name)] = c
	}
	used := map[string]bool{}
	for _, f := range fields {
		for _, name := range f.columns {
			c, ok := byName[simple(name)]
			if _, held := l.held[f]; ok && !held {
				l.held[f] = c
			}
			used[simple(name)] = true
		}
		if _, held := l.held[f]; f.required && !held {
			return nil, fmt.Errorf("it has no column %s and is no table of apps", f.columns[0])
		}
	}
	for name, at := range map[string]**column{"policy": &l.policy, "createdat": &l.created, "updatedat": &l.updated} {
		if c, ok := byName[name]; ok {
			*at = &c
		}
		used[name] = true
	}
	for _, c := range columns {
		if !used[simple(c.name)] && !c.nullable && !c.hasDefault {
			l.strange = append(l.strange, c.name)
		}
	}
	return l, nil
}

// missing returns the fields that the table has no column for.
func (l *layout) missing() (list []*field) {
	for _, f := range fields {
		if _, ok := l.held[f]; !ok {
			list = append(list, f)
		}
	}
	return list
}
