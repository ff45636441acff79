package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Ways to publish.
const (
	ViaHTTP         = "http"          // POST /apps/{id}/events
	ViaClientEvents = "client-events" // client-… events on private channels
)

// Limits of a configuration, so that every buffer and wait of a run is bounded.
const (
	maxConnections = 1_000_000
	maxPublishers  = 4096
	maxRate        = 10_000_000
	maxPayload     = 1 << 20 // bytes
	maxTime        = 24 * time.Hour
	maxReceivers   = 64
)

// Config describes one run. The zero value is not usable; start from DefaultConfig.
type Config struct {
	URLs               []string      // http://host:port[/prefix] of each node, used in turn
	AppID, Key, Secret string        // credentials of the app
	Connections        int           // subscribers
	Channels           int           // the subscribers are spread over these evenly
	ChannelPrefix      string        // "private-…" makes the subscribers authenticate
	Via                string        // ViaHTTP or ViaClientEvents
	Publishers         int           // keep-alive HTTP connections, or publishing sockets
	Rate               float64       // publishes per second in total; 0 is flat out
	Payload            int           // bytes of each event's data, at least MinPayload
	Warmup             time.Duration // load before the measured window
	Duration           time.Duration // the measured window
	Settle             time.Duration // rest between the last subscription and what follows
	Idle               bool          // measure connecting and memory instead of publishing
	Drop               bool          // measure connects while all the others are dropped
	Churn              bool          // measure changes of channel instead of publishing
	Presence           float64       // share of presence channels with Churn, 0 to 1
	ConnectRate        float64       // new connections per second with Drop
	ConnectConcurrency int           // handshakes in flight
	ConnectTimeout     time.Duration // for connecting, upgrading and subscribing, each
	Sources            []string      // local addresses to connect from, used in turn
	Loops              int           // receiving event loops
	PIDs               []int         // the server's processes, for CPU and memory (linux)

	drainStall time.Duration // without a delivery, until no more are waited for
}

// DefaultConfig is a small run against a server on this machine. It lacks credentials.
func DefaultConfig() Config {
	return Config{
		URLs:               []string{"http://127.0.0.1:6001"},
		Connections:        1000,
		Channels:           10,
		ChannelPrefix:      "bench-",
		Via:                ViaHTTP,
		Publishers:         8,
		Rate:               100,
		Payload:            128,
		Warmup:             2 * time.Second,
		Duration:           10 * time.Second,
		Settle:             time.Second,
		ConnectRate:        200,
		ConnectConcurrency: 64,
		ConnectTimeout:     15 * time.Second,
		Loops:              1,
		drainStall:         time.Second,
	}
}

// DefaultChurnConfig is a run of cycles against a server on this machine.
func DefaultChurnConfig() Config {
	c := DefaultConfig()
	c.Churn = true
	c.Connections, c.Channels, c.Rate = 5000, 2000, 500
	return c
}

// presence tells whether channel i is a presence channel. They are spread evenly.
func (c Config) presence(i int) bool {
	return c.Churn && int(float64(i+1)*c.Presence) > int(float64(i)*c.Presence)
}

// Validate reports everything that is wrong with the configuration, naming the fields by
// the flags of the command.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	within := func(flag string, value, low, high int) {
		check(value >= low && value <= high, "--%s must be between %d and %d, not %d",
			flag, low, high, value)
	}
	lasts := func(flag string, value, low time.Duration) {
		check(value >= low && value <= maxTime, "--%s must be between %s and %s, not %s",
			flag, low, maxTime, value)
	}
	check(c.AppID != "" && c.Key != "" && c.Secret != "",
		"--app-id, --key and --secret are required (or PARLEY_BENCH_APP_ID, _KEY, _SECRET)")
	check(len(c.URLs) > 0, "--url is required")
	for _, u := range c.URLs {
		_, err := parseTarget(u)
		check(err == nil, "--url: %w", err)
	}
	for _, s := range c.Sources {
		_, err := netip.ParseAddr(s)
		check(err == nil, "--source: %w", err)
	}
	check(!c.Idle || !c.Drop, "--idle and --drop exclude each other")
	check(c.Presence >= 0 && c.Presence <= 1, "--presence must be between 0 and 1, not %g", c.Presence)
	check(!c.Churn || c.Rate > 0, "--rate must be above 0")
	check(c.Via == ViaHTTP || c.Via == ViaClientEvents, "--via must be %s or %s, not %q",
		ViaHTTP, ViaClientEvents, c.Via)
	check(validPrefix(c.ChannelPrefix),
		"--channel-prefix may hold letters, digits and -_ and no presence-, not %q",
		c.ChannelPrefix)
	within("connections", c.Connections, 1, maxConnections)
	within("channels", c.Channels, 1, maxConnections)
	within("publishers", c.Publishers, 1, maxPublishers)
	within("payload", c.Payload, MinPayload, maxPayload)
	within("connect-concurrency", c.ConnectConcurrency, 1, maxPublishers)
	within("loops", c.Loops, 1, maxReceivers)
	check(c.Rate >= 0 && c.Rate <= maxRate, "--rate must be between 0 and %d", maxRate)
	check(c.ConnectRate > 0 && c.ConnectRate <= maxRate,
		"--connect-rate must be above 0 and at most %d", maxRate)
	lasts("duration", c.Duration, time.Millisecond)
	lasts("warmup", c.Warmup, 0)
	lasts("settle", c.Settle, 0)
	lasts("connect-timeout", c.ConnectTimeout, time.Millisecond)
	return errors.Join(errs...)
}

// validPrefix keeps channel names inside what the protocol allows and free of the bytes
// that mark a stamp.
func validPrefix(prefix string) bool {
	if len(prefix) > 100 || strings.HasPrefix(prefix, "presence-") {
		return false
	}
	return strings.IndexFunc(prefix, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && r != '-' && r != '_'
	}) < 0
}

// channelPrefix is ChannelPrefix, made private where client events need it.
func (c Config) channelPrefix() string {
	if c.Via == ViaClientEvents && !strings.HasPrefix(c.ChannelPrefix, "private-") {
		return "private-" + c.ChannelPrefix
	}
	return c.ChannelPrefix
}

// scheduled is the rate per second of what a run does on schedule.
func (c Config) scheduled() float64 {
	if c.Drop {
		return c.ConnectRate
	}
	return c.Rate
}

// sampleStride is how many deliveries there are to one latency sample: all of them while
// there are few, and about 20 000 a second otherwise.
func (c Config) sampleStride() int {
	const samplesPerSecond, flatOut = 20_000, 64
	if c.Rate == 0 {
		return flatOut
	}
	deliveries := c.Rate * float64(c.Connections) / float64(c.Channels)
	return max(1, int(deliveries/samplesPerSecond))
}

// target is one node of the server.
type target struct {
	address string // host:port
	host    string // for the Host header
	prefix  string // path in front of /app and /apps, "" for none
}

func parseTarget(raw string) (target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return target{}, fmt.Errorf("parse %q: %w", raw, err)
	}
	if u.Scheme != "http" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil {
		return target{}, fmt.Errorf("%q is not of the form http://host:port", raw)
	}
	t := target{address: u.Host, host: u.Host, prefix: strings.TrimRight(u.EscapedPath(), "/")}
	if u.Port() == "" {
		t.address = u.Host + ":80"
	}
	return t, nil
}
