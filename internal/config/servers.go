package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The checks of where brokers are. They never repeat an address, which may hold a password.

var (
	errRedisServer = errors.New("must be host:port, or a redis:// or rediss:// URL with a host, a port (1 to 65535) and the " +
		"number of a database or without the last two")
	errRedisPlace = errors.New("must be the number of a database, or a redis:// or rediss:// URL with a host, a port " +
		"(1 to 65535) and the number of a database or without the last two")
	errNATSServer = errors.New("must be host:port, or a nats://, tls://, ws:// or wss:// URL with a host and a port (1 to " +
		"65535) or without a port")
	errRabbitServer = errors.New("must be an amqp:// or amqps:// URL with a host and a port (1 to 65535) or without a port")
)

// areServers refuses an empty list, and one with an element that is none of a broker's servers.
func areServers(isServer func(string) error) func([]string) error {
	return func(list []string) error {
		if len(list) == 0 {
			return errRequired
		}
		for i, server := range list {
			if err := isServer(server); err != nil {
				return fmt.Errorf("number %d %w", i+1, err)
			}
		}
		return nil
	}
}

// isRedisServer accepts a host, host:port and a URL.
func isRedisServer(server string) error {
	if !strings.Contains(server, "://") && isPlace(server) {
		return nil
	}
	if _, ok := redisDatabase(server); !ok {
		return errRedisServer
	}
	return nil
}

// isRedisPlace accepts the number of a database or a URL.
func isRedisPlace(place string) error {
	if _, ok := databaseOf(place); !ok {
		return errRedisPlace
	}
	return nil
}

// databaseOf returns the number of the database that a part's place in Redis is, or that is there,
// and whether the place is one. Nothing is database 0.
func databaseOf(place string) (number int, ok bool) {
	if strings.Contains(place, "://") {
		return redisDatabase(place)
	}
	return databaseNumber(place)
}

// redisDatabase returns the number of the database that the URL of a Redis ends with, and whether
// it is such a URL.
func redisDatabase(text string) (number int, ok bool) {
	u := brokerURL(text, "redis", "rediss")
	if u == nil || !isPlace(u.Host) || u.RawQuery != "" || u.Fragment != "" {
		return 0, false
	}
	return databaseNumber(strings.Trim(u.Path, "/"))
}

// databaseNumber reads the number of a database; nothing is 0.
func databaseNumber(text string) (number int, ok bool) {
	if text == "" {
		return 0, true
	}
	if strings.Trim(text, "0123456789") != "" || len(text) > 5 {
		return 0, false
	}
	number, err := strconv.Atoi(text)
	return number, err == nil
}

// isNATSServer accepts URLs, and host:port as the client library does.
func isNATSServer(server string) error {
	if !strings.Contains(server, "://") {
		server = "nats://" + server
	}
	if u := brokerURL(server, "nats", "tls", "ws", "wss"); u == nil || !isPlace(u.Host) {
		return errNATSServer
	}
	return nil
}

// isRabbitServer accepts URLs. One without a host means this machine.
func isRabbitServer(server string) error {
	u := brokerURL(server, "amqp", "amqps")
	if u == nil || !isPlace(u.Host) && u.Hostname()+u.Port() != "" {
		return errRabbitServer
	}
	return nil
}

// brokerURL reads a URL with one of the schemes, nil if it is none.
func brokerURL(text string, schemes ...string) *url.URL {
	if u, err := url.Parse(text); err == nil && slices.Contains(schemes, u.Scheme) {
		return u
	}
	return nil
}

// isPlace tells whether a text is a host, or a host and a port.
func isPlace(text string) bool {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"), "1"
	}
	if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, "@/:[]?# \t") {
		return false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	return host != "" && err == nil && number > 0
}
