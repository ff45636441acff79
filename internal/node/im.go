package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/directory"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im"
	imapi "github.com/parleyio/parley/internal/im/api"
	"github.com/parleyio/parley/internal/im/hook"
	"github.com/parleyio/parley/internal/im/wire"
	"github.com/parleyio/parley/internal/pusher/api"
)

// messaging is what a node has of the surface im; nil when it is not served.
type messaging struct {
	server *im.Server
	number fabric.Lock          // of this node in message IDs
	online *directory.Directory // nil for a node of its own
	hooks  *hook.Hooks          // nil when the application is not told of anything
	http   face                 // of the HTTP API
	ws     face                 // of clients over WebSocket, with TLS and without
	tls    *certificate         // nil when no port has TLS
	tcp    net.Listener
	ready  chan struct{} // closed when the node has what the logs held at its start
}

const (
	// imSignal carries what nodes tell each other about messages and logins, imOnlineSignal who is
	// online where.
	imSignal       = "im"
	imOnlineSignal = "im-online"
	// imNumberLease is how long the number of a node that is gone is not given to another.
	imNumberLease = 10 * time.Second
	// imFirstFrame bounds the wait for the first frame of a client.
	imFirstFrame = 2 * time.Second
)

// listenIM opens the ports of messaging.
func (n *Node) listenIM() error {
	c := n.config.IM
	if !c.Enabled {
		return nil
	}
	n.im = &messaging{ready: make(chan struct{})}
	api, err := n.open("im-http", c.Host, c.HTTPPort, "im.http_port")
	if err != nil {
		return err
	}
	api.serves = func(n *Node, _, _ http.Handler) http.Handler { return &n.im.http }
	ws, err := n.open("im-ws", c.Host, c.WSPort, "im.ws_port")
	if err != nil {
		return err
	}
	ws.serves = func(n *Node, _, _ http.Handler) http.Handler { return &n.im.ws }
	ws.Listener = n.acceptProxies(ws.Listener)
	if err := n.listenWSS(); err != nil {
		return err
	}
	// The accept loop of TCP is its own: it is no HTTP server.
	tcp, err := n.open("im-tcp", c.Host, c.TCPPort, "im.tcp_port")
	if err != nil {
		return err
	}
	tcp.bytes = true
	n.im.tcp = &proxyproto.Listener{Listener: tcp.Listener, ReadHeaderTimeout: imFirstFrame}
	return nil
}

// listenWSS opens the port of clients over WebSocket with TLS, if there is to be one.
func (n *Node) listenWSS() error {
	port := n.config.IM.WSSPort
	if port == 0 {
		return nil
	}
	cert, key := n.config.WSSFiles()
	var err error
	if n.im.tls, err = loadCertificate(cert, key, "im.wss_cert_file, im.wss_key_file, or those of tls"); err != nil {
		return err
	}
	wss, err := n.open("im-wss", n.config.IM.Host, port, "im.wss_port")
	if err != nil {
		return err
	}
	wss.serves = func(n *Node, _, _ http.Handler) http.Handler { return &n.im.ws }
	wss.Listener = n.im.tls.listener(n.acceptProxies(wss.Listener))
	return nil
}

// welcomeIM answers while the node starts.
func (n *Node) welcomeIM(later http.HandlerFunc) {
	if n.im == nil {
		return
	}
	n.im.http.show(later)
	n.im.ws.show(later)
	n.goes("im-tcp", n.acceptIM)
}

// acceptIM takes clients over TCP, until the listener is closed.
func (n *Node) acceptIM() error {
	for {
		conn, err := n.im.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			if n.closing.Load() {
				return nil
			}
			n.log.Warn("a client was not accepted", "part", "im", "error", err)
			time.Sleep(acceptPause) // out of file descriptors, mostly
			continue
		}
		go n.enterIM(conn)
	}
}

// acceptPause is between two tries to accept a connection.
const acceptPause = 50 * time.Millisecond

// enterIM reads the PROXY header, if there is one, and hands the connection to the transport.
func (n *Node) enterIM(conn net.Conn) {
	select {
	case <-n.im.ready:
	default: // the client comes again
		_ = conn.Close()
		return
	}
	address := conn.RemoteAddr().String() // reads the header
	if n.refusesClients() {
		_ = conn.Close()
		return
	}
	if err := n.transport.Serve(conn, n.im.server.NewSession(address, true)); err != nil {
		n.log.Debug("a client did not enter", "part", "im", "error", err)
	}
}

// startIM opens the logs of messaging and waits until this node has what they hold.
func (n *Node) startIM(ctx, background context.Context) error {
	if n.im == nil {
		return nil
	}
	n.waits("opening the logs of messages")
	number, err := n.imNumber(ctx)
	if err != nil {
		return err
	}
	signal, err := n.fabric.Signal(ctx, imSignal)
	if err != nil {
		return fmt.Errorf("open the signal of messaging: %w", err)
	}
	token, err := n.imToken()
	if err != nil {
		return err
	}
	options := n.imOptions(number, signal)
	options.ManagerToken = token
	if n.cluster != nil {
		if err := n.openOnline(ctx); err != nil {
			return err
		}
		options.Presence = n.im.online
	}
	n.metrics.Register(options.Metrics)
	if err := n.openHooks(ctx, number); err != nil {
		return err
	}
	if n.im.hooks != nil {
		options.Reports = n.im.hooks
	}
	n.im.server, err = patiently(ctx, n.log, "the logs of messages", func(ctx context.Context) (*im.Server, error) {
		return im.Open(ctx, options)
	})
	if err != nil {
		return fmt.Errorf("open messaging: %w", err)
	}
	if n.cluster != nil {
		n.goes("im-online", func() error { return n.im.online.Run(background) })
		n.goes("im-owners", func() error { return n.followOwners(background) })
	}
	n.goes("messaging", func() error { return n.im.server.Run(background, func() { close(n.im.ready) }) })
	n.waits("reading the logs of messages")
	select {
	case <-n.im.ready:
	case <-ctx.Done():
		return ctx.Err()
	case err := <-n.failed:
		return err
	}
	n.im.server.ViewChanged()
	if n.im.hooks != nil {
		n.goes("im-webhooks", func() error { return n.im.hooks.Run(background, n.im.server) })
	}
	n.im.ws.show(http.HandlerFunc(n.upgradeIM))
	login := n.imLogin(token)
	if n.config.IM.OpenAPI {
		token = ""
	}
	apiOptions := imapi.Options{
		Token: token, MaxBody: n.config.HTTP.MaxBody, Addresses: n.imAddresses, CommandSync: n.config.IM.CommandSync,
		Health: n.imHealth, Logger: n.log.With("part", "im"), Login: login, Dropped: n.metrics.Drop,
		Node: imapi.Node{
			ID: number, Name: n.config.Node.Name, Version: Version(), Started: time.Now(), ManagerUID: n.config.IM.ManagerUID,
		},
	}
	if n.im.hooks != nil {
		apiOptions.Webhooks = n.im.hooks
	}
	n.im.http.show(imapi.New(n.im.server, apiOptions))
	return nil
}

// openHooks opens the queue of webhooks, if the application wants any.
func (n *Node) openHooks(ctx context.Context, number uint16) error {
	c, w := n.config.IM, n.config.Webhooks
	if c.WebhookURL == "" && c.WebhookGRPCAddr == "" && c.AgentWebhookURL == "" {
		return nil
	}
	options := hook.Options{
		URL: c.WebhookURL, GRPCAddr: c.WebhookGRPCAddr, AgentURL: c.AgentWebhookURL, NodeID: number, Secret: c.WebhookSecret, Events: c.WebhookEvents, Interval: c.WebhookInterval,
		Batch: c.WebhookBatchSize, CompressAbove: c.WebhookCompressAbove, Timeout: w.Timeout,
		Retry: fabric.RetryPolicy{
			Initial: w.RetryInitial, Max: w.RetryMax, Elapsed: w.RetryElapsed, Jitter: webhookJitter,
		},
		Concurrency: w.Concurrency, MaxDead: max(1, w.MaxDead), Logger: n.log.With("part", "im"),
		Sent: func(outcome string) { n.metrics.Sent("im_"+outcome, 1) }, Dropped: n.metrics.Drop,
	}
	queue, err := patiently(ctx, n.log, "the queue of messaging's webhooks", func(ctx context.Context) (fabric.Queue, error) {
		return n.fabric.Queue(ctx, options.QueueConfig())
	})
	if err != nil {
		return err
	}
	n.im.hooks, err = hook.New(options, queue)
	return err
}

// webhookJitter is by what share the wait before a retry is varied.
const webhookJitter = 0.2

// imOptions returns what the configuration says about messaging.
func (n *Node) imOptions(number uint16, signal fabric.Signal) im.Options {
	c := n.config.IM
	options := im.Options{
		Node: "self", NodeID: number, Slots: c.Slots, Open: n.fabric.Log, Signal: signal,
		Dir:   filepath.Join(n.config.Node.DataDir, "im-index"),
		Owner: func(int) (string, bool) { return "self", true },
		Nodes: func() []string { return nil },

		Datasource: c.DatasourceURL, DatasourceInfo: c.DatasourceChannelInfo, TokenAuth: c.TokenAuth,
		ManagerUID: c.ManagerUID, Encryption: c.Encryption, JSONRPC: c.JSONRpc,
		PersonAllowList: c.PersonAllowlist, ConnectTimeout: imFirstFrame, IdleTimeout: c.IdleTimeout,
		RetryInterval: c.RetryInterval, RetryMax: c.RetryAttempts, MaxPendingSends: c.MaxPendingSends,
		SendRate: c.SendRate, SendBurst: c.SendBurst, PacketRate: c.PacketRate,
		Logger: n.log.With("part", "im"), Metrics: im.NewMetrics(n.config.Metrics.Prefix, n.metrics.Lost),
	}
	options.Retention, options.RetentionInterval = map[uint8]im.Retention{}, c.RetentionInterval
	for _, text := range c.Retention {
		r, _ := config.ParseIMRetention(text) // it was checked
		options.Retention[r.Type] = im.Retention{Age: r.Age, Count: r.Count, Bytes: r.Bytes}
	}
	if n.cluster != nil {
		options.Node = n.cluster.decision.Self.ID
		options.Owner = n.cluster.ownerOfSlot
		options.Nodes = n.cluster.others
	}
	return options
}

// ownerOfSlot returns the node that numbers the messages of a slot: of those that are ready, with a
// store if there are any.
func (k *clustered) ownerOfSlot(slot int) (node string, self bool) {
	view := k.membership.View()
	owner, ok := view.Owner("im-"+strconv.Itoa(slot), cluster.Ready(cluster.RoleStore))
	if !ok {
		return "", false
	}
	return owner.ID, owner.ID == view.Self
}

// others returns the other nodes that are there.
func (k *clustered) others() []string {
	view := k.membership.View()
	ids := make([]string, 0, len(view.Members))
	for _, m := range view.Members {
		if m.ID != view.Self && m.State != cluster.StateStarting {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// openOnline opens the directory of who is online where.
func (n *Node) openOnline(ctx context.Context) error {
	rows, err := n.fabric.Signal(ctx, imOnlineSignal)
	if err != nil {
		return fmt.Errorf("open the signal of who is online: %w", err)
	}
	n.im.online, err = directory.New(directory.Options{
		Node:           n.cluster.decision.Self.ID,
		Incarnation:    uint64(time.Now().UnixNano()),
		Signal:         rows,
		BatchInterval:  directoryBatch,
		DigestInterval: directoryDigest,
		Changed:        func([]directory.Change) {}, // it is asked, and tells nobody
		Dropped:        n.metrics.Drop,
		Logger:         n.log.With("part", "im"),
	})
	if err != nil {
		return fmt.Errorf("open the directory of who is online: %w", err)
	}
	return nil
}

// followOwners gives slots their owners whenever a node comes or goes.
func (n *Node) followOwners(ctx context.Context) error {
	views := n.cluster.membership.Subscribe()
	for {
		change, err := views.Next(ctx)
		if errors.Is(err, cluster.ErrStopped) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, m := range change.Left {
			n.im.online.NodeGone(m.ID)
		}
		select {
		case <-n.im.ready:
			n.im.server.ViewChanged()
		default: // the start does it
		}
	}
}

// imNumber leases a number below 1024 that no other node has, for message IDs.
func (n *Node) imNumber(ctx context.Context) (uint16, error) {
	locks, err := patiently(ctx, n.log, "the numbers of nodes", func(ctx context.Context) (fabric.Locks, error) {
		return n.fabric.Locks(ctx, "im-numbers")
	})
	if err != nil {
		return 0, err
	}
	first := rand.IntN(im.MaxNodeID) // taken ones are few, and a crashed node's is free after its lease
	for i := range im.MaxNodeID {
		number := 1 + (first+i)%im.MaxNodeID
		lock, err := locks.TryAcquire(ctx, strconv.Itoa(number), imNumberLease)
		if errors.Is(err, fabric.ErrLocked) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("lease a number for message IDs: %w", err)
		}
		n.im.number = lock
		return uint16(number), nil
	}
	return 0, errors.New("lease a number for message IDs: all 1023 are taken")
}

// upgradeIM takes a client over WebSocket.
func (n *Node) upgradeIM(w http.ResponseWriter, r *http.Request) {
	if n.refusesClients() {
		w.Header().Set("Retry-After", "1")
		http.Error(w, "The node takes no new clients", http.StatusServiceUnavailable)
		return
	}
	session := n.im.server.NewSession(n.imClient(r), false)
	if err := n.transport.UpgradeLimit(w, r, session, wire.MaxRemaining+16); err != nil {
		n.log.Debug("a client did not enter", "part", "im", "error", err)
	}
}

// imClient is the address of a client, behind proxies that are trusted.
func (n *Node) imClient(r *http.Request) string {
	clients := api.ClientAddress{Trusted: n.config.HTTP.TrustedProxies, Hops: n.config.HTTP.TrustHops}
	_, port, _ := net.SplitHostPort(r.RemoteAddr)
	return net.JoinHostPort(clients.Of(r).String(), port)
}

// imAddresses are what clients are told to connect to.
func (n *Node) imAddresses(r *http.Request, intranet bool) imapi.Addresses {
	c := n.config.IM
	host := c.ExternalIP
	if host == "" {
		host, _, _ = net.SplitHostPort(r.Host)
	}
	if host == "" {
		host = r.Host
	}
	at := func(name string) string {
		_, port, _ := net.SplitHostPort(n.Address(name))
		return net.JoinHostPort(host, port)
	}
	a := imapi.Addresses{TCP: c.ExternalTCPAddr, WS: c.ExternalWSAddr, WSS: c.ExternalWSSAddr}
	if intranet {
		a.TCP = c.IntranetTCPAddr
	}
	if a.TCP == "" {
		a.TCP = at("im-tcp")
	}
	if a.WS == "" {
		a.WS = "ws://" + at("im-ws")
	}
	if a.WSS == "" && c.WSSPort != 0 {
		a.WSS = "wss://" + at("im-wss")
	}
	return a
}

// imHealth tells whether every slot has an owner and this node's engine is well.
func (n *Node) imHealth() error {
	if n.cluster != nil {
		for slot := range n.config.IM.Slots {
			if owner, _ := n.cluster.ownerOfSlot(slot); owner == "" {
				return fmt.Errorf("slot %d has no owner", slot)
			}
		}
	}
	if n.engine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return n.engineHealth(ctx)
}

// stopIM closes messaging, when its connections are closed and nothing runs any more.
func (n *Node) stopIM(ctx context.Context) error {
	if n.im == nil {
		return nil
	}
	var errs []error
	if n.im.server != nil {
		errs = append(errs, n.im.server.Close())
	}
	if n.im.hooks != nil {
		errs = append(errs, n.im.hooks.Close())
	}
	if n.im.number != nil {
		_ = n.im.number.Release(ctx) // else it is free after its lease
	}
	return errors.Join(errs...)
}
