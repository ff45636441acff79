//go:build linux

package linear

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkTime bounds the search for an order in one history.
const checkTime = 60 * time.Second

// history is what clients asked for and were answered, of one kind of thing. Each of them has a
// key, and those of different keys have nothing to do with each other.
type history struct {
	mu         sync.Mutex // guards operations
	operations []porcupine.Operation
}

// forEver is when an operation ends of which nobody knows whether it was done, or when.
const forEver = math.MaxInt64

// add writes an operation down. A client whose operation never ends goes on as another.
func (h *history) add(client int, call time.Time, end int64, input, output any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, porcupine.Operation{
		ClientId: client, Call: call.UnixNano(), Return: end, Input: input, Output: output,
	})
}

// size returns how many operations there are.
func (h *history) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.operations)
}

// now is the time as a history has it. The clock of one process that nobody sets is good enough.
func now() int64 { return time.Now().UnixNano() }

// check demands that there is an order in which the model gives the answers.
func (h *history) check(t *testing.T, name string, model porcupine.Model) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	begin := time.Now()
	result, info := porcupine.CheckOperationsVerbose(model, h.operations, checkTime)
	t.Logf("%s: %d operations, %s after %v", name, len(h.operations), result, time.Since(begin).Round(time.Millisecond))
	if result == porcupine.Ok {
		return
	}
	t.Errorf("%s: the history is %s", name, result)
	if dir := os.Getenv("PARLEY_LINEAR_OUT"); dir != "" {
		if err := porcupine.VisualizePath(model, info, filepath.Join(dir, name+".html")); err != nil {
			t.Error(err)
		}
	}
	if model.Partition == nil {
		return
	}
	for _, part := range model.Partition(h.operations) { // says which
		if result, _ := porcupine.CheckOperationsVerbose(model, part, checkTime); result != porcupine.Ok {
			for _, o := range part {
				t.Logf("  %s %s to %s by %d", describe(model, o), at(o.Call), at(o.Return), o.ClientId)
			}
			return
		}
	}
}

func describe(model porcupine.Model, o porcupine.Operation) string {
	if model.DescribeOperation != nil {
		return model.DescribeOperation(o.Input, o.Output)
	}
	return fmt.Sprint(o.Input, " ", o.Output)
}

func at(nanoseconds int64) string {
	if nanoseconds == forEver {
		return "ever"
	}
	return time.Unix(0, nanoseconds).Format("05.000000")
}

// byKey parts a history by the key of its operations.
func byKey(key func(input any) string) func([]porcupine.Operation) [][]porcupine.Operation {
	return func(all []porcupine.Operation) [][]porcupine.Operation {
		index := map[string]int{}
		var parts [][]porcupine.Operation
		for _, o := range all {
			k := key(o.Input)
			i, found := index[k]
			if !found {
				i = len(parts)
				index[k] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], o)
		}
		return parts
	}
}
