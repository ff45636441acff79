package engine

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// MinSecretSize is the size in bytes of the shortest secret of a cluster.
const MinSecretSize = 16

// Names under which nodes and connections introduce themselves. The passwords that go with
// them are derived from the secret.
const (
	userRoute  = "route"
	userClient = "parley"
	userSystem = "system"

	systemAccount = server.DEFAULT_SYSTEM_ACCOUNT
	mainAccount   = server.DEFAULT_GLOBAL_ACCOUNT // has all streams, as in a standalone engine
)

const (
	// A route that answers no ping is given up after about routePing * (routePingsOut+1).
	// A process that dies is noticed at once, since its sockets close with it.
	routePing     = 2 * time.Second
	routePingsOut = 2
	// routeRetries bounds, in attempts of one second, how long a node tries to come back to
	// one that it knows from others only. Those in Routes are tried for ever.
	routeRetries = 120
)

// Cluster describes a node's place in a cluster.
type Cluster struct {
	// Name must be the same on all nodes of one cluster.
	Name string
	// Host and Port are where routes from other nodes are accepted. An empty Host is every
	// address, Port 0 a free one, see RouteAddress.
	Host string
	Port int
	// Advertise is host:port under which others reach the routes; empty is the address that
	// they are accepted at.
	Advertise string
	// Routes are the addresses of all members with a store, as nats://host:port or host:port;
	// that of this node may be among them. Fewer, and an engine may form a second cluster
	// beside the first. More, and a cluster does not form: for its first election it waits
	// for as many nodes with a store as there are routes (this node not counted unless it is
	// among them). So nodes without a store, which may list everybody, are not for the lists
	// of others: they come by themselves.
	Routes []string
	// Secret is what all nodes know and nobody else; MinSecretSize bytes at least. It is
	// used to derive passwords only, and neither is ever logged.
	Secret string
	// TLS encrypts the routes and lets in those only who have a certificate of the CA; nil
	// leaves routes in the clear, passwords too, which only a private network permits.
	TLS *TLSOptions
	// NoStore makes a node that stores nothing and has no vote: its connections use the
	// stores of the others.
	NoStore bool
	// PeersChanged is called with the names of the servers that there is a route to, sorted,
	// whenever they have changed, one call at a time and soon after. It may be nil.
	PeersChanged func(peers []string)
}

// check refuses what cannot work.
func (c *Cluster) check() error {
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n") {
		return fmt.Errorf("cluster name %q is empty or has spaces", c.Name)
	}
	if len(c.Secret) < MinSecretSize {
		return fmt.Errorf("the secret of a cluster must have %d bytes at least", MinSecretSize)
	}
	if c.Port < 0 || c.Port > 65535 {
		return fmt.Errorf("cluster port %d is out of range", c.Port)
	}
	_, err := c.routeURLs(c.Routes)
	return err
}

// apply makes a standalone server's options those of a member.
func (c *Cluster) apply(so *server.Options) error {
	routes, err := c.routeURLs(c.Routes)
	if err != nil {
		return err
	}
	so.Routes = routes
	so.Cluster = server.ClusterOpts{
		Name:           c.Name,
		Host:           c.Host,
		Port:           c.Port,
		Advertise:      c.Advertise,
		Username:       userRoute, // for routes to those who are known from others only
		Password:       c.password(userRoute),
		ConnectRetries: routeRetries,
		PingInterval:   routePing,
		MaxPingsOut:    routePingsOut,
	}
	if so.Cluster.Host == "" {
		so.Cluster.Host = "0.0.0.0"
	}
	if so.Cluster.Port == 0 {
		so.Cluster.Port = server.RANDOM_PORT
	}
	if c.TLS != nil {
		if so.Cluster.TLSConfig, err = c.TLS.Config(); err != nil {
			return err
		}
		so.Cluster.TLSTimeout = server.DEFAULT_ROUTE_CONNECT.Seconds() * 5
	}
	so.JetStream = !c.NoStore

	// Routes come up only when the server also listens for clients. Ours do not use it.
	so.DontListen = false
	so.Host, so.Port = "127.0.0.1", server.RANDOM_PORT
	so.CustomClientAuthentication = &gatekeeper{cluster: c}
	// When it leaves, ours are gone already; this is how long it waits for others.
	so.LameDuckDuration, so.LameDuckGracePeriod = time.Second, time.Millisecond
	return nil
}

// password derives the password of a user from the secret. Knowing one gives neither the
// secret nor another.
func (c *Cluster) password(user string) string {
	key, err := hkdf.Key(sha256.New, []byte(c.Secret), []byte(c.Name), "parley engine "+user, 32)
	if err != nil {
		panic(err) // only for lengths over 255 hashes
	}
	return base64.RawURLEncoding.EncodeToString(key)
}

// passwords are what must never be in a log.
func (c *Cluster) passwords() []string {
	return []string{c.Secret, c.password(userRoute), c.password(userClient), c.password(userSystem)}
}

// routeURLs adds the password to the addresses of members. Repeated ones are left out.
func (c *Cluster) routeURLs(routes []string) ([]*url.URL, error) {
	user := url.UserPassword(userRoute, c.password(userRoute))
	seen := map[string]bool{}
	var urls []*url.URL
	for _, route := range routes {
		address := route
		if _, rest, found := strings.Cut(route, "://"); found {
			address = rest
		}
		u, err := url.Parse("nats-route://" + address)
		if err != nil || u.User != nil || u.Hostname() == "" || u.Port() == "" || u.Host != address {
			return nil, fmt.Errorf("route %q is not of the form host:port or nats://host:port", route)
		}
		if seen[u.Host] {
			continue
		}
		seen[u.Host] = true
		u.User = user
		urls = append(urls, u)
	}
	// A reload of the server sorts them where they are while others read them. In order
	// already, they are not moved.
	slices.SortFunc(urls, func(a, b *url.URL) int { return strings.Compare(a.String(), b.String()) })
	return urls, nil
}

// gatekeeper lets clients in who know a password. The server's own list of users would do,
// were it not that a list with a user of the system account makes the server let in
// everybody else without one.
type gatekeeper struct {
	cluster *Cluster
	server  atomic.Pointer[server.Server] // set before the server listens
}

// Check implements server.Authentication. User and password come as one token: when routes
// are added, the server cuts clients with a user that is not on its list.
func (g *gatekeeper) Check(client server.ClientAuthentication) bool {
	token := []byte(client.GetOpts().Token)
	srv := g.server.Load()
	for user, account := range map[string]*server.Account{
		userClient: srv.GlobalAccount(),
		userSystem: srv.SystemAccount(),
	} {
		if subtle.ConstantTimeCompare(token, []byte(g.cluster.password(user))) == 1 {
			client.RegisterUser(&server.User{Account: account})
			return true
		}
	}
	return false
}
