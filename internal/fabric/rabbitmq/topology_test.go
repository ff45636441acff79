package rabbitmq

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func TestNames(t *testing.T) {
	names := newTopology(strings.Repeat("p", maxPrefixSize), strings.Repeat("n", 128))
	seen := map[string]bool{}
	for _, name := range append(names.stores(), names.busy) {
		if len(name) > 255 || strings.ContainsAny(name, ":@/ ") || seen[name] {
			t.Errorf("name %q", name)
		}
		seen[name] = true
	}
	p := &Provider{options: Options{Prefix: strings.Repeat("p", maxPrefixSize)}}
	for _, kind := range []string{"ids", "dead", "payloads"} {
		for _, queue := range []string{"q", strings.Repeat("n", 128)} {
			if err := fabric.CheckName(p.storeName(kind, queue)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestWaits follows jobs through the waiting queues.
func TestWaits(t *testing.T) {
	for _, all := range []time.Duration{
		1, time.Millisecond, 50 * time.Millisecond, 51 * time.Millisecond, 400 * time.Millisecond, time.Second,
		59 * time.Second, 60 * time.Second, 5 * time.Minute, 29 * time.Minute, time.Hour, 10 * 24 * time.Hour,
		rand.N(time.Hour), rand.N(time.Minute), rand.N(time.Second),
	} {
		hops, left := 0, all
		for ; left > 0; hops++ {
			left -= waits[waitFor(left, all)].time
		}
		late := -left
		if late > max(minLateness, min(all/16, maxLateness)) {
			t.Errorf("%v: late by %v", all, late)
		}
		if most := 16 + int(all/(30*time.Minute)); hops > most {
			t.Errorf("%v: through %d queues", all, hops)
		}
	}
	for i := 1; i < len(waits); i++ {
		if waits[i].time <= waits[i-1].time {
			t.Errorf("%s is not longer than the one before", waits[i].name)
		}
	}
}
