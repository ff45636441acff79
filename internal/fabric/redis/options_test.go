package redis

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	for name, c := range map[string]struct {
		options Options
		want    string // a part of the error
	}{
		"none":               {Options{}, "no server"},
		"several":            {Options{Servers: []string{"a", "b"}}, "Cluster or Sentinels"},
		"cluster, sentinels": {Options{Servers: []string{"a"}, Cluster: true, SentinelMaster: "m"}, "not both"},
		"cluster, database":  {Options{Servers: []string{"a"}, Cluster: true, Database: 1}, "no database 1"},
		"cluster, url":       {Options{Servers: []string{"redis://a/2"}, Cluster: true}, "no database 2"},
		"sentinel user":      {Options{Servers: []string{"a"}, SentinelUsername: "u"}, "need the name of the master"},
		"sentinel tls":       {Options{Servers: []string{"a"}, SentinelTLS: settings}, "need the name of the master"},
		"sentinel url":       {Options{Servers: []string{"redis://u:p@a"}, SentinelMaster: "m"}, "by themselves"},
		"negative database":  {Options{Servers: []string{"a"}, Database: -1}, "negative"},
		"negative replicas":  {Options{Servers: []string{"a"}, WaitReplicas: -1}, "negative"},
		"brace in prefix":    {Options{Servers: []string{"a"}, Prefix: "a{b"}, "prefix"},
		"space in prefix":    {Options{Servers: []string{"a"}, Prefix: "a b"}, "prefix"},
		"space in name":      {Options{Servers: []string{"a"}, Name: "a b"}, "name"},
		"port":               {Options{Servers: []string{"a:x"}}, "host:port"},
		"port 0":             {Options{Servers: []string{"a:0"}}, "host:port"},
		"password, no url":   {Options{Servers: []string{"u:p@a:1"}}, "host:port"},
		"empty":              {Options{Servers: []string{""}}, "host:port"},
		"scheme":             {Options{Servers: []string{"http://a"}}, "http://"},
		"path":               {Options{Servers: []string{"redis://a/x"}}, "not the number of a database"},
		"query":              {Options{Servers: []string{"redis://a?db=1"}}, "not known"},
		"unreadable":         {Options{Servers: []string{"redis://:secret word@a:b"}}, "cannot be read"},
		"users differ":       {Options{Servers: []string{"redis://a:x@h"}, Username: "b"}, "differ"},
		"passwords differ":   {Options{Servers: []string{"redis://a:x@h"}, Password: "y"}, "differ"},
		"databases differ":   {Options{Servers: []string{"redis://h/1"}, Database: 2}, "differ"},
		"servers differ":     {Options{Servers: []string{"redis://a", "rediss://b"}, Cluster: true}, "differ"},
		"tls and redis://":   {Options{Servers: []string{"redis://a"}, TLS: settings}, "rediss://"},
	} {
		_, err := c.options.complete()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got error %v, want one with %q", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		options            Options
		servers            []string
		username, password string
		database           int
		tls, sentinelTLS   bool
	}{
		"host":      {options: Options{Servers: []string{"a"}}, servers: []string{"a:6379"}},
		"ipv6":      {options: Options{Servers: []string{"::1"}}, servers: []string{"[::1]:6379"}},
		"tls":       {options: Options{Servers: []string{"a:1"}, TLS: settings}, servers: []string{"a:1"}, tls: true},
		"sentinels": {options: Options{Servers: []string{"a", "b:2"}, SentinelMaster: "m"}, servers: []string{"a:26379", "b:2"}},
		"sentinels by TLS": {options: Options{Servers: []string{"rediss://a"}, SentinelMaster: "m"},
			servers: []string{"a:26379"}, sentinelTLS: true},
		"url": {options: Options{Servers: []string{"rediss://u:p%2F@[::1]:7/3"}, Password: "p/"},
			servers: []string{"[::1]:7"}, username: "u", password: "p/", database: 3, tls: true},
		"cluster": {options: Options{Servers: []string{"redis://:p@a", "redis://:p@b:1"}, Cluster: true},
			servers: []string{"a:6379", "b:1"}, password: "p"},
	} {
		o, err := c.options.complete()
		if err != nil || !slices.Equal(o.Servers, c.servers) || o.Username != c.username || o.Password != c.password ||
			o.Database != c.database || (o.TLS != nil) != c.tls || (o.SentinelTLS != nil) != c.sentinelTLS || o.Prefix != DefaultPrefix {
			t.Errorf("%s: got %+v, %v", name, o, err)
		}
	}
}

// FuzzParse checks that an address that is taken has a host and a port, and that no error shows
// what may be a password.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "a", "a:1", "[::1]:2", "redis://u:p@a:1/2", "rediss://:p@a", "redis://a/x", "redis://u:p@:"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := Options{}.parse(text)
		if err == nil && (a.database < 0 || !strings.Contains(a.place, ":")) {
			t.Errorf("%q became %+v", text, a)
		}
		if _, secret, found := strings.Cut(text, "secret"); found && err != nil && len(secret) > 8 && strings.Contains(err.Error(), secret) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
