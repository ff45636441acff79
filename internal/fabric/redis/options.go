package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

// DefaultPrefix stands before every key and channel when Options name no other.
const DefaultPrefix = "parley:"

// Ports that are meant when an address names none.
const (
	serverPort   = "6379"
	sentinelPort = "26379"
)

const (
	// dialTimeout bounds one attempt to connect to one server.
	dialTimeout = 2 * time.Second
	// pingInterval is between two questions on a connection whether the server is there, and
	// silenceTimeout is how long it may leave one open. Then the connection is given up.
	pingInterval   = time.Second
	silenceTimeout = 3 * time.Second
	// topologyInterval is between two looks at which server has what, beside those that errors
	// lead to: a server that stands still gives no error.
	topologyInterval = time.Second
	// bufferSize is that of the buffers of one connection, in bytes.
	bufferSize = 64 << 10
	// maxConnections bounds the connections to one server beside the one for commands.
	maxConnections = 256
	// idleTimeout is how long such a connection is kept that nobody uses.
	idleTimeout = time.Minute
	// maxRedirections bounds how often a cluster may send one command elsewhere.
	maxRedirections = 8
)

// Options say how to reach Redis, and configure a Provider.
type Options struct {
	// Servers are addresses: one server, or with Cluster some servers of a Redis Cluster, or with
	// SentinelMaster the Sentinels. Each is host, host:port, redis://user:password@host:port/2
	// or rediss:// for TLS.
	Servers []string
	// Username and Password log in at the server; an empty Username is Redis' user "default".
	Username, Password string
	// Database is the number of the database, which a Redis Cluster does not have.
	Database int
	// Prefix stands before every key and every channel; empty is DefaultPrefix. Those who share
	// a server and have different prefixes see nothing of each other.
	Prefix string
	// Cluster says that the servers are a Redis Cluster.
	Cluster bool
	// SentinelMaster is the name of the master that the Sentinels watch; empty when there are no
	// Sentinels.
	SentinelMaster                     string
	SentinelUsername, SentinelPassword string
	SentinelTLS                        *tls.Config
	// TLS is how to speak to the servers; nil is without TLS, or for rediss:// with the
	// authorities of this machine.
	TLS *tls.Config
	// Name appears in the server's lists of connections.
	Name string
	// WaitReplicas has a write of Documents, Queue, Locks and Log return only when so many
	// replicas have it, and otherwise with fabric.ErrUnavailable; 0 does not wait.
	WaitReplicas int
	// Logger takes what goes wrong in the background; nil is slog.Default.
	Logger *slog.Logger
	// Dropped is told of what is lost; nil is nobody.
	Dropped fabric.DropFunc
}

// check returns what is wrong with the options by themselves.
func (o Options) check() error {
	switch {
	case len(o.Servers) == 0:
		return errors.New("no server is given")
	case o.Cluster && o.SentinelMaster != "":
		return errors.New("a Redis Cluster has no Sentinels: give Cluster or SentinelMaster, not both")
	case len(o.Servers) > 1 && !o.Cluster && o.SentinelMaster == "":
		return errors.New("several servers are a Redis Cluster or Sentinels: say which")
	case o.SentinelMaster == "" && (o.SentinelUsername != "" || o.SentinelPassword != "" || o.SentinelTLS != nil):
		return errors.New("settings of Sentinels need the name of the master that they watch")
	case o.Database < 0:
		return fmt.Errorf("database number %d is negative", o.Database)
	case o.WaitReplicas < 0:
		return fmt.Errorf("the number of replicas to wait for, %d, is negative", o.WaitReplicas)
	case len(o.Prefix) > 128 || !printable(o.Prefix) || strings.ContainsAny(o.Prefix, "{}"):
		return fmt.Errorf("prefix %.300q may have 128 printable ASCII characters, and no space or braces", o.Prefix)
	case !printable(o.Name):
		return fmt.Errorf("name %.300q may have printable ASCII characters and no space", o.Name)
	}
	return nil
}

// printable says whether a text has printable ASCII characters alone, and no space.
func printable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// complete returns the options with what the addresses say put into the other fields, and the
// addresses as host:port.
func (o Options) complete() (Options, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Dropped == nil {
		o.Dropped = func(string, string, int) {}
	}
	if err := o.check(); err != nil {
		return o, err
	}
	servers := o.Servers
	o.Servers = nil
	var before *address
	for _, text := range servers {
		a, err := o.parse(text)
		if err != nil {
			return o, err
		}
		if before != nil && !a.agrees(*before) {
			return o, errors.New("the addresses of the servers differ in TLS, user, password or database")
		}
		before = &a
		o.Servers = append(o.Servers, a.place)
	}
	if err := o.adopt(*before); err != nil {
		return o, err
	}
	if o.Cluster && o.Database != 0 {
		return o, fmt.Errorf("a Redis Cluster has no database %d, only 0", o.Database)
	}
	return o, nil
}

// address is what the text of one says.
type address struct {
	place              string // host:port
	isURL, tls         bool
	username, password string
	database           int
}

// agrees says whether both addresses differ in their place alone.
func (a address) agrees(b address) bool {
	b.place = a.place
	return a == b
}

// parse reads one address. Errors do not show the text, which may hold a password.
func (o Options) parse(text string) (address, error) {
	port := serverPort
	if o.SentinelMaster != "" {
		port = sentinelPort
	}
	if !strings.Contains(text, "://") {
		place, err := placeOf(text, port)
		return address{place: place}, err
	}
	u, err := url.Parse(text)
	if err != nil {
		return address{}, errors.New("the URL of a server cannot be read")
	}
	a := address{isURL: true, tls: u.Scheme == "rediss"}
	if u.Scheme != "redis" && u.Scheme != "rediss" {
		return a, fmt.Errorf("the URL of a server begins with %s://, not redis:// or rediss://", u.Scheme)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return a, errors.New("the URL of a server has parts behind the database number that are not known")
	}
	if a.place, err = placeOf(u.Host, port); err != nil {
		return a, err
	}
	if u.User != nil {
		a.username = u.User.Username()
		a.password, _ = u.User.Password()
	}
	if number := strings.Trim(u.Path, "/"); number != "" {
		if a.database, err = strconv.Atoi(number); err != nil || a.database < 0 {
			return a, fmt.Errorf("the URL of a server has a path %.50q that is not the number of a database", u.Path)
		}
	}
	return a, nil
}

// placeOf returns host or host:port as host:port.
func placeOf(text, port string) (string, error) {
	host, given, err := net.SplitHostPort(text)
	if err != nil {
		if host, given, err = net.SplitHostPort(text + ":" + port); err != nil {
			host, given, err = net.SplitHostPort("[" + text + "]:" + port)
		}
	}
	number, numberErr := strconv.ParseUint(given, 10, 16)
	if err != nil || host == "" || numberErr != nil || number == 0 || strings.ContainsAny(host, "@/ ") {
		return "", errors.New("the address of a server is not host:port")
	}
	return net.JoinHostPort(host, given), nil
}

// adopt takes over what the addresses say beside places.
func (o *Options) adopt(a address) error {
	settings := &o.TLS
	if o.SentinelMaster != "" {
		settings = &o.SentinelTLS
		if a.username != "" || a.password != "" || a.database != 0 {
			return errors.New("the URLs are those of Sentinels: give user, password and database of the servers by themselves")
		}
	}
	switch {
	case a.isURL && !a.tls && *settings != nil:
		return errors.New("a redis:// URL is without TLS, and TLS is configured: write rediss://")
	case a.tls && *settings == nil:
		*settings = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	differ := func(field, inURL string) bool { return field != "" && inURL != "" && field != inURL }
	if differ(o.Username, a.username) || differ(o.Password, a.password) ||
		o.Database != 0 && a.database != 0 && o.Database != a.database {
		return errors.New("user, password or database stand in the URL and by themselves, and differ")
	}
	if a.username != "" {
		o.Username = a.username
	}
	if a.password != "" {
		o.Password = a.password
	}
	if a.database != 0 {
		o.Database = a.database
	}
	return nil
}

// client translates complete options for the client library. Dialling ends with life.
func (o Options) client(life context.Context) rueidis.ClientOption {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: pingInterval}
	return rueidis.ClientOption{
		InitAddress: slices.Clone(o.Servers),
		Username:    o.Username,
		Password:    o.Password,
		ClientName:  o.Name,
		SelectDB:    o.Database,
		TLSConfig:   o.TLS,
		Dialer:      dialer,
		DialCtxFn:   dialUntil(life),
		Sentinel: rueidis.SentinelOption{
			MasterSet: o.SentinelMaster, Username: o.SentinelUsername, Password: o.SentinelPassword,
			TLSConfig: o.SentinelTLS, ClientName: o.Name, Dialer: dialer,
			TopologyRefreshInterval: topologyInterval,
		},
		ClusterOption: rueidis.ClusterOption{
			ShardsRefreshInterval: topologyInterval, MaxMovedRedirections: maxRedirections,
		},
		ForceSingleClient:   !o.Cluster && o.SentinelMaster == "",
		ConnWriteTimeout:    silenceTimeout,
		PipelineMultiplex:   -1, // one connection, so that commands are in order and few
		BlockingPoolSize:    maxConnections,
		BlockingPoolCleanup: idleTimeout,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,
		DisableCache:        true, // of the client: it would be one more copy that may be stale
		DisableRetry:        true, // it does not know which commands bear a repetition, and when to stop
		AlwaysPipelining:    true, // otherwise a caller that leaves breaks the connection
	}
}

// dialUntil returns a function that connects, and gives up when life ends.
func dialUntil(life context.Context) func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
	return func(ctx context.Context, place string, dialer *net.Dialer, settings *tls.Config) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialer.Timeout)
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		conn, err := dialer.DialContext(ctx, "tcp", place)
		if err != nil || settings == nil {
			return conn, err
		}
		if settings.ServerName == "" {
			settings = settings.Clone()
			settings.ServerName, _, _ = net.SplitHostPort(place) // is host:port
		}
		sealed := tls.Client(conn, settings)
		if err := sealed.HandshakeContext(ctx); err != nil {
			_ = conn.Close() // it is of no use
			return nil, fmt.Errorf("TLS handshake with %s: %w", place, err)
		}
		return sealed, nil
	}
}
