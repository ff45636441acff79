package directory

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// told renders changes as text: node:key/entry before>after.
func told(changes []Change) string {
	var parts []string
	for _, c := range changes {
		parts = append(parts, fmt.Sprintf("%s:%s/%s %s>%s", c.Node, c.Key, c.Entry, c.Before, c.After))
	}
	return strings.Join(parts, ", ")
}

// listed renders rows as text: key/entry=value.
func listed(rows []Row) string {
	var parts []string
	for _, r := range rows {
		parts = append(parts, fmt.Sprintf("%s/%s=%s", r.Key, r.Entry, r.Value))
	}
	return strings.Join(parts, " ")
}

// row reads key=value, or key for a removal; the entry is always e.
func row(text string) Row {
	key, value, found := strings.Cut(text, "=")
	if !found {
		return Row{key, "e", nil}
	}
	return Row{key, "e", []byte(value)}
}

func rowsOf(texts []string) (list []Row) {
	for _, text := range texts {
		list = append(list, row(text))
	}
	return list
}

func deltaOf(incarnation, number uint64, texts ...string) message {
	return message{kind: kindDelta, node: "b", incarnation: incarnation, number: number, rows: rowsOf(texts)}
}

func partOf(incarnation, number, part, parts uint64, texts ...string) message {
	return message{kind: kindSnapshot, node: "b", incarnation: incarnation, number: number,
		part: part, parts: parts, rows: rowsOf(texts)}
}

func digestOf(incarnation, number uint64, texts ...string) message {
	r := newRows()
	for _, row := range rowsOf(texts) {
		r.set(row.Key, row.Entry, row.Value)
	}
	return message{kind: kindDigest, node: "b", incarnation: incarnation, number: number,
		hash: r.hash, count: uint64(r.count)}
}

// step is one message to table "a", or the death of "b", with what comes of it.
type step struct {
	message message // with kind 0: forget b
	changes string
	ask     bool
}

var gone = message{}

// overfull are more deltas behind a gap than may wait.
func overfull() (steps []step) {
	for i := range uint64(maxWaiting + 1) {
		steps = append(steps, step{deltaOf(1, 10+i, "k=1"), "", i == 0})
	}
	return steps
}

var receptions = []struct {
	name  string
	steps []step
	rows  string // of b in the end
}{
	{"changes in order", []step{
		{deltaOf(1, 1, "k=1", "l=1"), "b:k/e >1, b:l/e >1", false},
		{deltaOf(1, 3, "k=2"), "b:k/e 1>2", false},
		{deltaOf(1, 4, "l"), "b:l/e 1>", false},
		{digestOf(1, 4, "k=2"), "", false},
	}, "k/e=2"},
	{"what changes nothing is not told", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(1, 2, "k=1", "l"), "", false},
		{deltaOf(1, 4, "k=2"), "b:k/e 1>2", false},
	}, "k/e=2"},
	{"a repetition", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(1, 2, "k"), "b:k/e 1>", false},
		{deltaOf(1, 1, "k=1"), "", false},
	}, ""},
	{"a delta of which a part is known", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(1, 1, "k=9", "l=1"), "b:l/e >1", false},
	}, "k/e=1 l/e=1"},
	{"a gap asks once, and the snapshot closes it", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(1, 3, "m=1"), "", true},
		{deltaOf(1, 4, "k"), "", false},
		{partOf(1, 3, 0, 1, "k=1", "l=1", "m=1"), "b:l/e >1, b:m/e >1, b:k/e 1>", false},
		{deltaOf(1, 5, "l"), "b:l/e 1>", false},
	}, "m/e=1"},
	{"a lost last delta is seen by the digest", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{digestOf(1, 2, "l=1"), "", true},
		{partOf(1, 2, 0, 1, "l=1"), "b:k/e 1>, b:l/e >1", false},
		{digestOf(1, 2, "l=1"), "", false},
	}, "l/e=1"},
	{"an older digest says nothing", []step{
		{deltaOf(1, 1, "k=1", "l=1"), "b:k/e >1, b:l/e >1", false},
		{digestOf(1, 1, "k=1"), "", false},
	}, "k/e=1 l/e=1"},
	{"other rows under the same number", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{digestOf(1, 1, "k=2"), "", true},
		{deltaOf(1, 2, "l=1"), "", false}, // may not overtake the snapshot
		{partOf(1, 1, 0, 2, "k=2"), "", false},
		{deltaOf(1, 3, "m=1"), "", false},
		{partOf(1, 1, 1, 2), "b:k/e 1>2, b:l/e >1, b:m/e >1", false},
	}, "k/e=2 l/e=1 m/e=1"},
	{"a snapshot in parts is told when it is complete", []step{
		{digestOf(1, 9, "x=1"), "", true},
		{partOf(1, 9, 0, 3, "k=1"), "", false},
		{partOf(1, 9, 1, 3, "l=1"), "", false},
		{partOf(1, 9, 2, 3, "m=1"), "b:k/e >1, b:l/e >1, b:m/e >1", false},
	}, "k/e=1 l/e=1 m/e=1"},
	{"a lost part waits for the next digest but one", []step{
		{digestOf(1, 9, "x=1"), "", true},
		{partOf(1, 9, 0, 3, "k=1"), "", false},
		{partOf(1, 9, 2, 3, "m=1"), "", false},
		{digestOf(1, 9, "x=1"), "", false}, // a part came since the last one
		{digestOf(1, 9, "x=1"), "", true},
		{partOf(1, 9, 0, 1, "k=1"), "b:k/e >1", false},
	}, "k/e=1"},
	{"an unanswered question is asked again", []step{
		{digestOf(1, 9, "x=1"), "", true},
		{digestOf(1, 9, "x=1"), "", true},
	}, ""},
	{"parts of two snapshots do not mix", []step{
		{digestOf(1, 9, "x=1"), "", true},
		{partOf(1, 9, 0, 2, "k=1"), "", false},
		{partOf(1, 10, 1, 2, "m=1"), "", false},
		{partOf(1, 10, 0, 2, "l=1"), "", false},
		{partOf(1, 10, 1, 2, "m=1"), "b:l/e >1, b:m/e >1", false},
	}, "l/e=1 m/e=1"},
	{"a second answer is left out", []step{
		{digestOf(1, 9, "x=1"), "", true},
		{digestOf(1, 9, "x=1"), "", true},
		{partOf(1, 9, 0, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(1, 10, "k"), "b:k/e 1>", false},
		{partOf(1, 9, 0, 1, "k=1"), "", false},
	}, ""},
	{"a gap among the deltas that waited asks again", []step{
		{digestOf(1, 2, "x=1"), "", true},
		{deltaOf(1, 3, "k=3"), "", false},
		{deltaOf(1, 5, "k=5"), "", false},
		{partOf(1, 2, 0, 1, "k=2"), "b:k/e >2, b:k/e 2>3", true},
		{partOf(1, 4, 0, 1, "k=4"), "b:k/e 3>4, b:k/e 4>5", false},
	}, "k/e=5"},
	{"deltas beyond the bound are fetched again", append(overfull(),
		step{partOf(1, 10, 0, 1, "k=0"), "b:k/e >0", true},
		step{partOf(1, 10+maxWaiting, 0, 1, "k=2"), "b:k/e 0>2", false},
	), "k/e=2"},
	{"a new incarnation replaces the old rows", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(2, 1, "l=1"), "b:k/e 1>, b:l/e >1", false},
		{deltaOf(1, 2, "m=1"), "", false},
		{partOf(1, 2, 0, 1, "m=1"), "", false},
	}, "l/e=1"},
	{"a new incarnation without rows", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{digestOf(2, 0), "b:k/e 1>", false},
	}, ""},
	{"a new incarnation that is met late", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{deltaOf(2, 5, "l=1"), "b:k/e 1>", true},
		{partOf(2, 4, 0, 1, "k=4"), "b:k/e >4, b:l/e >1", false},
	}, "k/e=4 l/e=1"},
	{"a node that is gone takes its rows along, once", []step{
		{deltaOf(1, 1, "k=1", "l=1"), "b:k/e >1, b:l/e >1", false},
		{gone, "b:k/e 1>, b:l/e 1>", false},
		{gone, "", false},
	}, ""},
	{"a paused node comes back with a change", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{gone, "b:k/e 1>", false},
		{deltaOf(1, 2, "l=1"), "", true},
		{partOf(1, 2, 0, 1, "k=1", "l=1"), "b:k/e >1, b:l/e >1", false},
	}, "k/e=1 l/e=1"},
	{"a paused node comes back with a digest", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{gone, "b:k/e 1>", false},
		{digestOf(1, 1, "k=1"), "", true},
		{partOf(1, 1, 0, 1, "k=1"), "b:k/e >1", false},
	}, "k/e=1"},
	{"a node that comes back restarted", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{gone, "b:k/e 1>", false},
		{deltaOf(2, 1, "l=1"), "b:l/e >1", false},
	}, "l/e=1"},
	{"what a dead node left on its way does not bring rows back", []step{
		{deltaOf(1, 1, "k=1"), "b:k/e >1", false},
		{digestOf(1, 2, "x=1"), "", true},
		{gone, "b:k/e 1>", false},
		{partOf(1, 2, 0, 1, "x=1"), "", false},
		{deltaOf(1, 1, "k=1"), "", true},
	}, ""},
	{"what a node that died unheard left on its way", []step{
		{gone, "", false},
		{deltaOf(1, 1, "k=1"), "", true},
		{deltaOf(1, 2, "l=1"), "", false},
	}, ""},
	{"a node that was forgotten unheard and lives", []step{
		{gone, "", false},
		{deltaOf(1, 1, "k=1"), "", true},
		{partOf(1, 1, 0, 1, "k=1"), "b:k/e >1", false},
	}, "k/e=1"},
	{"its own messages and questions are nothing", []step{
		{message{kind: kindDelta, node: "a", number: 1, rows: rowsOf([]string{"k=1"})}, "", false},
		{message{kind: kindAsk, node: "b"}, "", false},
	}, ""},
}

func TestTableReceives(t *testing.T) {
	for _, test := range receptions {
		t.Run(test.name, func(t *testing.T) {
			table := newTable("a", 1)
			for i, s := range test.steps {
				var changes []Change
				var ask bool
				if s.message.kind == 0 {
					changes = table.forget("b")
				} else {
					changes, ask = table.receive(s.message)
				}
				if got := told(changes); got != s.changes || ask != s.ask {
					t.Errorf("step %d: got %q, ask %t; want %q, ask %t", i+1, got, ask, s.changes, s.ask)
				}
			}
			var rows []Row
			if r := table.others["b"]; r != nil {
				rows = r.rows.all()
			}
			if got := listed(rows); got != test.rows {
				t.Errorf("rows %q, want %q", got, test.rows)
			}
		})
	}
}

func TestTableCoalescesWithinABatch(t *testing.T) {
	table := newTable("a", 7)
	for _, s := range []struct {
		key, value string // no value removes
		news       bool
	}{
		{"k", "1", true}, {"l", "1", true}, {"k", "2", true}, {"k", "2", false},
		{"m", "", false}, {"l", "", true}, {"n", "1", true}, {"l", "", false},
	} {
		value := []byte(s.value)
		if s.value == "" {
			value = nil
		}
		if got := table.set(s.key, "e", value); got != s.news {
			t.Errorf("set %s to %q: news %t, want %t", s.key, s.value, got, s.news)
		}
	}
	m := table.flush(1 << 10)
	if got := listed(m.rows); got != "k/e=2 l/e= n/e=1" || m.rows[1].Value != nil {
		t.Errorf("batch %q, want each row once, in the order of the first change", got)
	}
	if m.node != "a" || m.incarnation != 7 || m.number != 1 || table.number != 3 {
		t.Errorf("batch of %s/%d from %d, then at %d", m.node, m.incarnation, m.number, table.number)
	}
	if table.flush(1) != nil {
		t.Error("flushed twice")
	}
	// A row that was sent is a change of its own again.
	if !table.set("k", "e", nil) {
		t.Error("removal is no news")
	}
	if m = table.flush(1); listed(m.rows) != "k/e=" || m.number != 4 {
		t.Errorf("second batch %q from %d", listed(m.rows), m.number)
	}
}

func TestTableBoundsBatchesAndParts(t *testing.T) {
	table := newTable("a", 1)
	for i := range 10 {
		table.set(fmt.Sprint("key", i), "e", []byte("12345")) // 10 bytes each
	}
	table.set("key5", "e", []byte("54321"))
	var sizes []int
	next := uint64(1)
	for m := table.flush(25); m != nil; m = table.flush(25) {
		if m.number != next {
			t.Errorf("batch begins at %d, want %d", m.number, next)
		}
		next += uint64(len(m.rows))
		sizes = append(sizes, len(m.rows))
		if len(sizes) == 1 {
			table.set("key9", "e", []byte("changed")) // still waits: its index must have moved
		}
	}
	if !slices.Equal(sizes, []int{3, 3, 3, 1}) {
		t.Errorf("batches of %v rows", sizes)
	}
	if got := string(table.own.byKey["key9"]["e"]); got != "changed" {
		t.Errorf("key9 is %q", got)
	}
	other := newTable("c", 1)
	other.receive(*table.digest())
	parts := table.snapshot(25)
	if len(parts) != 4 {
		t.Errorf("%d parts, want 4", len(parts))
	}
	for _, part := range parts {
		other.receive(*part)
	}
	if got, want := listed(other.others["a"].rows.all()), listed(table.own.all()); got != want {
		t.Errorf("rows %q, want %q", got, want)
	}
	if empty := newTable("d", 1).snapshot(1); len(empty) != 1 || empty[0].parts != 1 || len(empty[0].rows) != 0 {
		t.Errorf("a snapshot of nothing is %+v", empty)
	}
}

// The hash must not depend on the order of changes, and must tell apart what is split
// differently into key, entry and value.
func TestHashDescribesRows(t *testing.T) {
	a, b := newRows(), newRows()
	for i := range 50 {
		a.set(fmt.Sprint(i), "e", []byte("v"))
		b.set(fmt.Sprint(49-i), "e", []byte("w"))
		b.set(fmt.Sprint(49-i), "e", []byte("v"))
		b.set("gone", fmt.Sprint(i), []byte("v"))
	}
	for i := range 50 {
		b.set("gone", fmt.Sprint(i), nil)
	}
	if a.hash != b.hash || a.count != b.count || len(b.byKey) != 50 {
		t.Errorf("hash %x of %d and %x of %d rows, %d keys", a.hash, a.count, b.hash, b.count, len(b.byKey))
	}
	seen := make(map[uint64]Row)
	for _, r := range []Row{
		{"ab", "c", []byte("d")}, {"a", "bc", []byte("d")}, {"a", "b", []byte("cd")},
		{"abcd", "", []byte{}}, {"", "abcd", []byte{}}, {"", "", []byte("abcd")}, {"abcd", "", []byte{0}},
	} {
		h := hashRow(r.Key, r.Entry, r.Value)
		if other, found := seen[h]; found {
			t.Errorf("%+v and %+v have one hash", r, other)
		}
		seen[h] = r
	}
}
