package ratelimit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// text is a cluster of a size whose keys are strings; "bad" cannot be read.
func text(nodes int) Cluster[string] {
	return Cluster[string]{
		Nodes:  func() int { return nodes },
		Append: func(message []byte, key string) []byte { return append(message, key...) },
		Read: func(text []byte) (string, error) {
			if string(text) == "bad" {
				return "", errors.New("bad key")
			}
			return string(text), nil
		},
	}
}

// shared returns a Keyed of limits that the callers name, in a cluster.
func shared(nodes int) *Keyed[string] {
	k := NewKeyed[string](0, time.Second, 100)
	k.Share(text(nodes))
	return k
}

func telling(key string, n, ms uint64) []byte {
	b := append(binary.AppendUvarint(nil, uint64(len(key))), key...)
	return binary.AppendUvarint(binary.AppendUvarint(b, n), ms)
}

func message(tellings ...[]byte) []byte {
	return append([]byte{messageVersion}, bytes.Join(tellings, nil)...)
}

func TestWindowHear(t *testing.T) {
	const window = 1600 * time.Millisecond // so the skew is 100 ms
	ms := func(n int) time.Time { return start.Add(time.Duration(n) * time.Millisecond) }
	tests := []struct {
		name       string
		before     Window
		at, n, age int // ms
		answer     bool
		after      Window
	}{
		{"none open", Window{}, 50, 3, 20, false, Window{start: ms(30), others: 3}},
		{"ended", Window{start: ms(0), own: 2, told: 1, others: 4}, 1600, 3, 20, false, Window{start: ms(1580), others: 3}},
		{"the same one", Window{start: ms(0), own: 2, others: 4}, 50, 3, 45, false, Window{start: ms(0), own: 2, others: 7}},
		{"the same one, a little older", Window{start: ms(0), own: 2}, 50, 3, 55, false, Window{start: ms(-5), own: 2, others: 3}},
		{"younger", Window{start: ms(0), own: 2}, 500, 3, 20, true, Window{start: ms(0), own: 2, others: 3}},
		{"older", Window{start: ms(0), own: 2, told: 1}, 500, 3, 900, false, Window{start: ms(-400), own: 2, told: 1, others: 3}},
		{"the next one has begun there", Window{start: ms(0), own: 2, told: 2, others: 9}, 1590, 3, 1, false, Window{start: ms(1589), others: 3}},
		{"the next one has begun here", Window{start: ms(0), own: 2}, 5, 3, 1595, false, Window{start: ms(0), own: 2, others: 3}},
		{"nothing but the age", Window{start: ms(0), own: 2}, 500, 0, 900, false, Window{start: ms(-400), own: 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := test.before
			answer := w.hear(ms(test.at), test.n, time.Duration(test.age)*time.Millisecond, window)
			if answer != test.answer || w != test.after {
				t.Errorf("got %v %+v, want %v %+v", answer, w, test.answer, test.after)
			}
		})
	}
}

func TestTell(t *testing.T) {
	k := shared(3)
	step := func(what string, want []byte) {
		t.Helper()
		if got, untold := k.tell(start.Add(40 * time.Millisecond)); !bytes.Equal(got, want) || untold != 0 {
			t.Errorf("%s: got %q and %d untold, want %q", what, got, untold, want)
		}
	}
	allow := func(key string, n int, ok bool) {
		t.Helper()
		if got := k.allow(start, key, n, 60); got.OK != ok {
			t.Errorf("%s %d: got %v", key, n, got.OK)
		}
	}
	allow("a", 10, true)
	step("a sixth of the limit is not worth telling", nil)
	allow("a", 1, true)
	allow("b", 20, true)
	allow("c", 5, true)
	step("what is more is told in order, once", message(telling("a", 11, 40), telling("b", 20, 40)))
	step("nothing new", nil)
	allow("a", 50, false)
	step("what is refused is not told", nil)
	allow("a", 1, true)
	step("the rest", message(telling("a", 1, 40)))
	if err := k.hear(start, message(telling("c", 50, 0))); err != nil {
		t.Fatal(err)
	}
	allow("c", 6, false)
	step("a small amount is the answer to others", message(telling("c", 5, 40)))
	allow("c", 5, true)
	step("others use it too", message(telling("c", 5, 40)))
	allow("d", 60, true)
	if got, _ := k.tell(start.Add(time.Second)); got != nil {
		t.Errorf("tells %q of a window that has ended", got)
	}
}

func TestAloneTellsNothing(t *testing.T) {
	for name, k := range map[string]*Keyed[string]{"one node": shared(1), "not shared": NewKeyed[string](0, time.Second, 1)} {
		k.allow(start, "a", 5, 5)
		if got, _ := k.tell(start); got != nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestTellIsBounded(t *testing.T) {
	k := NewKeyed[string](0, time.Second, 2*maxQueued)
	waiting := k.Share(text(2))
	for i := range maxQueued + 3 {
		k.allow(start, fmt.Sprint(i), 1, 1)
	}
	<-waiting
	tellings, lost := 0, 0
	for {
		m, untold := k.tell(start)
		lost += untold
		if m == nil {
			break
		}
		if len(m) > maxMessage+100 {
			t.Errorf("a message has %d bytes", len(m))
		}
		for rest := m[1:]; len(rest) > 0; tellings++ {
			_, _, _, after, ok := readTelling(rest)
			if !ok {
				t.Fatal("malformed")
			}
			rest = after
		}
	}
	if tellings != maxQueued || lost != 3 {
		t.Errorf("%d are told and %d not", tellings, lost)
	}
}

func TestHear(t *testing.T) {
	good := telling("a", 4, 100)
	tests := []struct {
		name    string
		message []byte
		ok      bool
		left    int // of 10 for a
	}{
		{"empty", nil, false, 10},
		{"nobody", message(), true, 10},
		{"another version", append([]byte{2}, good...), false, 10},
		{"one", message(good), true, 6},
		{"two", message(good, telling("b", 9, 0), good), true, 2},
		{"more than the limit", message(telling("a", 11, 0)), true, 0},
		{"much more", message(telling("a", 1<<31-1, 0), telling("a", 1<<31-1, 0)), true, 0},
		{"too much", message(telling("a", 1<<31, 0)), false, 10},
		{"too old", message(telling("a", 1, 1<<31)), false, 10},
		{"ended on the way", message(telling("a", 4, 1000)), true, 10},
		{"a key that cannot be read", message(good, telling("bad", 1, 1), good), false, 6},
		{"cut", message(good, good)[:8], false, 6},
		{"a key longer than the message", message([]byte{200, 1, 'a'}), false, 10},
		{"an endless number", message([]byte{1, 'a'}, bytes.Repeat([]byte{255}, 11)), false, 10},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			k := shared(2)
			err := k.hear(start, test.message)
			if (err == nil) != test.ok || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v", err)
			}
			if got := k.allow(start, "a", 0, 10).Remaining; got != test.left {
				t.Errorf("%d are left, want %d", got, test.left)
			}
		})
	}
}

func FuzzHear(f *testing.F) {
	f.Add(message(telling("a", 4, 100), telling("b", 0, 0)))
	f.Add([]byte{messageVersion, 255, 255, 1})
	f.Fuzz(func(t *testing.T, m []byte) {
		k := shared(2)
		k.allow(start, "a", 1, 10)
		if err := k.hear(start, m); err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("got %v", err)
		}
		if r := k.allow(start, "a", 0, 10); r.Remaining < 0 || r.Remaining > 9 || r.ResetAfter < 0 || r.ResetAfter > time.Second {
			t.Errorf("got %+v", r)
		}
	})
}

func TestSharedAllowDoesNotAllocate(t *testing.T) {
	k := shared(3)
	k.Allow("warm", 1)
	now := start
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Millisecond)
		k.allow(now, "key", 1, 10)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if len(k.sharing.queue) != 1 {
		t.Error("nothing is to be told: the case is another one")
	}
}

// flood is what several nodes allow when all of them are asked all the time, in a model with
// steps of a millisecond in which a telling takes up to delay.
type flood struct {
	nodes   []*Keyed[string]
	begin   []int // when the node is asked for the first time, in milliseconds
	flights []flight
	allowed []int // by millisecond
}

type flight struct {
	at, to  int
	message []byte
}

const model = "the key"

// step has the nodes asked each times in the millisecond at.
func (f *flood) step(random *rand.Rand, at, each, limit, delay int) {
	now := start.Add(time.Duration(at) * time.Millisecond)
	f.flights = slices.DeleteFunc(f.flights, func(l flight) bool {
		if l.at > at {
			return false
		}
		if err := f.nodes[l.to].hear(now, l.message); err != nil {
			panic(err)
		}
		return true
	})
	count := 0
	for _, i := range random.Perm(len(f.nodes)) {
		for range each {
			if at >= f.begin[i] && f.nodes[i].allow(now, model, 1, limit).OK {
				count++
			}
		}
		m, _ := f.nodes[i].tell(now)
		for to := range f.nodes {
			if m != nil && to != i {
				f.flights = append(f.flights, flight{at + 1 + random.IntN(delay), to, m})
			}
		}
	}
	f.allowed = append(f.allowed, count)
}

func newFlood(random *rand.Rand, nodes int) *flood {
	f := &flood{}
	for range nodes {
		k := shared(nodes)
		// Windows that began some time ago, each at another one.
		k.allow(start.Add(-time.Duration(random.IntN(1500))*time.Millisecond), model, 1, 100)
		f.nodes, f.begin = append(f.nodes, k), append(f.begin, random.IntN(2000))
	}
	f.begin[0] = 0
	return f
}

// All nodes together keep the limit, but for what the package comment allows.
func TestFloodOfAllNodes(t *testing.T) {
	const limit, seconds = 200, 6
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 1))
		nodes, each, delay := 2+random.IntN(4), 1+random.IntN(5), 1+random.IntN(10)
		f := newFlood(random, nodes)
		for at := range seconds * 1000 {
			f.step(random, at, each, limit, delay)
		}
		// Windows may be shorter by the time of a message, and one more may begin.
		windows := seconds*1000/(1000-delay-1) + 1
		over := 2 * (delay + 1) * each * (nodes - 1)
		total := 0
		for _, n := range f.allowed {
			total += n
		}
		if most := windows * (limit + over); total > most {
			t.Errorf("seed %d: %d are allowed, want at most %d", seed, total, most)
		}
		if least := seconds * limit * 9 / 10; total < least {
			t.Errorf("seed %d: %d are allowed, want at least %d", seed, total, least)
		}
	}
}

// pass brings what one node has to tell to another.
func pass(t *testing.T, from, to *Keyed[string], sent, received int) {
	t.Helper()
	m, _ := from.tell(start.Add(time.Duration(sent) * time.Millisecond))
	if m == nil {
		t.Fatalf("%d ms: nothing is told", sent)
	}
	if err := to.hear(start.Add(time.Duration(received)*time.Millisecond), m); err != nil {
		t.Fatal(err)
	}
}

// ask asks a node for the whole limit.
func ask(t *testing.T, k *Keyed[string], at int, want bool) {
	t.Helper()
	const limit = 10
	if got := k.allow(start.Add(time.Duration(at)*time.Millisecond), model, limit, limit).OK; got != want {
		t.Errorf("%d ms: got %v, want %v", at, got, want)
	}
}

// A window begins on one node some time before it does on the other.
func TestNextWindowBeginsElsewhere(t *testing.T) {
	a, b := shared(2), shared(2)
	ask(t, a, 0, true)
	pass(t, a, b, 0, 9)
	ask(t, a, 1000, true)
	pass(t, a, b, 1000, 1001) // whose window lasts until 1009
	ask(t, b, 1020, false)
	ask(t, a, 2001, true)
	ask(t, a, 2002, false)
}

// A node has a window of which the other has not heard, and which is not the other's.
func TestWindowsBecomeOne(t *testing.T) {
	a, b := shared(2), shared(2)
	a.allow(start.Add(-300*time.Millisecond), model, 3, 10)
	a.tell(start.Add(-300 * time.Millisecond)) // which is lost
	ask(t, b, 0, true)
	pass(t, b, a, 0, 1)
	pass(t, a, b, 1, 2)
	ask(t, a, 701, true) // the window of both is over
	pass(t, a, b, 701, 702)
	ask(t, b, 1001, false) // as its own would have been
	ask(t, b, 1703, true)
}

// When one node is asked, the limit is exact, and when it dies, the others take over.
func TestOneNodeAsked(t *testing.T) {
	const limit = 50
	random := rand.New(rand.NewPCG(1, 1))
	f := &flood{nodes: []*Keyed[string]{shared(3), shared(3), shared(3)}, begin: make([]int, 3)}
	ask := func(node, at int) bool {
		f.step(random, at, 0, limit, 3)
		return f.nodes[node].allow(start.Add(time.Duration(at)*time.Millisecond), model, 1, limit).OK
	}
	count := func(node, from, to int) (n int) {
		for at := from; at < to; at++ {
			if ask(node, at) {
				n++
			}
		}
		return n
	}
	if n := count(0, 0, 500); n != limit {
		t.Errorf("the first node allows %d", n)
	}
	if n := count(1, 500, 995); n != 0 { // the first one is dead
		t.Errorf("the second node allows %d in the same window", n)
	}
	if n := count(1, 995, 1500); n != limit {
		t.Errorf("the second node allows %d in the next window", n)
	}
}

// Every node may allow the limit before it hears of the others, and never more.
func TestAtOnce(t *testing.T) {
	const limit = 100
	random := rand.New(rand.NewPCG(2, 2))
	f := &flood{nodes: []*Keyed[string]{shared(3), shared(3), shared(3)}, begin: make([]int, 3)}
	for at := range 900 {
		f.step(random, at, 1000, limit, 10)
	}
	total := 0
	for _, n := range f.allowed {
		total += n
	}
	if total != 3*limit {
		t.Errorf("%d are allowed", total)
	}
}
