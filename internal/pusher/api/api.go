// Package api is the HTTP side of the channels surface: the WebSocket entry point and
// Pusher's REST API with Pusher's own answers.
//
// It may import the hub, the protocol, the app registry's records, the transport and
// ratelimit. It must never import the configuration or the composition root.
package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/ratelimit"
	"github.com/parleyio/parley/internal/transport"
)

// Apps is what the API asks of the registry. The errors wrap apps.ErrNotFound where there is no
// such app; any other says that nobody can tell at the moment.
type Apps interface {
	FindByID(ctx context.Context, id string) (*apps.App, error)
	FindByKey(ctx context.Context, key string) (*apps.App, error)
}

// Options configure a Server.
type Options struct {
	PathPrefix     string        // in front of /app and /apps; "/" for none
	MaxBody        int64         // bytes of a request body
	StrictProtocol bool          // refuse unknown protocol versions
	BacklogTimeout time.Duration // how long a publisher waits for slow subscribers before 503
	Clients        ClientAddress
	APILimit       Limiter // requests by address
	ConnectLimit   Limiter // connects by address
	Defaults       apps.Limits
	Logger         *slog.Logger
	Metrics        *Metrics
	// Draining tells whether the node is about to stop and takes nobody new.
	Draining func() bool
}

// Limiter counts what one address does.
type Limiter interface {
	Limit() int // 0 for none
	Allow(address Address, n int) ratelimit.Result
}

// Server answers the requests.
type Server struct {
	options   Options
	hub       *pusher.Hub
	apps      Apps
	transport *transport.Server
	mux       *http.ServeMux
}

// New returns the handler of the channels port.
func New(options Options, hub *pusher.Hub, registry Apps, connections *transport.Server) *Server {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Metrics == nil {
		options.Metrics = NewMetrics("parley_", "0")
	}
	if options.BacklogTimeout == 0 {
		options.BacklogTimeout = 5 * time.Second
	}
	if options.Draining == nil {
		options.Draining = func() bool { return false }
	}
	s := &Server{options: options, hub: hub, apps: registry, transport: connections, mux: http.NewServeMux()}
	s.routes(strings.TrimSuffix(options.PathPrefix, "/"))
	return s
}

func (s *Server) routes(prefix string) {
	s.mux.HandleFunc("GET "+prefix+"/app/{key}", s.connect)
	s.mux.HandleFunc("GET "+prefix+"/app/{key}/{rest...}", s.connectElsewhere)
	for pattern, h := range map[string]appHandler{
		"POST /apps/{app}/events":                             s.postEvents,
		"POST /apps/{app}/batch_events":                       s.postBatch,
		"GET /apps/{app}/channels":                            s.getChannels,
		"GET /apps/{app}/channels/{channel}":                  s.getChannel,
		"GET /apps/{app}/channels/{channel}/users":            s.getUsers,
		"POST /apps/{app}/users/{user}/terminate_connections": s.terminate,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		s.mux.Handle(method+" "+prefix+path, s.signed(h))
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// connect upgrades a client. Refusals are told after the upgrade, since a browser does not
// show its page why a handshake failed.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	if !s.admitConnect(w, r) {
		return
	}
	var handler transport.Handler
	switch refusal, fine := pusher.CheckVersion(r.URL.Query().Get("protocol")); {
	case s.options.Draining():
		// Not with the code that sends clients away: they would be back at once, and for ever
		// where no other node takes them.
		handler = s.hub.Refuse("", pusher.Refusal{Code: protocol.CodeOverCapacity,
			Reason: "The server takes no new clients at the moment, connect again later", Metric: "draining"})
	case s.options.StrictProtocol && !fine:
		handler = s.hub.Refuse("", refusal)
	default:
		handler = s.connection(r)
	}
	s.upgrade(w, r, handler)
}

// connection returns the handler for a client of the app whose key the request has.
func (s *Server) connection(r *http.Request) transport.Handler {
	key := r.PathValue("key")
	app, err := s.apps.FindByKey(r.Context(), key)
	switch {
	case errors.Is(err, apps.ErrNotFound):
		return s.hub.RefuseUnknown(key)
	case err != nil:
		// Not as unknown: clients would never come back.
		s.options.Logger.Debug("app not looked up", "error", err)
		return s.hub.Refuse("", pusher.Refusal{Code: protocol.CodeOverCapacity,
			Reason: "The app cannot be looked up at the moment, connect again later", Metric: "app_unavailable"})
	}
	return s.hub.Connection(app, r.Header.Get("Origin"))
}

func (s *Server) connectElsewhere(w http.ResponseWriter, r *http.Request) {
	if !s.admitConnect(w, r) {
		return
	}
	s.upgrade(w, r, s.hub.Refuse("", pusher.Refusal{Code: protocol.CodePathNotFound,
		Reason: "Path not found", Metric: "path_not_found"}))
}

// admitConnect answers what is no handshake or over the limit of its address, which is
// told before the upgrade, when a refusal is cheap.
func (s *Server) admitConnect(w http.ResponseWriter, r *http.Request) bool {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "This is a WebSocket endpoint", http.StatusUpgradeRequired)
		return false
	}
	limiter := s.options.ConnectLimit
	limited := s.options.Metrics.limit("websocket_connect", limiter, s.options.Clients.Of(r))
	if err := tellLimit(w.Header(), limiter.Limit(), limited); err != nil {
		http.Error(w, "Too many connects from this address", http.StatusTooManyRequests)
		return false
	}
	return true
}

func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, handler transport.Handler) {
	if err := s.transport.Upgrade(w, r, handler); err != nil {
		s.options.Metrics.upgradeErrors.Inc()
		level := slog.LevelDebug // mostly clients that do not speak WebSocket
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			level = slog.LevelWarn
		}
		s.options.Logger.Log(r.Context(), level, "upgrade failed", "error", err)
	}
}

// request is a REST request whose signature was checked.
type request struct {
	*http.Request
	app    *apps.App
	limits apps.Limits
	body   []byte
	answer http.Header // of the answer
}

// appHandler answers a request; an error becomes its status and text.
type appHandler func(r *request) (answer any, err error)

// signed wraps a handler with what all REST requests share: limits, the app, the signature.
func (s *Server) signed(h appHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		app, status, answer := s.answer(w, r, h)
		w.Header().Set("Content-Type", contentType(status))
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		w.WriteHeader(status)
		_, _ = w.Write(answer) // the client is gone; nobody is left to tell
		s.options.Metrics.answered(app, status, len(answer))
	})
}

func contentType(status int) string {
	if status == http.StatusOK {
		return "application/json"
	}
	return "text/plain; charset=utf-8"
}

// answer handles a request. The app is nil if the request did not get as far as that.
func (s *Server) answer(
	w http.ResponseWriter, r *http.Request, h appHandler,
) (app *apps.App, status int, body []byte) {
	app, err := s.admit(w, r)
	var result any
	if err == nil {
		result, err = s.handle(w, r, app, h)
	}
	if err == nil {
		if body, err = encode(result); err == nil {
			return app, http.StatusOK, body
		}
	}
	var known *requestError
	if !errors.As(err, &known) {
		s.options.Logger.Error("request failed", "path", r.URL.Path, "error", err)
		known = &requestError{internalError, "Internal error"}
	}
	s.options.Metrics.rejected.WithLabelValues(known.name).Inc()
	return app, known.status, []byte(known.text + "\n")
}

// admit holds a request against the limit of its address and finds its app, in this order: a
// look-up may cost a query.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) (*apps.App, error) {
	limited := s.options.Metrics.limit("api", s.options.APILimit, s.options.Clients.Of(r))
	if err := tellLimit(w.Header(), s.options.APILimit.Limit(), limited); err != nil {
		return nil, err
	}
	app, err := s.apps.FindByID(r.Context(), r.PathValue("app"))
	switch {
	case errors.Is(err, apps.ErrNotFound):
		return nil, fail(unknownApp, "Unknown app")
	case err != nil:
		s.options.Logger.Debug("app not looked up", "error", err)
		w.Header().Set("Retry-After", "1")
		return nil, fail(appUnavailable, "The app cannot be looked up at the moment")
	}
	return app, nil
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request, app *apps.App, h appHandler) (any, error) {
	// The signature covers the body's MD5, so it is checked before a byte of the body is kept.
	query, err := verify(r, app, time.Now())
	if err != nil {
		return nil, err
	}
	body, err := s.readBody(w, r)
	if err != nil {
		return nil, err
	}
	s.options.Metrics.called(app, len(body))
	if err := verifyBody(query, body); err != nil {
		return nil, err
	}
	if !app.Enabled {
		return nil, fail(disabledApp, "The app is disabled")
	}
	if r.Method != http.MethodPost { // GET, and HEAD, which costs as much
		limit, result := s.hub.AllowRead(app)
		if err := tellLimit(w.Header(), limit, result); err != nil {
			s.options.Metrics.quotaExceeded("read_requests")
			return nil, err
		}
	}
	return h(&request{r, app, app.Limits.WithDefaults(s.options.Defaults), body, w.Header()})
}

func (s *Server) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.options.MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, fail(largeBody, "The body is over %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, fail(unreadableBody, "The body could not be read")
	}
	return body, nil
}

// tellLimit sets the headers of a rate limit and refuses what is over it.
func tellLimit(header http.Header, limit int, result ratelimit.Result) error {
	if limit <= 0 {
		return nil
	}
	reset := strconv.Itoa(int((result.ResetAfter + time.Second - 1) / time.Second))
	header.Set("X-RateLimit-Limit", strconv.Itoa(limit))
	header.Set("X-RateLimit-Remaining", strconv.Itoa(result.Remaining))
	header.Set("X-RateLimit-Reset", reset)
	if result.OK {
		return nil
	}
	header.Set("Retry-After", reset)
	return fail(rateLimited, "Too many requests, the limit is %d", limit)
}
