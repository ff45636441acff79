package node

import (
	"context"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/directory"
	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

// A change of a channel is reported to webhooks by the owner of the channel, and only while
// that can know what is so: it sees a majority, or has long been in touch with the broker that the
// nodes share; it has the rows of all ready nodes, and was not paused just now. What nobody reported meanwhile is found by a comparison.
//
// A node that is cut off loses sight of the others one after the other. Before the last one it
// may still believe in a majority. So after a loss changes wait until a majority was heard
// from again, which takes a heartbeat, or until the view is that of a minority.

// Timing of reports.
const (
	// foundingTime is how long the founders of a cluster count each other as ready: they become
	// so at about the same moment, and hear of it a heartbeat later.
	foundingTime = 10 * time.Second

	reportTick  = 100 * time.Millisecond
	pauseLimit  = 500 * time.Millisecond // a tick that is later says that the process was paused
	pauseQuiet  = time.Second            // after a pause, until what waited was heard
	settleTime  = 500 * time.Millisecond // from a change of the view to the comparison
	settleAgain = 4 * time.Second        // and to another, when all nodes must agree
	compareTime = time.Minute            // between comparisons without a reason

	catchUpTimeout = 10 * time.Second // to learn what the ledger says
)

// reports is what decides whether this node reports.
type reports struct {
	directory atomic.Pointer[directory.Directory] // nil until there is one
	ticked    atomic.Int64                        // the last tick, in time since clustered.begun
	quiet     atomic.Int64                        // nothing is reported before, likewise
	wanted    atomic.Bool                         // a comparison, because something may have been missed
	settled   atomic.Uint64                       // epoch of the last view that is no mistake of a node cut off
}

// owns tells whether this node is the one that reports for a key: the first ready one in
// rendezvous order, if it is certain.
func (k *clustered) owns(key string) bool {
	view := k.membership.View()
	founding := k.bus == nil && k.decision.Kind != cluster.Join && time.Since(k.begun) < foundingTime
	owner, found := view.Owner(key, func(m cluster.Member) bool {
		return m.State == cluster.StateReady || founding && m.State != cluster.StateDraining
	})
	if !found || owner.ID != view.Self {
		return false
	}
	if !k.certain(view) {
		k.reports.wanted.Store(true)
		return false
	}
	return true
}

// certain tells whether what this node sees is to be relied on.
func (k *clustered) certain(view cluster.View) bool {
	now, rows := time.Since(k.begun), k.reports.directory.Load()
	if rows == nil || now < time.Duration(k.reports.quiet.Load()) ||
		now-time.Duration(k.reports.ticked.Load()) > pauseLimit {
		return false
	}
	seesMost := k.bus != nil && k.hearsAll() ||
		k.majority(view, func(id string) bool { _, is := view.Member(id); return is })
	return seesMost && !slices.ContainsFunc(view.Members, func(m cluster.Member) bool {
		return m.ID != view.Self && m.State == cluster.StateReady && !rows.Knows(m.ID)
	})
}

// majority tells whether most of the nodes that store are as asked.
func (k *clustered) majority(view cluster.View, is func(id string) bool) bool {
	stores, count := k.stores(view), 0
	for _, id := range stores {
		if is(id) {
			count++
		}
	}
	return 2*count > len(stores)
}

// settling tells whether the view may be a mistake of this node being cut off.
func (k *clustered) settling() bool {
	view := k.membership.View()
	return view.Epoch != k.reports.settled.Load() && k.certain(view)
}

// settler decides which views are no mistake.
type settler struct {
	accepted cluster.View // the last one
	noticed  time.Time    // when a loss since then was noticed, zero for none
}

// accept accepts the view unless a member went since the one that was accepted before, and no
// majority was heard from since that was noticed.
func (s *settler) accept(view cluster.View, now time.Time, heardMajority func(since time.Time) bool) bool {
	lost := slices.ContainsFunc(s.accepted.Members, func(m cluster.Member) bool {
		_, is := view.Member(m.ID)
		return !is
	})
	if lost && s.noticed.IsZero() {
		s.noticed = now
	}
	if lost && !heardMajority(s.noticed) {
		return false
	}
	s.accepted, s.noticed = view, time.Time{}
	return true
}

// settle looks whether the view has settled.
func (k *clustered) settle(s *settler) {
	view := k.membership.View()
	if view.Epoch == s.accepted.Epoch {
		return
	}
	if s.accept(view, time.Now(), func(since time.Time) bool {
		if k.bus != nil {
			return k.hearsAll()
		}
		heard := k.membership.HeardSince(since)
		return k.majority(view, func(id string) bool { return id == view.Self || slices.Contains(heard, id) })
	}) {
		k.reports.settled.Store(view.Epoch)
	}
}

// stores returns the ids of the nodes that are known to store, alive or not.
func (k *clustered) stores(view cluster.View) []string {
	var ids []string
	for _, m := range slices.Concat(k.known(), view.Members) {
		if m.HasRole(cluster.RoleStore) && !slices.Contains(ids, m.ID) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// takesOver tells whether a node is dead and this one acts for it.
func (k *clustered) takesOver(node string) bool {
	_, alive := k.membership.View().Member(node)
	return !alive && k.owns("node\x00"+node)
}

// joinWebhooks gives the webhooks the ledger that all nodes share.
func (n *Node) joinWebhooks(ctx context.Context) error {
	ledger, err := patiently(ctx, n.log, "the webhook ledger", func(ctx context.Context) (fabric.Documents, error) {
		return n.fabric.Documents(ctx, webhook.LedgerName)
	})
	if err != nil {
		return err
	}
	k := n.cluster
	n.webhooks.Join(webhook.Cluster{
		Ledger:    ledger,
		Node:      k.decision.Self.ID,
		Reports:   func(appID, channel string) bool { return k.owns(pusher.ChannelKey(appID, channel)) },
		Settling:  k.settling,
		TakesOver: k.takesOver,
		View:      func() uint64 { return k.membership.View().Epoch },
		Holds:     func(appID, channel, userID string) bool { return n.hub.Holds(appID, channel, userID) },
	})
	n.apps.OnChange(func(old, new *apps.App) {
		if old == nil && !n.appTable.knows(new.ID) {
			return // it came into memory, and nobody is there whom webhooks would tell of
		}
		if !reflect.DeepEqual(hooksOf(old), hooksOf(new)) {
			k.reports.wanted.Store(true)
		}
	})
	return nil
}

func hooksOf(app *apps.App) []apps.Webhook {
	if app == nil {
		return nil
	}
	return app.Webhooks
}

// startReports begins to decide when this node reports.
func (n *Node) startReports(background context.Context) {
	k := n.cluster
	k.tick()
	k.reports.directory.Store(k.directory)
	n.goes("pauses", func() error {
		k.watchPauses(background)
		return nil
	})
	n.goes("comparisons", func() error {
		n.compareWhenWanted(background)
		return nil
	})
}

func (k *clustered) tick() { k.reports.ticked.Store(int64(time.Since(k.begun))) }

// watchPauses ticks, notices when a tick comes far too late, and when the view has settled.
func (k *clustered) watchPauses(ctx context.Context) {
	ticker := time.NewTicker(reportTick)
	defer ticker.Stop()
	var s settler
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Since(k.begun)
		if now-time.Duration(k.reports.ticked.Load()) > pauseLimit {
			s.noticed = time.Time{} // what was heard before the pause proves nothing
			k.reports.quiet.Store(int64(now + pauseQuiet))
			k.reports.wanted.Store(true)
		}
		k.tick()
		k.settle(&s)
	}
}

// compareWhenWanted compares what is so with what webhooks were told: after each change of
// the view, when something may have been missed, and now and then.
func (n *Node) compareWhenWanted(ctx context.Context) {
	k := n.cluster
	ticker := time.NewTicker(reportTick)
	defer ticker.Stop()
	var epoch uint64
	var soon, later time.Time
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, view := time.Now(), k.membership.View()
		changed := view.Epoch != epoch
		if changed {
			epoch = view.Epoch
			n.webhooks.TakeOver() // at once: it shuts the dead out
		}
		missed := n.webhooks.Behind()
		if missed = k.reports.wanted.Swap(false) || missed; changed || soon.IsZero() && missed {
			soon, later = now.Add(settleTime), now.Add(settleAgain)
		}
		if soon.IsZero() && (!later.IsZero() && now.After(later) || now.Sub(last) > compareTime) {
			soon, later = now, time.Time{}
		}
		if soon.IsZero() || now.Before(soon) || !k.certain(view) {
			continue
		}
		n.webhooks.TakeOver()
		n.hub.Compare() // with what is known: the store may take a while to answer
		if !n.catchUp(ctx) {
			soon = time.Now().Add(settleTime)
			continue
		}
		n.hub.Compare()
		soon, last = time.Time{}, time.Now()
	}
}

// catchUp has the webhooks learn what the ledger says now.
func (n *Node) catchUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	return n.webhooks.CatchUp(ctx)
}
