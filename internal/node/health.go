package node

import (
	"context"
	"sync"
	"time"
)

// electionTime is how long the engine of a cluster may be unwell before the node is not ready.
// When a leader dies every other node is without one for 1.5 to 2 s, as long as writes wait.
// Would all of them leave the rotation of a load balancer meanwhile, one death would be the
// outage of a whole cluster. Those who lose the majority for good are unready this much later.
const electionTime = 5 * time.Second

// forgiving returns a check that passes until probe has failed for as long as patience. Calls
// wait for each other.
func forgiving(patience time.Duration, probe func(context.Context) error) func(context.Context) error {
	var mu sync.Mutex // guards failing
	var failing time.Time
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		err := probe(ctx)
		switch {
		case err == nil:
			failing = time.Time{}
			return nil
		case failing.IsZero():
			failing = time.Now()
		}
		if time.Since(failing) < patience {
			return nil
		}
		return err
	}
}
