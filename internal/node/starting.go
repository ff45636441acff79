package node

import (
	"net/http"
	"net/http/pprof"
	"strings"
	"sync/atomic"

	"github.com/parleyio/parley/internal/primitives"
	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/transport"
)

// face is what a port shows: one thing while the node starts, another when it serves.
type face struct{ shown atomic.Pointer[http.Handler] }

// ServeHTTP implements http.Handler.
func (f *face) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*f.shown.Load()).ServeHTTP(w, r) }

func (f *face) show(h http.Handler) { f.shown.Store(&h) }

// waits tells probes and "parley cluster status" what the start waits for.
func (n *Node) waits(what string) { n.health.Starting(what) }

// welcome has every port answer while the node starts: that may take as long as the others of
// a cluster need to come, and probes, clients and people shall hear what is going on.
func (n *Node) welcome() error {
	prefix := strings.TrimSuffix(n.config.Channels.PathPrefix, "/")
	waiting := func() string { text, _ := n.health.Waiting(); return text }
	later := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "The node is starting: "+waiting(), http.StatusServiceUnavailable)
	}
	mux := http.NewServeMux()
	n.health.Register(mux, prefix, n.config.HTTP.UsageEnabled)
	mux.HandleFunc(prefix+"/app/", refuseStarting(n.transport, later))
	if n.config.Admin.Enabled {
		token, err := n.adminToken()
		if err != nil {
			return err
		}
		var cluster admin.Cluster
		if n.config.Clustered() {
			cluster = n
		}
		handler := admin.NewStarting(cluster, token, waiting, n.log.With("part", "admin"))
		mux.Handle(prefix+"/admin/v1/", http.StripPrefix(prefix, handler))
	}
	if n.config.Primitives.Enabled {
		mux.Handle(prefix+primitives.PathPrefix, primitives.Starting(waiting))
	}
	mux.HandleFunc("/", later)
	n.channels.show(mux)
	n.probes.show(n.probing())
	n.welcomeIM(later)
	n.serve()
	return nil
}

// refuseStarting tells a client over its WebSocket to come back, since a browser does not
// show its page why a handshake failed.
func refuseStarting(t *transport.Server, later http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			later(w, r)
			return
		}
		_ = t.Upgrade(w, r, pusher.RefuseStarting()) // a client that does not speak WebSocket was answered
	}
}

// probing is what the metrics port answers, all the time.
func (n *Node) probing() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", n.metrics.Handler())
	if n.config.Metrics.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	n.health.Register(mux, "", false)
	return mux
}
