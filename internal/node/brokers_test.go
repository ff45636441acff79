package node

import (
	"testing"

	"github.com/parleyio/parley/internal/config"
)

// The URL of a place says all about the Redis there; a number is a database of the one that the other
// options name.
func TestRedisPlaces(t *testing.T) {
	sentinels := config.Redis{
		Servers: []string{"s1:26379", "s2:26379"}, Username: "u", Password: "p", Database: 2, Prefix: "a:", WaitReplicas: 1,
		SentinelMaster: "main", SentinelUsername: "watcher", SentinelPassword: "w", TLS: true,
	}
	for _, c := range []struct {
		place               string
		server, login, main string
		database            int
		tls, sentinelTLS    bool
	}{
		{"", "s1:26379", "u:p", "main:watcher:w", 2, true, true},
		{"7", "s1:26379", "u:p", "main:watcher:w", 7, true, true},
		{"redis://other:6379/3", "redis://other:6379/3", ":", "::", 0, false, false},
		{"rediss://other:6379/3", "rediss://other:6379/3", ":", "::", 0, true, false},
	} {
		o, err := redisOptions(sentinels, c.place)
		if err != nil {
			t.Errorf("%q: %v", c.place, err)
		}
		main := o.SentinelMaster + ":" + o.SentinelUsername + ":" + o.SentinelPassword
		if o.Servers[0] != c.server || o.Username+":"+o.Password != c.login || main != c.main || o.Database != c.database ||
			(o.TLS != nil) != c.tls || (o.SentinelTLS != nil) != c.sentinelTLS || o.Prefix != "a:" || o.WaitReplicas != 1 {
			t.Errorf("%q: %+v", c.place, o)
		}
	}
	if _, err := redisOptions(sentinels, "seven"); err == nil {
		t.Error("a database has no number")
	}
}
