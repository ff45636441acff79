// Package admin is the administration API of a node: apps, dead webhooks, keys and the node's
// cluster, as JSON over HTTP below PathPrefix, for whoever holds the token. Client is its
// other end.
//
// It may import apps, webhook and fabric. It must never import the hub, the transport, the
// membership or the engine: a change reaches the first two through the registry, and what
// it shows and does of the others comes through the interfaces Cluster and Keys.
package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

// PathPrefix is the path below which the API lives.
const PathPrefix = "/admin/v1/"

const (
	// maxBody is the size in bytes of the largest request body.
	maxBody = 1 << 20
	// requestTimeout bounds the work of one request.
	requestTimeout = 30 * time.Second
)

// DeadLetters keeps the webhooks that were given up; webhook.Emitter does. Its errors wrap
// fabric.ErrNotFound where there is none with that id.
type DeadLetters interface {
	ListDead(ctx context.Context, after string, limit int) ([]webhook.Dead, error)
	Replay(ctx context.Context, id string) error
	Discard(ctx context.Context, id string) error
}

var _ DeadLetters = (*webhook.Emitter)(nil)

// Handler serves the API. It does not limit the rate of requests: a token has 256 bits, which
// nobody guesses.
type Handler struct {
	apps    *apps.Registry
	dead    DeadLetters
	cluster Cluster                         // nil for a node of its own
	stores  func(ctx context.Context) error // as of WithStores, nil for a node of its own
	token   [sha256.Size]byte               // of the token, so that comparing tells nothing of its length
	closed  bool                            // there is no token, so nobody may enter
	log     *slog.Logger
	mux     *http.ServeMux
}

// New returns the handler for all paths below PathPrefix. Requests must carry token in an
// "Authorization: Bearer" header; with an empty token all are refused.
func New(registry *apps.Registry, dead DeadLetters, token string, log *slog.Logger) *Handler {
	h := &Handler{
		apps:   registry,
		dead:   dead,
		token:  sha256.Sum256([]byte(token)),
		closed: token == "",
		log:    log,
		mux:    http.NewServeMux(),
	}
	h.route("apps", methods{http.MethodGet: h.listApps, http.MethodPost: h.stored(h.createApp)})
	h.route("apps/{id}", methods{
		http.MethodGet: h.showApp, http.MethodPatch: h.stored(h.patchApp), http.MethodDelete: h.stored(h.deleteApp),
	})
	h.route("apps/{id}/rotate", methods{http.MethodPost: h.stored(h.rotateApp)})
	h.routeCluster()
	h.route("webhooks/dead-letters", methods{http.MethodGet: h.stored(h.listDead)})
	h.route("webhooks/dead-letters/{id}", methods{http.MethodDelete: h.stored(h.discardDead)})
	h.route("webhooks/dead-letters/{id}/replay", methods{http.MethodPost: h.stored(h.replayDead)})
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		h.fail(w, problem{http.StatusNotFound, CodeNotFound, "there is nothing at this path"})
	})
	return h
}

// NewStarting returns the handler of a node that does not serve yet: it shows the cluster, as
// far as the node knows it, and answers everything else with 503 and what waiting says.
func NewStarting(cluster Cluster, token string, waiting func() string, log *slog.Logger) *Handler {
	h := &Handler{
		cluster: cluster, token: sha256.Sum256([]byte(token)), closed: token == "", log: log, mux: http.NewServeMux(),
	}
	h.route("cluster", methods{http.MethodGet: h.showCluster})
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		h.fail(w, problem{http.StatusServiceUnavailable, CodeStarting, "the node is starting: " + waiting()})
	})
	return h
}

// endpoint does one request. What it returns without an error is written as JSON with the
// status, and nil as an empty body.
type endpoint func(r *http.Request) (status int, body any, err error)

// methods are the endpoints of one path by method.
type methods map[string]endpoint

// route adds the endpoints of one path. The mux itself would refuse a wrong method too, but
// not in JSON.
func (h *Handler) route(path string, endpoints methods) {
	h.mux.HandleFunc(PathPrefix+path, func(w http.ResponseWriter, r *http.Request) {
		serve, ok := endpoints[r.Method]
		if !ok {
			for method := range endpoints {
				w.Header().Add("Allow", method)
			}
			h.fail(w, problem{http.StatusMethodNotAllowed, CodeMethodNotAllowed,
				"this path does not have method " + r.Method})
			return
		}
		status, body, err := serve(r)
		if err != nil {
			h.fail(w, h.explain(r, err))
			return
		}
		h.write(w, status, body)
	})
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store") // there may be secrets in it
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if !h.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="parley"`)
		h.fail(w, problem{http.StatusUnauthorized, CodeUnauthorized,
			"the request needs the header Authorization: Bearer with the admin token"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	h.mux.ServeHTTP(w, r.WithContext(ctx))
}

func (h *Handler) authorized(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
	same := subtle.ConstantTimeCompare(sum[:], h.token[:]) == 1
	return same && !h.closed && strings.EqualFold(scheme, "Bearer")
}
