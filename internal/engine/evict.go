package engine

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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
	// evictTimeout bounds the wait until one stream is whole without the member, which others
	// may have to copy for that.
	evictTimeout = 10 * time.Minute
	// lowerTimeout bounds the wait until one stream has fewer replicas. Nothing is copied.
	lowerTimeout = 2 * time.Minute
	// awayTimeout bounds the wait until the others know which servers are away.
	awayTimeout = 30 * time.Second
	// evictPause is between two looks at that.
	evictPause = 250 * time.Millisecond
	// heardLately is for how long a server that was heard of counts as there.
	heardLately = 5 * time.Second
	// electing is how long the members and each stream may have no leader because one has just died:
	// 2.5 s on a quiet machine, several times that on a busy one.
	electing = 10 * time.Second
	// routeEnds is how long the route to a process that has just ended may seem to be there.
	routeEnds = 2 * time.Second
)

// Codes of the JetStream API about members.
const (
	codeNotMember = 10044
	codeInFlight  = 10202
)

// Tell hears of the progress of an eviction: the step that begins, with nil, and afterwards what
// it waits for, whenever that is another thing.
type Tell func(step string, waits error)

// Evict takes a member that is dead for good out of the cluster: streams with more replicas
// than given are brought down to that number first, one at a time, then the member is taken
// out of the metadata, where its name can never come back, and others get its replicas; see
// AwaitWithout. If ctx ends before that, or it fails, the member stays; what was brought down
// stays so. Repeating it goes on from where it was. Errors: ErrPeerAlive, ErrOnlyCopy,
// ErrNoQuorum, ErrStandalone, those of the server, and that of ctx.
func (e *Engine) Evict(ctx context.Context, member string, replicas int, tell Tell) error {
	v, err := e.eviction(member, tell)
	if err != nil {
		return fmt.Errorf("evict %s: %w", member, err)
	}
	tell("looking whether it can be spared", nil)
	if err := v.check(ctx); err != nil {
		return fmt.Errorf("evict %s: %w", member, err)
	}
	for _, name := range slices.Sorted(maps.Keys(v.streams)) {
		if have := v.streams[name]; have > replicas {
			v.begin(fmt.Sprintf("stream %s: from %d to %d replicas", name, have, replicas))
			if err := v.lower(ctx, name, replicas); err != nil {
				return fmt.Errorf("evict %s: stream %s: %w", member, name, err)
			}
		}
	}
	v.begin("taking it out of the engine's cluster")
	if err := v.gone(ctx); err != nil { // it may have come back meanwhile
		return fmt.Errorf("evict %s: %w", member, err)
	}
	if err := v.remove(ctx); err != nil {
		return fmt.Errorf("evict %s: %w", member, err)
	}
	return nil
}

// AwaitWithout waits until every stream is whole without a member that was taken out by Evict.
// What another server has that is away is not waited for: its turn to be taken out may be
// next. Errors: ErrStandalone, those of the server, and that of ctx.
func (e *Engine) AwaitWithout(ctx context.Context, member string, tell Tell) error {
	v, err := e.eviction(member, tell)
	if err != nil {
		return fmt.Errorf("await the streams without %s: %w", member, err)
	}
	if err := v.read(ctx); err != nil {
		return fmt.Errorf("await the streams without %s: %w", member, err)
	}
	for _, name := range slices.Sorted(maps.Keys(v.streams)) {
		v.begin(fmt.Sprintf("stream %s: waiting for its replicas", name))
		if err := v.await(ctx, name, evictTimeout); err != nil {
			return fmt.Errorf("await stream %s without %s: %w", name, member, err)
		}
	}
	return nil
}

// Counted returns how many of the named servers the leader of the cluster counts as members,
// dead or alive. It waits for one that is being elected. Errors: ErrNoQuorum, ErrStandalone, and
// that of ctx.
func (e *Engine) Counted(ctx context.Context, names []string) (int, error) {
	if e.cluster == nil {
		return 0, ErrStandalone
	}
	waiting, cancel := context.WithTimeout(ctx, electing)
	defer cancel()
	var meta *server.MetaClusterInfo
	var last error
	if err := poll(waiting, evictPause, func() bool {
		meta, last = e.leaderView(waiting)
		return last == nil
	}); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoQuorum, errors.Join(last, ctx.Err()))
	}
	counted := 0
	for _, name := range names {
		is := func(peer *server.PeerInfo) bool { return peer.Peer == peerID(name) }
		if meta.Leader == name || slices.ContainsFunc(meta.Replicas, is) {
			counted++
		}
	}
	return counted, nil
}

// eviction is one call of Evict or AwaitWithout.
type eviction struct {
	engine  *Engine
	conn    *nats.Conn
	member  string
	peer    string // its id in the groups of the engine
	tell    Tell
	step    string         // that was begun
	streams map[string]int // replicas by stream
}

func (e *Engine) eviction(member string, tell Tell) (*eviction, error) {
	conn, err := e.clusterConn()
	if err != nil {
		return nil, err
	}
	return &eviction{engine: e, conn: conn, member: member, peer: peerID(member), tell: tell}, nil
}

// begin tells of a step.
func (v *eviction) begin(step string) {
	v.step = step
	v.tell(step, nil)
}

// check refuses what would lose something, before anything is changed.
func (v *eviction) check(ctx context.Context) error {
	if err := v.gone(ctx); err != nil {
		return err
	}
	return v.read(ctx)
}

// read finds the streams and their replicas. Each must have a leader, or get one.
func (v *eviction) read(ctx context.Context) error {
	names, err := streamNames(ctx, v.conn)
	if err != nil {
		return err
	}
	v.streams = map[string]int{}
	for _, name := range names {
		replicas, err := v.led(ctx, name)
		if hasCode(err, codeStreamNotFound) {
			continue // deleted since
		}
		if err != nil {
			return err
		}
		v.streams[name] = replicas
	}
	return nil
}

// led waits until a stream has a leader and returns its number of replicas.
func (v *eviction) led(ctx context.Context, name string) (replicas int, err error) {
	waiting, cancel := context.WithTimeout(ctx, electing)
	defer cancel()
	if poll(waiting, evictPause, func() bool {
		trying, done := context.WithTimeout(waiting, 2*leaderTimeout) // nobody answers without a leader
		defer done()
		var info *streamInfo
		info, err = readStream(trying, v.conn, name)
		if err == nil && info.Cluster != nil && info.Cluster.Leader != "" {
			replicas = info.Config.Replicas
			return true
		}
		v.tell(v.step, fmt.Errorf("%s has no leader", name))
		return hasCode(err, codeStreamNotFound)
	}) != nil {
		return 0, errors.Join(fmt.Errorf("%w: %s", ErrOnlyCopy, name), err, ctx.Err())
	}
	return replicas, err
}

// gone waits until the leader has not heard of the member for a while; one that there stays a
// route to is alive.
func (v *eviction) gone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*heardLately)
	defer cancel()
	lives := func(peer *server.PeerInfo) bool { return peer.Peer == v.peer && heard(peer) }
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
		case meta.Leader == v.member || slices.ContainsFunc(meta.Replicas, lives):
			err = ErrPeerAlive
		default:
			err = nil
		}
		return err == nil
	})
	return err
}

// heard says whether a leader has heard of a server lately. One that has just started calls
// servers that it never met neither current nor away.
func heard(peer *server.PeerInfo) bool {
	return !peer.Offline && (peer.Current || peer.Active > 0 && peer.Active < heardLately)
}

// lower brings a stream down to fewer replicas. The server drops those first that it knows to
// be away.
func (v *eviction) lower(ctx context.Context, name string, replicas int) error {
	if err := v.awaitRelease(ctx, name); err != nil {
		return err
	}
	config, have, err := readConfig(ctx, v.conn, name)
	if hasCode(err, codeStreamNotFound) {
		return nil // deleted since
	}
	if err != nil {
		return err
	}
	if config["num_replicas"], err = json.Marshal(replicas); err != nil {
		return err
	}
	changed, err := json.Marshal(config)
	if err != nil {
		return err
	}
	v.engine.logger.Info("rescale stream", slog.String("stream", name),
		slog.Int("from", have), slog.Int("to", replicas))
	if err := v.engine.tryUpdate(ctx, v.conn, name, changed); err != nil {
		return err
	}
	v.streams[name] = replicas
	return v.await(ctx, name, lowerTimeout)
}

func (v *eviction) awaitRelease(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, awayTimeout)
	defer cancel()
	var last error
	err := poll(ctx, evictPause, func() bool {
		last = v.release(ctx, name)
		return last == nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// remove takes the member out of the metadata. The end of ctx does not stop it: nobody would
// know then whether the member is still in.
func (v *eviction) remove(ctx context.Context) error {
	conn, err := v.engine.internal(userSystem)
	if err != nil {
		return err
	}
	asked := map[string]string{"peer": v.member, "peer_id": v.peer}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
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
func (v *eviction) await(ctx context.Context, name string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
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
	told := ""
	err = poll(ctx, evictPause, func() bool {
		look := v.whole(ctx, name, first.State.LastSeq, current)
		if hasCode(look, codeStreamNotFound) {
			look = nil // deleted since
		}
		if look == nil || ctx.Err() == nil { // else that says only that the time is up
			missing = look
		}
		if missing != nil && missing.Error() != told {
			told = missing.Error()
			v.tell(v.step, missing)
		}
		return missing == nil
	})
	if err != nil {
		return errors.Join(err, missing)
	}
	return nil
}

// whole returns nil when a stream has all of its replicas, and none of them on the member.
func (v *eviction) whole(
	ctx context.Context, name string, sequence uint64, current map[string]map[string]bool,
) error {
	if err := v.release(ctx, name); err != nil {
		return err
	}
	info, err := readStream(ctx, v.conn, name)
	if err != nil {
		return err
	}
	if info.Cluster != nil {
		others := info.Cluster.Replicas
		if slices.ContainsFunc(others, func(peer *server.PeerInfo) bool { return peer.Peer == v.peer }) {
			return errors.New("the member is still one of its replicas")
		}
		if info.Cluster.Leader != "" && len(others) == v.streams[name]-1 &&
			slices.ContainsFunc(others, func(peer *server.PeerInfo) bool { return peer.Offline }) {
			return nil // see AwaitWithout
		}
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
