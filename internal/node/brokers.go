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
		Dropped:  n.metrics.Lost,
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
		Dropped:   n.metrics.Lost,
	})
}

// openRedis connects to Redis, or to another place for one part: the number of a database, or a
// URL.
func (n *Node) openRedis(ctx context.Context, place string, cluster bool) (fabric.Provider, error) {
	c := n.config.Redis
	secured, err := brokerTLS("redis", c.CAFile, c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	if secured == nil && c.TLS {
		secured = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	options := redis.Options{
		Servers: c.Servers, Username: c.Username, Password: c.Password, Database: c.Database, Prefix: c.Prefix,
		Cluster: cluster, SentinelMaster: c.SentinelMaster, SentinelUsername: c.SentinelUsername,
		SentinelPassword: c.SentinelPassword, WaitReplicas: c.WaitReplicas,
		Name: n.config.Node.Name, Logger: n.log.With("part", "redis"), Dropped: n.metrics.Lost,
	}
	if strings.Contains(place, "://") {
		options.Servers, options.Username, options.Password, options.Database = []string{place}, "", "", 0
		options.SentinelMaster = ""
	} else if place != "" {
		if options.Database, err = strconv.Atoi(place); err != nil {
			return nil, fmt.Errorf("number of a database of Redis: %w", err)
		}
	}
	if c.TLS || secured != nil && strings.HasPrefix(options.Servers[0], "rediss://") {
		options.TLS = secured
		if options.SentinelMaster != "" {
			options.SentinelTLS = secured
		}
	}
	return redis.Open(ctx, options)
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
