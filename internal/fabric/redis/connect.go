package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/parleyio/parley/internal/fabric"
)

// minVersion is the first version of Redis with all that is used here: sharded channels, and
// what its scripts may call.
const minVersion = 7

const (
	// connectPause and connectPauseMax are the first and the longest pause between two attempts
	// to connect; it doubles from one to the next.
	connectPause    = 100 * time.Millisecond
	connectPauseMax = 2 * time.Second
)

// Open returns a Provider over Redis. It waits for a server that is away, for as long as ctx lets
// it, and fails at once for what waiting does not mend: wrong options, a refused login or
// certificate, a server of another kind or older than Redis 7 (fabric.ErrUnsupported). A
// connection that is lost later comes back by itself. Close closes it.
func Open(ctx context.Context, options Options) (*Provider, error) {
	options, err := options.complete()
	if err != nil {
		return nil, fmt.Errorf("connect to Redis: %w", err)
	}
	p := &Provider{options: options, life: fabric.NewLife(), buses: map[string]*bus{}}
	if err := p.connect(ctx); err != nil {
		p.life.End()
		return nil, fmt.Errorf("connect to Redis at %s: %w", strings.Join(options.Servers, ", "), err)
	}
	return p, nil
}

// connect tries until there is a client whose server is fit for use.
func (p *Provider) connect(ctx context.Context) error {
	var interruption fabric.Interruption
	pause := connectPause
	var cause error // of the last failure that is not the end of ctx
	for {
		err := p.attempt(ctx)
		if err == nil {
			if lasted, was := interruption.Over(); was {
				p.options.Logger.Info("Redis is there", slog.Duration("after", lasted.Round(time.Second)))
			}
			return nil
		}
		if ctx.Err() == nil && !passing(err) {
			return err
		}
		if cause == nil || ctx.Err() == nil {
			cause = err
		}
		if _, tell := interruption.Failed(); tell && ctx.Err() == nil {
			p.options.Logger.Warn("Redis is away, trying on", slog.Any("servers", p.options.Servers), slog.Any("error", err))
		}
		fabric.Pause(ctx, pause)
		pause = min(2*pause, connectPauseMax)
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w: %w", fabric.ErrUnavailable, ctx.Err(), cause)
		}
	}
}

// attempt connects once, and checks what it finds.
func (p *Provider) attempt(ctx context.Context) error {
	type result struct {
		client rueidis.Client
		err    error
	}
	done := make(chan result, 1)
	go func() {
		client, err := rueidis.NewClient(p.options.client(p.life))
		if err != nil && client != nil {
			client.Close() // it would go on to try
		}
		done <- result{client, err}
	}()
	var connected result
	select {
	case connected = <-done:
	case <-ctx.Done(): // the attempt goes on behind, bounded, and its result is let go
		go func() {
			if late := <-done; late.err == nil {
				late.client.Close()
			}
		}()
		return ctx.Err()
	}
	if connected.err != nil {
		return connected.err
	}
	p.client = connected.client
	if err := p.inspect(ctx); err != nil {
		go p.client.Close()
		return err
	}
	return nil
}

// inspect says whether the server is of the kind and version that is needed, and serves.
func (p *Provider) inspect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	info, err := p.client.Do(ctx, p.client.B().Info().Section("everything").Build()).ToString()
	if err != nil {
		return err
	}
	if err := checkVersion(infoField(info, "redis_version")); err != nil {
		return err
	}
	switch mode := infoField(info, "redis_mode"); {
	case mode == "sentinel":
		return fmt.Errorf("%w: it is a Sentinel; give the name of the master that it watches", errMode)
	case mode == "cluster" && !p.options.Cluster:
		return fmt.Errorf("%w: it is a node of a Redis Cluster; say that it is one", errMode)
	case mode != "cluster" && p.options.Cluster:
		return fmt.Errorf("%w: it is not a node of a Redis Cluster", errMode)
	case !p.options.Cluster && infoField(info, "role") == "slave":
		return errReplica
	}
	p.warnOfEviction(info)
	return p.serves(ctx)
}

// errReplica says that the one server is a replica, which takes no writes until it is promoted.
var errReplica = errors.New("the server is a replica")

// checkVersion returns an error that wraps fabric.ErrUnsupported when a server is too old.
func checkVersion(version string) error {
	major, _, _ := strings.Cut(version, ".")
	if number, err := strconv.Atoi(major); err != nil || number < minVersion {
		return fmt.Errorf("the server is Redis %.50q, and %d.0 or later is needed: %w",
			version, minVersion, fabric.ErrUnsupported)
	}
	return nil
}

// warnOfEviction tells when the server throws away keys that are not its clients' to lose.
func (p *Provider) warnOfEviction(info string) {
	policy := infoField(info, "maxmemory_policy")
	if policy != "noeviction" && infoField(info, "maxmemory") != "0" {
		p.options.Logger.Warn("Redis may throw away jobs, documents or locks when its memory is full: "+
			"set maxmemory-policy noeviction", slog.String("maxmemory_policy", policy))
	}
}

// infoField returns a field of an answer to INFO or CLUSTER INFO, "" if there is none. The answer
// is a text that begins with its format.
func infoField(info, name string) string {
	info = strings.TrimPrefix(info, "txt:")
	for line := range strings.Lines(info) {
		if field, value, found := strings.Cut(strings.TrimSpace(line), ":"); found && field == name {
			return value
		}
	}
	return ""
}

// passing tells whether a failure to connect may be over at the next attempt.
func passing(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	if errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid) ||
		errors.As(err, &record) || errors.As(err, &alert) {
		return false
	}
	return unanswered(err)
}
