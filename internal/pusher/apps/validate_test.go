package apps

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/config"
)

func TestValidate(t *testing.T) {
	hook := func(change func(*Webhook)) func(*App) {
		return func(a *App) {
			w := Webhook{URL: "https://example.com/hook"}
			change(&w)
			a.Webhooks = []Webhook{{URL: "http://ok.example"}, w}
		}
	}
	tests := []struct {
		name   string
		change func(*App)
		want   string // part of the error, "" for none
	}{
		{"as it is", func(*App) {}, ""},
		{"no id", func(a *App) { a.ID = "" }, "id must be"},
		{"id with a slash", func(a *App) { a.ID = "a/b" }, "id must be"},
		{"long id", func(a *App) { a.ID = strings.Repeat("a", 129) }, "id must be"},
		{"longest id", func(a *App) { a.ID = strings.Repeat("a", 128) }, ""},
		{"key with a line end", func(a *App) { a.Key = "a\n" }, "key must be"},
		{"no secret", func(a *App) { a.Secret = "" }, "secret must have"},
		{"long name", func(a *App) { a.Name = strings.Repeat("a", 257) }, "name must have"},
		{"origins", func(a *App) { a.AllowedOrigins = []string{"*", "https://*.example.com", "a:80"} }, ""},
		{"two stars", func(a *App) { a.AllowedOrigins = []string{"a", "*.a.*"} }, "allowed_origins[1] must have"},
		{"no host", func(a *App) { a.AllowedOrigins = []string{"https://"} }, "allowed_origins[0] must name"},
		{"no scheme", hook(func(w *Webhook) { w.URL = "example.com" }), "webhooks[1].url must be"},
		{"other scheme", hook(func(w *Webhook) { w.URL = "ftp://example.com" }), "webhooks[1].url must be"},
		{"event types", hook(func(w *Webhook) { w.EventTypes = EventTypes }), ""},
		{"unknown event", hook(func(w *Webhook) { w.EventTypes = []string{"member"} }), `webhooks[1].event_types holds "member"`},
		{"pattern", hook(func(w *Webhook) { w.Filter.ChannelRegexp = "([" }), "webhooks[1].filter.channel_pattern must be"},
		{"headers", hook(func(w *Webhook) { w.Headers = map[string]string{"X-A": "é b"} }), ""},
		{"header name", hook(func(w *Webhook) { w.Headers = map[string]string{"X A": "b"} }), "webhooks[1].headers holds"},
		{"header value", hook(func(w *Webhook) { w.Headers = map[string]string{"X-A": "hush\r\n"} }), "webhooks[1].headers holds"},
		{"two mistakes", func(a *App) { a.ID, a.Limits.MaxConnections = "", -1 }, "; limits.max_connections must be at least 0"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			app := valid("1")
			test.change(&app)
			err := app.Validate()
			switch {
			case test.want == "" && err != nil:
				t.Errorf("error is %v, want none", err)
			case test.want != "" && (!errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("error is %v, want one with %q", err, test.want)
			case err != nil && strings.Contains(err.Error(), "hush"):
				t.Errorf("the error repeats a header's value: %v", err)
			}
		})
	}
}

// TestValidateEveryLimit finds a limit that validate forgot.
func TestValidateEveryLimit(t *testing.T) {
	limits := reflect.TypeFor[Limits]()
	for i := range limits.NumField() {
		app := valid("1")
		reflect.ValueOf(&app.Limits).Elem().Field(i).SetInt(-1)
		name, _, _ := strings.Cut(limits.Field(i).Tag.Get("json"), ",")
		if err := app.Validate(); err == nil || !strings.Contains(err.Error(), "limits."+name+" must") {
			t.Errorf("limits.%s: error is %v", name, err)
		}
	}
}

// TestFromConfig fills every field of a table and finds each in the app.
func TestFromConfig(t *testing.T) {
	number, size := 7, int64(8)
	table := config.App{
		ID: "1", Name: "chat", Key: "k", Secret: "s", Enabled: true,
		MaxConnections: &number, MaxClientEventsPerSecond: &number,
		MaxBackendEventsPerSecond: &number, MaxReadRequestsPerSecond: &number,
		MaxPresenceMembers: &number, MaxPresenceMemberSize: &size,
		MaxChannelNameLength: &number, MaxEventChannels: &number, MaxEventNameLength: &number,
		MaxEventPayload: &size, MaxEventBatch: &number,
		EnableClientMessages: true, EnableUserAuthentication: true,
		EnableWatchlistEvents: true, EnableSubscriptionCount: true,
		AllowedOrigins: []string{"example.com"},
		Webhooks: []config.Webhook{{
			URL: "http://example.com", EventTypes: []string{"cache_miss"},
			ChannelPrefix: "a", ChannelSuffix: "b", ChannelRegexp: "c",
			Headers: map[string]string{"X-A": "b"},
		}},
	}
	wholly(t, "table", reflect.ValueOf(table)) // so that a field added later is not forgotten
	app := FromConfig(table)
	wholly(t, "app", reflect.ValueOf(*app))
	want := Limits{7, 7, 7, 7, 7, 8, 7, 7, 7, 8, 7}
	if app.Limits != want {
		t.Errorf("limits are %+v", app.Limits)
	}
	if err := app.Validate(); err != nil {
		t.Error(err)
	}
	if app := FromConfig(config.App{}); app.Limits != (Limits{}) || app.Enabled {
		t.Errorf("of an empty table: %+v", app)
	}
}

// wholly fails for each exported field at any depth that is zero.
func wholly(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	switch {
	case v.IsZero():
		t.Errorf("%s is zero", path)
	case v.Kind() == reflect.Slice:
		wholly(t, path+"[0]", v.Index(0))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				wholly(t, path+"."+field.Name, v.Field(i))
			}
		}
	}
}
