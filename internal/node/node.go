// Package node is the composition root: it builds the parts of a node from its
// configuration, starts them in order and stops them backwards. It is the only room that
// knows all others, and nobody but the command imports it.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
	natsfabric "github.com/parleyio/parley/internal/fabric/nats"
	"github.com/parleyio/parley/internal/primitives"
	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/api"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/internal/pusher/webhook"
	"github.com/parleyio/parley/internal/telemetry"
	"github.com/parleyio/parley/internal/transport"
)

// Node is one running server.
type Node struct {
	config  config.Config
	log     *slog.Logger
	metrics *telemetry.Metrics
	health  *telemetry.Health

	engine     *engine.Engine // nil when nothing is carried by it
	cluster    *clustered     // nil for a node of its own
	changes    fabric.Locks   // on members and replicas of the cluster
	grower     *grower
	forgetter  forgetter
	carriers   carriers
	busLock    *flock.Flock // of the identity of a node that shares a broker
	fabric     fabric.Provider
	apps       *apps.Registry
	appTable   *appTable // nil unless the apps are in a database
	webhooks   *webhook.Emitter
	transport  *transport.Server
	limits     *limits
	hub        *pusher.Hub
	primitives *primitives.Server // nil if they are not served
	im         *messaging         // nil if it is not served
	tls        *certificate       // nil without TLS
	listeners  []*listener
	channels   face // of the channels port
	probes     face // of the metrics port

	// FirstApp is the app made because there was none, to be shown once; else nil.
	FirstApp *apps.App
	// NewIMToken is the file with the token of the messaging API, if it was made just now; else "".
	NewIMToken string

	found atomic.Pointer[clustered] // cluster, for those who look while the node starts

	closing    atomic.Bool        // no new clients are taken
	drainer    drainer            // of a node that stays
	life       context.Context    // of what runs beside the requests
	background context.CancelFunc // ends it
	running    sync.WaitGroup
	failed     chan error
}

// Start builds and starts a node. When it fails, what it had started is stopped.
func Start(ctx context.Context, c config.Config, log *slog.Logger) (*Node, error) {
	n := &Node{
		config:  c,
		log:     log,
		metrics: telemetry.NewMetrics(c.Metrics.Prefix, Version()),
		failed:  make(chan error, 8),
	}
	n.health = &telemetry.Health{Log: log.With("part", "health")}
	n.waits("starting")
	n.grower = &grower{node: n}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.life, n.background = background, cancel
	if err := n.start(ctx, background); err != nil {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Shutdown.Grace)
		defer cancel()
		return nil, errors.Join(err, n.Stop(stopping))
	}
	return n, nil
}

func (n *Node) start(ctx, background context.Context) error {
	// Ports first: the commonest mistake is told before anything is touched.
	if err := n.listen(); err != nil {
		return err
	}
	if err := n.startTransport(); err != nil {
		return err
	}
	if err := n.welcome(); err != nil {
		return err
	}
	if err := n.startStorage(ctx, background); err != nil {
		return err
	}
	if err := n.startApps(ctx, background); err != nil {
		return err
	}
	if err := n.startWebhooks(ctx, background); err != nil {
		return err
	}
	n.startHub()
	if n.cluster != nil {
		if err := n.joinHub(ctx, background); err != nil {
			return err
		}
		if err := n.shareLimits(ctx, background); err != nil {
			return err
		}
	}
	if err := n.startPrimitives(ctx); err != nil {
		return err
	}
	if err := n.startIM(ctx, background); err != nil {
		return err
	}
	if n.cluster != nil {
		n.waits("learning from the other nodes who is connected there")
		n.cluster.awaitKnowledge(ctx)
	}
	handler, err := n.handler()
	if err != nil {
		return err
	}
	n.channels.show(handler)
	n.health.Started()
	if n.cluster != nil {
		n.cluster.ready()
	}
	return nil
}

// startStorage starts what keeps apps and jobs, and joins the node with others.
func (n *Node) startStorage(ctx, background context.Context) error {
	var embedded fabric.Provider
	if n.config.Fabric.Uses(config.DriverEmbedded) {
		var err error
		if embedded, err = n.startEmbedded(ctx); err != nil {
			return err
		}
	}
	if err := n.openFabric(ctx, embedded); err != nil {
		return err
	}
	n.watchCarriers(background)
	switch {
	case n.cluster != nil:
		return n.startMembership(ctx)
	case n.config.OverBroker():
		return n.meet(ctx)
	}
	return nil
}

// startEmbedded starts the engine and returns what it carries. In a cluster the other nodes are
// found first.
func (n *Node) startEmbedded(ctx context.Context) (fabric.Provider, error) {
	options := engine.Options{
		DataDir: n.config.Node.DataDir,
		Sync:    n.config.Engine.Sync,
		Logger:  n.log.With("part", "engine"),
	}
	replicas := 1
	if n.config.Cluster.Enabled() {
		var err error
		if options.Cluster, err = n.discover(ctx); err != nil {
			return nil, err
		}
		options.ServerName = n.cluster.decision.Self.ID
		replicas = n.cluster.replicas()
		if err := n.leaveStandalone(ctx, options); err != nil {
			return nil, err
		}
	}
	started, err := n.startEngine(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("start the engine: %w", err)
	}
	n.engine = started
	conn, err := started.Connect("fabric")
	if err != nil {
		return nil, fmt.Errorf("connect to the engine: %w", err)
	}
	provider, err := natsfabric.New(conn, natsfabric.Options{
		Replicas: replicas,
		Logger:   n.log.With("part", "fabric"),
		Dropped:  n.lost,
	})
	if err != nil {
		return nil, fmt.Errorf("open the fabric: %w", err)
	}
	return provider, nil
}

// engineNotice is between two lines in the log about the wait for the engine.
const engineNotice = 10 * time.Second

// startEngine starts the engine. One of a cluster waits until a majority of the nodes with a
// store is there, as long as ctx lets it: they may start much later, or copy a large store.
func (n *Node) startEngine(ctx context.Context, options engine.Options) (*engine.Engine, error) {
	if options.Cluster == nil {
		n.waits("reading what is stored")
		return engine.Start(ctx, options)
	}
	n.waits("waiting for the engines of the other nodes: a majority of those with a store must be there")
	notices := time.NewTicker(engineNotice)
	defer notices.Stop()
	ctx, cancel := context.WithDeadline(ctx, time.Now().Add(forEver))
	defer cancel()
	type result struct {
		engine *engine.Engine
		err    error
	}
	started := make(chan result, 1)
	go func() {
		e, err := engine.Start(ctx, options)
		started <- result{e, err}
	}()
	for {
		select {
		case r := <-started:
			return r.engine, r.err
		case <-notices.C:
			n.log.Info("waiting for the engines of the other nodes", "part", "cluster", "routes", len(options.Cluster.Routes))
		}
	}
}

// forEver is a deadline for who would take one of their own without any.
const forEver = 365 * 24 * time.Hour

func (n *Node) startWebhooks(ctx, background context.Context) error {
	c := n.config.Webhooks
	options := webhook.Options{
		BatchSize:     c.BatchSize,
		BatchInterval: c.BatchInterval,
		LeaveDebounce: c.LeaveDebounce,
		MaxPending:    c.MaxPending,
		Timeout:       c.Timeout,
		Concurrency:   c.Concurrency,
		RetryInitial:  c.RetryInitial,
		RetryMax:      c.RetryMax,
		RetryElapsed:  c.RetryElapsed,
		MaxDead:       c.MaxDead,
	}
	queueConfig := options.QueueConfig()
	queueConfig.Dead = n.webhookDied
	queueConfig.Idle = n.sendsWebhooks
	queue, err := patiently(ctx, n.log, "the webhook queue", func(ctx context.Context) (fabric.Queue, error) {
		return n.fabric.Queue(ctx, queueConfig)
	})
	if err != nil {
		return err
	}
	n.webhooks = webhook.New(options, n.apps, queue, n.log.With("part", "webhooks"), n.metrics)
	if n.cluster != nil {
		if err := n.joinWebhooks(ctx); err != nil {
			return err
		}
	}
	prefix := n.config.Metrics.Prefix
	n.metrics.Gauge(prefix+"webhook_pending_events", "Webhook events in memory that are not yet in the queue.",
		func() float64 { return float64(n.webhooks.Pending()) })
	n.metrics.Gauge(prefix+"webhook_queue_jobs", "Webhook requests in the queue, waiting or being sent.",
		func() float64 { return queueLength(queue) })
	n.goes("webhooks", func() error { return n.webhooks.Run(background) })
	return nil
}

// queueTimeout bounds a look at a queue for its metric.
const queueTimeout = time.Second

// queueLength returns how many jobs a queue has, NaN when it cannot be asked.
func queueLength(queue fabric.Queue) float64 {
	ctx, cancel := context.WithTimeout(context.Background(), queueTimeout)
	defer cancel()
	n, err := queue.Len(ctx)
	if err != nil {
		return math.NaN()
	}
	return float64(n)
}

// webhookDied tells of a batch that was given up.
func (n *Node) webhookDied(letter fabric.DeadLetter) {
	dead := webhook.Describe(letter)
	n.metrics.Sent("dead_letter", len(dead.Events))
	n.log.Warn("webhook is a dead letter now", "part", "webhooks", "id", dead.ID, "app_id", dead.AppID,
		"host", dead.Host(), "events", len(dead.Events), "attempts", dead.Attempts, "error", dead.Reason)
}

// goes runs a part until the node stops; an error of it ends the node.
func (n *Node) goes(part string, run func() error) {
	n.running.Add(1)
	go func() {
		defer n.running.Done()
		if err := run(); err != nil {
			n.fail(fmt.Errorf("%s: %w", part, err))
		}
	}()
}

func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default: // several parts have failed already; the first says why
	}
}

// Failed delivers the error of a part that stopped by itself.
func (n *Node) Failed() <-chan error { return n.failed }

// startTransport starts what serves upgraded connections.
func (n *Node) startTransport() error {
	c := n.config
	loops := c.Transport.EventLoops
	if c.Transport.Mode == "goroutine" {
		loops = -1
	}
	var err error
	n.transport, err = transport.NewServer(transport.Options{
		EventLoops:     loops,
		MaxMessage:     c.Transport.MaxFrame,
		MaxQueue:       c.Transport.MaxQueue,
		MaxBacklog:     c.Transport.MaxBacklog,
		Compression:    c.Transport.Compression,
		Logger:         n.log.With("part", "transport"),
		Dropped:        n.metrics.Drop,
		OverflowCode:   protocol.CodeOverCapacity,
		OverflowReason: "The connection is too slow",
	})
	if err != nil {
		return fmt.Errorf("start the transport: %w", err)
	}
	if c.Transport.Mode == "event-loop" && n.transport.Mode() != c.Transport.Mode {
		return errors.New("transport.mode is event-loop, which this platform does not have; set auto or goroutine")
	}
	return nil
}

// startHub starts what knows who is connected.
func (n *Node) startHub() {
	c := n.config
	metrics := pusher.NewMetrics(c.Metrics.Prefix, n.portLabel())
	n.limits = newLimits(c.RateLimit)
	n.hub = pusher.NewHub(pusher.Options{
		ActivityTimeout:           c.Channels.ActivityTimeout,
		PongTimeout:               c.Channels.PongTimeout,
		UserAuthenticationTimeout: c.Channels.UserAuthenticationTimeout,
		MaxConnections:            c.Transport.MaxConnections,
		CacheTTL:                  c.Cache.TTL,
		CacheChannels:             c.Cache.MaxChannels,
		Defaults:                  n.defaults(),
		MaxSubscriptions:          c.Limits.MaxSubscriptionsPerConnection,
		BackendEvents:             n.limits.backendEvents,
		ReadRequests:              n.limits.readRequests,
		Logger:                    n.log.With("part", "hub"),
		Metrics:                   metrics,
	}, n.webhooks)
	n.apps.OnChange(n.hub.AppChanged)
	n.appTable.use(n.hub)
	n.metrics.Register(metrics)
	n.metrics.Gauge(c.Metrics.Prefix+"outgoing_bytes", "Bytes that wait to be written to clients.",
		func() float64 { return float64(n.transport.Backlog()) })
}

func (n *Node) defaults() apps.Limits {
	c := n.config
	return apps.Limits{
		MaxClientEventsPerSecond: c.Limits.MaxClientEventsPerSecond,
		MaxPresenceMembers:       c.Presence.MaxMembers,
		MaxPresenceMemberSize:    c.Presence.MaxMemberSize,
		MaxChannelNameLength:     c.Limits.MaxChannelNameLength,
		MaxEventChannels:         c.Limits.MaxEventChannels,
		MaxEventNameLength:       c.Limits.MaxEventNameLength,
		MaxEventPayload:          c.Limits.MaxEventPayload,
		MaxEventBatch:            c.Limits.MaxEventBatch,
	}
}

func (n *Node) portLabel() string { return strconv.Itoa(n.config.Port(n.config.Channels.Port)) }

// handler builds what the channels port answers.
func (n *Node) handler() (http.Handler, error) {
	c := n.config
	n.health.App = n.hasApp
	if n.engine != nil {
		probe := n.engineHealth
		if n.cluster != nil {
			probe = forgiving(electionTime, probe)
		}
		n.health.Checks = []telemetry.Check{{Name: "engine", Critical: true, Probe: probe}}
	}
	n.health.Checks = append(n.health.Checks, n.carrierChecks()...)
	if n.appTable != nil {
		n.health.Checks = append(n.health.Checks, telemetry.Check{Name: "app_store", Probe: n.appTable.cached.Ping})
	}
	metrics := api.NewMetrics(c.Metrics.Prefix, n.portLabel())
	n.metrics.Register(metrics)
	n.apps.OnChange(func(old, new *apps.App) {
		if new == nil {
			metrics.Forget(old.ID)
		}
	})
	channels := api.New(api.Options{
		PathPrefix:     c.Channels.PathPrefix,
		MaxBody:        c.HTTP.MaxBody,
		StrictProtocol: c.Channels.StrictProtocol,
		Clients:        api.ClientAddress{Trusted: c.HTTP.TrustedProxies, Hops: c.HTTP.TrustHops},
		APILimit:       n.limits.api,
		ConnectLimit:   n.limits.connects,
		Defaults:       n.defaults(),
		Logger:         n.log.With("part", "api"),
		Metrics:        metrics,
		Draining:       n.refusesClients,
	}, n.hub, n.apps, n.transport)
	return n.routes(channels)
}

// Version is the version of the program, from the module or set by the linker.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// version is set by the linker: -X github.com/parleyio/parley/internal/node.version=v1.2.3
var version string

// adminToken returns the token of the administration API.
func (n *Node) adminToken() (string, error) {
	token, err := admin.LoadOrCreateToken(n.config.Node.DataDir, n.config.Admin.Token)
	if err != nil {
		return "", fmt.Errorf("prepare the administration token: %w", err)
	}
	return token, nil
}
