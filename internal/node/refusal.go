package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/parleyio/parley/internal/config"
	"github.com/parleyio/parley/internal/fabric"
)

// withOptions adds to why a driver cannot be opened the options that say how to reach it, if it is not
// a matter of what the server can do.
func withOptions(err error, c config.Redis, part, driver, place string) error {
	if errors.Is(err, fabric.ErrUnsupported) || strings.Contains(err.Error(), "(option") {
		return err
	}
	options := optionsBehind(err, c, part, driver, place)
	if len(options) == 0 {
		return err
	}
	word := "option"
	if len(options) > 1 {
		word = "options"
	}
	return fmt.Errorf("%w (%s %s)", err, word, strings.Join(options, ", "))
}

// optionsBehind are the options that a refusal may be mended with.
func optionsBehind(err error, c config.Redis, part, driver, place string) []string {
	var untrusted *tls.CertificateVerificationError
	isUntrusted := errors.As(err, &untrusted)
	switch driver {
	case config.DriverRabbitMQ:
		if isUntrusted {
			return []string{"rabbitmq.ca_file"}
		}
		return []string{"rabbitmq.servers"}
	case config.DriverNATS:
		if isUntrusted {
			return []string{"nats.ca_file"}
		}
		return []string{"nats.servers", "nats.username", "nats.password", "nats.token", "nats.credentials_file", "nats.nkey_file"}
	case config.DriverRedis, config.DriverRedisCluster:
		if isUntrusted {
			return []string{"redis.ca_file"}
		}
		return redisOptionsBehind(err, c, part, place)
	}
	return nil
}

// redisOptionsBehind is optionsBehind for Redis.
func redisOptionsBehind(err error, c config.Redis, part, place string) []string {
	if strings.Contains(place, "://") {
		if part == "rate_limit" {
			part = "signal" // their counts are at the place for signals
		}
		return []string{"redis." + part}
	}
	login := false
	for _, word := range []string{"WRONGPASS", "NOAUTH", "NOPERM"} {
		login = login || strings.Contains(err.Error(), word)
	}
	switch {
	case !login:
		return []string{"fabric." + part, "fabric.driver", "redis.servers", "redis.sentinel_master"}
	case c.SentinelMaster != "": // either may have refused
		return []string{"redis.username", "redis.password", "redis.sentinel_username", "redis.sentinel_password"}
	}
	return []string{"redis.username", "redis.password", "redis.servers"}
}
