package node

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/console"
	"github.com/parleyio/parley/internal/primitives"
	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/api"
)

// listener is one open port with the server that answers it.
type listener struct {
	name string // what it is for
	net.Listener
	bytes  bool // no HTTP: its connections are accepted elsewhere
	server *http.Server
	serves func(n *Node, channels, metrics http.Handler) http.Handler
}

// Limits of every HTTP request, against clients that send slowly or much.
const (
	readTimeout    = 60 * time.Second
	idleTimeout    = 120 * time.Second
	maxHeaderBytes = 16 << 10
)

// listen opens every port.
func (n *Node) listen() error {
	c := n.config
	var err error
	if c.TLS.CertFile != "" {
		if n.tls, err = loadCertificate(c.TLS.CertFile, c.TLS.KeyFile, "tls.cert_file, tls.key_file"); err != nil {
			return err
		}
	}
	main, err := n.open("channels", c.Channels.Host, c.Channels.Port, "channels.port")
	if err != nil {
		return err
	}
	main.Listener = n.acceptProxies(main.Listener)
	main.serves = serveChannels
	if n.tls != nil {
		main.Listener = n.tls.listener(main.Listener)
	}
	if c.UnixSocket.Path != "" {
		if err := n.openUnix(c.UnixSocket); err != nil {
			return err
		}
	}
	if c.TLS.RedirectPort != 0 {
		redirect, err := n.open("redirect", c.Channels.Host, c.TLS.RedirectPort, "tls.redirect_port")
		if err != nil {
			return err
		}
		redirect.serves = func(n *Node, _, _ http.Handler) http.Handler { return redirectToTLS(n.portOf(main)) }
	}
	if c.Metrics.Enabled {
		metrics, err := n.open("metrics", c.Metrics.Host, c.Metrics.Port, "metrics.port")
		if err != nil {
			return err
		}
		metrics.serves = func(_ *Node, _, metrics http.Handler) http.Handler { return metrics }
	}
	return n.listenIM()
}

func serveChannels(_ *Node, channels, _ http.Handler) http.Handler { return channels }

// open listens on a TCP port. The error names the option that chose it.
func (n *Node) open(name, host string, port int, option string) (*listener, error) {
	address := net.JoinHostPort(host, strconv.Itoa(n.config.Port(port)))
	l, err := net.Listen("tcp", address)
	if inUse(err) {
		return nil, fmt.Errorf("listen on %s: the port is in use; set %s (%s) to another, or port_offset to shift all ports",
			address, option, environmentName(option))
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (option %s): %w", address, option, err)
	}
	n.listeners = append(n.listeners, &listener{name: name, Listener: l})
	return n.listeners[len(n.listeners)-1], nil
}

func environmentName(option string) string {
	return "PARLEY_" + strings.ToUpper(strings.ReplaceAll(option, ".", "_"))
}

// WSAEADDRINUSE and WSAECONNREFUSED, which package syscall does not name on Windows.
const (
	windowsAddressInUse = syscall.Errno(10048)
	windowsRefused      = syscall.Errno(10061)
)

func inUse(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && (errno == syscall.EADDRINUSE || errno == windowsAddressInUse)
}

func refused(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && (errno == syscall.ECONNREFUSED || errno == windowsRefused)
}

// openUnix listens on a unix socket, replacing one that a dead process left behind.
func (n *Node) openUnix(c config.UnixSocket) error {
	conn, err := net.DialTimeout("unix", c.Path, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("listen on %s: another process serves this socket; set unix_socket.path to another", c.Path)
	}
	// Nobody listens only if the call was refused: one that is busy or not ours lives.
	if info, lost := os.Lstat(c.Path); lost == nil && info.Mode().Type() == os.ModeSocket && refused(err) {
		if err := os.Remove(c.Path); err != nil {
			return fmt.Errorf("remove the stale socket %s: %w", c.Path, err)
		}
	}
	l, err := net.Listen("unix", c.Path)
	if err != nil {
		return fmt.Errorf("listen on %s (option unix_socket.path): %w", c.Path, err)
	}
	n.listeners = append(n.listeners, &listener{name: "unix", Listener: l, serves: serveChannels})
	if err := os.Chmod(c.Path, c.Mode); err != nil {
		return fmt.Errorf("set the mode of %s: %w", c.Path, err)
	}
	return nil
}

// acceptProxies lets trusted proxies tell the client's address by the PROXY protocol.
func (n *Node) acceptProxies(l net.Listener) net.Listener {
	if !n.config.HTTP.ProxyProtocol {
		return l
	}
	trusted := api.ClientAddress{Trusted: n.config.HTTP.TrustedProxies}
	return &proxyproto.Listener{
		Listener:          l,
		ReadHeaderTimeout: n.config.HTTP.HeaderTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if trusted.Trusts(o.Upstream.String()) {
				return proxyproto.USE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
}

// routes joins the surfaces on the channels port.
func (n *Node) routes(channels http.Handler) (http.Handler, error) {
	prefix := strings.TrimSuffix(n.config.Channels.PathPrefix, "/")
	mux := http.NewServeMux()
	n.health.Register(mux, prefix, n.config.HTTP.UsageEnabled)
	mux.Handle(prefix+"/app/", channels)
	mux.Handle(prefix+"/apps/", channels)
	if n.config.HTTP.TestPage {
		mux.Handle("GET "+prefix+"/{$}", console.Channels())
	}
	if n.primitives != nil {
		mux.Handle(prefix+primitives.PathPrefix, http.StripPrefix(prefix, n.primitives))
	}
	if n.config.Admin.Enabled {
		token, err := n.adminToken()
		if err != nil {
			return nil, err
		}
		handler := admin.New(n.apps, n.webhooks, token, n.log.With("part", "admin"))
		if n.cluster != nil {
			handler.WithCluster(n).WithStores(n.storesAnswer)
		}
		if n.primitives != nil {
			handler.WithKeys(keyring{n.primitives})
		}
		mux.Handle(prefix+"/admin/v1/", http.StripPrefix(prefix, handler))
	}
	return api.AllowOrigins(n.config.HTTP.CORSOrigins, mux), nil
}

// serve starts answering on every port.
func (n *Node) serve() {
	for _, l := range n.listeners {
		if l.bytes {
			continue
		}
		l.server = &http.Server{
			Handler:           l.serves(n, &n.channels, &n.probes),
			ReadHeaderTimeout: n.config.HTTP.HeaderTimeout,
			ReadTimeout:       readTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          stdlog.New(serverLog{n}, "", 0),
		}
		(&requestless{drop: n.metrics.Drop}).attach(l.server)
		n.goes(l.name, func() error {
			if err := l.server.Serve(l.Listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
}

// Address returns where a port listens: "channels", "metrics", "unix" or "redirect"; empty
// when it is not open.
func (n *Node) Address(name string) string {
	for _, l := range n.listeners {
		if l.name == name {
			return l.Addr().String()
		}
	}
	return ""
}

// Scheme returns http or https, what the channels port speaks.
func (n *Node) Scheme() string {
	if n.tls != nil {
		return "https"
	}
	return "http"
}

// Mode tells how plain connections are served, see transport.Server.
func (n *Node) Mode() string { return n.transport.Mode() }

func (n *Node) portOf(l *listener) string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Leave takes the node out of the rotation: probes of /ready fail from now on. It returns
// after shutdown.delay, the time that load balancers need to notice, or when ctx ends; until
// Stop the node serves as before.
func (n *Node) Leave(ctx context.Context) {
	n.drainer.stop()
	n.health.Drain()
	if n.cluster != nil {
		n.cluster.membership.SetState(cluster.StateDraining) // what it owns goes to others
	}
	select {
	case <-time.After(n.config.Shutdown.Delay):
	case <-ctx.Done():
	}
}

// Stop ends the node in the reverse order of Start, within ctx: out of rotation, no new
// requests, clients sent away, webhooks handed over, storage closed. No step may take what
// the later ones need: a slow request must not cost the clients their goodbye, nor a
// client that does not answer the webhooks.
func (n *Node) Stop(ctx context.Context) error {
	n.drainer.stop()
	if n.health != nil {
		n.health.Drain()
	}
	n.closing.Store(true)
	n.leavePrimitives()
	grace := n.config.Shutdown.Grace
	finishing, cancel := context.WithTimeout(ctx, grace/4)
	defer cancel()
	leaving, cancel := context.WithTimeout(ctx, grace*3/4)
	defer cancel()
	sending, cancel := context.WithTimeout(ctx, grace*7/8)
	defer cancel()
	var errs []error
	for _, l := range n.listeners {
		if l.name != "metrics" { // probes go on being answered until the end
			errs = append(errs, n.close(finishing, l))
		}
	}
	if n.hub != nil {
		n.hub.Drain(leaving, grace/2)
	}
	if n.transport != nil {
		errs = append(errs, n.closeTransport(sending))
	}
	if n.hub != nil {
		n.hub.Wait()
	}
	if n.webhooks != nil { // after the last client has left its channels
		errs = append(errs, n.finishWebhooks(sending))
	}
	n.background()
	for _, l := range n.listeners {
		errs = append(errs, n.close(ctx, l))
	}
	n.running.Wait()
	if n.health != nil {
		n.health.Wait()
	}
	// Also when the grace is over, as it is when a broker is away.
	parting, cancel := context.WithTimeout(context.WithoutCancel(ctx), partingTime)
	defer cancel()
	n.stopPrimitives(parting)
	errs = append(errs, n.stopIM(parting))
	if n.cluster != nil {
		errs = append(errs, n.leaveCluster(parting))
		n.cluster.stop()
	}
	if n.apps != nil {
		n.apps.Wait()
	}
	errs = append(errs, n.appTable.close())
	for _, c := range n.carriers.list {
		if c.Carrier != nil {
			errs = append(errs, c.Close())
		}
	}
	if n.engine != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
		defer cancel()
		errs = append(errs, n.engine.Stop(closing))
	}
	if n.busLock != nil {
		errs = append(errs, n.busLock.Close())
	}
	return errors.Join(errs...)
}

// finishWebhooks hands what is in memory to the queue and gives it a moment to be sent.
func (n *Node) finishWebhooks(ctx context.Context) error {
	if err := n.webhooks.Flush(ctx); err != nil {
		return err
	}
	left, err := n.webhooks.Drain(ctx)
	if err != nil && ctx.Err() == nil {
		return err
	}
	if err != nil || left > 0 { // all or some, the time to count them is over
		n.log.Info("webhooks are left for the next start", "batches", left)
	}
	return nil
}

// closeTransport drops what connections are left. One that holds it up does not hold up
// the node beyond ctx.
func (n *Node) closeTransport(ctx context.Context) error {
	closed := make(chan error, 1)
	go func() { closed <- n.transport.Close() }()
	select {
	case err := <-closed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("close the connections: %w", ctx.Err())
	}
}

// close ends a listener. Requests that are not answered when ctx ends are cut off.
func (n *Node) close(ctx context.Context, l *listener) error {
	if l.server == nil {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("close %s: %w", l.name, err)
		}
		return nil
	}
	err := l.server.Shutdown(ctx)
	if err == nil {
		return nil
	}
	_ = l.server.Close()
	if ctx.Err() == nil {
		return fmt.Errorf("stop %s: %w", l.name, err)
	}
	n.log.Warn("requests are cut off, they took too long", "port", l.name)
	return nil
}
