package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

// Sizes of the queues to the membership's loop.
const (
	inboxSize      = 1024
	lostAtOnce     = 64
	publishTimeout = time.Second
)

// Signal is what the membership needs of fabric.Signal: at most once to all nodes.
type Signal interface {
	Publish(ctx context.Context, subject string, payload []byte) error
	Subscribe(subject string, handler func(fabric.Message), options ...fabric.SubscribeOption) (
		fabric.Subscription, error)
	Flush(ctx context.Context) error
}

// Membership knows who is alive, from Start to Stop or Leave. Its methods may be called from
// everywhere and do not wait for other nodes unless they say so.
type Membership struct {
	options      Options
	logger       *slog.Logger
	signal       Signal
	subscription fabric.Subscription
	keeper       *keeper
	verify       verifyFunc
	views        *views
	started      time.Time

	inbox    chan message
	commands chan func()
	lost     chan struct{} // slots for verifications
	ctx      context.Context
	cancel   context.CancelFunc
	stopOnce sync.Once
	tasks    sync.WaitGroup
	ended    chan struct{} // closed when the loop is through

	table   *table // of the loop
	outcast bool   // of the loop: this node was told that it is forgotten
	soon    <-chan time.Time

	mu    sync.Mutex // guards loads
	loads map[string]int
}

// Start begins to send and to hear heartbeats. The view has this node alone at first; the
// others are in it as soon as they are heard, which takes milliseconds. The options are those
// given to Discover or Meet.
func Start(options Options, decision Decision, signal Signal) (*Membership, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	verify := refusalVerifier(options.ProbeTimeout)
	if !options.OverBus {
		key, err := helloKey(options.Secret)
		if err != nil {
			return nil, err
		}
		verify = dialVerifier(newAsker(options, key), decision.Self)
	}
	m, err := start(options, decision, signal, verify)
	if err != nil {
		return nil, fmt.Errorf("start membership of %q: %w", options.Domain, err)
	}
	return m, nil
}

func start(options Options, decision Decision, signal Signal, verify verifyFunc) (*Membership, error) {
	table := newTable(decision.Self, options.HeartbeatInterval, options.NodeTimeout)
	table.forgotten = decision.Forgotten
	ctx, cancel := context.WithCancel(context.Background())
	m := &Membership{
		options: options, logger: options.Logger, signal: signal, verify: verify,
		keeper: newKeeper(options, decision), views: newViews(table.view), started: time.Now(),
		inbox: make(chan message, inboxSize), commands: make(chan func()),
		lost: make(chan struct{}, lostAtOnce), ctx: ctx, cancel: cancel,
		ended: make(chan struct{}), table: table, loads: map[string]int{},
	}
	var err error
	m.subscription, err = signal.Subscribe(subjectMembers, m.receive, fabric.SkipSelf())
	if err != nil {
		cancel()
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	m.tasks.Go(m.keeper.run)
	m.tasks.Go(m.loop)
	return m, nil
}

// View returns the current view.
func (m *Membership) View() View { return *m.views.current.Load() }

// Known returns every member of the cluster that counts, dead or alive, sorted by ID: those
// with a store until they are forgotten, others while they live. What the majority of a cluster
// is, is reckoned from the stores among them. It is kept across restarts.
func (m *Membership) Known() []Member { return m.keeper.members() }

// Subscribe returns a follower of the views. It needs no closing.
func (m *Membership) Subscribe() *Subscription { return &Subscription{views: m.views} }

// Loads returns the connections of each live member by ID, as last heard. They are no part
// of the view: they change all the time.
func (m *Membership) Loads() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.loads)
}

// SetState tells the others how far this node is.
func (m *Membership) SetState(state State) {
	m.command(func() { m.apply(m.table.change(m.now(), func(self *Member) { self.State = state })) })
}

// Imported tells the others that this node has brought what it stored alone.
func (m *Membership) Imported() {
	m.command(func() { m.apply(m.table.change(m.now(), func(self *Member) { self.Importing = false })) })
}

// SetLoad tells the others, with the next heartbeat, how many connections this node serves.
func (m *Membership) SetLoad(connections int) {
	m.command(func() { m.table.load = connections })
}

// PeerLost says that the connection to the process of a member has ended. The member is asked
// at its hello port at once: if nobody listens there it is dead now, otherwise its heartbeats
// decide. It returns without waiting.
func (m *Membership) PeerLost(id string) {
	member, ok := m.View().Member(id)
	if !ok || id == m.View().Self || m.ctx.Err() != nil {
		return
	}
	select {
	case m.lost <- struct{}{}:
	default:
		m.options.Dropped(DropPeerLost)
		return
	}
	go func() {
		defer func() { <-m.lost }()
		if !m.verify(m.ctx, member) {
			return
		}
		m.command(func() { m.apply(m.table.lost(m.now(), member.ID, member.Instance)) })
	}()
}

// Forget tells all nodes that a member is gone for good: it is no route for those who join,
// counts in no majority, and nobody takes it in again. Nodes that do not run hear of it when
// they start. One that is alive, ErrAlive, is only forgotten on demand; it hears of it and ends.
func (m *Membership) Forget(ctx context.Context, id string, alive bool) error {
	if !uuidPattern.MatchString(id) {
		return fmt.Errorf("%w: %.50q is no node id", ErrInvalidOptions, id)
	}
	err := ErrStopped
	m.command(func() {
		if _, there := m.table.view.Member(id); there && !alive {
			err = ErrAlive
			return
		}
		var e effects
		m.table.forget(id, &e)
		m.apply(m.table.finish(e))
		err = m.publish(m.table.heartbeat(kindHeartbeat))
	})
	if err != nil {
		return fmt.Errorf("forget member %s: %w", id, err)
	}
	return m.signal.Flush(ctx)
}

// Leave tells the others that this node goes, and stops. It waits until the signal has taken
// the message, or ctx ends.
func (m *Membership) Leave(ctx context.Context) error {
	err := ErrStopped
	m.command(func() {
		err = m.publish(m.table.heartbeat(kindLeave))
		m.cancel() // no heartbeat after the leave
	})
	if err == nil {
		err = m.signal.Flush(ctx)
	}
	m.Stop()
	if err != nil {
		return fmt.Errorf("leave cluster: %w", err)
	}
	return nil
}

// Stop ends the membership without a word: the others find out. It waits for everything that
// it started. Repeating it does nothing.
func (m *Membership) Stop() {
	m.stopOnce.Do(func() {
		m.cancel()
		if err := m.subscription.Unsubscribe(); err != nil {
			m.logger.Warn("cluster unsubscribe failed", "error", err)
		}
		<-m.ended
		for range lostAtOnce {
			m.lost <- struct{}{} // every verification has given its slot back
		}
		m.keeper.stop()
		m.tasks.Wait()
		close(m.views.ended)
	})
}

// now is the time since the start by the monotonic clock.
func (m *Membership) now() time.Duration { return time.Since(m.started) }

// command runs do in the loop and returns when it has run or the loop has ended.
func (m *Membership) command(do func()) {
	done := make(chan struct{})
	select {
	case m.commands <- func() { do(); close(done) }:
		<-done
	case <-m.ended:
	}
}

// receive is called by the signal and must not wait.
func (m *Membership) receive(received fabric.Message) {
	decoded, err := decodeMessage(received.Payload, m.options.Domain)
	if err != nil {
		m.options.Dropped(DropHeartbeatInvalid)
		m.logger.Debug("cluster message not understood", "sender", received.Sender, "error", err)
		return
	}
	select {
	case m.inbox <- decoded:
	default:
		m.options.Dropped(DropHeartbeatFull)
	}
}

// loop owns the table.
func (m *Membership) loop() {
	defer close(m.ended)
	heartbeat := time.NewTicker(m.options.HeartbeatInterval)
	defer heartbeat.Stop()
	cleanup := time.NewTicker(m.options.CleanupInterval)
	defer cleanup.Stop()
	m.beat()
	for m.ctx.Err() == nil {
		select {
		case <-m.ctx.Done():
		case received := <-m.inbox:
			m.hear(received)
		case do := <-m.commands:
			do()
		case <-heartbeat.C:
			m.apply(m.table.tick(m.now()))
			m.beat()
		case <-cleanup.C:
			m.apply(m.table.tick(m.now()))
			m.askSilent()
		case <-m.soon:
			m.soon = nil
			m.beat()
		}
	}
}

func (m *Membership) hear(received message) {
	effects := m.table.heard(m.now(), received)
	if effects.drop == DropDuplicate {
		m.logger.Error("two processes run with the same node id: one data directory is a copy of the "+
			"other; stop one and remove node.id, cluster.json and the engine's files there",
			"node_id", received.Member.ID, "address", received.Member.Addresses[AddressHello])
	}
	m.apply(effects)
}

// apply does what the table wants done.
func (m *Membership) apply(e effects) {
	if e.drop != "" {
		m.options.Dropped(e.drop)
	}
	if e.forgot {
		m.keeper.forget(m.table.forgotten)
	}
	if e.view {
		m.show()
	}
	if e.outcast && !m.outcast {
		m.outcast = true
		m.logger.Error("this node was taken out of the cluster for good; to let it join as a new node, "+
			"empty its data directory", "node_id", m.table.self.ID)
		m.options.Forgotten()
	}
	if e.evicted {
		m.logger.Warn("this node was held for dead and is back", "node_id", m.table.self.ID,
			"incarnation", m.table.self.Incarnation)
		m.beat()
		m.options.Evicted()
	}
	// Answers are collected for a moment: many may come at once, and two nodes that answer
	// each other should not do so without pause.
	if e.answer && m.soon == nil {
		m.soon = time.After(m.options.HeartbeatInterval / 10)
	}
}

// show makes the table's view that of the membership.
func (m *Membership) show() {
	before, view := m.View(), m.table.view
	change := changeBetween(before, view)
	for _, member := range change.Joined {
		m.logger.Info("cluster member joined", "node_id", member.ID, "name", member.Name,
			"epoch", view.Epoch, "members", len(view.Members))
	}
	for _, member := range change.Left {
		m.logger.Info("cluster member gone", "node_id", member.ID, "name", member.Name,
			"epoch", view.Epoch, "members", len(view.Members))
	}
	m.keeper.update(view.Members)
	m.views.set(view)
}

// beat sends a heartbeat and refreshes the loads.
func (m *Membership) beat() {
	if err := m.publish(m.table.heartbeat(kindHeartbeat)); err != nil {
		m.options.Dropped(DropHeartbeatUnsent)
		m.logger.Debug("heartbeat not sent", "error", err)
	}
	loads := map[string]int{m.table.self.ID: m.table.load}
	for id, peer := range m.table.peers {
		if !peer.out {
			loads[id] = peer.load
		}
	}
	m.mu.Lock()
	m.loads = loads
	m.mu.Unlock()
}

func (m *Membership) publish(what message) error {
	payload, err := json.Marshal(what)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	if len(payload) > maxHeartbeatSize {
		return fmt.Errorf("message of %d bytes, at most %d", len(payload), maxHeartbeatSize)
	}
	ctx, cancel := context.WithTimeout(m.ctx, publishTimeout)
	defer cancel()
	if err := m.signal.Publish(ctx, subjectMembers, payload); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return nil
}

// verifyFunc says whether the process of a member has certainly ended.
type verifyFunc func(ctx context.Context, member Member) bool

// Tries of a verification, since a process that ends may still accept for a moment.
const (
	verifyTries = 3
	verifyPause = 100 * time.Millisecond
)

// dialVerifier asks at the member's hello port.
func dialVerifier(asker asker, self Member) verifyFunc {
	own := statement{Oldest: versionOldest, Newest: versionNewest, Phase: phaseSeeking, Self: self}
	return func(ctx context.Context, member Member) bool {
		for range verifyTries {
			answer, err := asker.ask(ctx, member.Addresses[AddressHello], own)
			switch {
			case err == nil:
				return answer.Self.ID == member.ID && answer.Self.Instance != member.Instance
			case refused(err):
				return true
			case timedOut(err):
				return false // the machine or the way to it: heartbeats decide
			}
			select {
			case <-ctx.Done():
				return false
			case <-time.After(verifyPause):
			}
		}
		return false
	}
}
