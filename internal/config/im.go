package config

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// IM configures messaging: the protocol of WuKongIM and its HTTP API.
type IM struct {
	Enabled  bool
	Host     string
	TCPPort  int
	WSPort   int
	WSSPort  int // 0 is none
	HTTPPort int
	Slots    int

	WSSCertFile string // empty for that of TLS
	WSSKeyFile  string

	TokenAuth       bool
	ManagerUID      string
	ManagerToken    string // empty: generated at first start and kept in the data directory
	OpenAPI         bool   // the HTTP API asks for no token
	Encryption      bool
	JSONRpc         bool
	CommandSync     bool
	PersonAllowlist bool

	IdleTimeout     time.Duration
	RetryInterval   time.Duration
	RetryAttempts   int
	MaxPendingSends int // of one connection, as the following ones
	SendRate        int // messages a second; 0 is no limit
	SendBurst       int
	PacketRate      int // packets a second; 0 is no limit

	Retention         []string // TYPE:AGE:COUNT:BYTES, see IMRetention
	RetentionInterval time.Duration

	ExternalIP      string
	ExternalTCPAddr string
	ExternalWSAddr  string
	ExternalWSSAddr string
	IntranetTCPAddr string

	DatasourceURL         string
	DatasourceChannelInfo bool

	WebhookURL           string
	WebhookGRPCAddr      string
	AgentWebhookURL      string
	WebhookSecret        string
	WebhookEvents        []string
	WebhookInterval      time.Duration
	WebhookBatchSize     int
	WebhookCompressAbove int
}

// imOptions declare messaging.
var imOptions = []field[Config]{
	option("im.enabled", "false", boolKind,
		"Serve messaging: clients of WuKongIM over TCP and WebSocket, and its HTTP API. Messages are kept on disk, "+
			"so fabric.documents must be embedded or nats.",
		func(c *Config) *bool { return &c.IM.Enabled }),
	option("im.host", "0.0.0.0", stringKind,
		"Address that the ports of messaging listen on; empty for all.",
		func(c *Config) *string { return &c.IM.Host }, isHost),
	option("im.tcp_port", "5100", intKind,
		"Port for clients over TCP; 0 takes any free port.",
		func(c *Config) *int { return &c.IM.TCPPort }, isPort),
	option("im.ws_port", "5200", intKind,
		"Port for clients over WebSocket; 0 takes any free port.",
		func(c *Config) *int { return &c.IM.WSPort }, isPort),
	option("im.wss_port", "0", intKind,
		"Port for clients over WebSocket with TLS, 5210 in WuKongIM; 0 for none.",
		func(c *Config) *int { return &c.IM.WSSPort }, isPort),
	option("im.wss_cert_file", "", stringKind,
		"PEM file with the certificate chain of im.wss_port; empty for tls.cert_file and tls.key_file.",
		func(c *Config) *string { return &c.IM.WSSCertFile }),
	option("im.wss_key_file", "", stringKind,
		"PEM file with the private key of that certificate.",
		func(c *Config) *string { return &c.IM.WSSKeyFile }),
	option("im.http_port", "5001", intKind,
		"Port of the HTTP API for the application; 0 takes any free port.",
		func(c *Config) *int { return &c.IM.HTTPPort }, isPort),
	option("im.slots", "3", intKind,
		"Logs that the channels are spread over. It is the same on all nodes and stays as it is: the messages of "+
			"another number would not be found. More let larger machines store more at a time; on small ones fewer are faster.",
		func(c *Config) *int { return &c.IM.Slots }, atLeast(1), atMost(256)),
	option("im.token_auth", "false", boolKind,
		"Ask clients for the token that the application has set by /user/token.",
		func(c *Config) *bool { return &c.IM.TokenAuth }),
	option("im.manager_uid", "____manager", stringKind,
		"User who may send everything; logs in with im.manager_token.",
		func(c *Config) *string { return &c.IM.ManagerUID }),
	option("im.manager_token", "", stringKind,
		"Token that the HTTP API asks for in the header token; empty to generate one and keep it in node.data_dir.",
		func(c *Config) *string { return &c.IM.ManagerToken }, printable).secret(),
	option("im.open_api", "false", boolKind,
		"Answer the HTTP API without a token, for those who let nobody else reach the port.",
		func(c *Config) *bool { return &c.IM.OpenAPI }),
	option("im.encryption", "true", boolKind,
		"Encrypt payloads as existing clients expect it. It hides them from listeners only; TLS protects.",
		func(c *Config) *bool { return &c.IM.Encryption }),
	option("im.json_rpc", "true", boolKind,
		"Serve clients that speak JSON-RPC on the same ports.",
		func(c *Config) *bool { return &c.IM.JSONRpc }),
	option("im.command_sync", "true", boolKind,
		"Answer /message/sync with commands that wait for a user.",
		func(c *Config) *bool { return &c.IM.CommandSync }),
	option("im.person_allowlist", "false", boolKind,
		"Let only those on a person's allow list write to that person.",
		func(c *Config) *bool { return &c.IM.PersonAllowlist }),
	option("im.idle_timeout", "3m", durationKind,
		"Silence after which a client is disconnected; clients ping every 60 s.",
		func(c *Config) *time.Duration { return &c.IM.IdleTimeout }, lasting(time.Second)),
	option("im.retry_interval", "60s", durationKind,
		"How long a client may take to confirm a message before it is sent again.",
		func(c *Config) *time.Duration { return &c.IM.RetryInterval }, lasting(100*time.Millisecond)),
	option("im.retry_attempts", "5", intKind,
		"How often a message is sent again that a client does not confirm.",
		func(c *Config) *int { return &c.IM.RetryAttempts }, atLeast(0)),
	option("im.max_pending_sends", "1024", intKind,
		"Messages that one connection may have on their way into the log; more are refused with reason 22.",
		func(c *Config) *int { return &c.IM.MaxPendingSends }, atLeast(1)),
	option("im.send_rate", "10000", intKind,
		"Messages that one connection may send in a second; more are refused with reason 22. 0 for no limit.",
		func(c *Config) *int { return &c.IM.SendRate }, atLeast(0)),
	option("im.send_burst", "20000", intKind,
		"Messages that it may send at once, after a rest.",
		func(c *Config) *int { return &c.IM.SendBurst }, atLeast(1)),
	option("im.packet_rate", "50000", intKind,
		"Packets of any kind that one connection may send in a second, but for confirmations of what it was sent; "+
			"with more it is ended. 0 for no limit.",
		func(c *Config) *int { return &c.IM.PacketRate }, atLeast(0)),
	option("im.retention", "", listKind,
		"How much of channels is kept, as TYPE:AGE:COUNT:BYTES, such as 2:720h:10000:0 for groups; TYPE is a number, or "+
			"* for all others, and 0 is no limit. A channel can have its own by /channel/info.",
		func(c *Config) *[]string { return &c.IM.Retention }, areRetentions),
	option("im.retention_interval", "1m", durationKind,
		"Time between two looks for messages that need not be kept.",
		func(c *Config) *time.Duration { return &c.IM.RetentionInterval }, lasting(100*time.Millisecond)),
	option("im.external_ip", "", stringKind,
		"Address of this node that clients are told; empty for what they reached it by.",
		func(c *Config) *string { return &c.IM.ExternalIP }),
	option("im.external_tcp_addr", "", stringKind,
		"host:port that clients are told for TCP, such as a balancer's; empty for this node's.",
		func(c *Config) *string { return &c.IM.ExternalTCPAddr }),
	option("im.external_ws_addr", "", stringKind,
		"ws:// URL that clients are told; empty for this node's.",
		func(c *Config) *string { return &c.IM.ExternalWSAddr }),
	option("im.external_wss_addr", "", stringKind,
		"wss:// URL that clients are told; empty for this node's im.wss_port, if it has one.",
		func(c *Config) *string { return &c.IM.ExternalWSSAddr }),
	option("im.intranet_tcp_addr", "", stringKind,
		"host:port that those who ask with intranet=1 are told for TCP; empty for this node's.",
		func(c *Config) *string { return &c.IM.IntranetTCPAddr }),
	option("im.datasource_url", "", stringKind,
		"Asked for the members and lists of channels that nobody has told of; empty for nowhere.",
		func(c *Config) *string { return &c.IM.DatasourceURL }, isOptionalURL),
	option("im.datasource_channel_info", "false", boolKind,
		"Ask it for the flags of such channels as well (getChannelInfo).",
		func(c *Config) *bool { return &c.IM.DatasourceChannelInfo }),
	option("im.webhook_url", "", stringKind,
		"Where the application is told of messages and logins; empty for nowhere.",
		func(c *Config) *string { return &c.IM.WebhookURL }, isOptionalURL),
	option("im.webhook_grpc_addr", "", stringKind,
		"host:port where the application is told of the same over gRPC, without TLS; then im.webhook_url is told nothing.",
		func(c *Config) *string { return &c.IM.WebhookGRPCAddr }, isOptionalAddress),
	option("im.agent_webhook_url", "", stringKind,
		"Where msg.notify of agents' channels (type 11) goes as well, over HTTP; empty for nowhere.",
		func(c *Config) *string { return &c.IM.AgentWebhookURL }, isOptionalURL),
	option("im.webhook_secret", "", stringKind,
		"Key of the HMAC-SHA256 over the body in the header X-Parley-Signature, over gRPC in its metadata; empty for none.",
		func(c *Config) *string { return &c.IM.WebhookSecret }, printable).secret(),
	option("im.webhook_events", "", listKind,
		"Events that are told: user.onlinestatus, msg.notify, msg.offline; empty for all.",
		func(c *Config) *[]string { return &c.IM.WebhookEvents }),
	option("im.webhook_interval", "500ms", durationKind,
		"Longest time that messages wait for others to share their msg.notify.",
		func(c *Config) *time.Duration { return &c.IM.WebhookInterval }),
	option("im.webhook_batch_size", "100", intKind,
		"Most messages in one msg.notify.",
		func(c *Config) *int { return &c.IM.WebhookBatchSize }, atLeast(1)),
	option("im.webhook_compress_above", "0", intKind,
		"Compress the list of users of msg.offline when it has more; 0 for never.",
		func(c *Config) *int { return &c.IM.WebhookCompressAbove }, atLeast(0)),
}

// IMRetention is how much of the channels of a type is kept. A zero limit is none.
type IMRetention struct {
	Type  uint8 // 0 is all others
	Age   time.Duration
	Count uint64
	Bytes uint64
}

// ParseIMRetention reads TYPE:AGE:COUNT:BYTES.
func ParseIMRetention(text string) (r IMRetention, err error) {
	parts := strings.Split(text, ":")
	if len(parts) != 4 {
		return r, errors.New("must be TYPE:AGE:COUNT:BYTES")
	}
	if parts[0] != "*" {
		kind, err := strconv.ParseUint(parts[0], 10, 8)
		if err != nil || kind == 0 {
			return r, errors.New("must begin with the number of a type of channels, or *")
		}
		r.Type = uint8(kind)
	}
	if parts[1] != "0" {
		if r.Age, err = time.ParseDuration(parts[1]); err != nil || r.Age < 0 {
			return r, errors.New("must have an age such as 720h, or 0, behind the type")
		}
	}
	if r.Count, err = strconv.ParseUint(parts[2], 10, 63); err != nil {
		return r, errors.New("must have a number of messages behind the age, or 0")
	}
	if r.Bytes, err = strconv.ParseUint(parts[3], 10, 63); err != nil {
		return r, errors.New("must end with a number of bytes, or 0")
	}
	return r, nil
}

func areRetentions(list []string) error {
	for _, text := range list {
		if _, err := ParseIMRetention(text); err != nil {
			return err
		}
	}
	return nil
}

// WSSFiles returns the files of the certificate of im.wss_port; empty when there are none.
func (c Config) WSSFiles() (cert, key string) {
	if c.IM.WSSCertFile == "" && c.IM.WSSKeyFile == "" {
		return c.TLS.CertFile, c.TLS.KeyFile
	}
	return c.IM.WSSCertFile, c.IM.WSSKeyFile
}

// checkIM records what messaging needs and does not have.
func (l *loader) checkIM() {
	c := &l.config
	if !c.IM.Enabled {
		return
	}
	if cert, key := c.WSSFiles(); c.IM.WSSPort != 0 && (cert == "" || key == "") {
		l.conflict("im.wss_port", []string{"im.wss_cert_file", "im.wss_key_file"},
			"needs im.wss_cert_file and im.wss_key_file, or tls.cert_file and tls.key_file")
	}
	switch driver := c.Fabric.Chosen().Documents; driver {
	case DriverEmbedded, DriverNATS, DriverMemory:
	default:
		l.conflict("im.enabled", []string{"fabric.documents", "fabric.driver"}, "keeps messages in logs, which "+driver+
			" does not carry; set fabric.documents to embedded or nats, or im.enabled to false")
	}
}
