package api

import (
	"context"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/ratelimit"
	"github.com/parleyio/parley/internal/transport"
)

// patience bounds every wait for something that must happen.
const patience = time.Minute

// The app of the worked example in Pusher's documentation.
const (
	vectorID     = "3"
	vectorKey    = "278d425bdf160c739803"
	vectorSecret = "7ad3773142a6692b25b8"
)

func vectorApp() *apps.App {
	return &apps.App{ID: vectorID, Key: vectorKey, Secret: vectorSecret, Enabled: true}
}

// defaults are the limits of the configuration's defaults.
var defaults = apps.Limits{
	MaxClientEventsPerSecond: 10,
	MaxPresenceMembers:       100,
	MaxPresenceMemberSize:    1 << 10,
	MaxChannelNameLength:     200,
	MaxEventChannels:         100,
	MaxEventNameLength:       200,
	MaxEventPayload:          10 << 10,
	MaxEventBatch:            10,
}

type registry []*apps.App

// awayID and awayKey are of an app that cannot be looked up.
const awayID, awayKey = "away", "away-key"

func (r registry) FindByID(_ context.Context, id string) (*apps.App, error) {
	return r.find(id == awayID, func(app *apps.App) bool { return app.ID == id })
}

func (r registry) FindByKey(_ context.Context, key string) (*apps.App, error) {
	return r.find(key == awayKey, func(app *apps.App) bool { return app.Key == key })
}

func (r registry) find(away bool, matches func(*apps.App) bool) (*apps.App, error) {
	if away {
		return nil, apps.ErrUnavailable
	}
	if i := slices.IndexFunc(r, matches); i >= 0 {
		return r[i], nil
	}
	return nil, apps.ErrNotFound
}

type noWebhooks struct{}

func (noWebhooks) Emit(string, webhook.Event)    {}
func (noWebhooks) Observe(string, webhook.Event) {}

// fixture is the API in front of a real hub and a real transport.
type fixture struct {
	testing.TB
	app      *apps.App
	hub      *pusher.Hub
	metrics  *Metrics
	families *prometheus.Registry
	draining atomic.Bool
	server   *httptest.Server
}

// newFixture starts the API for the app of the documentation and others. change may alter
// the options.
func newFixture(t testing.TB, change func(*Options), others ...*apps.App) *fixture {
	t.Helper()
	f := &fixture{TB: t, app: vectorApp(), metrics: NewMetrics("parley_", "6001"), families: prometheus.NewRegistry()}
	hubMetrics := pusher.NewMetrics("parley_", "6001")
	f.families.MustRegister(f.metrics, hubMetrics)
	connections, err := transport.NewServer(transport.Options{
		EventLoops: 1, MaxMessage: 64 << 10, MaxQueue: 1 << 20, MaxBacklog: 64 << 20, OverflowCode: 4100,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.hub = pusher.NewHub(pusher.Options{
		ActivityTimeout: 120 * time.Second, PongTimeout: 30 * time.Second,
		CacheTTL: 30 * time.Minute, CacheChannels: 100,
		Defaults: defaults, MaxSubscriptions: 100, Metrics: hubMetrics,
	}, noWebhooks{})
	options := Options{
		PathPrefix:   "/",
		MaxBody:      1 << 20,
		APILimit:     ratelimit.NewKeyed[Address](0, time.Minute, 10),
		ConnectLimit: ratelimit.NewKeyed[Address](0, time.Minute, 10),
		Defaults:     defaults,
		Metrics:      f.metrics,
		Draining:     f.draining.Load,
	}
	if change != nil {
		change(&options)
	}
	f.server = httptest.NewServer(New(options, f.hub, append(registry{f.app}, others...), connections))
	t.Cleanup(func() {
		f.server.Close()
		if err := connections.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// wantMetrics checks the lines of the families whose names begin with a prefix.
func (f *fixture) wantMetrics(prefix, want string) {
	f.Helper()
	want = strings.TrimPrefix(want, "\n")
	got := f.samples(prefix)
	for end := time.Now().Add(patience); got != want && time.Now().Before(end); got = f.samples(prefix) {
		time.Sleep(time.Millisecond) // an answer may come before it is counted
	}
	if got != want {
		f.Errorf("got the metrics\n%swant%s", got, want)
	}
}

// samples returns those whose names begin with prefix.
func (f *fixture) samples(prefix string) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(f.families, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	var got strings.Builder
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, prefix) {
			got.WriteString(line)
		}
	}
	return got.String()
}

// sign returns the query that authenticates a request, by the text of the documentation
// and not by the code under test.
func sign(key, secret, method, path, body string, at time.Time, extra ...string) string {
	pairs := append([]string{"auth_key=" + key, "auth_timestamp=" + strconv.FormatInt(at.Unix(), 10), "auth_version=1.0"}, extra...)
	if body != "" {
		sum := md5.Sum([]byte(body))
		pairs = append(pairs, "body_md5="+hex.EncodeToString(sum[:]))
	}
	slices.Sort(pairs)
	signature := hexHMAC(secret, method+"\n"+path+"\n"+strings.Join(pairs, "&"))
	for i, pair := range pairs {
		name, value, _ := strings.Cut(pair, "=")
		pairs[i] = url.QueryEscape(name) + "=" + url.QueryEscape(value)
	}
	return strings.Join(pairs, "&") + "&auth_signature=" + signature
}

func hexHMAC(secret, text string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// answer is a response with its body read.
type answer struct {
	status int
	body   string
	header http.Header
}

// do sends a request as it is.
func (f *fixture) do(method, target, body string, header ...string) answer {
	f.Helper()
	request, err := http.NewRequest(method, f.server.URL+target, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := f.server.Client().Do(request)
	if err != nil {
		f.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		f.Fatal(err)
	}
	return answer{response.StatusCode, string(text), response.Header}
}

// call sends a signed request to a path below the app's.
func (f *fixture) call(method, path, body string, query ...string) answer {
	f.Helper()
	full := "/apps/" + f.app.ID + path
	return f.do(method, full+"?"+sign(f.app.Key, f.app.Secret, method, full, body, time.Now(), query...), body)
}

func (f *fixture) post(path, body string) answer {
	f.Helper()
	return f.call(http.MethodPost, path, body)
}

func (f *fixture) get(path string, query ...string) answer {
	f.Helper()
	return f.call(http.MethodGet, path, "", query...)
}

// want checks an answer whole.
func (a answer) want(t testing.TB, status int, body string) {
	t.Helper()
	if a.status != status || a.body != body {
		t.Errorf("got %d %q, want %d %q", a.status, a.body, status, body)
	}
}

// refused checks the status of a refusal and that its text says why.
func (a answer) refused(t testing.TB, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("got %d %q, want %d", a.status, a.body, status)
	}
	for _, part := range parts {
		if !strings.Contains(a.body, part) {
			t.Errorf("%q does not tell %q", a.body, part)
		}
	}
}

// socket is a client's end of a WebSocket.
type socket struct {
	testing.TB
	rw interface {
		io.Reader
		io.Writer
		SetReadDeadline(time.Time) error
	}
	id string
}

// message is what a client gets: an event, or a close code.
type message struct {
	Event   string          `json:"event"`
	Channel string          `json:"channel"`
	Data    json.RawMessage `json:"data"`
	closed  int
}

// dial opens a WebSocket with header lines given as name, value.
func (f *fixture) dial(target string, header ...string) *socket {
	f.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP(h)}
	conn, early, _, err := dialer.Dial(ctx, "ws"+strings.TrimPrefix(f.server.URL, "http")+target)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	s := &socket{TB: f.TB, rw: conn}
	if early != nil { // frames that came with the handshake
		s.rw = struct {
			io.Reader
			io.Writer
			deadline
		}{io.MultiReader(io.LimitReader(early, int64(early.Buffered())), conn), conn, conn}
	}
	return s
}

type deadline interface{ SetReadDeadline(time.Time) error }

// connect opens a WebSocket that is served.
func (f *fixture) connect() *socket {
	f.Helper()
	s := f.dial("/app/" + f.app.Key + "?protocol=7")
	var data struct {
		SocketID string `json:"socket_id"`
	}
	s.decode(s.next("pusher:connection_established"), &data)
	s.id = data.SocketID
	return s
}

// read returns the next message.
func (s *socket) read() message {
	s.Helper()
	_ = s.rw.SetReadDeadline(time.Now().Add(patience))
	text, err := wsutil.ReadServerText(s.rw)
	var closed wsutil.ClosedError
	if err != nil {
		if errors.As(err, &closed) {
			return message{closed: int(closed.Code)}
		}
		s.Fatal(err)
	}
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		s.Fatal(err)
	}
	return m
}

// next returns the next message, which must be the event.
func (s *socket) next(event string) message {
	s.Helper()
	m := s.read()
	if m.Event != event {
		s.Fatalf("got %q %s (closed %d), want %q", m.Event, m.Data, m.closed, event)
	}
	return m
}

// decode reads data that is JSON within a string.
func (s *socket) decode(m message, v any) {
	s.Helper()
	if err := json.Unmarshal([]byte(m.text(s)), v); err != nil {
		s.Fatal(err)
	}
}

// text is data that is a string.
func (m message) text(t testing.TB) string {
	t.Helper()
	var text string
	if err := json.Unmarshal(m.Data, &text); err != nil {
		t.Fatal(err)
	}
	return text
}

func (s *socket) send(event string, data any) {
	s.Helper()
	text, err := json.Marshal(map[string]any{"event": event, "data": data})
	if err != nil {
		s.Fatal(err)
	}
	if err := wsutil.WriteClientText(s.rw, text); err != nil {
		s.Fatal(err)
	}
}

// subscribe joins a channel, with channelData on presence channels.
func (s *socket) subscribe(f *fixture, channel, channelData string) {
	s.Helper()
	text := s.id + ":" + channel
	data := map[string]any{"channel": channel}
	if channelData != "" {
		text += ":" + channelData
		data["channel_data"] = channelData
	}
	data["auth"] = f.app.Key + ":" + hexHMAC(f.app.Secret, text)
	s.send("pusher:subscribe", data)
	s.next("pusher_internal:subscription_succeeded")
}
