//go:build linux

package faults

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// figures are the durations measured in this run, by what they are.
var figures struct {
	mu     sync.Mutex
	values map[string][]time.Duration
}

// oneNode is the name of a node in the name of a figure.
var oneNode = regexp.MustCompile(`\bnode[0-9]\b`)

// figure prints a measured value in a form that a script can find, and keeps durations for the
// table at the end.
func figure(t *testing.T, name string, value any) {
	t.Helper()
	if d, is := value.(time.Duration); is {
		value = d.Round(time.Millisecond)
		if d < 0 {
			value = "never" // and the test fails
		} else {
			keep(oneNode.ReplaceAllString(name, "a node"), d)
		}
	}
	t.Logf("figure: %s: %v", name, value)
}

func keep(name string, value time.Duration) {
	figures.mu.Lock()
	defer figures.mu.Unlock()
	if figures.values == nil {
		figures.values = map[string][]time.Duration{}
	}
	figures.values[name] = append(figures.values[name], value)
}

// printFigures prints a line for each kind of figure: how many there are, the least, the one in
// the middle and the most.
func printFigures(w io.Writer) error {
	figures.mu.Lock()
	defer figures.mu.Unlock()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var names []string
	for name := range figures.values {
		names = append(names, name)
	}
	slices.Sort(names)
	if _, err := fmt.Fprintln(table, "what\ttimes\tleast\tmiddle\tmost"); err != nil {
		return err
	}
	for _, name := range names {
		values := figures.values[name]
		slices.Sort(values)
		round := func(i int) time.Duration { return values[i].Round(time.Millisecond) }
		_, err := fmt.Fprintf(table, "%s\t%d\t%v\t%v\t%v\n", name, len(values), round(0), round(len(values)/2), round(len(values)-1))
		if err != nil {
			return err
		}
	}
	return table.Flush()
}
