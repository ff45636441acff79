package webhook

import "sync"

// gate keeps a receiver that does not answer from taking all of a node's requests: after
// an attempt without an answer, one request at a time tries that hook, until one is
// answered. It holds only hooks that fail or have requests in flight.
type gate struct {
	mu    sync.Mutex
	hooks map[destination]*hookState
}

type hookState struct {
	inFlight    int
	failing     bool // the last attempt was not accepted
	unreachable bool // the last attempt was not answered
}

// failingMax bounds the memory for hooks that failed and are never used again.
const failingMax = 10_000

func newGate() gate {
	return gate{hooks: make(map[destination]*hookState)}
}

// enter reports whether a request may start; exit must follow when it may.
func (g *gate) enter(to destination) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	state := g.hooks[to]
	if state == nil {
		if len(g.hooks) >= failingMax {
			g.forgetIdle()
		}
		state = &hookState{}
		g.hooks[to] = state
	}
	if state.unreachable && state.inFlight > 0 {
		return false
	}
	state.inFlight++
	return true
}

// exit records how the request ended and reports whether the hook began or ceased to fail.
func (g *gate) exit(to destination, result string) (changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	state := g.hooks[to]
	failing := result != ResultAccepted
	changed = failing != state.failing
	state.failing = failing
	state.unreachable = result == ResultUnreachable
	g.release(to, state)
	return changed
}

// abandon undoes enter for a request that was broken off and says nothing about the hook.
func (g *gate) abandon(to destination) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.release(to, g.hooks[to])
}

func (g *gate) release(to destination, state *hookState) {
	state.inFlight--
	if state.inFlight == 0 && !state.failing {
		delete(g.hooks, to)
	}
}

func (g *gate) forgetIdle() {
	for to, state := range g.hooks {
		if state.inFlight == 0 {
			delete(g.hooks, to)
		}
	}
}
