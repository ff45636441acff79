package directory

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestMessagesSurviveTheWire(t *testing.T) {
	rows := []Row{{"k", "e", []byte("v")}, {"", "", []byte{}}, {"gone", "é\x00", nil}}
	for _, want := range []message{
		{kind: kindDelta, node: "a", incarnation: 1, number: 2, rows: rows},
		{kind: kindDelta, node: "", incarnation: 1 << 63, number: ^uint64(0)},
		{kind: kindDigest, node: "a", incarnation: 1, number: 2, hash: 3 << 62, count: 4},
		{kind: kindAsk, node: strings.Repeat("n", maxText)},
		{kind: kindSnapshot, node: "a", number: 300, part: 1, parts: 200, rows: rows},
		{kind: kindSnapshot, node: "a", parts: 1,
			rows: []Row{{strings.Repeat("k", maxText), "", bytes.Repeat([]byte("v"), maxRow)}}},
	} {
		encoded := want.encode()
		got, err := decode(encoded)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
		// A row that ends with the message is complete: cut one byte off in the middle.
		for _, cut := range []int{0, 1, len(encoded) - 1} {
			if m, err := decode(encoded[:cut]); err == nil && len(want.rows) > 0 && cut == len(encoded)-1 {
				t.Errorf("cut to %d bytes it is %+v", cut, m)
			}
		}
	}
}

func TestMalformedMessages(t *testing.T) {
	long := message{kind: kindDelta, node: "a", rows: []Row{{"k", "e", make([]byte, maxRow+1)}}}
	name := message{kind: kindAsk, node: strings.Repeat("n", maxText+1)}
	for what, b := range map[string][]byte{
		"nothing":             nil,
		"no kind":             {0},
		"unknown kind":        {5, 1, 'a', 1, 1},
		"kind alone":          {1},
		"short node":          {1, 5, 'a'},
		"no incarnation":      {1, 1, 'a'},
		"endless number":      append([]byte{1, 1, 'a'}, bytes.Repeat([]byte{0xff}, 12)...),
		"short hash":          {2, 1, 'a', 1, 1, 0, 0, 0},
		"digest count":        {2, 1, 'a', 1, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"snapshot parts":      {4, 1, 'a', 1, 1, 0},
		"row without entry":   {1, 1, 'a', 1, 1, 1, 'k'},
		"row without value":   {1, 1, 'a', 1, 1, 1, 'k', 1, 'e'},
		"value beyond end":    {1, 1, 'a', 1, 1, 1, 'k', 1, 'e', 9, 'v'},
		"value beyond bounds": long.encode(),
		"node beyond bounds":  name.encode(),
		"size of 2^64-1":      append([]byte{1}, bytes.Repeat([]byte{0xff}, 10)...),
	} {
		if m, err := decode(b); err == nil {
			t.Errorf("%s is %+v", what, m)
		}
	}
}

// Whatever comes over the wire is refused or survives being sent on, and no table breaks
// on it.
func FuzzDecode(f *testing.F) {
	for _, m := range []message{
		{kind: kindDelta, node: "b", incarnation: 1, number: 1, rows: rowsOf([]string{"k=1", "l"})},
		{kind: kindDigest, node: "b", incarnation: 1, number: 1, hash: 1, count: 1},
		{kind: kindAsk, node: "b"},
		{kind: kindSnapshot, node: "b", incarnation: 1, number: 1, parts: 2, rows: rowsOf([]string{"k=1"})},
	} {
		f.Add(m.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(m.encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
		table := newTable("a", 1)
		view := make(view)
		for range 2 {
			changes, _ := table.receive(m)
			if problem := view.apply(changes); problem != "" {
				t.Fatal(problem)
			}
		}
		if problem := view.compare("b", table); problem != "" {
			t.Fatal(problem)
		}
	})
}
