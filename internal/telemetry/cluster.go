package telemetry

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ClusterState is what a node of a cluster tells of it.
type ClusterState struct {
	Members map[string]int // those that are alive, by state
	Missing int            // members that are not alive
	Stores  int            // members with a store, dead or alive
	// Engine is nil while the node starts and does not know yet.
	Engine *EngineState
}

// EngineState is how the storage of a cluster is, as a node sees it.
type EngineState struct {
	Healthy bool
	Store   bool // the node has a store; without one it knows no leader
	Leader  bool // it knows one
	Have    int  // copies of what has the fewest, 0 if unknown
	Want    int
	Losses  int // nodes with a store that may be lost now, 0 also if unknown
}

// ClusterStates are the values of ClusterState.Members that always have a gauge.
var ClusterStates = []string{"starting", "ready", "draining"}

// clusterInterval is how long an answer is used: a scrape comes unauthenticated, and asking
// costs the engine work.
const clusterInterval = time.Second

// Cluster is the gauges of a node of a cluster, read when somebody scrapes.
type Cluster struct {
	members, missing, stores, healthy, leader, have, want, losses *prometheus.Desc

	read func() ClusterState
	mu   sync.Mutex // held while read runs, so that many scrapes ask once
	at   time.Time
	last ClusterState
}

// NewCluster returns the gauges of what read returns, under prefix.
func NewCluster(prefix string, read func() ClusterState) *Cluster {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prefix+"cluster_"+name, help, labels, nil)
	}
	return &Cluster{
		read:    read,
		members: describe("members", "Nodes of the cluster that are alive, as this one sees it, by state.", "state"),
		missing: describe("missing_members", "Nodes of the cluster that are not alive, as this one sees it."),
		stores:  describe("stores", "Nodes of the cluster with a store, dead or alive."),
		healthy: describe("engine_healthy", "1 if the engine of this node can store and is not behind, else 0."),
		leader:  describe("engine_leader", "1 if this node knows a leader of the engines, else 0."),
		have:    describe("replicas", "Copies of what has the fewest, 0 if the engine does not tell."),
		want:    describe("replicas_wanted", "Copies that so many nodes with a store allow."),
		losses:  describe("survivable_losses", "Nodes with a store that may be lost now while the rest can store on."),
	}
}

// Describe implements prometheus.Collector.
func (c *Cluster) Describe(into chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.members, c.missing, c.stores, c.healthy, c.leader, c.have, c.want, c.losses,
	} {
		into <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Cluster) Collect(into chan<- prometheus.Metric) {
	state := c.state()
	gauge := func(d *prometheus.Desc, value int, labels ...string) {
		into <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(value), labels...)
	}
	for _, name := range ClusterStates {
		gauge(c.members, state.Members[name], name)
	}
	gauge(c.missing, state.Missing)
	gauge(c.stores, state.Stores)
	engine := state.Engine
	if engine == nil {
		return
	}
	gauge(c.healthy, number(engine.Healthy))
	if engine.Store {
		gauge(c.leader, number(engine.Leader))
	}
	gauge(c.have, engine.Have)
	gauge(c.want, engine.Want)
	gauge(c.losses, engine.Losses)
}

func (c *Cluster) state() ClusterState {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) > clusterInterval {
		c.last = c.read()
		c.at = time.Now()
	}
	return c.last
}

func number(is bool) int {
	if is {
		return 1
	}
	return 0
}
