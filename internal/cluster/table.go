package cluster

import (
	"cmp"
	"slices"
	"time"
)

// table computes the view. It is pure: the caller tells it what was heard and how much time
// has passed since the start, by its own monotonic clock, and does what the effects say.
//
// Death is a judgement: a peer not heard for the timeout is out, for this node. When it is
// heard again, both sides count voices. A node held for dead by most of those that it hears
// yields: it takes a new incarnation, and everybody sees it leave and join. Held for dead by
// a few, it stays, and they take it in again. So after a partition the smaller side returns
// to the larger one, and the larger one is not disturbed.
type table struct {
	self     Member
	load     int
	interval time.Duration // between two events at most, unless the process is paused
	timeout  time.Duration
	now      time.Duration
	peers    map[string]*peer
	view     View
	// forgotten are nodes that were taken out for good, the latest last.
	forgotten []string
}

// peer is what is known of another node, alive or out.
type peer struct {
	member  Member
	heardAt time.Duration
	load    int
	out     bool // not in the view
	left    bool // went on purpose; out as well
	live    map[string]uint64
	claims  map[string]uint64 // those that it holds for dead
}

// effects are what the caller has to do after an event.
type effects struct {
	view    bool   // the view has changed
	answer  bool   // send a heartbeat soon: somebody new or mistaken is there
	evicted bool   // this node was held for dead and has a new incarnation
	drop    string // reason for which the message was not used
	forgot  bool   // forgotten has changed
	outcast bool   // this node itself was forgotten
}

func newTable(self Member, interval, timeout time.Duration) *table {
	t := &table{self: self, interval: interval, timeout: timeout, peers: map[string]*peer{}}
	t.self.Since = 1
	t.view = newView(1, self.ID, []Member{t.self})
	return t
}

// next is the epoch of the view that the event under way leads to.
func (t *table) next() uint64 { return t.view.Epoch + 1 }

// advance moves the time on. When too much has passed since the last event, this process was
// paused: it was not heard, so it yields if the pause was as long as the timeout, and it did
// not hear, so its peers get the time as a present.
func (t *table) advance(now time.Duration, e *effects) {
	gap := now - t.now
	t.now = now
	if gap < 2*t.interval {
		return
	}
	for _, peer := range t.peers {
		peer.heardAt = min(now, peer.heardAt+gap)
	}
	if gap >= t.timeout {
		t.yield(t.self.Incarnation, e)
	}
}

// yield takes an incarnation beyond the one that is held for dead.
func (t *table) yield(dead uint64, e *effects) {
	t.self.Incarnation = max(t.self.Incarnation, dead) + 1
	t.self.Since = t.next()
	e.evicted, e.answer, e.view = true, true, true
}

// tick lets time pass and declares dead who was silent for the timeout.
func (t *table) tick(now time.Duration) effects {
	var e effects
	t.advance(now, &e)
	for _, peer := range t.peers {
		if !peer.out && now-peer.heardAt >= t.timeout {
			peer.out = true
			e.view = true
		}
	}
	return t.finish(e)
}

// heard takes a heartbeat or a leave.
func (t *table) heard(now time.Duration, m message) effects {
	var e effects
	t.advance(now, &e)
	if slices.Contains(t.forgotten, m.Member.ID) {
		// It shall hear that it is out: whom this concerns now is named first.
		t.forgotten = append(slices.DeleteFunc(slices.Clone(t.forgotten),
			func(id string) bool { return id == m.Member.ID }), m.Member.ID)
		e.drop, e.answer = DropForgotten, true
		return t.finish(e)
	}
	for _, id := range m.Forgotten {
		t.forget(id, &e)
	}
	switch known := t.peers[m.Member.ID]; {
	case m.Member.ID == t.self.ID:
		t.heardSelf(m, &e)
	case known == nil || m.Member.Incarnation > known.member.Incarnation:
		t.admit(m, known, &e)
	case m.Member.Incarnation < known.member.Incarnation:
		e.drop, e.answer = DropHeartbeatStale, known.out && !known.left
	case m.Member.Instance != known.member.Instance:
		e.drop = DropDuplicate
	case known.left:
		e.drop = DropHeartbeatStale
	case m.Kind == kindLeave:
		known.out, known.left, e.view = true, true, e.view || !known.out
	default:
		t.update(known, m, &e)
	}
	t.heedNotice(m, &e)
	return t.finish(e)
}

// heardSelf meets a message with this node's id.
func (t *table) heardSelf(m message, e *effects) {
	switch {
	case m.Member.Instance == t.self.Instance:
	case m.Member.Incarnation>>bootShift < t.self.Incarnation>>bootShift:
		e.drop = DropHeartbeatStale // from before the restart
	default:
		e.drop = DropDuplicate
	}
}

// admit takes in a node that is new, was restarted or has yielded.
func (t *table) admit(m message, known *peer, e *effects) {
	if m.Kind == kindLeave {
		if known != nil {
			e.view = e.view || !known.out
			known.member, known.out, known.left = m.Member, true, true
		}
		return
	}
	if known == nil && !t.makeRoom() {
		e.drop = DropMemberLimit
		return
	}
	admitted := &peer{member: m.Member}
	admitted.member.Since = t.next()
	t.peers[m.Member.ID] = admitted
	t.listen(admitted, m)
	e.view, e.answer = true, true
}

// makeRoom forgets the peer that is out for the longest time if there are too many.
func (t *table) makeRoom() bool {
	if len(t.view.Members) >= MaxMembers {
		return false
	}
	if len(t.peers) < 2*MaxMembers {
		return true
	}
	oldest := ""
	for id, peer := range t.peers {
		if peer.out && (oldest == "" || peer.heardAt < t.peers[oldest].heardAt) {
			oldest = id
		}
	}
	delete(t.peers, oldest)
	return oldest != ""
}

// listen keeps what a peer says of others.
func (t *table) listen(p *peer, m message) {
	p.heardAt, p.load, p.live, p.claims = t.now, m.Load, m.Live, m.Out
}

// update takes a heartbeat of the known incarnation.
func (t *table) update(p *peer, m message, e *effects) {
	t.listen(p, m)
	since := p.member.Since
	changed := !m.Member.same(p.member)
	p.member = m.Member
	p.member.Since = since
	switch {
	case !p.out:
		e.view = e.view || changed
	case t.isOut(m.Member.ID, m.Member.Incarnation):
		e.answer = true // it shall hear that it is out
	default:
		p.out = false
		p.member.Since = t.next()
		e.view, e.answer = true, true
	}
}

// heedNotice yields when this node is held for dead and the voices are against it.
func (t *table) heedNotice(m message, e *effects) {
	dead, told := m.Out[t.self.ID]
	if !told || m.Member.ID == t.self.ID || dead < t.self.Incarnation {
		return
	}
	if dead > t.self.Incarnation || t.isOut(t.self.ID, dead) {
		t.yield(dead, e)
	}
}

// isOut counts the voices on one incarnation of a node: of this node, of all peers heard
// within the timeout, in the view or not, and of the node itself, which says that it lives.
// Those who never knew it have no say. With as many on both
// sides, the one with the smallest id decides.
func (t *table) isOut(id string, incarnation uint64) bool {
	var dead, live []string
	if subject := t.peers[id]; id != t.self.ID {
		if subject.out {
			dead = append(dead, t.self.ID)
		} else {
			live = append(live, t.self.ID)
		}
	}
	live = append(live, id)
	for voice, peer := range t.peers {
		if voice == id || peer.left || t.now-peer.heardAt >= t.timeout {
			continue
		}
		if claimed, ok := peer.claims[id]; ok && claimed >= incarnation {
			dead = append(dead, voice)
		} else if peer.live[id] == incarnation {
			live = append(live, voice)
		}
	}
	if len(dead) != len(live) {
		return len(dead) > len(live)
	}
	return slices.Min(dead) < slices.Min(live)
}

// lost declares a peer dead whose process is known to have ended.
func (t *table) lost(now time.Duration, id, instance string) effects {
	var e effects
	t.advance(now, &e)
	if peer, ok := t.peers[id]; ok && !peer.out && peer.member.Instance == instance {
		peer.out = true
		e.view = true
	}
	return t.finish(e)
}

// change replaces what may change of the own record.
func (t *table) change(now time.Duration, change func(*Member)) effects {
	var e effects
	t.advance(now, &e)
	before := t.self
	change(&t.self)
	e.view = e.view || !t.self.same(before)
	e.answer = true
	return t.finish(e)
}

// finish makes the new view if the event changed it.
func (t *table) finish(e effects) effects {
	if !e.view {
		return e
	}
	members := []Member{t.self}
	for _, peer := range t.peers {
		if !peer.out {
			members = append(members, peer.member)
		}
	}
	t.view = newView(t.next(), t.self.ID, sortMembers(members))
	return e
}

// heartbeat is what this node has to say now.
func (t *table) heartbeat(kind messageKind) message {
	m := message{
		Kind: kind, Oldest: versionOldest, Newest: versionNewest,
		Member: t.self, Load: t.load, Live: map[string]uint64{}, Out: map[string]uint64{},
		Forgotten: t.forgotten[max(0, len(t.forgotten)-maxForgottenTold):],
	}
	var dead []*peer
	for id, peer := range t.peers {
		switch {
		case !peer.out:
			m.Live[id] = peer.member.Incarnation
		case !peer.left:
			dead = append(dead, peer)
		}
	}
	slices.SortFunc(dead, func(a, b *peer) int { return cmp.Compare(b.heardAt, a.heardAt) })
	for _, peer := range dead[:min(len(dead), maxOut)] {
		m.Out[peer.member.ID] = peer.member.Incarnation
	}
	return m
}

// forget takes a node out for good.
func (t *table) forget(id string, e *effects) {
	if id == t.self.ID {
		e.outcast = true
		return
	}
	if slices.Contains(t.forgotten, id) {
		return
	}
	t.forgotten = forgetAlso(t.forgotten, []string{id})
	e.forgot = true
	if peer, ok := t.peers[id]; ok {
		e.view = e.view || !peer.out
		delete(t.peers, id)
	}
}
