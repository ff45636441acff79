package node

import (
	"testing"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/pusher/admin"
)

// How many losses a cluster bears now depends on who is away already.
func TestSurvivableLosses(t *testing.T) {
	for _, test := range []struct {
		stores, have, away, gateways int
		want                         int
	}{
		{stores: 3, have: 3, want: 1},
		{stores: 3, have: 3, gateways: 2, want: 1},
		{stores: 3, have: 3, away: 1, want: 0},
		{stores: 3, have: 3, away: 2, want: 0},
		{stores: 5, have: 5, want: 2},
		{stores: 5, have: 5, away: 1, gateways: 1, want: 1},
		{stores: 5, have: 3, want: 1}, // while copies are made
		{stores: 5, have: 3, away: 1, want: 0},
		{stores: 3, have: 0, want: 0}, // the engine does not answer
		{stores: 2, have: 1, want: 0},
	} {
		view := admin.ClusterView{Replicas: admin.ReplicaView{Stores: test.stores, Have: test.have}}
		for range test.away {
			view.Missing = append(view.Missing, admin.ClusterMember{Roles: []string{cluster.RoleGateway, cluster.RoleStore}})
		}
		for range test.gateways {
			view.Missing = append(view.Missing, admin.ClusterMember{Roles: []string{cluster.RoleGateway}})
		}
		state := clusterState(view)
		if state.Engine.Losses != test.want || state.Missing != test.away+test.gateways || state.Stores != test.stores {
			t.Errorf("%+v: %+v %+v", test, state, state.Engine)
		}
	}
}

func TestClusterState(t *testing.T) {
	view := admin.ClusterView{
		Members: []admin.ClusterMember{{State: "ready"}, {State: "ready"}, {State: "draining"}},
		Engine:  admin.EngineView{Healthy: true, Store: true, Leader: "n1"},
	}
	state := clusterState(view)
	if state.Members["ready"] != 2 || state.Members["draining"] != 1 || !state.Engine.Healthy || !state.Engine.Store || !state.Engine.Leader {
		t.Errorf("%+v %+v", state, state.Engine)
	}
	view.Starting = "waiting for the others"
	if state := clusterState(view); state.Engine != nil || state.Members["ready"] != 2 {
		t.Errorf("a node that starts tells of its engine: %+v", state)
	}
}
