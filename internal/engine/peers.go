package engine

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"
)

// peersInterval is how often the routes are looked at. The server tells nobody that a route
// ended, and a look takes microseconds.
const peersInterval = 100 * time.Millisecond

// ErrStandalone says that the engine is no member of a cluster.
var ErrStandalone = errors.New("engine is standalone")

// Peers returns the names of the servers that there is a route to, sorted. A server whose
// process has died is missing at once; one that is paused or cut off, after some seconds.
func (e *Engine) Peers() []string {
	if e.cluster == nil {
		return nil
	}
	routes, err := e.server.Routez(nil)
	if err != nil {
		return nil
	}
	names := map[string]struct{}{}
	for _, route := range routes.Routes {
		if route.RemoteName != "" {
			names[route.RemoteName] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// watchPeers calls PeersChanged until the engine stops.
func (e *Engine) watchPeers(changed func([]string)) {
	defer e.background.Done()
	ticker := time.NewTicker(peersInterval)
	defer ticker.Stop()
	var last []string
	for {
		if peers := e.Peers(); !slices.Equal(peers, last) {
			last = peers
			changed(slices.Clone(peers))
		}
		select {
		case <-ticker.C:
		case <-e.stopping:
			return
		}
	}
}

// RouteAddress is host:port where the engine accepts routes; empty when standalone.
func (e *Engine) RouteAddress() string {
	if e.cluster == nil {
		return ""
	}
	address := e.server.ClusterAddr()
	if address == nil {
		return ""
	}
	host := e.cluster.Host
	if host == "" {
		host = address.IP.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(address.Port))
}

// isOwn says whether an address of a route is that of this engine.
func (e *Engine) isOwn(address string) bool {
	return address == e.cluster.Advertise || address == e.RouteAddress()
}

// AddRoutes makes the engine look for further members, at once and for ever. Those that it
// knows already, itself among them, may be given again. A member that joins has all others
// as its routes and is found without this; but only those who have its address go on looking
// for it when the route was lost. Certificates are read from their files again.
func (e *Engine) AddRoutes(routes ...string) error {
	if e.cluster == nil {
		return fmt.Errorf("add routes: %w", ErrStandalone)
	}
	e.routesMu.Lock()
	defer e.routesMu.Unlock()
	cluster := *e.cluster
	cluster.Routes = slices.Concat(e.routes, routes)
	options := e.options
	options.Cluster = &cluster
	next, err := options.serverOptions()
	if err != nil {
		return fmt.Errorf("add routes: %w", err)
	}
	// The ports that the server was free to choose have been chosen.
	if address := e.server.ClusterAddr(); address != nil {
		next.Cluster.Port = address.Port
	}
	if address, ok := e.server.Addr().(*net.TCPAddr); ok {
		next.Port = address.Port
	}
	if err := e.server.ReloadOptions(next); err != nil {
		return fmt.Errorf("add routes: %w", err)
	}
	e.routes = cluster.Routes
	return nil
}
