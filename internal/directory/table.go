package directory

import "math"

// table is the pure core: this node's rows and what it knows of the others'. It has no
// clock, no signal, no lock.
type table struct {
	node        string
	incarnation uint64
	own         *rows
	number      uint64 // of the last change of own that was put into a delta
	pending     []Row  // changes since, one a row
	index       map[rowID]int

	others map[string]*replica
	gone   map[string]uint64 // the incarnations up to which nodes were forgotten
}

type rowID struct{ key, entry string }

// replica is what is known of another node's rows.
type replica struct {
	incarnation uint64
	number      uint64 // of the last change that is in rows
	rows        *rows

	asked   bool      // a snapshot was asked for and has not come
	waiting []message // deltas that came meanwhile, and may belong behind it

	// The snapshot that is coming in.
	incoming *rows
	at       uint64 // number of its last change
	next     uint64 // part expected
	progress bool   // a part came since the last digest
}

// maxWaiting bounds the deltas that wait for a snapshot; with more, the snapshot after the
// next digest brings what they said.
const maxWaiting = 4096

func newTable(node string, incarnation uint64) *table {
	return &table{
		node:        node,
		incarnation: incarnation,
		own:         newRows(),
		index:       make(map[rowID]int),
		others:      make(map[string]*replica),
		gone:        make(map[string]uint64),
	}
}

// set changes a row of this node and tells whether there is something new to send.
func (t *table) set(key, entry string, value []byte) bool {
	before := t.own.set(key, entry, value)
	if before == nil && value == nil || before != nil && value != nil && string(before) == string(value) {
		return false
	}
	// Several changes of one row within a batch are one.
	id := rowID{key, entry}
	if i, found := t.index[id]; found {
		t.pending[i].Value = value
		return true
	}
	t.index[id] = len(t.pending)
	t.pending = append(t.pending, Row{key, entry, value})
	return true
}

// flush takes up to limit bytes of pending changes as a message to send, nil for none.
func (t *table) flush(limit int) *message {
	if len(t.pending) == 0 {
		return nil
	}
	m := &message{kind: kindDelta, node: t.node, incarnation: t.incarnation, number: t.number + 1}
	size := 0
	for len(t.pending) > 0 && (size < limit || len(m.rows) == 0) {
		row := t.pending[0]
		t.pending = t.pending[1:]
		delete(t.index, rowID{row.Key, row.Entry})
		m.rows = append(m.rows, row)
		size += len(row.Key) + len(row.Entry) + len(row.Value)
	}
	for i, row := range t.pending {
		t.index[rowID{row.Key, row.Entry}] = i
	}
	t.number += uint64(len(m.rows))
	return m
}

// digest describes this node's rows. Changes that wait must be flushed before: the hash is
// ahead of the number otherwise.
func (t *table) digest() *message {
	return &message{kind: kindDigest, node: t.node, incarnation: t.incarnation, number: t.number,
		hash: t.own.hash, count: uint64(t.own.count)}
}

// snapshot returns this node's rows in parts of about limit bytes. Changes that wait must
// be flushed before.
func (t *table) snapshot(limit int) []*message {
	part := func() *message {
		return &message{kind: kindSnapshot, node: t.node, incarnation: t.incarnation, number: t.number}
	}
	parts := []*message{part()}
	size := 0
	for _, row := range t.own.all() {
		if size >= limit {
			parts = append(parts, part())
			size = 0
		}
		last := parts[len(parts)-1]
		last.rows = append(last.rows, row)
		size += len(row.Key) + len(row.Entry) + len(row.Value)
	}
	for i, m := range parts {
		m.part, m.parts = uint64(i), uint64(len(parts))
	}
	return parts
}

// receive takes a message of another node. It returns the changes it makes and whether a
// snapshot of that node must be asked for.
func (t *table) receive(m message) (changes []Change, ask bool) {
	if m.node == t.node || m.kind == kindAsk {
		return nil, false
	}
	r := t.others[m.node]
	if r == nil && m.kind == kindSnapshot {
		return nil, false // nobody asked
	}
	if r == nil || m.incarnation > r.incarnation {
		if r != nil {
			changes = t.forget(m.node)
		}
		r = &replica{incarnation: m.incarnation, rows: newRows()}
		t.others[m.node] = r
		// What a dead node left on its way must not bring its rows back: only a node that
		// answers has some.
		ask = m.incarnation <= t.gone[m.node] && r.ask()
	}
	if m.incarnation < r.incarnation {
		return changes, false // from before its restart
	}
	var more []Change
	var again bool
	switch m.kind {
	case kindDelta:
		more, again = t.delta(r, m)
	case kindDigest:
		again = !ask && r.differs(m) && r.askAgain()
	case kindSnapshot:
		more, again = t.part(r, m)
	}
	return append(changes, more...), ask || again
}

// differs tells whether a digest describes other rows than those that are here. One that is
// older than what is here says nothing.
func (r *replica) differs(m message) bool {
	if m.number != r.number {
		return m.number > r.number
	}
	return m.hash != r.rows.hash || m.count != uint64(r.rows.count)
}

// ask begins to wait for a snapshot.
func (r *replica) ask() bool {
	r.asked, r.incoming, r.progress = true, nil, false
	return true
}

// askAgain does so unless one is coming in: the answer to an earlier question may be lost.
func (r *replica) askAgain() bool {
	if r.asked && r.progress {
		r.progress = false
		return false
	}
	return r.ask()
}

func (t *table) delta(r *replica, m message) (changes []Change, ask bool) {
	// Nothing overtakes a snapshot that was asked for: it would be older than the rows then.
	if r.asked || m.number > r.number+1 {
		if len(r.waiting) == maxWaiting {
			r.waiting = nil
		}
		r.waiting = append(r.waiting, m)
		return nil, !r.asked && r.ask()
	}
	skip := r.number + 1 - m.number // changes that a snapshot has brought already
	if skip >= uint64(len(m.rows)) {
		return nil, false
	}
	for _, row := range m.rows[skip:] {
		changes = r.apply(changes, m.node, row)
	}
	r.number = m.number + uint64(len(m.rows)) - 1
	return changes, false
}

func (r *replica) apply(changes []Change, node string, row Row) []Change {
	before := r.rows.set(row.Key, row.Entry, row.Value)
	if before == nil && row.Value == nil || before != nil && row.Value != nil && string(before) == string(row.Value) {
		return changes
	}
	return append(changes, Change{node, row.Key, row.Entry, before, row.Value})
}

// part takes one part of a snapshot; the last one replaces the rows. One that was not asked
// for, or was answered already, is left out.
func (t *table) part(r *replica, m message) (changes []Change, ask bool) {
	if !r.asked {
		return nil, false
	}
	if m.part == 0 {
		r.incoming, r.at, r.next = newRows(), m.number, 0
	}
	if r.incoming == nil || m.part != r.next || m.number != r.at {
		r.incoming = nil
		return nil, false // a part was lost; the next digest asks again
	}
	r.progress = true
	for _, row := range m.rows {
		r.incoming.set(row.Key, row.Entry, row.Value)
	}
	if r.next++; r.next < m.parts {
		return nil, false
	}
	changes = r.replace(m)
	waiting := r.waiting
	r.asked, r.waiting, r.incoming = false, nil, nil
	for _, delta := range waiting {
		more, again := t.delta(r, delta)
		changes, ask = append(changes, more...), ask || again
	}
	return changes, ask
}

// replace puts a complete snapshot into the place of the rows, unless deltas have gone
// beyond it.
func (r *replica) replace(m message) (changes []Change) {
	if m.number < r.number {
		return nil
	}
	for _, row := range r.rows.all() {
		if r.incoming.byKey[row.Key][row.Entry] == nil {
			changes = r.apply(changes, m.node, Row{row.Key, row.Entry, nil})
		}
	}
	for _, row := range r.incoming.all() {
		changes = r.apply(changes, m.node, row)
	}
	r.number = m.number
	return changes
}

// forget drops a node that is gone and returns its rows as changes.
func (t *table) forget(node string) (changes []Change) {
	r := t.others[node]
	if r == nil {
		t.gone[node] = math.MaxUint64 // its first messages may still be on their way
		return nil
	}
	delete(t.others, node)
	t.gone[node] = r.incarnation
	for _, row := range r.rows.all() {
		changes = append(changes, Change{node, row.Key, row.Entry, row.Value, nil})
	}
	return changes
}
