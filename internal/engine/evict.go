package engine

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var (
	// ErrPeerAlive says that a member cannot be evicted because its engine is there.
	ErrPeerAlive = errors.New("engine of the member is alive")
	// ErrOnlyCopy says that a member cannot be evicted because it alone may have a stream.
	ErrOnlyCopy = errors.New("stream cannot be reached without the member")
)

const (
	// evictTimeout bounds the wait until one stream is whole without the member.
	evictTimeout = 10 * time.Minute
	// evictPause is between two looks at that.
	evictPause = 250 * time.Millisecond
	// heardLately is for how long a server that was heard of counts as there.
	heardLately = 5 * time.Second
	// routeEnds is how long the route to a process that has just ended may seem to be there.
	routeEnds = 2 * time.Second
)

// Codes of the JetStream API about members.
const (
	codeNotMember = 10044
	codeInFlight  = 10202
)

// Evict takes a member that is dead for good out of the cluster: streams with more replicas
// than given are brought down to that number first, one at a time, then the member is taken
// out of the metadata, where its name can never come back, and others get its replicas. It
// returns when every stream is whole without it. It calls begin before each step. Repeating
// it goes on from where it was. Errors: ErrPeerAlive, ErrOnlyCopy, ErrNoQuorum, ErrStandalone,
// those of the server, and that of ctx.
func (e *Engine) Evict(ctx context.Context, member string, replicas int, begin func(step string)) error {
	conn, err := e.clusterConn()
	if err != nil {
		return fmt.Errorf("evict %s: %w", member, err)
	}
	v := &eviction{engine: e, conn: conn, member: member, peer: peerID(member), replicas: replicas}
	begin("looking whether it can be spared")
	if err := v.check(ctx); err != nil {
		return fmt.Errorf("evict %s: %w", member, err)
	}
	for name, have := range v.streams {
		if have > replicas {
			begin(fmt.Sprintf("stream %s: from %d to %d replicas", name, have, replicas))
			if err := v.lower(ctx, name); err != nil {
				return fmt.Errorf("evict %s: stream %s: %w", member, name, err)
			}
		}
	}
	begin("taking it out of the engine's cluster")
	if err := v.remove(ctx); err != nil {
		return fmt.Errorf("evict %s: %w", member, err)
	}
	for name := range v.streams {
		begin(fmt.Sprintf("stream %s: waiting for its replicas", name))
		if err := v.await(ctx, name); err != nil {
			return fmt.Errorf("evict %s: stream %s: %w", member, name, err)
		}
	}
	return nil
}

// eviction is one call of Evict.
type eviction struct {
	engine   *Engine
	conn     *nats.Conn
	member   string
	peer     string // its id in the groups of the engine
	replicas int
	streams  map[string]int // replicas by stream
}

// check refuses what would lose something, before anything is changed.
func (v *eviction) check(ctx context.Context) error {
	if err := v.gone(ctx); err != nil {
		return err
	}
	names, err := streamNames(ctx, v.conn)
	if err != nil {
		return err
	}
	v.streams = map[string]int{}
	for _, name := range names {
		info, err := readStream(ctx, v.conn, name)
		if hasCode(err, codeStreamNotFound) {
			continue // deleted since
		}
		if err != nil || info.Cluster == nil || info.Cluster.Leader == "" {
			return errors.Join(fmt.Errorf("%w: %s", ErrOnlyCopy, name), err)
		}
		v.streams[name] = info.Config.Replicas
	}
	return nil
}

// gone waits until the leader has not heard of the member for a while; one that there stays a
// route to is alive.
func (v *eviction) gone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*heardLately)
	defer cancel()
	// A leader that has just started calls servers that it never met neither current nor away.
	heard := func(peer *server.PeerInfo) bool {
		lately := peer.Current || peer.Active > 0 && peer.Active < heardLately
		return peer.Peer == v.peer && !peer.Offline && lately
	}
	var err error
	begin := time.Now()
	_ = poll(ctx, evictPause, func() bool {
		if v.member == v.engine.server.Name() || slices.Contains(v.engine.Peers(), v.member) {
			err = ErrPeerAlive
			return time.Since(begin) > routeEnds
		}
		meta, lost := v.engine.leaderView(ctx)
		switch {
		case lost != nil:
			err = fmt.Errorf("%w: %w", ErrNoQuorum, lost)
		case meta.Leader == v.member || slices.ContainsFunc(meta.Replicas, heard):
			err = ErrPeerAlive
		default:
			err = nil
		}
		return err == nil
	})
	return err
}

// lower brings a stream down to fewer replicas. The server drops those first that are away.
func (v *eviction) lower(ctx context.Context, name string) error {
	config, have, err := readConfig(ctx, v.conn, name)
	if err != nil {
		return err
	}
	if config["num_replicas"], err = json.Marshal(v.replicas); err != nil {
		return err
	}
	changed, err := json.Marshal(config)
	if err != nil {
		return err
	}
	v.engine.logger.Info("rescale stream", slog.String("stream", name),
		slog.Int("from", have), slog.Int("to", v.replicas))
	if err := v.engine.tryUpdate(ctx, v.conn, name, changed); err != nil {
		return err
	}
	v.streams[name] = v.replicas
	return v.await(ctx, name)
}

// remove takes the member out of the metadata.
func (v *eviction) remove(ctx context.Context) error {
	conn, err := v.engine.internal(userSystem)
	if err != nil {
		return err
	}
	asked := map[string]string{"peer": v.member, "peer_id": v.peer}
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	var last error
	err = poll(ctx, evictPause, func() bool {
		var answer apiResponse
		last = request(ctx, conn, "$JS.API.SERVER.REMOVE", asked, &answer)
		if hasCode(last, codeNotMember) {
			last = nil // by an earlier call, whose answer was lost
		}
		// Another change of the members, or of the leader, is over in a moment.
		return last == nil || !hasCode(last, codeInFlight) && !errors.Is(last, context.DeadlineExceeded)
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return last
}

// await waits until a stream and its consumers are whole without the member.
func (v *eviction) await(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, evictTimeout)
	defer cancel()
	first, err := readStream(ctx, v.conn, name)
	if hasCode(err, codeStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	current := map[string]map[string]bool{} // see reached
	var missing error
	err = poll(ctx, evictPause, func() bool {
		missing = v.whole(ctx, name, first.State.LastSeq, current)
		return missing == nil
	})
	if err != nil {
		return errors.Join(err, missing)
	}
	return nil
}

func (v *eviction) whole(
	ctx context.Context, name string, sequence uint64, current map[string]map[string]bool,
) error {
	info, err := readStream(ctx, v.conn, name)
	if err != nil {
		return err
	}
	if info.Cluster != nil && slices.ContainsFunc(info.Cluster.Replicas,
		func(peer *server.PeerInfo) bool { return peer.Peer == v.peer }) {
		return errors.New("the member is still one of its replicas")
	}
	return v.engine.reached(ctx, v.conn, name, v.streams[name], sequence, current)
}

// peerID is the id under which the engine's groups know a server: a hash of its name, as the
// server makes it.
func peerID(name string) string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	sum := sha256.Sum256([]byte(name))
	id := make([]byte, 8)
	for i := range id {
		id[i] = digits[int(sum[i])%len(digits)]
	}
	return string(id)
}
