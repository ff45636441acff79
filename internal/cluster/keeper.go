package cluster

import (
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// saveRetry is the pause after a failed write of the memory.
const saveRetry = time.Second

// keeper remembers the members beyond their death: on disk for the next start, and in the
// hello service for those who join. Nodes that store data are remembered until they are
// forgotten; others are of no use once they are gone.
type keeper struct {
	dir, domain string
	self        string // ID of this node
	hello       *Hello
	logger      *slog.Logger
	dirty       chan struct{}
	ended       chan struct{}

	mu    sync.Mutex // guards known and disk
	known map[string]Member
	disk  remembered
}

func newKeeper(options Options, decision Decision) *keeper {
	k := &keeper{
		dir: options.DataDir, domain: options.Domain, self: decision.Self.ID,
		hello: decision.Hello, logger: options.Logger,
		dirty: make(chan struct{}, 1), ended: make(chan struct{}), known: map[string]Member{},
		disk: remembered{
			Cluster: decision.Cluster, Forgotten: decision.Forgotten,
			Boots: decision.Self.Incarnation >> bootShift,
		},
	}
	merge(k.known, decision.Members)
	return k
}

// update takes the members of a new view.
func (k *keeper) update(live []Member) {
	k.change(func() {
		for id, member := range k.known {
			if !member.HasRole(RoleStore) {
				delete(k.known, id)
			}
		}
		for _, member := range live {
			if member.ID == k.self {
				// The next start must come after the present incarnation.
				k.disk.Boots = max(k.disk.Boots, member.Incarnation>>bootShift)
			}
			if _, ok := k.known[member.ID]; ok || len(k.known) < MaxMembers {
				k.known[member.ID] = member
			}
		}
	})
}

// forget removes members that are gone for good.
func (k *keeper) forget(forgotten []string) {
	k.change(func() {
		k.disk.Forgotten = forgotten
		for _, id := range forgotten {
			delete(k.known, id)
		}
	})
}

// members returns who is known, sorted by ID.
func (k *keeper) members() []Member {
	k.mu.Lock()
	defer k.mu.Unlock()
	return sortMembers(slices.Collect(maps.Values(k.known)))
}

// change changes what is known, has the hello service tell it and the disk keep it.
func (k *keeper) change(change func()) {
	k.mu.Lock()
	change()
	k.disk.Members = sortMembers(slices.Collect(maps.Values(k.known)))
	members, forgotten := k.disk.Members, k.disk.Forgotten
	k.mu.Unlock()
	if k.hello != nil {
		k.hello.state(func(s *statement) {
			s.Members, s.Forgotten = members, forgotten
			isSelf := func(m Member) bool { return m.ID == k.self }
			if i := slices.IndexFunc(members, isSelf); i >= 0 {
				s.Self = members[i]
			}
		})
	}
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// run writes until stop, away from the loop: a slow disk must not stop the heartbeats.
func (k *keeper) run() {
	for {
		select {
		case <-k.ended:
			k.save() // what came last
			return
		case <-k.dirty:
		}
		if k.save() {
			continue
		}
		select {
		case <-k.ended:
			return
		case <-time.After(saveRetry):
		}
		select {
		case k.dirty <- struct{}{}:
		default:
		}
	}
}

func (k *keeper) save() bool {
	k.mu.Lock()
	disk := k.disk
	k.mu.Unlock()
	if len(disk.Members) == 0 {
		return true
	}
	if err := saveMemory(k.dir, k.domain, disk); err != nil {
		k.logger.Error("cluster members not saved", "error", err)
		return false
	}
	return true
}

func (k *keeper) stop() { close(k.ended) }
