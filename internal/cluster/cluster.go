// Package cluster finds the other nodes before the engine starts, knows afterwards who is
// alive, and says which node owns a key.
//
// Discover asks seeds over a small authenticated hello protocol until there is a cluster to
// join or the agreed number of nodes to form one with. Start keeps the membership from then
// on over the signal. View.Owner is rendezvous hashing over the live members. What decides
// (seeker, table) is pure: no clock, no socket, no goroutine. DESIGN.md tells the whole.
//
// It may import fabric (for Signal) and nothing else of Parley, and never an engine.
package cluster

import "errors"

// Sentinel errors. The errors that wrap them say what to do.
var (
	// ErrInvalidOptions says that Options cannot be used.
	ErrInvalidOptions = errors.New("invalid cluster options")
	// ErrNoPort says that no free pair of ports was found near the one asked for.
	ErrNoPort = errors.New("no free cluster port")
	// ErrIdentityInUse says that another running process has this node's id.
	ErrIdentityInUse = errors.New("node identity is in use")
	// ErrOtherCluster says that this node's data belongs to another cluster than the one
	// that answers in its domain.
	ErrOtherCluster = errors.New("another cluster has this domain")
	// ErrIncompatible says that a running cluster speaks no version this node speaks.
	ErrIncompatible = errors.New("incompatible cluster version")
	// ErrSecret says that a node of the domain has another cluster secret.
	ErrSecret = errors.New("cluster secret differs")
	// ErrCertificate says that TLS between two nodes failed: a certificate is missing, of
	// another authority or has expired, or one of them speaks no TLS.
	ErrCertificate = errors.New("certificates of the cluster do not fit")
	// ErrRefused says that most nodes asked refuse this one and none takes it.
	ErrRefused = errors.New("refused by the other nodes")
	// ErrDamaged says that a file of the package cannot be read as what it should be.
	ErrDamaged = errors.New("damaged file")
	// ErrForgotten says that this node was taken out of its cluster for good.
	ErrForgotten = errors.New("node was taken out of the cluster")
	// ErrBringsData says that this node has what it stored alone, and found a cluster that
	// has data of its own.
	ErrBringsData = errors.New("node has data from running alone")
	// ErrAlive says that a member cannot be forgotten while it is alive.
	ErrAlive = errors.New("member is alive")
	// ErrStopped says that the Membership was stopped.
	ErrStopped = errors.New("membership is stopped")
)

// Roles of a node. Any other lower-case word with - or : in it may be a role as well: the
// key of background work that the node takes.
const (
	RoleGateway    = "gateway"    // serves clients
	RoleStore      = "store"      // keeps data; only these found a cluster
	RoleManager    = "manager"    // takes deployments, serves the console
	RoleWorker     = "worker"     // runs deployed applications
	RoleKeyManager = "keymanager" // issues tokens
)

// Keys of Member.Addresses that this package reads. Others are free.
const (
	AddressHello = "hello" // the hello protocol, host:port
	AddressRoute = "route" // the engine's routes, host:port
	// AddressChannels is where clients are served, host:port; the host may be one that is only
	// listened on.
	AddressChannels = "channels"
)

// Versions of the hello and heartbeat protocols that this program speaks. Two nodes can be
// in one cluster if their ranges overlap. Version 1: first.
const (
	versionOldest = 1
	versionNewest = 1
)

// Limits.
const (
	// MaxMembers is how many members a cluster may have.
	MaxMembers = 256
	// MinSecretSize is the size in bytes of the shortest cluster secret.
	MinSecretSize = 16

	maxNameSize       = 255  // bytes of a name, domain, role, property key, address
	maxPropertySize   = 1024 // bytes of a property value
	maxRoles          = 32
	maxProperties     = 32
	maxAddresses      = 16
	maxMemberSize     = 16 << 10 // bytes of a member as JSON
	maxHeartbeatSize  = 64 << 10 // bytes
	maxOut            = 64       // dead nodes named in a heartbeat
	maxForgotten      = 1024     // forgotten nodes remembered, the latest
	maxForgottenTold  = 64       // forgotten nodes named in a heartbeat, the latest
	maxLearned        = 256      // addresses heard of, and tried
	maxCounter        = 1 << 62  // of an incarnation and a round, far beyond any honest one
	maxTargets        = 4096     // addresses probed in one round
	maxProbesAtOnce   = 256
	maxHelloConns     = 128 // connections of the hello service, all
	maxHelloConnsPeer = 32  // connections of the hello service, of one address
)

// Reasons given to Options.Dropped.
const (
	DropHelloBusy        = "cluster_hello_busy"          // too many connections at once
	DropHelloRefused     = "cluster_hello_refused"       // no or no valid proof of the secret
	DropHeartbeatFull    = "cluster_heartbeat_full"      // more messages than the loop reads
	DropHeartbeatInvalid = "cluster_heartbeat_invalid"   // not understood
	DropHeartbeatUnsent  = "cluster_heartbeat_unsent"    // the signal did not take it
	DropHeartbeatStale   = "cluster_heartbeat_stale"     // of an incarnation that is over
	DropForgotten        = "cluster_heartbeat_forgotten" // of a node that was taken out
	DropDuplicate        = "cluster_identity_duplicate"  // of another process with our id
	DropMemberLimit      = "cluster_member_limit"        // beyond MaxMembers
	DropPeerLost         = "cluster_peer_lost_full"      // more losses than are verified at once
)
