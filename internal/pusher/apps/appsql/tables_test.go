package appsql

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
)

// The tables of other programs, as these make them themselves or tell people to make them.
var (
	// Sockudo 2, src/app/mysql_app_manager.rs and pg_app_manager.rs.
	sockudoTable = map[string]string{
		MySQL: "CREATE TABLE TABLE_ (id VARCHAR(255) PRIMARY KEY, `key` VARCHAR(255) UNIQUE NOT NULL, " +
			"secret VARCHAR(255) NOT NULL, max_connections INT UNSIGNED NOT NULL, " +
			"enable_client_messages BOOLEAN NOT NULL DEFAULT FALSE, enabled BOOLEAN NOT NULL DEFAULT TRUE, " +
			"max_backend_events_per_second INT UNSIGNED NULL, max_client_events_per_second INT UNSIGNED NOT NULL, " +
			"max_read_requests_per_second INT UNSIGNED NULL, max_presence_members_per_channel INT UNSIGNED NULL, " +
			"max_presence_member_size_in_kb INT UNSIGNED NULL, max_channel_name_length INT UNSIGNED NULL, " +
			"max_event_channels_at_once INT UNSIGNED NULL, max_event_name_length INT UNSIGNED NULL, " +
			"max_event_payload_in_kb INT UNSIGNED NULL, max_event_batch_size INT UNSIGNED NULL, " +
			"enable_user_authentication BOOLEAN NULL, enable_watchlist_events BOOLEAN NULL, webhooks JSON NULL, " +
			"allowed_origins JSON NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, " +
			"updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP" +
			") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci",
		Postgres: "CREATE TABLE TABLE_ (id VARCHAR(255) PRIMARY KEY, key VARCHAR(255) UNIQUE NOT NULL, " +
			"secret VARCHAR(255) NOT NULL, max_connections INTEGER NOT NULL, " +
			"enable_client_messages BOOLEAN NOT NULL DEFAULT FALSE, enabled BOOLEAN NOT NULL DEFAULT TRUE, " +
			"max_backend_events_per_second INTEGER, max_client_events_per_second INTEGER NOT NULL, " +
			"max_read_requests_per_second INTEGER, max_presence_members_per_channel INTEGER, " +
			"max_presence_member_size_in_kb INTEGER, max_channel_name_length INTEGER, " +
			"max_event_channels_at_once INTEGER, max_event_name_length INTEGER, max_event_payload_in_kb INTEGER, " +
			"max_event_batch_size INTEGER, enable_user_authentication BOOLEAN, enable_watchlist_events BOOLEAN, " +
			"webhooks JSONB, allowed_origins JSONB, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, " +
			"updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)",
	}
	// Sockudo 4 adds columns, of which policy counts instead of the others.
	sockudoLater = map[string][]string{
		MySQL: {"ALTER TABLE TABLE_ ADD COLUMN policy JSON NULL, ADD COLUMN channel_delta_compression JSON NULL, " +
			"ADD COLUMN idempotency JSON NULL, ADD COLUMN connection_recovery JSON NULL"},
		Postgres: {"ALTER TABLE TABLE_ ADD COLUMN policy JSONB, ADD COLUMN channel_delta_compression JSONB, " +
			"ADD COLUMN idempotency JSONB, ADD COLUMN connection_recovery JSONB"},
	}
	// soketi 1, tests/fixtures/*_schema.sql and its documentation, with the columns of later
	// versions. PostgreSQL has no tinyint; people use smallint there.
	soketiTable = map[string]string{
		MySQL: "CREATE TABLE TABLE_ (`id` varchar(255) NOT NULL, `key` varchar(255) NOT NULL, " +
			"`secret` varchar(255) NOT NULL, `max_connections` integer(10) NOT NULL, `enabled` tinyint(1) NOT NULL, " +
			"`enable_client_messages` tinyint(1) NOT NULL, `max_backend_events_per_sec` integer(10) NOT NULL, " +
			"`max_client_events_per_sec` integer(10) NOT NULL, `max_read_req_per_sec` integer(10) NOT NULL, " +
			"`webhooks` json, `max_presence_members_per_channel` tinyint(1) NULL, " +
			"`max_presence_member_size_in_kb` tinyint(1) NULL, `max_channel_name_length` tinyint(1) NULL, " +
			"`max_event_channels_at_once` tinyint(1) NULL, `max_event_name_length` tinyint(1) NULL, " +
			"`max_event_payload_in_kb` tinyint(1) NULL, `max_event_batch_size` tinyint(1) NULL, PRIMARY KEY (`id`))",
		Postgres: "CREATE TABLE TABLE_ (id varchar(255) PRIMARY KEY, \"key\" varchar(255) NOT NULL, " +
			"secret varchar(255) NOT NULL, max_connections integer NOT NULL, enable_client_messages smallint NOT NULL, " +
			"\"enabled\" smallint NOT NULL, max_backend_events_per_sec integer NOT NULL, " +
			"max_client_events_per_sec integer NOT NULL, max_read_req_per_sec integer NOT NULL, webhooks json, " +
			"max_presence_members_per_channel smallint NULL, max_presence_member_size_in_kb smallint NULL, " +
			"max_channel_name_length smallint NULL, max_event_channels_at_once smallint NULL, " +
			"max_event_name_length smallint NULL, max_event_payload_in_kb smallint NULL, max_event_batch_size smallint NULL)",
	}
)

// one returns the only row with that id.
func (t *Table) one(test *testing.T, id string) apps.Row {
	test.Helper()
	rows, err := t.ByIDs(test.Context(), []string{id})
	if err != nil || len(rows) != 1 {
		test.Fatalf("app %s: %+v, %v", id, rows, err)
	}
	return rows[0]
}

// app returns the app of that row.
func (t *Table) app(test *testing.T, id string) *apps.App {
	test.Helper()
	row := t.one(test, id)
	if row.Err != nil {
		test.Fatalf("app %s: %v", id, row.Err)
	}
	return row.App
}

func wantLimits(t *testing.T, app *apps.App, want apps.Limits) {
	t.Helper()
	if app.Limits != want {
		t.Errorf("limits of %s are\n%+v, want\n%+v", app.ID, app.Limits, want)
	}
}

func TestSockudoTable(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.tableOf(t, sockudoTable[d.driver])
		key := table.quote("key")
		table.exec(t, "INSERT INTO TABLE_ (id, "+key+`, secret, max_connections, enable_client_messages, enabled,
			max_client_events_per_second, max_backend_events_per_second, max_event_payload_in_kb,
			enable_watchlist_events, webhooks, allowed_origins) VALUES ('full', 'k1', 's1', 5000, TRUE, TRUE, 500, 7, 32, TRUE,
			'[{"url": "https://a.example/h", "event_types": ["channel_occupied", "push_sent"],
				"filter": {"channel_prefix": "p-", "channel_namespace": null}, "headers": {"X-A": "b"}},
				{"lambda_function": "f", "event_types": ["channel_occupied"]}]',
			'["*.example.com"]')`)
		table.exec(t, "INSERT INTO TABLE_ (id, "+key+`, secret, max_connections, max_client_events_per_second)
			VALUES ('bare', 'k2', 's2', 0, 0)`)

		row := table.one(t, "full")
		if got, want := strings.Join(row.Left, " "), "webhooks[0].event_types webhooks[1].lambda_function webhooks[1].url"; got != want {
			t.Errorf("left out are %q, want %q", got, want)
		}
		app := row.App
		wantLimits(t, app, apps.Limits{MaxConnections: 5000, MaxClientEventsPerSecond: 500, MaxBackendEventsPerSecond: 7, MaxEventPayload: 32 << 10})
		if !app.Enabled || !app.EnableClientMessages || !app.EnableWatchlistEvents || app.EnableUserAuthentication ||
			len(app.AllowedOrigins) != 1 || len(app.Webhooks) != 1 || app.Webhooks[0].Filter.ChannelPrefix != "p-" ||
			app.Webhooks[0].Headers["X-A"] != "b" || strings.Join(app.Webhooks[0].EventTypes, " ") != "channel_occupied" {
			t.Errorf("the app is %+v", app)
		}
		bare := table.app(t, "bare")
		wantLimits(t, bare, apps.Limits{})
		if !bare.Enabled || bare.EnableClientMessages || bare.Webhooks != nil || bare.AllowedOrigins != nil {
			t.Errorf("the app is %+v", bare)
		}

		sockudoChanges(t, table)
	})
}

// sockudoChanges changes rows of Sockudo's table.
func sockudoChanges(t *testing.T, table *Table) {
	t.Helper()
	ctx := t.Context()
	_, err := table.Update(ctx, "full", func(a *apps.App) error { a.Webhooks = nil; return nil })
	refused(t, "lose a webhook of others", err, apps.ErrRefused, "column webhooks", "webhooks[1].lambda_function")
	_, err = table.Update(ctx, "full", func(a *apps.App) error { a.Name = "x"; return nil })
	refused(t, "name", err, apps.ErrRefused, "there is no column name", "--add-columns")
	_, err = table.Update(ctx, "full", func(a *apps.App) error { a.Limits.MaxEventPayload = 1000; return nil })
	refused(t, "part of a KiB", err, apps.ErrRefused, "column max_event_payload_in_kb", "whole KiB")
	_, err = table.Update(ctx, "full", func(a *apps.App) error { a.Secret = strings.Repeat("s", 256); return nil })
	refused(t, "long secret", err, apps.ErrRefused, "column secret", "255 characters")
	app, err := table.Update(ctx, "full", func(a *apps.App) error {
		a.Enabled, a.Limits.MaxConnections, a.Limits.MaxBackendEventsPerSecond = false, 0, 0
		a.EnableWatchlistEvents = false
		return nil
	})
	must(t, "update", err)
	if got := table.texts(t, "full", "max_connections", "max_backend_events_per_second", "max_client_events_per_second"); got != "0 | null | 500" {
		t.Errorf("the columns are %q", got)
	}
	if again := table.app(t, "full"); again.Enabled || app.Enabled || again.EnableWatchlistEvents {
		t.Errorf("the app is %+v", again)
	}
	must(t, "create", table.Create(ctx, &apps.App{ID: "new", Key: "k3", Secret: "s3", Enabled: true}))
	if got := table.texts(t, "new", "max_connections", "max_client_events_per_second", "webhooks", "max_event_batch_size"); got != "0 | 0 | null | null" {
		t.Errorf("the columns are %q", got)
	}
	if stamp := table.texts(t, "new", "created_at"); stamp == "null" {
		t.Error("created_at is null")
	}
	if err := table.Create(ctx, &apps.App{ID: "other", Key: "k3", Secret: "s"}); !errors.Is(err, apps.ErrExists) {
		t.Errorf("the key of another: %v", err)
	}
	must(t, "delete", table.Delete(ctx, "bare"))
	if rows, err := table.List(ctx, "", 10); err != nil || len(rows) != 2 {
		t.Errorf("left are %+v, %v", rows, err)
	}
}

func TestSockudoPolicy(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.tableOf(t, sockudoTable[d.driver])
		for _, statement := range sockudoLater[d.driver] {
			table.exec(t, statement)
		}
		table.exec(t, "INSERT INTO TABLE_ (id, "+table.quote("key")+`, secret, max_connections, max_client_events_per_second,
			max_event_batch_size, policy) VALUES ('p', 'k', 's', 1, 2, 3, '{"limits": {"max_connections": "100",
			"max_client_events_per_second": 50, "max_event_payload_in_kb": null, "decay_seconds": 5},
			"features": {"enable_client_messages": true}, "channels": {"allowed_origins": ["*"], "channel_namespaces": []},
			"webhooks": [{"url": "http://a.example", "event_types": ["cache_miss"]}], "history": {"enabled": true}}')`)
		table.exec(t, "INSERT INTO TABLE_ (id, "+table.quote("key")+`, secret, max_connections, max_client_events_per_second, policy)
			VALUES ('n', 'k2', 's', 1, 2, 'null')`)
		app := table.app(t, "p")
		wantLimits(t, app, apps.Limits{MaxConnections: 100, MaxClientEventsPerSecond: 50}) // nothing of the columns
		if !app.EnableClientMessages || len(app.AllowedOrigins) != 1 || len(app.Webhooks) != 1 {
			t.Errorf("the app is %+v", app)
		}
		wantLimits(t, table.app(t, "n"), apps.Limits{MaxConnections: 1, MaxClientEventsPerSecond: 2})

		_, err := table.Update(t.Context(), "p", func(a *apps.App) error {
			a.Limits.MaxConnections, a.Limits.MaxEventPayload, a.Limits.MaxClientEventsPerSecond = 200, 2<<10, 0
			a.EnableClientMessages, a.AllowedOrigins, a.Enabled = false, nil, false
			return nil
		})
		must(t, "update", err)
		app = table.app(t, "p")
		wantLimits(t, app, apps.Limits{MaxConnections: 200, MaxEventPayload: 2 << 10})
		if app.EnableClientMessages || app.AllowedOrigins != nil || len(app.Webhooks) != 1 || app.Enabled {
			t.Errorf("the app is %+v", app)
		}
		if got := table.texts(t, "p", "max_connections", "max_event_payload_in_kb"); got != "200 | 2" {
			t.Errorf("the columns beside policy are %q", got)
		}
		text := strings.ReplaceAll(table.texts(t, "p", "policy"), " ", "")
		for _, part := range []string{`"decay_seconds":5`, `"history":{"enabled":true}`, `"max_client_events_per_second":0`, `"allowed_origins":null`} {
			if !strings.Contains(text, part) {
				t.Errorf("policy is %s, without %s", text, part)
			}
		}
	})
}

func TestSoketiTable(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.tableOf(t, soketiTable[d.driver])
		insert := "INSERT INTO TABLE_ (id, " + table.quote("key") + ", secret, max_connections, " + table.quote("enabled") +
			", enable_client_messages, max_backend_events_per_sec, max_client_events_per_sec, max_read_req_per_sec, webhooks) VALUES "
		table.exec(t, insert+`('app-id', 'app-key', 'app-secret', 200, 1, 1, -1, -1, -1, '[]'),
			('off', 'off-key', 's', -1, 0, 0, 5, 6, 7,
			'[{"url": "http://a.example", "event_types": ["client_event"], "filter": {"channel_name_starts_with": "a", "channel_name_ends_with": "z"}}]')`)
		app := table.app(t, "app-id")
		wantLimits(t, app, apps.Limits{MaxConnections: 200, MaxClientEventsPerSecond: math.MaxInt32}) // -1 is no limit
		if !app.Enabled || !app.EnableClientMessages || app.Webhooks != nil || app.EnableUserAuthentication {
			t.Errorf("the app is %+v", app)
		}
		off := table.app(t, "off")
		wantLimits(t, off, apps.Limits{MaxBackendEventsPerSecond: 5, MaxClientEventsPerSecond: 6, MaxReadRequestsPerSecond: 7})
		if off.Enabled || off.EnableClientMessages || len(off.Webhooks) != 1 ||
			off.Webhooks[0].Filter.ChannelPrefix != "a" || off.Webhooks[0].Filter.ChannelSuffix != "z" {
			t.Errorf("the app is %+v", off)
		}
		ctx := t.Context()
		must(t, "create", table.Create(ctx, &apps.App{ID: "new", Key: "new-key", Secret: "s", Enabled: true}))
		columns := []string{"enabled", "enable_client_messages", "max_connections", "max_backend_events_per_sec",
			"max_client_events_per_sec", "max_read_req_per_sec", "webhooks", "max_event_batch_size"}
		if got := table.texts(t, "new", columns...); got != "1 | 0 | -1 | -1 | -1 | -1 | null | null" {
			t.Errorf("the columns are %q", got)
		}
		// The table has no unique key; the key is another's all the same.
		err := table.Create(ctx, &apps.App{ID: "other", Key: "new-key", Secret: "s"})
		refused(t, "the key of another", err, apps.ErrExists)
		_, err = table.Update(ctx, "new", func(a *apps.App) error { a.Key = "app-key"; return nil })
		refused(t, "the key of another", err, apps.ErrExists)
		most := map[string]int{MySQL: 128, Postgres: 40_000}[d.driver] // more than tinyint and smallint hold
		_, err = table.Update(ctx, "new", func(a *apps.App) error { a.Limits.MaxEventBatch = most; return nil })
		refused(t, "more than the column holds", err, apps.ErrRefused, "column max_event_batch_size", "holds -")
		_, err = table.Update(ctx, "new", func(a *apps.App) error { a.AllowedOrigins = []string{"a"}; return nil })
		refused(t, "origins", err, apps.ErrRefused, "no column allowed_origins")
		_, err = table.Update(ctx, "new", func(a *apps.App) error {
			a.Enabled, a.Limits.MaxConnections = false, 9
			a.Webhooks = []apps.Webhook{{URL: "https://b.example"}}
			return nil
		})
		must(t, "update", err)
		app = table.app(t, "new")
		if app.Enabled || app.Limits.MaxConnections != 9 || len(app.Webhooks) != 1 || app.Webhooks[0].EventTypes != nil {
			t.Errorf("the app is %+v", app)
		}
		must(t, "delete", table.Delete(ctx, "off"))
	})
}

// TestOddTable has numbers as strings, flags as text, names in camel case, columns that Parley does
// not know, and hardly any that it does.
func TestOddTable(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.tableOf(t, `CREATE TABLE TABLE_ (`+map[string]string{
			MySQL:    "`AppId` int PRIMARY KEY, `AppKey` varchar(100) NOT NULL, `AppSecret` text NOT NULL, ",
			Postgres: `"AppId" int PRIMARY KEY, "AppKey" varchar(100) NOT NULL, "AppSecret" text NOT NULL, `,
		}[d.driver]+`maxConnections varchar(20), enabled varchar(5), enableClientMessages varchar(5),
			maxEventPayloadInKb decimal(10,2), maxBackendEventsPerSec varchar(20), webhooks text, allowedOrigins text,
			color varchar(10) DEFAULT 'red')`)
		id, key, secret := table.quote("AppId"), table.quote("AppKey"), table.quote("AppSecret")
		table.exec(t, "INSERT INTO TABLE_ ("+id+", "+key+", "+secret+`, maxConnections, enabled, enableClientMessages,
			maxEventPayloadInKb, maxBackendEventsPerSec, webhooks, allowedOrigins) VALUES
			(1000001, 'k', 's', ' 100 ', 'yes', 'off', 1.5, '-1', '', '["a.example"]')`)
		app := table.app(t, "1000001")
		wantLimits(t, app, apps.Limits{MaxConnections: 100, MaxEventPayload: 1536})
		if !app.Enabled || app.EnableClientMessages || len(app.AllowedOrigins) != 1 || app.Webhooks != nil {
			t.Errorf("the app is %+v", app)
		}
		ctx := t.Context()
		for _, id := range []string{"1000001x", "abc", "01000001"} { // no number, and not this one
			if rows, err := table.ByIDs(ctx, []string{id}); err != nil || len(rows) > 0 {
				t.Errorf("by id %s: %+v, %v", id, rows, err)
			}
		}
		if row, err := table.ByKey(ctx, "k"); err != nil || row.ID != "1000001" {
			t.Errorf("by key: %+v, %v", row, err)
		}
		_, err := table.Update(ctx, "1000001", func(a *apps.App) error {
			a.Limits.MaxConnections, a.Limits.MaxEventPayload, a.Enabled = 7, 2560, false
			return nil
		})
		must(t, "update", err)
		app = table.app(t, "1000001")
		if app.Enabled || app.Limits.MaxConnections != 7 || app.Limits.MaxEventPayload != 2560 {
			t.Errorf("the app is %+v", app)
		}
		must(t, "create", table.Create(ctx, &apps.App{ID: "2", Key: "k2", Secret: "s", Enabled: true}))
		err = table.Create(ctx, &apps.App{ID: "two", Key: "k3", Secret: "s"})
		refused(t, "an id that is no number", err, apps.ErrRefused, "column AppId")
		must(t, "delete", table.Delete(ctx, "2"))
	})
}

// TestHostileValues has rows that cannot be understood: each is refused and named, others work, and
// nothing of a value is in the error.
func TestHostileValues(t *testing.T) {
	onEach(t, func(t *testing.T, d database) {
		table := d.tableOf(t, `CREATE TABLE TABLE_ (id varchar(200) PRIMARY KEY, `+keyColumn(d)+` varchar(200), secret text,
			max_connections text, enabled text, webhooks text, allowed_origins text, policy text)`)
		key := table.quote("key")
		const hush = "tell-nobody"
		for column, values := range map[string]map[string]string{
			"webhooks": {"bad": `{"url": "` + hush, "object": `{"url": "http://x"}`, "string": `"` + hush + `"`, "null-hook": `[null]`,
				"url": `[{"url": "ftp://` + hush + `"}]`, "types": `[{"url": 5}]`, "deep": strings.Repeat("[", 20_000)},
			"allowed_origins": {"bad": hush, "object": "{}", "number": "[1]", "null": "[null]", "stars": `["*.` + hush + `.*"]`},
			"max_connections": {"bad": hush, "float": "1.5", "huge": "99999999999999999999", "nan": "NaN"},
			"enabled":         {"bad": hush},
			"policy":          {"bad": hush, "list": "[]", "group": `{"limits": []}`, "value": `{"limits": {"max_connections": "` + hush + `"}}`},
			"secret":          {"empty": "", "long": strings.Repeat(hush, 100)},
			"key":             {"empty": "", "odd": "a key/" + hush},
		} {
			for name, text := range values {
				id := strings.ReplaceAll(column, "_", "-") + "-" + name
				table.exec(t, "INSERT INTO TABLE_ (id, "+key+", secret) VALUES ("+table.parameter(1)+", "+
					table.parameter(2)+", 's')", id, "key-"+id)
				table.exec(t, "UPDATE TABLE_ SET "+table.quote(column)+" = "+table.parameter(1)+" WHERE id = "+table.parameter(2), text, id)
				row := table.one(t, id)
				if !errors.Is(row.Err, apps.ErrUnreadable) || row.App != nil || !strings.Contains(row.Err.Error(), strings.TrimSuffix(column, "s")) {
					t.Errorf("%s: %+v", id, row)
				} else if strings.Contains(row.Err.Error(), hush) {
					t.Errorf("%s: the error repeats the value: %v", id, row.Err)
				}
				_, err := table.Update(t.Context(), id, func(*apps.App) error { return nil })
				if !errors.Is(err, apps.ErrUnreadable) {
					t.Errorf("update %s: %v", id, err)
				}
			}
		}
		table.exec(t, "INSERT INTO TABLE_ (id, "+key+", secret) VALUES ('good', 'good-key', 's')")
		table.exec(t, "INSERT INTO TABLE_ (id, "+key+", secret) VALUES ('null-key', NULL, NULL)")
		nodes := startNodes(t, time.Hour, nil, table)
		if app, err := nodes[0].FindByKey(t.Context(), "good-key"); err != nil || !app.Enabled {
			t.Errorf("the good one: %+v, %v", app, err)
		}
		for _, find := range []string{"key-webhooks-bad", "key-policy-bad"} {
			if _, err := nodes[0].FindByKey(t.Context(), find); !errors.Is(err, apps.ErrUnreadable) {
				t.Errorf("%s: %v", find, err)
			}
		}
		list, err := nodes[0].List(t.Context(), "", 1000)
		if err != nil || len(list) != 1 || list[0].ID != "good" {
			t.Errorf("listed are %d, %v", len(list), err)
		}
		text := nodes[0].log.String()
		for _, part := range []string{"app_id=webhooks-bad", "column webhooks is no JSON list", "app_id=null-key"} {
			if !strings.Contains(text, part) {
				t.Errorf("the log does not have %q:\n%s", part, text)
			}
		}
		if strings.Contains(text, hush) {
			t.Errorf("the log repeats a value:\n%s", text)
		}
		must(t, "delete a bad one", nodes[0].Delete(t.Context(), "webhooks-bad"))
	})
}

// keyColumn writes the column key, which is a word of MySQL's.
func keyColumn(d database) string {
	if d.driver == MySQL {
		return "`key`"
	}
	return "key"
}
