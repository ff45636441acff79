package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/fabric"
)

// What is stored follows the number of known members with a store: when some join, the replicas
// are raised, by the owner of the work and under a lock, one stream at a time. They are lowered
// only by Forget: a node that is merely away comes back.

const (
	// growInterval is between two looks whether there is something to raise.
	growInterval = time.Second
	// growRecheck is between two questions to the engine when nothing has changed.
	growRecheck = time.Minute
	// growPauseMin and growPauseMax bound the pause after a failure.
	growPauseMin = 5 * time.Second
	growPauseMax = time.Minute
	// changeLease is that of the lock under which members and replicas are changed.
	changeLease = 10 * time.Second
	// askTimeout bounds a question to the engine.
	askTimeout = 5 * time.Second
)

// changeLock is the name of that lock.
const changeLock = "replicas"

// survivable returns how many copies of the stored data a cluster keeps that has so many
// nodes with a store: as many as let it survive the loss of every second of them.
func survivable(stores int) int {
	switch {
	case stores >= 5:
		return 5
	case stores >= 3:
		return 3
	}
	return 1
}

// survives returns how many of the nodes with a store may be lost at once.
func survives(stores, replicas int) int { return max(0, min(stores-1, replicas-1)/2) }

// known returns every member of the cluster that counts, dead or alive, sorted by id. The
// majority is reckoned from those of them that have a store.
func (k *clustered) known() []cluster.Member {
	if m := k.started.Load(); m != nil {
		return m.Known()
	}
	return slices.Clone(k.decision.Members)
}

// replicas returns how many copies of the stored data the cluster is to keep.
func (k *clustered) replicas() int { return survivable(cluster.Stores(k.known())) }

// adviseSize logs what a cluster of this size survives where that may be a surprise.
func (n *Node) adviseSize(stores int) {
	log := n.log.With("part", "cluster")
	switch {
	case stores == 2:
		log.Warn("this cluster has two nodes with a store and survives the loss of neither: while one is away " +
			"nothing can be stored, and each stream is on one of them only; add a third")
	case stores%2 == 0:
		log.Info(fmt.Sprintf("this cluster has %d nodes with a store and survives the loss of %d of them, as %d would; "+
			"one more makes it %d", stores, survives(stores, survivable(stores)), stores-1,
			survives(stores+1, survivable(stores+1))))
	}
}

// grower raises replicas.
type grower struct {
	node    *Node
	work    atomic.Pointer[string] // what it does, or why it failed, for people; nil for nothing
	pause   time.Duration          // after the last failure
	next    time.Time              // not before
	settled string                 // the situation in which there was nothing to do
}

// run looks after the replicas until ctx ends.
func (g *grower) run(ctx context.Context) error {
	ticker := time.NewTicker(growInterval)
	defer ticker.Stop()
	for {
		g.look(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look raises what has too few replicas, if that is for this node to do now.
func (g *grower) look(ctx context.Context) {
	view, known := g.node.cluster.membership.View(), g.node.cluster.known()
	want := survivable(cluster.Stores(known))
	owner, found := view.Owner(changeLock, cluster.Ready(cluster.RoleStore))
	situation := fmt.Sprint(want, view.Epoch)
	changed := situation != g.settled
	if want == 1 || !found || owner.ID != view.Self {
		g.work.Store(nil)
		return
	}
	if now := time.Now(); now.Before(g.next) && (!changed || g.pause > 0) {
		return
	}
	err := g.raise(ctx, view, known, want)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		g.pause = min(max(growPauseMin, 2*g.pause), growPauseMax)
		g.next = time.Now().Add(g.pause)
		g.tell(fmt.Sprintf("last try: %v; trying again every %v", err, g.pause))
		level := slog.LevelWarn
		if errors.Is(err, errNotTold) {
			level = slog.LevelDebug
		}
		g.node.log.Log(ctx, level, "replicas not raised yet, trying again", "part", "cluster", "to", want,
			"again_after", g.pause, "error", err)
	default:
		g.pause, g.settled, g.next = 0, situation, time.Now().Add(growRecheck)
		g.work.Store(nil)
	}
}

// giveUp ends the raising when a node with a store goes away: it would be waited for in vain,
// with the lock held that forgetting it needs.
func (g *grower) giveUp(ctx context.Context, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(growInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		k := g.node.cluster
		if err := allThere(k.membership.View(), k.known()); err != nil {
			cancel(err)
			return
		}
	}
}

// storesAway returns the names of the nodes with a store that are away.
func storesAway(view cluster.View, known []cluster.Member) (names []string) {
	for _, m := range known {
		if _, alive := view.Member(m.ID); !alive && m.HasRole(cluster.RoleStore) {
			names = append(names, m.Name)
		}
	}
	return names
}

// allThere returns an error that names the nodes with a store that are away, if there are any.
func allThere(view cluster.View, known []cluster.Member) error {
	away := storesAway(view, known)
	if len(away) == 0 {
		return nil
	}
	return fmt.Errorf("%s: away; start it, or take it out with \"parley cluster forget\"", strings.Join(away, ", "))
}

func (g *grower) tell(what string) { g.work.Store(&what) }

// errNotTold says that the engine did not tell how the replicas are, as it does when leaders
// are being elected: there may be nothing to raise.
var errNotTold = errors.New("the engine does not tell what replicas there are")

// raise raises what has fewer than the wanted replicas; nil also when there is nothing to do.
func (g *grower) raise(ctx context.Context, view cluster.View, known []cluster.Member, want int) error {
	replicas, err := g.node.kept(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotTold, err)
	}
	behind := 0
	for _, stream := range replicas {
		if stream.Want < want {
			behind++
		}
	}
	if behind == 0 {
		return nil
	}
	// What is not whole must not be changed, and the new replicas need every node.
	if err := allThere(view, known); err != nil {
		return err
	}
	lock, err := g.node.changes.TryAcquire(ctx, changeLock, changeLease)
	if errors.Is(err, fabric.ErrLocked) {
		return errors.New("another node changes the members or the replicas")
	}
	if err != nil {
		return err
	}
	defer g.node.release(lock)
	ctx, cancel := whileHeld(ctx, lock)
	defer cancel(nil)
	go g.giveUp(ctx, cancel)
	begin, done := time.Now(), 0
	log := g.node.log.With("part", "cluster")
	log.Info("raising the replicas of what is stored", "to", want, "streams", behind)
	err = g.node.engine.Raise(ctx, want, func(stream string) {
		done++
		g.tell(fmt.Sprintf("raising stream %s to %d replicas, %d of %d", stream, want, done, behind))
		log.Info("raising the replicas of a stream", "stream", stream, "to", want,
			"number", done, "of", behind)
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err == nil {
		log.Info("the replicas are raised", "to", want, "streams", behind, "after", time.Since(begin).Round(time.Millisecond))
	}
	return err
}

// kept returns how often each stream is kept.
func (n *Node) kept(ctx context.Context) (map[string]engine.Replication, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return n.engine.Replicas(ctx)
}

// whileHeld returns a context that ends when the lock is lost.
func whileHeld(ctx context.Context, lock fabric.Lock) (context.Context, context.CancelCauseFunc) {
	held, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-lock.Lost():
			cancel(fabric.ErrLost)
		case <-held.Done():
		}
	}()
	return held, cancel
}

// release gives the lock back; when that fails it is free after its lease.
func (n *Node) release(lock fabric.Lock) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if err := lock.Release(ctx); err != nil {
		n.log.Info("the lock on members and replicas was not released", "part", "cluster", "error", err)
	}
}
