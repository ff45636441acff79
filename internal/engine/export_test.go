package engine

import (
	"time"

	"github.com/nats-io/nats.go"
)

// Passwords are what the tests look for in logs.
func (c *Cluster) Passwords() []string { return c.passwords() }

// ClientURL is where the engine of a member listens for clients.
func (e *Engine) ClientURL() string { return e.server.ClientURL() }

// System is a connection to the system account.
func (e *Engine) System() (*nats.Conn, error) { return e.internal(userSystem) }

// PeerID is the id of a server in the groups of the engine.
func PeerID(name string) string { return peerID(name) }

// RaftTiming is the timing of consensus by the server's name for each part.
type RaftTiming map[string]time.Duration

// UntunedRaft is what the server had before init of raft.go set it, as variables of a package
// are initialized before its init runs. One that the server does not have, or not as a
// variable, is one of ours: nobody has given it a value.
var UntunedRaft = TunedRaft()

// TunedRaft is what is set now.
func TunedRaft() RaftTiming {
	return RaftTiming{
		"hbInterval":               hbInterval,
		"minElectionTimeout":       minElectionTimeout,
		"maxElectionTimeout":       maxElectionTimeout,
		"lostQuorumInterval":       lostQuorumInterval,
		"lostQuorumCheck":          lostQuorumCheck,
		"migrateMetaRetryInterval": migrateMetaRetryInterval,
	}
}
