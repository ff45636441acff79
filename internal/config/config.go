// Package config declares every option of Parley once: its key, default, documentation
// and validation. The TOML file, the environment, the flags and the generated reference
// page are all read off that one declaration.
//
// It may import the standard library and configuration parsers. It must never import
// another room of Parley: everybody reads the configuration, it reads nobody.
package config

import (
	"io/fs"
	"net/netip"
	"time"
)

// Config is a complete, validated configuration. Zero values have no meaning of their
// own: use Load or Default, which fill in every default.
type Config struct {
	PortOffset int // added to every listening port, as in WSO2's carbon.xml
	Node       Node
	Cluster    Cluster
	Log        Log
	Channels   Channels
	HTTP       HTTP
	TLS        TLS
	UnixSocket UnixSocket
	Transport  Transport
	Limits     Limits
	Presence   Presence
	Cache      Cache
	RateLimit  RateLimit
	Webhooks   Webhooks
	Primitives Primitives
	IM         IM
	Console    Console
	AppStore   AppStore
	Admin      Admin
	Metrics    Metrics
	Fabric     Fabric
	Engine     Engine
	Redis      Redis
	NATS       NATS
	Rabbitmq   Rabbitmq
	Shutdown   Shutdown
	Apps       []App // [[apps]] tables of the file; read-only at run time
}

// Node identifies this process.
type Node struct {
	Name      string   // shown in logs; default is the host name
	DataDir   string   // everything that must persist lives below it
	Roles     []string // what the node does in a cluster; empty for everything
	SubDomain string   // groups nodes within the domain, as in WSO2's subDomain
	// WorkerMode says what the node does in the words of NocoBase's WORKER_MODE; when it is
	// set, Load has filled in Roles from it, see WorkerModeRoles.
	WorkerMode string
}

// Cluster configures how nodes find each other. A node is one of a cluster when Seeds or
// BootstrapExpect is set.
type Cluster struct {
	Domain          string
	Secret          string
	Seeds           []string
	BootstrapExpect int

	Properties map[string]string // shown to everybody who looks at the cluster

	BindHost           string
	BindPort           int // for other nodes; the next one is for the engine
	AdvertiseHost      string
	AdvertisePort      int
	AdvertiseRoutePort int

	HeartbeatInterval time.Duration
	NodeTimeout       time.Duration
	CleanupInterval   time.Duration
	// HealthEnabled is always true in a cluster; it is there because Sockudo has a switch.
	HealthEnabled bool

	CertFile string // mutual TLS between nodes when all three are set
	KeyFile  string
	CAFile   string
}

// Enabled tells whether this node is one of a cluster.
func (c Cluster) Enabled() bool { return len(c.Seeds) > 0 || c.BootstrapExpect > 0 }

// Log configures the program's own log.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // text or json
}

// Channels configures the Pusher surface's listener and its timeouts.
type Channels struct {
	Host                      string
	Port                      int
	PathPrefix                string // in front of /app and /apps, "/" for none
	ActivityTimeout           time.Duration
	PongTimeout               time.Duration
	UserAuthenticationTimeout time.Duration
	StrictProtocol            bool // refuse a missing or unsupported protocol version (4006 to 4008)
}

// HTTP configures what all HTTP requests share.
type HTTP struct {
	TrustedProxies []netip.Prefix // whose X-Forwarded-For and PROXY headers are believed
	TrustHops      int            // how many addresses from the right of X-Forwarded-For are proxies
	ProxyProtocol  bool           // accept the PROXY protocol from trusted proxies
	MaxBody        int64          // bytes
	HeaderTimeout  time.Duration  // how long a client may take to send its request header
	CORSOrigins    []string
	UsageEnabled   bool // serve /usage
	TestPage       bool // serve the test page at /
}

// TLS configures TLS on the channels port. It is on when both files are set.
type TLS struct {
	CertFile     string
	KeyFile      string
	RedirectPort int // plain HTTP port that redirects to HTTPS; 0 for none
}

// UnixSocket configures an additional listener on a unix socket.
type UnixSocket struct {
	Path string // empty for none
	Mode fs.FileMode
}

// Transport configures the connections behind the upgrade.
type Transport struct {
	Mode           string // auto, event-loop or goroutine
	EventLoops     int    // 0 for one a processor
	MaxFrame       int64  // bytes of one incoming message
	MaxQueue       int64  // bytes that may wait for one slow client
	MaxBacklog     int64  // bytes that may wait for all clients before publishers are slowed
	MaxConnections int    // per node, 0 for no limit
	Compression    bool   // permessage-deflate
}

// Limits are the defaults for apps that set none of their own.
type Limits struct {
	MaxChannelNameLength          int
	MaxSubscriptionsPerConnection int
	MaxEventChannels              int
	MaxEventNameLength            int
	MaxEventPayload               int64 // bytes
	MaxEventBatch                 int
	MaxClientEventsPerSecond      int
}

// Presence holds the default limits of presence channels.
type Presence struct {
	MaxMembers    int
	MaxMemberSize int64 // bytes of channel_data
}

// Cache configures cache channels.
type Cache struct {
	TTL         time.Duration
	MaxChannels int // remembered events per node, the oldest goes first
}

// RateLimit limits requests by client address. A limit of 0 is none.
type RateLimit struct {
	APIRequests     int
	APIWindow       time.Duration
	Connects        int
	ConnectsWindow  time.Duration
	MaxTrackedPeers int // addresses remembered, the least recently seen goes first
}

// Webhooks configures outgoing webhooks of every app.
type Webhooks struct {
	BatchSize     int
	BatchInterval time.Duration
	Timeout       time.Duration
	Concurrency   int
	RetryInitial  time.Duration
	RetryMax      time.Duration
	RetryElapsed  time.Duration // afterwards a webhook becomes a dead letter
	LeaveDebounce time.Duration
	MaxPending    int // events waiting in memory for their batch
	MaxDead       int // dead letters kept, the oldest goes first
}

// Primitives configures cache, signals, queues, locks and ids for other applications, under /v1.
type Primitives struct {
	Enabled           bool
	MaxQueues         int // in the cluster
	MaxHeld           int // jobs on lease and locks that one node holds for clients
	MaxWaiting        int // requests that wait, and subscribers, on one node
	CacheMaxBytes     int64
	SignalsMaxAge     time.Duration // 0 for no limit
	SignalsMaxBytes   int64
	IdempotencyWindow time.Duration
	RequestsPerSecond int            // of a key without a limit of its own; 0 for none
	Keys              []PrimitiveKey // [[primitives.keys]] tables of the file; read-only at run time
}

// PrimitiveKey is one [[primitives.keys]] table. Either Token or TokenSHA256 is set.
type PrimitiveKey struct {
	ID                string
	Namespace         string
	Token             string
	TokenSHA256       string // 64 hexadecimal digits
	Scopes            []string
	RequestsPerSecond int
}

// Admin configures the administration API under /admin.
type Admin struct {
	Enabled bool
	Token   string // empty: generated at first start and kept in the data directory
}

// Metrics configures the Prometheus listener.
type Metrics struct {
	Enabled bool
	Host    string
	Port    int
	Prefix  string
	Pprof   bool // serve Go profiles on the same port
}

// Engine configures the embedded engine.
type Engine struct {
	Sync string // "always", or an interval such as "2m"
}

// Shutdown configures the end of the process.
type Shutdown struct {
	Grace time.Duration
	Delay time.Duration // between leaving the rotation and the grace
}

// App is one [[apps]] table. Unset numbers are nil and take the defaults of Limits and
// Presence.
type App struct {
	ID      string
	Name    string
	Key     string
	Secret  string
	Enabled bool

	MaxConnections            *int
	EnableClientMessages      bool
	EnableUserAuthentication  bool
	EnableWatchlistEvents     bool
	EnableSubscriptionCount   bool
	MaxClientEventsPerSecond  *int
	MaxBackendEventsPerSecond *int
	MaxReadRequestsPerSecond  *int
	MaxPresenceMembers        *int
	MaxPresenceMemberSize     *int64
	MaxChannelNameLength      *int
	MaxEventChannels          *int
	MaxEventNameLength        *int
	MaxEventPayload           *int64
	MaxEventBatch             *int
	AllowedOrigins            []string
	Webhooks                  []Webhook
}

// Webhook is one [[apps.webhooks]] table.
type Webhook struct {
	URL           string
	EventTypes    []string // empty for all
	ChannelPrefix string
	ChannelSuffix string
	ChannelRegexp string
	Headers       map[string]string
}
