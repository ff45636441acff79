package engine_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/engine"
)

// TestRaftVariables looks whether each variable of raft.go is the server's: then it had the
// server's value before ours. One that was renamed, removed or made a constant had none.
func TestRaftVariables(t *testing.T) {
	for name, own := range (engine.RaftTiming{
		"hbInterval":               time.Second,
		"minElectionTimeout":       4 * time.Second,
		"maxElectionTimeout":       9 * time.Second,
		"lostQuorumInterval":       10 * time.Second,
		"lostQuorumCheck":          10 * time.Second,
		"migrateMetaRetryInterval": 5 * time.Second,
	}) {
		switch got := engine.UntunedRaft[name]; got {
		case own:
		case 0:
			t.Errorf("the server has no variable %s: what raft.go sets is nobody's", name)
		default:
			t.Errorf("the server's own %s is %v and no longer %v: see whether what raft.go sets is still right", name, got, own)
		}
		if tuned := engine.TunedRaft()[name]; tuned <= 0 || tuned >= own {
			t.Errorf("%s is set to %v", name, tuned)
		}
	}
	text, err := os.ReadFile("raft.go")
	if err != nil {
		t.Fatal(err)
	}
	if bound := strings.Count(string(text), "\n//go:linkname "); bound != len(engine.UntunedRaft) {
		t.Errorf("raft.go binds %d variables, and this test looks at %d", bound, len(engine.UntunedRaft))
	}
}
