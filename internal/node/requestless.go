package node

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// requestless counts connections that end without a complete request: clients that send
// their header too slowly, that send no HTTP, or that only look whether the port is open.
type requestless struct {
	drop  func(reason string)
	conns sync.Map // net.Conn to *atomic.Bool, true once a request was complete
}

// dropNoRequest is the reason under which they are counted.
const dropNoRequest = "no_request"

type servedKey struct{}

// attach installs the count in a server.
func (q *requestless) attach(server *http.Server) {
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(servedKey{}).(*atomic.Bool).Store(true)
		handler.ServeHTTP(w, r)
	})
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		served := new(atomic.Bool)
		q.conns.Store(c, served)
		return context.WithValue(ctx, servedKey{}, served)
	}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		if state != http.StateClosed && state != http.StateHijacked {
			return
		}
		if served, known := q.conns.LoadAndDelete(c); known && !served.(*atomic.Bool).Load() {
			q.drop(dropNoRequest)
		}
	}
}
