package node

import (
	"slices"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/telemetry"
)

// exportCluster adds the gauges of the cluster to the node's metrics.
func (n *Node) exportCluster() {
	n.metrics.Register(telemetry.NewCluster(n.config.Metrics.Prefix,
		func() telemetry.ClusterState { return clusterState(n.ClusterView()) }))
}

// clusterState returns what the gauges tell of a view.
func clusterState(view admin.ClusterView) telemetry.ClusterState {
	state := telemetry.ClusterState{
		Members: map[string]int{}, Missing: len(view.Missing), Stores: view.Replicas.Stores,
	}
	for _, m := range view.Members {
		state.Members[m.State]++
	}
	if view.Starting != "" || view.OverBroker() {
		return state
	}
	away := 0
	for _, m := range view.Missing {
		if slices.Contains(m.Roles, cluster.RoleStore) {
			away++
		}
	}
	state.Engine = &telemetry.EngineState{
		Healthy: view.Engine.Healthy, Store: view.Engine.Store, Leader: view.Engine.Leader != "",
		Have: view.Replicas.Have, Want: view.Replicas.Want,
		// A copy may have been on each of those that are away.
		Losses: max(0, survives(view.Replicas.Stores, view.Replicas.Have)-away),
	}
	return state
}
