package node

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
	natsfabric "github.com/parleyio/parley/internal/fabric/nats"
	"github.com/parleyio/parley/internal/fabric/rabbitmq"
	"github.com/parleyio/parley/internal/fabric/redis"
)

// openNATS connects to a NATS cluster.
func (n *Node) openNATS(ctx context.Context) (fabric.Provider, error) {
	c := n.config.NATS
	secured, err := brokerTLS("nats", c.CAFile, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	return natsfabric.Connect(ctx, natsfabric.Server{
		URLs: c.Servers, Name: n.config.Node.Name,
		CredentialsFile: c.CredentialsFile, NKeyFile: c.NkeyFile, Token: c.Token, User: c.Username, Password: c.Password,
		TLS: secured,
	}, natsfabric.Options{
		Prefix:   c.Prefix,
		Replicas: cmp.Or(c.Replicas, survivable(len(c.Servers))),
		Logger:   n.log.With("part", "nats"),
		Dropped:  n.lost,
	})
}

// openRabbitMQ connects to RabbitMQ, which carries queues with the help of the cache and the
// documents that the node has.
func (n *Node) openRabbitMQ(ctx context.Context) (fabric.QueueCarrier, error) {
	c := n.config.Rabbitmq
	secured, err := brokerTLS("rabbitmq", c.CAFile, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	by := n.carriers.byPart
	return rabbitmq.Open(ctx, rabbitmq.Options{
		URLs: c.Servers, TLS: secured, Name: n.config.Node.Name, Prefix: c.Prefix,
		Cache:     by["cache"].Carrier.(fabric.CacheCarrier),
		Documents: by["documents"].Carrier.(fabric.DocumentsCarrier),
		Logger:    n.log.With("part", "rabbitmq"),
		Dropped:   n.lost,
	})
}

// openRedis connects to Redis, or to another place for one part: the number of a database, or a
// URL.
func (n *Node) openRedis(ctx context.Context, place string, cluster bool) (fabric.Provider, error) {
	options, err := redisOptions(n.config.Redis, place)
	if err != nil {
		return nil, err
	}
	options.Cluster = cluster
	options.Name, options.Logger, options.Dropped = n.config.Node.Name, n.log.With("part", "redis"), n.lost
	return redis.Open(ctx, options)
}

// redisOptions returns how to reach a place. A URL says all about the Redis that it names: nothing of
// the other one but the prefix, the replicas to wait for and the files for TLS counts there.
func redisOptions(c config.Redis, place string) (redis.Options, error) {
	options := redis.Options{Servers: c.Servers, Prefix: c.Prefix, WaitReplicas: c.WaitReplicas}
	secured, err := brokerTLS("redis", c.CAFile, c.CertFile, c.KeyFile)
	if err != nil {
		return options, err
	}
	speaksTLS := c.TLS
	if strings.Contains(place, "://") {
		options.Servers, speaksTLS = []string{place}, false
	} else {
		options.Username, options.Password, options.Database = c.Username, c.Password, c.Database
		options.SentinelMaster = c.SentinelMaster
		options.SentinelUsername, options.SentinelPassword = c.SentinelUsername, c.SentinelPassword
		if place != "" {
			if options.Database, err = strconv.Atoi(place); err != nil {
				return options, fmt.Errorf("number of a database of Redis: %w", err)
			}
		}
	}
	if !speaksTLS && !strings.HasPrefix(options.Servers[0], "rediss://") {
		return options, nil
	}
	if secured == nil {
		secured = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	options.TLS = secured
	if options.SentinelMaster != "" {
		options.SentinelTLS = secured
	}
	return options, nil
}

// brokerTLS returns what the files say, nil when none is given. The section is that of the options.
func brokerTLS(section, caFile, certFile, keyFile string) (*tls.Config, error) {
	if caFile == "" && certFile == "" {
		return nil, nil
	}
	secured := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("load the authority (option %s.ca_file): %w", section, err)
		}
		secured.RootCAs = x509.NewCertPool()
		if !secured.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("load the authority (option %s.ca_file): no certificate in %s", section, caFile)
		}
	}
	if certFile != "" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("load the certificate (options %s.cert_file, %[1]s.key_file): %w", section, err)
		}
		secured.Certificates = []tls.Certificate{pair}
	}
	return secured, nil
}
