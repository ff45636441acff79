package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

const token = "correct-horse-battery"

// dead is a list of dead letters by the contract of DeadLetters.
type dead struct {
	letters  []webhook.Dead
	replayed []string
	err      error
}

func (d *dead) ListDead(_ context.Context, after string, limit int) ([]webhook.Dead, error) {
	if d.err != nil {
		return nil, d.err
	}
	rest := d.letters
	if after != "" {
		i := d.find(after)
		if i < 0 {
			return nil, fmt.Errorf("list: %w", fabric.ErrNotFound)
		}
		rest = rest[i+1:]
	}
	return rest[:min(limit, len(rest))], nil
}

func (d *dead) Replay(ctx context.Context, id string) error {
	if err := d.Discard(ctx, id); err != nil {
		return err
	}
	d.replayed = append(d.replayed, id)
	return nil
}

func (d *dead) Discard(_ context.Context, id string) error {
	i := d.find(id)
	if i < 0 {
		return fmt.Errorf("discard %q: %w", id, fabric.ErrNotFound)
	}
	d.letters = append(d.letters[:i:i], d.letters[i+1:]...)
	return nil
}

func (d *dead) find(id string) int {
	for i := range d.letters {
		if d.letters[i].ID == id {
			return i
		}
	}
	return -1
}

// fixture is a node's API with what is behind it.
type fixture struct {
	*testing.T
	apps   *apps.Registry
	dead   *dead
	server *httptest.Server
	client *Client
	log    *bytes.Buffer
}

func newFixture(t *testing.T, static ...*apps.App) *fixture {
	t.Helper()
	documents, err := memory.New().Documents(t.Context(), apps.Collection)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{T: t, dead: &dead{}, log: &bytes.Buffer{}}
	log := slog.New(slog.NewTextHandler(f.log, nil))
	f.apps = apps.New(static, apps.NewDocuments(documents, log), log)
	ctx, stop := context.WithCancel(context.Background())
	if err := f.apps.Start(ctx); err != nil {
		t.Fatal(err)
	}
	f.server = httptest.NewServer(New(f.apps, f.dead, token, log))
	f.client = &Client{Server: f.server.URL, Token: token}
	t.Cleanup(func() {
		f.server.Close()
		stop()
		f.apps.Wait()
		if strings.Contains(f.log.String(), "s3cret") || strings.Contains(f.log.String(), token) {
			t.Error("there is a secret in the log")
		}
	})
	return f
}

// do sends a request and returns status and body of the answer.
func (f *fixture) do(method, path, body string) (int, string) {
	f.Helper()
	request, err := http.NewRequestWithContext(f.Context(), method, f.server.URL+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		f.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		f.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// create stores an app whose secrets all contain "s3cret".
func (f *fixture) create(id string) {
	f.Helper()
	status, body := f.do("POST", "/admin/v1/apps", `{"id":"`+id+`","key":"key-`+id+`","secret":"s3cret-1",
		"webhooks":[{"url":"https://user:s3cret-2@example.com/a","headers":{"X-Token":"s3cret-3"}}]}`)
	if status != http.StatusCreated {
		f.Fatalf("create %s: %d %s", id, status, body)
	}
}

func TestAuthorization(t *testing.T) {
	h := New(nil, nil, token, slog.New(slog.DiscardHandler))
	open := New(nil, nil, "", slog.New(slog.DiscardHandler))
	tests := []struct {
		name    string
		handler *Handler
		header  string
		want    int
	}{
		{"right", h, "Bearer " + token, http.StatusNotFound},
		{"other case of the scheme", h, "bearer " + token, http.StatusNotFound},
		{"none", h, "", http.StatusUnauthorized},
		{"wrong", h, "Bearer wrong", http.StatusUnauthorized},
		{"part", h, "Bearer " + token[:5], http.StatusUnauthorized},
		{"other scheme", h, "Basic " + token, http.StatusUnauthorized},
		{"token alone", h, token, http.StatusUnauthorized},
		{"empty", h, "Bearer ", http.StatusUnauthorized},
		{"no token at all", open, "Bearer ", http.StatusUnauthorized},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			request := httptest.NewRequest("GET", "/admin/v1/nothing", nil)
			request.Header.Set("Authorization", test.header)
			recorder := httptest.NewRecorder()
			test.handler.ServeHTTP(recorder, request)
			if recorder.Code != test.want {
				t.Errorf("status %d, want %d", recorder.Code, test.want)
			}
			var failure Failure
			if err := json.Unmarshal(recorder.Body.Bytes(), &failure); err != nil || failure.Code == "" || failure.Text == "" {
				t.Errorf("body %s, error %v", recorder.Body, err)
			}
			if challenged := recorder.Header().Get("WWW-Authenticate") != ""; challenged != (test.want == 401) {
				t.Errorf("WWW-Authenticate: %v", challenged)
			}
		})
	}
}

// TestRefusals lists every answer that is not 2xx.
func TestRefusals(t *testing.T) {
	static := apps.App{ID: "static", Key: "key-static", Secret: "s3cret"}
	f := newFixture(t, &static)
	f.create("1")
	f.create("2")
	tests := []struct {
		name   string
		method string
		path   string
		body   string
		status int
		code   string
		text   string // part of the error
	}{
		{"path", "GET", "", "", 404, CodeNotFound, "nothing at this path"},
		{"method", "PUT", "apps", "", 405, CodeMethodNotAllowed, "PUT"},
		{"unknown app", "GET", "apps/3", "", 404, CodeNotFound, "app not found"},
		{"no JSON", "POST", "apps", "{", 400, CodeInvalid, "EOF"},
		{"no body", "POST", "apps", "", 400, CodeInvalid, "empty"},
		{"two values", "POST", "apps", "{}{}", 400, CodeInvalid, "more after"},
		{"unknown field", "POST", "apps", `{"secrett":"s3cret"}`, 400, CodeInvalid, `unknown field "secrett"`},
		{"unknown limit", "POST", "apps", `{"limits":{"max":1}}`, 400, CodeInvalid, `unknown field "max"`},
		{"wrong type", "POST", "apps", `{"limits":{"max_connections":"5"}}`, 400, CodeInvalid, "limits.max_connections cannot be a string"},
		{"static", "POST", "apps", `{"static":true}`, 400, CodeInvalid, "static"},
		{"invalid", "POST", "apps", `{"limits":{"max_connections":-1}}`, 400, CodeInvalid, "limits.max_connections must"},
		{"id taken", "POST", "apps", `{"id":"1"}`, 409, CodeExists, `id "1"`},
		{"id taken by static", "POST", "apps", `{"id":"static"}`, 409, CodeExists, `id "static"`},
		{"key taken", "POST", "apps", `{"key":"key-1"}`, 409, CodeExists, `key "key-1"`},
		{"too large", "POST", "apps", `{"name":"` + strings.Repeat("a", maxBody) + `"}`, 413, CodeTooLarge, "body"},
		{"patch unknown app", "PATCH", "apps/3", `{}`, 404, CodeNotFound, "app not found"},
		{"patch static app", "PATCH", "apps/static", `{}`, 409, CodeStatic, "configuration file"},
		{"patch with a list", "PATCH", "apps/1", `[]`, 400, CodeInvalid, "object"},
		{"patch unknown field", "PATCH", "apps/1", `{"nmae":null}`, 400, CodeInvalid, `unknown field "nmae"`},
		{"patch id", "PATCH", "apps/1", `{"id":"3"}`, 400, CodeInvalid, "id cannot be changed"},
		{"patch static", "PATCH", "apps/1", `{"static":true}`, 400, CodeInvalid, "static"},
		{"patch key taken", "PATCH", "apps/1", `{"key":"key-2"}`, 409, CodeExists, `key "key-2"`},
		{"patch secret away", "PATCH", "apps/1", `{"secret":null}`, 400, CodeInvalid, "secret must have"},
		{"patch masked header", "PATCH", "apps/1", `{"webhooks":[{"url":"http://a","headers":{"A":"xxxxx"}}]}`, 400, CodeInvalid, "masked"},
		{"patch masked password", "PATCH", "apps/1", `{"webhooks":[{"url":"http://u:xxxxx@a"}]}`, 400, CodeInvalid, "masked"},
		{"patch too large", "PATCH", "apps/1", strings.Repeat(" ", maxBody+1), 413, CodeTooLarge, "body"},
		{"delete unknown app", "DELETE", "apps/3", "", 404, CodeNotFound, "app not found"},
		{"delete static app", "DELETE", "apps/static", "", 409, CodeStatic, "configuration file"},
		{"rotate unknown app", "POST", "apps/3/rotate", "", 404, CodeNotFound, "app not found"},
		{"rotate static app", "POST", "apps/static/rotate", "", 409, CodeStatic, "configuration file"},
		{"rotate with nonsense", "POST", "apps/1/rotate", `{"keys":true}`, 400, CodeInvalid, `unknown field "keys"`},
		{"dead letters limit", "GET", "webhooks/dead-letters?limit=0", "", 400, CodeInvalid, "limit must be"},
		{"dead letters limit too high", "GET", "webhooks/dead-letters?limit=1001", "", 400, CodeInvalid, "limit must be"},
		{"dead letters after unknown", "GET", "webhooks/dead-letters?after=x", "", 404, CodeNotFound, "not found"},
		{"replay unknown", "POST", "webhooks/dead-letters/x/replay", "", 404, CodeNotFound, "not found"},
		{"discard unknown", "DELETE", "webhooks/dead-letters/x", "", 404, CodeNotFound, "not found"},
	}
	before := len(f.apps.All())
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			status, body := f.do(test.method, PathPrefix+test.path, test.body)
			var failure Failure
			if err := json.Unmarshal([]byte(body), &failure); err != nil {
				t.Fatalf("body %s: %v", body, err)
			}
			if status != test.status || failure.Code != test.code || !strings.Contains(failure.Text, test.text) {
				t.Errorf("%d %s, want %d %s with %q", status, body, test.status, test.code, test.text)
			}
		})
	}
	if got := len(f.apps.All()); got != before {
		t.Errorf("%d apps, there were %d", got, before)
	}
}

func TestSecretsAreShownOnlyWhereAskedFor(t *testing.T) {
	f := newFixture(t, &apps.App{ID: "static", Key: "k", Secret: "s3cret-1"})
	f.create("1")
	tests := []struct {
		method, path, body string
		secrets            int // how many different ones the answer has
	}{
		{"GET", "apps", "", 0},
		{"GET", "apps?secret=1", "", 0},
		{"GET", "apps/1", "", 0},
		{"GET", "apps/1?secret=0", "", 0},
		{"GET", "apps/static", "", 0},
		{"PATCH", "apps/1", `{"name":"x"}`, 0},
		{"GET", "apps/1?secret=1", "", 3},
		{"GET", "apps/static?secret=1", "", 1},
		{"POST", "apps", `{"secret":"s3cret-1"}`, 1},
	}
	for _, test := range tests {
		status, body := f.do(test.method, PathPrefix+test.path, test.body)
		if status/100 != 2 {
			t.Errorf("%s %s: %d %s", test.method, test.path, status, body)
		}
		found := 0
		for _, secret := range []string{"s3cret-1", "s3cret-2", "s3cret-3"} {
			if strings.Contains(body, secret) {
				found++
			}
		}
		if found != test.secrets {
			t.Errorf("%s %s shows %d secrets, want %d: %s", test.method, test.path, found, test.secrets, body)
		}
	}
	if app, _ := f.apps.ByID("1"); app.Secret != "s3cret-1" || app.Webhooks[0].Headers["X-Token"] != "s3cret-3" {
		t.Errorf("masking changed the app of the registry: %+v", app)
	}
}

func TestPatch(t *testing.T) {
	const app = `{"id":"1","key":"k","secret":"s","enabled":false,"name":"chat",
		"limits":{"max_connections":5,"max_event_payload":9007199254740993},
		"allowed_origins":["a","b"],
		"webhooks":[{"url":"http://a","filter":{"channel_prefix":"p"}},{"url":"http://b"}]}`
	tests := []struct {
		name, patch string
		want        func(apps.App) bool
	}{
		{"nothing", `{}`, func(a apps.App) bool {
			return a.Name == "chat" && !a.Enabled && a.Limits.MaxEventPayload == 9007199254740993
		}},
		{"one limit", `{"limits":{"max_connections":6}}`, func(a apps.App) bool {
			return a.Limits == apps.Limits{MaxConnections: 6, MaxEventPayload: 9007199254740993}
		}},
		{"limit removed", `{"limits":{"max_connections":null}}`, func(a apps.App) bool {
			return a.Limits == apps.Limits{MaxEventPayload: 9007199254740993}
		}},
		{"limits removed", `{"limits":null}`, func(a apps.App) bool { return a.Limits == apps.Limits{} }},
		{"enabled removed", `{"enabled":null}`, func(a apps.App) bool { return a.Enabled }},
		{"list replaced", `{"allowed_origins":["c"]}`, func(a apps.App) bool {
			return strings.Join(a.AllowedOrigins, " ") == "c"
		}},
		{"webhooks replaced", `{"webhooks":[{"url":"http://c"}]}`, func(a apps.App) bool {
			return len(a.Webhooks) == 1 && a.Webhooks[0].URL == "http://c" && a.Webhooks[0].Filter.ChannelPrefix == ""
		}},
		{"same id", `{"id":"1","name":"x"}`, func(a apps.App) bool { return a.Name == "x" }},
		{"other case", `{"Name":"x","Limits":{"MAX_CONNECTIONS":7}}`, func(a apps.App) bool {
			return a.Name == "x" && a.Limits.MaxConnections == 7 && a.Limits.MaxEventPayload != 0
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			if status, body := f.do("POST", "/admin/v1/apps", app); status != 201 {
				t.Fatal(status, body)
			}
			status, body := f.do("PATCH", "/admin/v1/apps/1", test.patch)
			if status != http.StatusOK {
				t.Fatal(status, body)
			}
			if got, _ := f.apps.ByID("1"); !test.want(*got) {
				t.Errorf("the app is %+v", got)
			}
		})
	}
}

// TestMergePatch has the examples of RFC 7396, appendix A, that do not differ in case only.
func TestMergePatch(t *testing.T) {
	tests := [][3]string{ // target, patch, result
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	}
	for _, test := range tests {
		target, err1 := decodeNumbers([]byte(test[0]))
		patch, err2 := decodeNumbers([]byte(test[1]))
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		got, err := json.Marshal(mergePatch(target, patch))
		if err != nil || string(got) != test[2] {
			t.Errorf("%s with %s is %s, want %s (%v)", test[0], test[1], got, test[2], err)
		}
	}
}

func TestClientAndAppsTogether(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	created, err := f.client.CreateApp(ctx, NewApp{Name: "chat", EnableClientMessages: true})
	if err != nil {
		t.Fatal(err)
	}
	if created.Secret == "" || !created.Enabled || !created.EnableClientMessages || created.Name != "chat" {
		t.Errorf("created %+v %+v", created, created.App)
	}
	shown, err := f.client.ShowApp(ctx, created.ID, true)
	if err != nil || shown.Secret != created.Secret {
		t.Errorf("shown %+v, error %v", shown, err)
	}
	if shown, err = f.client.ShowApp(ctx, created.ID, false); err != nil || shown.Secret != "" || shown.App.Secret != "" {
		t.Errorf("shown %+v, error %v", shown, err)
	}
	rotated, err := f.client.RotateApp(ctx, created.ID, true)
	if err != nil || rotated.Secret == created.Secret || rotated.Key == created.Key {
		t.Errorf("rotated %+v, error %v", rotated, err)
	}
	patched, err := f.client.PatchApp(ctx, created.ID, map[string]any{"enabled": false})
	if err != nil || patched.Enabled || patched.Key != rotated.Key {
		t.Errorf("patched %+v, error %v", patched, err)
	}
	list, err := f.client.ListApps(ctx)
	if err != nil || len(list) != 1 || list[0].ID != created.ID {
		t.Errorf("list %+v, error %v", list, err)
	}
	if err := f.client.DeleteApp(ctx, created.ID); err != nil {
		t.Error(err)
	}
	if list, err = f.client.ListApps(ctx); err != nil || list == nil || len(list) != 0 {
		t.Errorf("list %+v, error %v", list, err)
	}
}

func TestDeadLetters(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	const odd = "a/b ?ü"
	for _, id := range []string{"1", odd, "3"} {
		f.dead.letters = append(f.dead.letters, webhook.Dead{
			ID: id, AppID: "7", Events: []string{"cache_miss"}, FailedAt: time.Unix(1e9, 0).UTC(),
		})
	}
	page, err := f.client.ListDead(ctx, "", 2)
	if err != nil || len(page.DeadLetters) != 2 || page.Next != odd || page.DeadLetters[0].AppID != "7" {
		t.Fatalf("page %+v, error %v", page, err)
	}
	page, err = f.client.ListDead(ctx, page.Next, 2)
	if err != nil || len(page.DeadLetters) != 1 || page.Next != "" {
		t.Errorf("page %+v, error %v", page, err)
	}
	if err := f.client.ReplayDead(ctx, odd); err != nil || len(f.dead.replayed) != 1 || f.dead.replayed[0] != odd {
		t.Errorf("replayed %q, error %v", f.dead.replayed, err)
	}
	if err := f.client.DiscardDead(ctx, "1"); err != nil || len(f.dead.letters) != 1 {
		t.Errorf("left are %+v, error %v", f.dead.letters, err)
	}
}

func TestFailuresOfTheStore(t *testing.T) {
	f := newFixture(t)
	for err, want := range map[error]struct {
		status int
		code   string
	}{
		fabric.ErrClosed:         {503, CodeUnavailable},
		context.DeadlineExceeded: {503, CodeUnavailable},
		fabric.ErrFull:           {503, CodeUnavailable},
		io.ErrUnexpectedEOF:      {500, CodeInternal},
	} {
		f.dead.err = fmt.Errorf("list: %w", err)
		status, body := f.do("GET", "/admin/v1/webhooks/dead-letters", "")
		if status != want.status || !strings.Contains(body, want.code) || strings.Contains(body, "EOF") {
			t.Errorf("%v: %d %s", err, status, body)
		}
		if !strings.Contains(f.log.String(), err.Error()) {
			t.Errorf("%v is not in the log", err)
		}
	}
}

func TestClientErrors(t *testing.T) {
	f := newFixture(t)
	wrong := &Client{Server: f.server.URL + "/", Token: "wrong"}
	_, err := wrong.ListApps(t.Context())
	if failure, ok := err.(*Failure); !ok || failure.Code != CodeUnauthorized || failure.Status != 401 {
		t.Errorf("error is %#v", err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	_, err = (&Client{Server: other.URL}).ListApps(t.Context())
	if failure, ok := err.(*Failure); !ok || failure.Code != "" || !strings.Contains(failure.Text, "404") {
		t.Errorf("error is %#v", err)
	}
	other.Close()
	_, err = (&Client{Server: other.URL}).ListApps(t.Context())
	if unreachable, ok := err.(*UnreachableError); !ok || unreachable.Server != other.URL {
		t.Errorf("error is %#v", err)
	}
}
