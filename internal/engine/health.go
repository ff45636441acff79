package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var (
	// ErrNoQuorum says that the cluster, or the part of it that this node can see, cannot
	// store now: too few nodes with a store can reach each other. What comes with it is
	// ErrUnhealthy. Without it, an unhealthy engine is slow to follow, and others may store.
	ErrNoQuorum = errors.New("no majority of the stores can be reached")
	// ErrBehind says that this member of a cluster follows behind, as one does that has just
	// come or gets a replica. It can use what the others store. What comes with it is
	// ErrUnhealthy.
	ErrBehind = errors.New("this node follows behind")
)

const (
	// routesWait is how long Start waits for other nodes when it could do without.
	routesWait = 2 * time.Second
	// leaderTimeout is how long a leader has to answer before it is asked again.
	leaderTimeout = 500 * time.Millisecond
	// healthTimeout is how long it is asked again before it counts as missing.
	healthTimeout = 2 * time.Second
)

// Status is what a member of a cluster knows about it.
type Status struct {
	// Leader is the name of the server that leads the cluster's metadata; empty when there
	// is none, and always empty on a node without a store.
	Leader string
	// Quorum says whether there is such a leader that a majority follows, and every stream
	// with a replica here has a leader too.
	Quorum bool
	// Size is the number of nodes with a store that the cluster counts.
	Size int
	// Peers are the other nodes with a store, as the leader or this node sees them.
	Peers []PeerStatus
	// Leaderless are the streams with a replica here that no leader is known of.
	Leaderless []string
	// Lagging are the streams whose replica here follows behind, and by how many operations.
	Lagging map[string]uint64
}

// PeerStatus is the state of another node with a store. A follower knows little of the
// other followers; ask the leader.
type PeerStatus struct {
	Name    string
	Current bool
	Offline bool
	Lag     uint64        // operations behind
	Active  time.Duration // since it was heard of
}

// Status returns what this node knows of its cluster. Errors: ErrStandalone, ErrUnhealthy.
func (e *Engine) Status() (Status, error) {
	if e.cluster == nil {
		return Status{}, ErrStandalone
	}
	if e.cluster.NoStore {
		return Status{}, nil
	}
	info, err := e.server.Jsz(&server.JSzOptions{Account: mainAccount, Streams: true})
	if err != nil {
		return Status{}, fmt.Errorf("%w: read state of the store: %w", ErrUnhealthy, err)
	}
	status := Status{Lagging: map[string]uint64{}}
	if info.Meta != nil {
		status.Leader, status.Size = info.Meta.Leader, info.Meta.Size
		for _, peer := range info.Meta.Replicas {
			status.Peers = append(status.Peers, PeerStatus{
				Name: peer.Name, Current: peer.Current, Offline: peer.Offline,
				Lag: peer.Lag, Active: peer.Active,
			})
		}
	}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			status.addStream(e.options.ServerName, &stream)
		}
	}
	status.Quorum = status.Leader != "" && len(status.Leaderless) == 0
	return status, nil
}

// addStream looks at one stream with a replica on this server.
func (s *Status) addStream(self string, stream *server.StreamDetail) {
	cluster := stream.Cluster
	if cluster == nil {
		return
	}
	if cluster.Leader == "" {
		s.Leaderless = append(s.Leaderless, stream.Name)
	}
	for _, replica := range cluster.Replicas {
		if replica.Name == self && replica.Lag > 0 {
			s.Lagging[stream.Name] = replica.Lag
		}
	}
}

// Health returns nil when the engine can store, or on a node without a store use the stores
// of others, and otherwise an error that wraps ErrUnhealthy, and ErrNoQuorum if that is why,
// and says more. It looks at every stream and is made for a probe each second, not for each
// request.
func (e *Engine) Health(ctx context.Context) error {
	if err := e.fatal.get(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnhealthy, err)
	}
	if !e.server.Running() {
		return fmt.Errorf("%w: it was stopped", ErrUnhealthy)
	}
	if e.cluster != nil && e.cluster.NoStore {
		return e.remoteHealth(ctx)
	}
	if err := e.takenOut(); err != nil {
		return err
	}
	if !e.server.JetStreamEnabled() {
		return fmt.Errorf("%w: its store is off since a write failed; %s", ErrUnhealthy, e.storeAdvice())
	}
	if err := e.quorum(); err != nil {
		return err
	}
	result := make(chan *server.HealthStatus, 1)
	go func() { result <- e.healthz(ctx) }()
	select {
	case status := <-result:
		if status.Status != "ok" && e.cluster != nil {
			return fmt.Errorf("%w: %w: %s: %s", ErrUnhealthy, ErrBehind, status.Status, status.Error)
		}
		if status.Status != "ok" {
			return fmt.Errorf("%w: %s: %s", ErrUnhealthy, status.Status, status.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: no answer: %w", ErrUnhealthy, ctx.Err())
	}
}

// listenersSlow is a part of what the server says when it did not come to look at its listeners within the
// millisecond that it gives itself, as on a busy machine.
const listenersSlow = "failed to be ready for connections"

// healthz asks the server how it is, again while it did not come to look. It says the same when it stops.
func (e *Engine) healthz(ctx context.Context) *server.HealthStatus {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	var status *server.HealthStatus
	_ = poll(ctx, pollInterval, func() bool {
		status = e.server.Healthz(&server.HealthzOptions{})
		return !strings.Contains(status.Error, listenersSlow) || !e.server.Running()
	})
	return status
}

// takenOut returns an error when the others have taken this member out of the cluster.
func (e *Engine) takenOut() error {
	if !e.log.removed.Load() {
		return nil
	}
	return fmt.Errorf("%w: this node was taken out of the cluster for good; to let it join as a new node, "+
		"empty its data directory %q", ErrUnhealthy, e.options.DataDir)
}

// storeAdvice says what to do when the server has switched its store off: it does so when the
// disk is full or does not let it write, and does not switch it on again.
func (e *Engine) storeAdvice() string {
	return fmt.Sprintf("make room in %q and see that it can be written, then restart this node", e.options.DataDir)
}

// quorum returns an error when a cluster cannot store.
func (e *Engine) quorum() error {
	if e.cluster == nil {
		return nil
	}
	status, err := e.Status()
	switch {
	case err != nil:
		return err
	case status.Leader == "":
		return fmt.Errorf("%w: %w: the cluster has no leader", ErrUnhealthy, ErrNoQuorum)
	case len(status.Leaderless) > 0:
		return fmt.Errorf("%w: %w: no leader for %s",
			ErrUnhealthy, ErrNoQuorum, strings.Join(status.Leaderless, ", "))
	}
	return nil
}

// remoteHealth asks the leader of the cluster for something that only it answers, more than
// once: a request that meets a change of leaders is lost.
func (e *Engine) remoteHealth(ctx context.Context) error {
	conn, err := e.internal(userClient)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnhealthy, err)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	err = nil
	_ = poll(ctx, pollInterval, func() bool {
		err = leaderAnswers(ctx, conn)
		return err == nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w: %w", ErrUnhealthy, ErrNoQuorum, err)
	}
	return nil
}

// leaderAnswers asks the leader of the cluster once.
func leaderAnswers(ctx context.Context, conn *nats.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	var answer apiResponse
	return request(ctx, conn, "$JS.API.INFO", nil, &answer)
}

// joined waits until the cluster can store, as far as this node is concerned, and gives the
// routes, and others who may just have come as well, a moment.
func (e *Engine) joined(ctx context.Context) error {
	if !e.cluster.NoStore {
		ready := func() bool {
			return e.fatal.get() != nil || e.log.removed.Load() || e.quorum() == nil && e.remoteHealth(ctx) == nil
		}
		if err := poll(ctx, pollInterval, ready); err != nil {
			return errors.Join(err, e.quorum())
		}
	}
	if err := e.takenOut(); err != nil {
		return err
	}
	routes, _ := e.cluster.routeURLs(e.routes) // checked before
	others := 0
	for _, route := range routes {
		if !e.isOwn(route.Host) {
			others++
		}
	}
	patience, cancel := context.WithTimeout(ctx, routesWait)
	defer cancel()
	_ = poll(patience, pollInterval, func() bool { return e.sees(patience, others) })
	return errors.Join(e.fatal.get(), ctx.Err())
}

// sees says whether that many other nodes are there: connected, and known to the leader of
// the cluster as servers to put replicas on, if they are to store.
func (e *Engine) sees(ctx context.Context, others int) bool {
	if len(e.Peers()) < others {
		return false
	}
	if others == 0 {
		return true
	}
	meta, err := e.leaderView(ctx)
	if err != nil {
		return false
	}
	offline := func(peer *server.PeerInfo) bool { return peer.Offline }
	return e.cluster.NoStore || meta.Size > others && !slices.ContainsFunc(meta.Replicas, offline)
}

// leaderView asks the leader of the cluster what it knows of the members.
func (e *Engine) leaderView(ctx context.Context) (*server.MetaClusterInfo, error) {
	conn, err := e.internal(userSystem)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, leaderTimeout)
	defer cancel()
	var answer struct {
		apiResponse
		Data struct {
			Meta *server.MetaClusterInfo `json:"meta_cluster"`
		} `json:"data"`
	}
	err = request(ctx, conn, "$SYS.REQ.SERVER.PING.JSZ", server.JSzOptions{LeaderOnly: true}, &answer)
	if err != nil {
		return nil, err
	}
	if answer.Data.Meta == nil {
		return nil, ErrNoQuorum
	}
	return answer.Data.Meta, nil
}
