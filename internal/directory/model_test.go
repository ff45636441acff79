package directory

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// view is what a listener makes of the changes it is told.
type view map[rowOf][]byte

type rowOf struct{ node, key, entry string }

// apply takes changes and returns what is wrong with them.
func (v view) apply(changes []Change) string {
	for _, c := range changes {
		id := rowOf{c.Node, c.Key, c.Entry}
		before := v[id]
		if (before == nil) != (c.Before == nil) || !bytes.Equal(before, c.Before) {
			return fmt.Sprintf("change %+v of a row that is %q", c, before)
		}
		if (before == nil) == (c.After == nil) && bytes.Equal(before, c.After) {
			return fmt.Sprintf("change %+v changes nothing", c)
		}
		if v[id] = c.After; c.After == nil {
			delete(v, id)
		}
	}
	return ""
}

// compare tells how the view differs from what a table holds of a node.
func (v view) compare(node string, t *table) string {
	count := 0
	if r := t.others[node]; r != nil {
		count = r.rows.count
		for _, row := range r.rows.all() {
			if got := v[rowOf{node, row.Key, row.Entry}]; got == nil || !bytes.Equal(got, row.Value) {
				return fmt.Sprintf("row %s/%s of %s is %q, told was %q", row.Key, row.Entry, node, row.Value, got)
			}
		}
	}
	for id := range v {
		if id.node == node {
			count--
		}
	}
	if count != 0 {
		return fmt.Sprintf("of %s %d more rows are there than told", node, count)
	}
	return ""
}

// world is several tables with a transport between them that loses and repeats. Between two
// nodes messages keep their order, but for the repetitions; between pairs there is none.
type world struct {
	t      *testing.T
	random *rand.Rand
	names  []string
	tables map[string]*table
	views  map[string]view
	wires  map[[2]string][][]byte
	loss   float64
}

func newWorld(t *testing.T, seed uint64, nodes int) *world {
	w := &world{
		t: t, random: rand.New(rand.NewPCG(seed, 0)),
		tables: make(map[string]*table), views: make(map[string]view),
		wires: make(map[[2]string][][]byte),
	}
	for i := range nodes {
		name := string(rune('a' + i))
		w.names = append(w.names, name)
		w.start(name, 1)
	}
	return w
}

func (w *world) start(name string, incarnation uint64) {
	w.tables[name], w.views[name] = newTable(name, incarnation), make(view)
}

// put sends a message from one node to another, perhaps not or twice.
func (w *world) put(from, to string, m *message) {
	if from == to || w.random.Float64() < w.loss {
		return
	}
	wire := [2]string{from, to}
	encoded := m.encode()
	w.wires[wire] = append(w.wires[wire], encoded)
	if old := w.wires[wire]; w.random.Float64() < w.loss {
		w.wires[wire] = append(old, old[w.random.IntN(len(old))])
	}
}

func (w *world) toAll(from string, m *message) {
	for _, to := range w.names {
		w.put(from, to, m)
	}
}

func (w *world) flush(name string) {
	limit := 1 + w.random.IntN(60)
	for m := w.tables[name].flush(limit); m != nil; m = w.tables[name].flush(limit) {
		w.toAll(name, m)
	}
}

// deliver hands over the first message of a wire.
func (w *world) deliver(wire [2]string) {
	queue := w.wires[wire]
	if len(queue) == 0 {
		return
	}
	w.wires[wire] = queue[1:]
	m, err := decode(queue[0])
	if err != nil {
		w.t.Fatal(err)
	}
	from, to := wire[0], wire[1]
	if m.kind == kindAsk {
		w.flush(to)
		for _, part := range w.tables[to].snapshot(1 + w.random.IntN(60)) {
			w.put(to, from, part)
		}
		return
	}
	changes, ask := w.tables[to].receive(m)
	w.told(to, changes)
	if ask {
		w.put(to, from, &message{kind: kindAsk, node: to})
	}
}

func (w *world) told(name string, changes []Change) {
	if problem := w.views[name].apply(changes); problem != "" {
		w.t.Fatalf("%s: %s", name, problem)
	}
}

// pick returns two different nodes.
func (w *world) pick() (string, string) {
	i := w.random.IntN(len(w.names))
	j := (i + 1 + w.random.IntN(len(w.names)-1)) % len(w.names)
	return w.names[i], w.names[j]
}

func (w *world) act() {
	a, b := w.pick()
	switch dice := w.random.IntN(100); {
	case dice < 30:
		value := []byte(fmt.Sprint(w.random.IntN(3)))
		if w.random.IntN(3) == 0 {
			value = nil
		}
		w.tables[a].set(fmt.Sprint("k", w.random.IntN(4)), fmt.Sprint("e", w.random.IntN(3)), value)
	case dice < 45:
		w.flush(a)
	case dice < 50:
		w.flush(a)
		w.toAll(a, w.tables[a].digest())
	case dice < 51: // a thinks b is dead, perhaps wrongly
		w.told(a, w.tables[a].forget(b))
	case dice < 52 && w.random.IntN(4) == 0:
		w.start(a, w.tables[a].incarnation+1)
	default:
		w.deliver([2]string{a, b})
	}
}

// settle delivers everything without loss.
func (w *world) settle() {
	for busy := true; busy; {
		busy = false
		for _, a := range w.names {
			for _, b := range w.names {
				if wire := [2]string{a, b}; len(w.wires[wire]) > 0 {
					busy = true
					w.deliver(wire)
				}
			}
		}
	}
}

// problem tells what is not as it should be.
func (w *world) problem() string {
	for _, a := range w.names {
		for _, b := range w.names {
			if a == b {
				continue
			}
			if problem := w.views[a].compare(b, w.tables[a]); problem != "" {
				return a + ": " + problem
			}
			var got []Row
			if r := w.tables[a].others[b]; r != nil {
				got = r.rows.all()
			}
			if got, want := listed(got), listed(w.tables[b].own.all()); got != want {
				return fmt.Sprintf("%s has of %s\n%s, want\n%s", a, b, got, want)
			}
		}
	}
	return ""
}

// However messages are lost, repeated and mixed, listeners are told of exactly the
// differences; and three digests after the losses end every table has everybody's rows.
func TestTablesConverge(t *testing.T) {
	worlds := uint64(120)
	if testing.Short() {
		worlds = 30
	}
	for seed := range worlds {
		w := newWorld(t, seed, 2+int(seed%4))
		w.loss = []float64{0, 0.05, 0.3, 0.6}[w.random.IntN(4)]
		for range 600 {
			w.act()
		}
		w.loss = 0
		w.settle()
		for range 3 {
			for _, name := range w.names {
				w.flush(name)
				w.toAll(name, w.tables[name].digest())
			}
			w.settle()
		}
		if problem := w.problem(); problem != "" {
			t.Fatalf("seed %d: %s", seed, problem)
		}
	}
}

// Without loss nothing is ever asked for: changes alone carry everything.
func TestNothingIsAskedWithoutLoss(t *testing.T) {
	w := newWorld(t, 1, 3)
	for range 300 {
		a, _ := w.pick()
		w.tables[a].set(fmt.Sprint(w.random.IntN(5)), "e", []byte(fmt.Sprint(w.random.IntN(9))))
		if w.random.IntN(3) == 0 {
			w.flush(a)
			w.toAll(a, w.tables[a].digest())
		}
		for wire, queue := range w.wires {
			for _, encoded := range queue {
				if kind(encoded[0]) == kindAsk {
					t.Fatalf("%s asks %s", wire[0], wire[1])
				}
			}
		}
		w.settle()
	}
	for _, name := range w.names {
		w.flush(name)
	}
	w.settle()
	if problem := w.problem(); problem != "" {
		t.Error(problem)
	}
}
