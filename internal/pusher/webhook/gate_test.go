package webhook

import (
	"fmt"
	"testing"
)

func TestGate(t *testing.T) {
	hook, other := destination{"a", "u"}, destination{"a", "v"}
	g := newGate()
	enter := func(to destination, want bool) {
		t.Helper()
		if got := g.enter(to); got != want {
			t.Fatalf("enter %s = %v, want %v", to.url, got, want)
		}
	}
	exit := func(to destination, result string, want bool) {
		t.Helper()
		if got := g.exit(to, result); got != want {
			t.Fatalf("exit %s with %s = %v, want %v", to.url, result, got, want)
		}
	}
	enter(hook, true)
	enter(hook, true)
	exit(hook, ResultUnreachable, true)
	enter(hook, false) // one is still in flight
	enter(other, true)
	exit(hook, ResultUnreachable, false)
	enter(hook, true) // the next one to try
	enter(hook, false)
	exit(hook, ResultRefused, false) // it answers, if only to refuse
	enter(hook, true)
	enter(hook, true)
	g.abandon(hook)
	exit(hook, ResultAccepted, true)
	exit(other, ResultAccepted, false)
	if len(g.hooks) != 0 {
		t.Errorf("gate remembers %d healthy idle hooks", len(g.hooks))
	}
}

func TestGateIsBounded(t *testing.T) {
	g := newGate()
	busy := destination{"a", "busy"}
	g.enter(busy)
	for i := range 2*failingMax + 10 {
		to := destination{"a", fmt.Sprint(i)}
		g.enter(to)
		g.exit(to, ResultRefused)
	}
	if len(g.hooks) > failingMax {
		t.Errorf("gate holds %d hooks", len(g.hooks))
	}
	if g.hooks[busy] == nil {
		t.Error("a hook with a request in flight was forgotten")
	}
}
