package telemetry

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state, asked := ClusterState{}, 0
		m := NewMetrics("x_", "v1")
		m.Register(NewCluster("x_", func() ClusterState { asked++; return state }))
		// shown returns the gauges of the cluster, without help and type.
		shown := func() string {
			time.Sleep(2 * clusterInterval)
			var lines []string
			for line := range strings.Lines(scrape(t, m)) {
				if strings.HasPrefix(line, "x_cluster_") {
					lines = append(lines, strings.TrimPrefix(line, "x_cluster_"))
				}
			}
			return strings.Join(lines, "")
		}
		for _, test := range []struct {
			name  string
			state ClusterState
			want  string
		}{
			{"starting", ClusterState{Members: map[string]int{"starting": 1}, Missing: 2, Stores: 3}, `members{state="draining"} 0
members{state="ready"} 0
members{state="starting"} 1
missing_members 2
stores 3
`},
			{"well", ClusterState{Members: map[string]int{"ready": 3}, Stores: 3, Engine: &EngineState{
				Healthy: true, Store: true, Leader: true, Have: 3, Want: 3, Losses: 1}}, `engine_healthy 1
engine_leader 1
members{state="draining"} 0
members{state="ready"} 3
members{state="starting"} 0
missing_members 0
replicas 3
replicas_wanted 3
stores 3
survivable_losses 1
`},
			{"without a store", ClusterState{Members: map[string]int{"ready": 1}, Missing: 3, Stores: 3, Engine: &EngineState{
				Want: 3}}, `engine_healthy 0
members{state="draining"} 0
members{state="ready"} 1
members{state="starting"} 0
missing_members 3
replicas 0
replicas_wanted 3
stores 3
survivable_losses 0
`},
		} {
			state = test.state
			if got := shown(); got != test.want {
				t.Errorf("%s:\n%swant\n%s", test.name, got, test.want)
			}
		}
		asked = 0
		time.Sleep(2 * clusterInterval)
		scrape(t, m)
		scrape(t, m)
		if asked != 1 {
			t.Errorf("two scrapes at once asked %d times", asked)
		}
	})
}
