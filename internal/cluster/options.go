package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"
)

// Defaults of Options.
const (
	DefaultDomain            = "parley"
	DefaultPort              = 11110
	DefaultHeartbeatInterval = time.Second
	DefaultNodeTimeout       = 5 * time.Second
	DefaultCleanupInterval   = time.Second
	DefaultProbeTimeout      = time.Second
)

// Options configure Discover and Start. Zero values take the defaults named.
type Options struct {
	// DataDir keeps node.id and cluster.json. It must exist.
	DataDir string
	// Secret proves to other nodes that this one belongs to them. At least MinSecretSize
	// bytes, random: whoever listens can try short ones at leisure.
	Secret string
	// Domain names the cluster; nodes of other domains are ignored. Letters, digits, - _ and
	// dots; default DefaultDomain.
	Domain string
	// Seeds are where to ask: host, host:port, 10.0.0.5-9, 10.0.0.*, each with or without a
	// port. A DNS name stands for all its addresses. Own addresses do no harm.
	Seeds []string
	// BootstrapExpect is how many nodes with RoleStore form a new cluster together: 2 or
	// more, the same on every node, and more than half of those that will ever start apart
	// from each other; 0 never forms one, only joins.
	BootstrapExpect int

	// BindHost is the address listened on; empty is every address.
	BindHost string
	// BindPort is the hello port; the next one is for the engine's routes. If one of them is
	// taken the next pair is tried, up to PortTries pairs. Default DefaultPort.
	BindPort int
	// PortTries is how many pairs of ports are tried here, and at each seed that is not a
	// range. Default 5.
	PortTries int
	// AdvertiseHost is what others are told to connect to; default BindHost, or the first
	// address of this machine that is not loopback.
	AdvertiseHost string
	// AdvertisePort is the hello port that others are told, if it differs from the bound one.
	AdvertisePort int
	// AdvertiseRoutePort is the route port that others are told, if it differs from the
	// bound one.
	AdvertiseRoutePort int
	// TLS, when set, wraps the hello protocol: certificates, RootCAs and ClientCAs are
	// required, and both sides must show a certificate.
	TLS *tls.Config

	// Name is for people; default the host's name.
	Name string
	// Roles of the node; default all five.
	Roles []string
	// SubDomain groups nodes within the domain; free.
	SubDomain string
	// Properties and Addresses are published as given, Addresses beside hello and route.
	Properties map[string]string
	Addresses  map[string]string
	// Version of the program, for people.
	Version string
	// Importing tells that this node brings what it stored alone, see Member.
	Importing bool

	// OverBus says that the nodes find each other on the signal alone, see Meet: who reaches the
	// same bus belongs. Secret, Seeds, BootstrapExpect, TLS and the ports are not used then.
	OverBus bool

	// ProbeTimeout bounds one question to one address during discovery.
	ProbeTimeout time.Duration
	// HeartbeatInterval is between two heartbeats. NodeTimeout after the last one a node is
	// dead; it must be at least twice the interval. CleanupInterval is between two looks.
	HeartbeatInterval time.Duration
	NodeTimeout       time.Duration
	CleanupInterval   time.Duration

	// Logger takes the log; nil is slog.Default.
	Logger *slog.Logger
	// Dropped counts what was lost under a reason, one of the Drop constants; may be nil.
	Dropped func(reason string)
	// Waiting is told during Discover what the node waits for, whenever that changes; may be
	// nil.
	Waiting func(what string)
	// Forgotten is called once when this node learns that it was taken out of the cluster. The
	// same holds for it as for Evicted. May be nil.
	Forgotten func()
	// Evicted is called when this node learns that others had declared it dead, or that it
	// was paused so long that they must have. It has a new incarnation then and should send
	// its state again. It is called from the membership's loop and must neither wait nor call
	// a method of Membership other than View, Subscribe and Loads. May be nil.
	Evicted func()
}

// Roles returns those of a node that does everything.
func Roles() []string {
	return []string{RoleGateway, RoleStore, RoleManager, RoleWorker, RoleKeyManager}
}

// withDefaults returns the options with every default filled in, or what is wrong with them.
func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Domain, DefaultDomain)
	setDefault(&o.BindPort, DefaultPort)
	setDefault(&o.PortTries, 5)
	setDefault(&o.ProbeTimeout, DefaultProbeTimeout)
	setDefault(&o.HeartbeatInterval, DefaultHeartbeatInterval)
	setDefault(&o.NodeTimeout, DefaultNodeTimeout)
	setDefault(&o.CleanupInterval, DefaultCleanupInterval)
	if o.Name == "" {
		o.Name, _ = os.Hostname()
		setDefault(&o.Name, "node")
	}
	if len(o.Roles) == 0 {
		o.Roles = Roles()
	}
	o.Roles = slices.Compact(slices.Sorted(slices.Values(o.Roles)))
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Dropped == nil {
		o.Dropped = func(string) {}
	}
	if o.Evicted == nil {
		o.Evicted = func() {}
	}
	if o.Forgotten == nil {
		o.Forgotten = func() {}
	}
	if o.Waiting == nil {
		o.Waiting = func(string) {}
	}
	if err := o.check(); err != nil {
		return Options{}, fmt.Errorf("%w: %w", ErrInvalidOptions, err)
	}
	return o, nil
}

func setDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

func (o Options) check() error {
	switch {
	case o.DataDir == "":
		return errors.New("no data directory")
	case len(o.Secret) < MinSecretSize && !o.OverBus:
		return fmt.Errorf("cluster.secret must have %d bytes or more; make one with: openssl rand -hex 32",
			MinSecretSize)
	case len(o.Domain) > maxNameSize || !domainPattern.MatchString(o.Domain):
		return fmt.Errorf("cluster.domain %q must be letters, digits, - _ and dots", o.Domain)
	case o.BootstrapExpect < 0 || o.BootstrapExpect == 1 || o.BootstrapExpect > MaxMembers:
		return fmt.Errorf("cluster.bootstrap_expect is %d and must be 0 (only join) or 2 to %d; a node "+
			"of its own has no cluster section, and takes its data along when it gets one: start it "+
			"without cluster.seeds and cluster.bootstrap_expect", o.BootstrapExpect, MaxMembers)
	case o.BindPort < 1 || o.BindPort > 65534 || o.PortTries < 1 || o.PortTries > 100:
		return fmt.Errorf("cluster.bind_port is %d and must be 1 to 65534, with 1 to 100 tries", o.BindPort)
	case !isPort(o.AdvertisePort) || !isPort(o.AdvertiseRoutePort):
		return errors.New("an advertised port must be 0 to 65535")
	case o.HeartbeatInterval < 0 || o.CleanupInterval < 0 || o.ProbeTimeout < 0:
		return errors.New("an interval or timeout is negative")
	case o.NodeTimeout < 2*o.HeartbeatInterval:
		return fmt.Errorf("cluster.node_timeout is %v and must be at least twice cluster.heartbeat_interval, %v",
			o.NodeTimeout, o.HeartbeatInterval)
	case o.TLS != nil && (len(o.TLS.Certificates) == 0 && o.TLS.GetCertificate == nil ||
		o.TLS.RootCAs == nil || o.TLS.ClientCAs == nil):
		return errors.New("TLS between nodes is mutual: it needs a certificate, RootCAs and ClientCAs")
	}
	return nil
}

func isPort(port int) bool { return port >= 0 && port <= 65535 }

// AdvertisedHost is the host that others are told.
func (o Options) AdvertisedHost() string {
	if o.AdvertiseHost != "" {
		return o.AdvertiseHost
	}
	if ip := net.ParseIP(o.BindHost); o.BindHost != "" && (ip == nil || !ip.IsUnspecified()) {
		return o.BindHost
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	fallback := "127.0.0.1"
	for _, address := range addresses {
		network, ok := address.(*net.IPNet)
		if !ok || !network.IP.IsGlobalUnicast() {
			continue
		}
		if network.IP.To4() != nil {
			return network.IP.String()
		}
		fallback = network.IP.String()
	}
	return fallback
}
