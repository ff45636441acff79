package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/parleyio/parley/internal/fabric"
)

// connectTimeout bounds one attempt to connect to one server.
const connectTimeout = 5 * time.Second

// reconnectWait is the pause between two attempts to come back to the same server.
const reconnectWait = 250 * time.Millisecond

// startPolicy has the pauses between attempts to connect for the first time.
var startPolicy = fabric.RetryPolicy{Initial: reconnectWait, Max: 5 * time.Second, Jitter: 0.2}

// Server says how to reach a NATS cluster and who one is there. Of the credentials one kind
// is used, in the order in which they stand here; none is right for a server without.
type Server struct {
	// URLs are nats://, tls://, ws:// or wss:// addresses of some of its servers; the others
	// are learnt from them. They may carry user and password.
	URLs []string
	// Name appears in the server's lists of connections.
	Name string

	CredentialsFile string // as made by nsc: a JWT and its key
	NKeyFile        string // the seed of an NKey
	Token           string
	User, Password  string

	// TLS is for servers that ask for it, with their CA or a certificate of the client; nil is
	// what the URLs ask for.
	TLS *tls.Config
}

// Connect returns a Provider over a connection of its own to a NATS cluster, with JetStream
// for the stored parts. It waits for servers that are late, until ctx ends, and fails at once
// when one refuses. A connection that is lost later comes back by itself, for as long as the
// Provider lives. Close closes it.
func Connect(ctx context.Context, server Server, options Options) (*Provider, error) {
	if len(server.URLs) == 0 {
		return nil, errors.New("connect to NATS: no URL given")
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	settings, err := server.settings(options.Logger)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	conn, err := dialPatiently(ctx, server.URLs, settings, options.Logger)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	p, err := New(conn, options)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	p.own = true
	return p, nil
}

// dialPatiently tries again and again until a server is there or refuses, or ctx ends.
func dialPatiently(
	ctx context.Context, urls []string, settings []natsgo.Option, logger *slog.Logger,
) (*natsgo.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for failures := 1; ; failures++ {
		conn, err := dial(ctx, strings.Join(urls, ","), settings)
		if err == nil || !isAway(err) {
			return conn, err
		}
		if failures == 1 {
			logger.Warn("waiting for NATS", slog.Any("servers", places(urls)), slog.Any("error", err))
		}
		fabric.Pause(ctx, startPolicy.Wait(failures))
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: %w: %w", fabric.ErrUnavailable, ctx.Err(), err)
		}
	}
}

// places returns the hosts and ports of URLs, without what they may have to log in with.
func places(urls []string) []string {
	var list []string
	for _, text := range urls {
		if !strings.Contains(text, "://") {
			text = "nats://" + text
		}
		if u, err := url.Parse(text); err == nil { // otherwise the error says that it is none
			list = append(list, u.Host)
		}
	}
	return list
}

// dial tries each server once.
func dial(ctx context.Context, urls string, settings []natsgo.Option) (*natsgo.Conn, error) {
	type result struct {
		conn *natsgo.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := natsgo.Connect(urls, settings...)
		done <- result{conn, err}
	}()
	select {
	case r := <-done:
		return r.conn, r.err
	case <-ctx.Done(): // the attempt goes on behind, bounded, and its result is let go
		go func() {
			if late := <-done; late.err == nil {
				late.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// isAway tells whether nobody answered, or a server that is not ready. Who answers otherwise
// does not want this client, or is not trusted by it.
func isAway(err error) bool {
	for _, away := range []error{
		natsgo.ErrNoServers, natsgo.ErrTimeout, natsgo.ErrNoInfoReceived, natsgo.ErrStaleConnection,
		natsgo.ErrConnectionClosed, natsgo.ErrMaxConnectionsExceeded, io.EOF, os.ErrDeadlineExceeded,
	} {
		if errors.Is(err, away) {
			return true
		}
	}
	var network *net.OpError
	return errors.As(err, &network) && network.Op != "remote error" // which is an alert of TLS
}

// settings translates the server for the client library.
func (s Server) settings(logger *slog.Logger) ([]natsgo.Option, error) {
	settings := []natsgo.Option{
		natsgo.Name(s.Name),
		natsgo.Timeout(connectTimeout),
		natsgo.MaxReconnects(-1),
		natsgo.ReconnectWait(reconnectWait),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) {
			logger.Warn("NATS connection", slog.Any("error", err))
		}),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) {
			if err != nil {
				logger.Warn("NATS connection lost", slog.Any("error", err))
			}
		}),
		natsgo.ReconnectHandler(func(conn *natsgo.Conn) {
			logger.Info("NATS connection is back", slog.String("server", conn.ConnectedServerName()))
		}),
	}
	if s.TLS != nil {
		settings = append(settings, natsgo.Secure(s.TLS))
	}
	switch {
	case s.CredentialsFile != "":
		settings = append(settings, natsgo.UserCredentials(s.CredentialsFile))
	case s.NKeyFile != "":
		key, err := natsgo.NkeyOptionFromSeed(s.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read NKey: %w", err)
		}
		settings = append(settings, key)
	case s.Token != "":
		settings = append(settings, natsgo.Token(s.Token))
	case s.User != "":
		settings = append(settings, natsgo.UserInfo(s.User, s.Password))
	}
	return settings, nil
}
