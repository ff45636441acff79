package engine

import (
	"time"
	_ "unsafe" // for go:linkname
)

// The timing of consensus is compiled into the server and has no option: a leader that dies
// is replaced after 4 to 9 seconds. That is right for clusters across regions and too slow
// for nodes that stand beside each other. These names are the server's own variables, which
// its tests set as well. The linker binds them by name; were one renamed, it would silently
// become a variable of ours. TestRaftVariables looks whether each had the server's value before,
// TestRaftTiming hears that the first has an effect, and TestKill that the next two have: with
// the server's own timing no election takes less than 4 s.

//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
var hbInterval time.Duration

//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
var minElectionTimeout time.Duration

//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
var maxElectionTimeout time.Duration

//go:linkname lostQuorumInterval github.com/nats-io/nats-server/v2/server.lostQuorumInterval
var lostQuorumInterval time.Duration

//go:linkname lostQuorumCheck github.com/nats-io/nats-server/v2/server.lostQuorumCheck
var lostQuorumCheck time.Duration

// A leader whose replicas change asks the leader of the cluster for each step, which may not
// answer, and asks again after this time.
//
//go:linkname migrateMetaRetryInterval github.com/nats-io/nats-server/v2/server.migrateMetaRetryInterval
var migrateMetaRetryInterval time.Duration

// init runs before any server can start, since the server reads these without a lock.
func init() {
	hbInterval = 250 * time.Millisecond          // 1 s: a leader says that it lives
	minElectionTimeout = 1 * time.Second         // 4 s: a follower that heard nothing stands,
	maxElectionTimeout = 2 * time.Second         // 9 s: at a random time between the two
	lostQuorumInterval = 2500 * time.Millisecond // 10 s: a follower not heard of is away
	lostQuorumCheck = 500 * time.Millisecond     // 10 s: how often a leader looks for that
	migrateMetaRetryInterval = time.Second       // 5 s
}
