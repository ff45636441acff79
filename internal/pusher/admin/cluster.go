package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Cluster is what the API shows and does of the cluster that the node is one of; the
// composition root has it.
type Cluster interface {
	// ClusterView returns what the node knows now, without asking others.
	ClusterView() ClusterView
	// Drain takes the node out of the rotation, waits delay for load balancers to notice,
	// and sends its clients away, rate of them each second. It returns at once.
	// Repeating it goes on with the new pace. Errors: ErrStopping.
	Drain(rate int, delay time.Duration) (Drained, error)
	// Undrain takes the node back into the rotation, and does nothing to one that is not
	// draining. Errors: ErrStopping.
	Undrain() (Drained, error)
	// Forget begins to take a member that is dead for good out of the cluster, by its id or
	// name, and returns it; ClusterView tells how far that is. Errors: ErrNoMember,
	// ErrMemberStays, ErrBusy, ErrStopping.
	Forget(ctx context.Context, member string, force bool) (ClusterMember, error)
}

// Errors of Forget. The errors that wrap them say what to do.
var (
	// ErrNoMember says that no member, or more than one, is meant.
	ErrNoMember = errors.New("no such member")
	// ErrMemberStays says that a member cannot be taken out as things are.
	ErrMemberStays = errors.New("the member stays")
	// ErrBusy says that the asked node is taking out another member.
	ErrBusy = errors.New("another member is being taken out")
)

// ErrStopping says that a node cannot be drained or undrained, because it stops.
var ErrStopping = errors.New("the node is stopping")

// errNoCluster is the answer of a node of its own.
var errNoCluster = errors.New("this node is not in a cluster: neither cluster.seeds nor " +
	"cluster.bootstrap_expect is set, and no broker carries fabric.signal")

// Pace of a drain that names none, and its bounds.
const (
	DefaultDrainRate = 100     // clients each second
	MaxDrainRate     = 1000000 // clients each second
	maxDrainDelay    = 10 * time.Minute
)

// ClusterView is the answer to GET cluster.
type ClusterView struct {
	Domain string `json:"domain"`
	ID     string `json:"id"`    // of the cluster
	Epoch  uint64 `json:"epoch"` // of the asked node's view; those of two nodes have nothing to do with each other
	Self   string `json:"self"`  // id of the node that was asked
	// Starting tells what the node waits for while it starts; empty afterwards. Replicas and
	// Engine are not known until then.
	Starting string          `json:"starting,omitempty"`
	Replicas ReplicaView     `json:"replicas"`
	Members  []ClusterMember `json:"members"` // alive, sorted by id
	Missing  []ClusterMember `json:"missing"` // of the cluster, and not alive as the node sees it
	Engine   EngineView      `json:"engine"`
	// Brokers carry parts of what the nodes share. Those that have no cluster of engines have no
	// ID: Replicas and Engine tell nothing then.
	Brokers []BrokerView `json:"brokers,omitempty"`
	// Forgetting is the last member that the asked node was told to take out, until that is
	// done, or has failed and the member is back; nil for none.
	Forgetting *Forgetting `json:"forgetting,omitempty"`
}

// OverBroker tells whether nodes are one server because they share a broker.
func (v ClusterView) OverBroker() bool { return v.ID == "" && len(v.Brokers) > 0 }

// BrokerView tells of a broker that nodes share.
type BrokerView struct {
	Driver  string   `json:"driver"`
	Carries []string `json:"carries"`         // signal, cache, …
	Error   string   `json:"error,omitempty"` // why it cannot be reached; empty while it can
}

// ReplicaView tells how many copies of what is stored there are.
type ReplicaView struct {
	Stores   int      `json:"stores"`         // members with a store, dead or alive
	Survives int      `json:"survives"`       // how many of them may be away at once
	Away     int      `json:"away"`           // how many of them are away, as the node sees it
	Have     int      `json:"have"`           // copies of the stream that has the fewest, 0 if unknown
	Want     int      `json:"want"`           // copies that so many stores allow
	Behind   []string `json:"behind"`         // streams with fewer than that
	Work     string   `json:"work,omitempty"` // what is done about it, or why not
}

// Forgetting is the work of taking a member out.
type Forgetting struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Step  string `json:"step"`
	Waits string `json:"waits,omitempty"` // what the step waits for
	Error string `json:"error,omitempty"` // why it has ended
}

// ForgetRequest is the body of POST cluster/forget.
type ForgetRequest struct {
	Member string `json:"member"` // id or name
	// Force takes it out even if those that remain survive the loss of none.
	Force bool `json:"force,omitempty"`
}

// ClusterMember is one node.
type ClusterMember struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Roles     []string          `json:"roles"`
	SubDomain string            `json:"sub_domain,omitempty"`
	State     string            `json:"state"` // starting, ready, draining; empty if not alive
	Version   string            `json:"version,omitempty"`
	Addresses map[string]string `json:"addresses"` // host:port by kind: channels, metrics, hello, route
	// URL is where the channels port is reached, with scheme and path prefix; empty if unknown.
	URL        string            `json:"url,omitempty"`
	Properties map[string]string `json:"properties,omitempty"` // what cluster.properties says
	// Connections are the clients that it serves, as last heard.
	Connections int `json:"connections"`
}

// EngineView is the state of the engine as the asked node sees it.
type EngineView struct {
	Healthy bool   `json:"healthy"`
	Error   string `json:"error,omitempty"` // why it is not healthy
	// Store tells whether the node has a store; without one it knows none of the rest.
	Store      bool              `json:"store"`
	Leader     string            `json:"leader"` // id of the node that leads the metadata, empty for none
	Quorum     bool              `json:"quorum"`
	Size       int               `json:"size"`  // nodes with a store that the cluster counts
	Peers      []EnginePeer      `json:"peers"` // other nodes with a store; the leader knows best
	Leaderless []string          `json:"leaderless"`
	Lagging    map[string]uint64 `json:"lagging"` // operations behind, by stream
}

// EnginePeer is another node with a store.
type EnginePeer struct {
	ID       string `json:"id"`
	Current  bool   `json:"current"`
	Offline  bool   `json:"offline"`
	Lag      uint64 `json:"lag"` // operations behind
	ActiveMS int64  `json:"active_ms"`
}

// DrainRequest is the body of POST cluster/drain, which may be empty.
type DrainRequest struct {
	Rate int `json:"rate"` // clients each second, 0 for DefaultDrainRate
	// DelayMS is how long the node serves on after it has left the rotation; without it
	// shutdown.delay, or five seconds where that is 0.
	DelayMS *int64 `json:"delay_ms,omitempty"`
}

// Drained is the answer to POST cluster/drain and POST cluster/undrain. Behind a load balancer
// the caller does not know otherwise which node was asked.
type Drained struct {
	ID   string `json:"id"`   // of the node
	Name string `json:"name"` // of the node
	Was  string `json:"was"`  // its state until then: ready or draining
}

// NoDelay is the delay of a drain that leaves the choice to the node.
const NoDelay = time.Duration(-1)

// WithCluster adds the endpoints that show and drain the node of a cluster. Without it they
// answer 409 with CodeNoCluster.
func (h *Handler) WithCluster(c Cluster) *Handler {
	h.cluster = c
	return h
}

func (h *Handler) routeCluster() {
	h.route("cluster", methods{http.MethodGet: h.showCluster})
	h.route("cluster/drain", methods{http.MethodPost: h.drain})
	h.route("cluster/undrain", methods{http.MethodPost: h.undrain})
	h.route("cluster/forget", methods{http.MethodPost: h.forget})
}

// showCluster answers GET cluster.
func (h *Handler) showCluster(*http.Request) (int, any, error) {
	if h.cluster == nil {
		return 0, nil, errNoCluster
	}
	return http.StatusOK, h.cluster.ClusterView(), nil
}

// drain answers POST cluster/drain with 202: the clients go over time.
func (h *Handler) drain(r *http.Request) (int, any, error) {
	if h.cluster == nil {
		return 0, nil, errNoCluster
	}
	body, err := readBody(r)
	if err != nil {
		return 0, nil, err
	}
	var request DrainRequest
	if len(body) > 0 {
		if err := decodeStrictly(body, &request); err != nil {
			return 0, nil, err
		}
	}
	delay := NoDelay
	if request.DelayMS != nil {
		if *request.DelayMS < 0 || *request.DelayMS > maxDrainDelay.Milliseconds() {
			return 0, nil, fmt.Errorf("%w: delay_ms must be 0 to %d", errInvalidRequest, maxDrainDelay.Milliseconds())
		}
		delay = time.Duration(*request.DelayMS) * time.Millisecond
	}
	if request.Rate < 0 || request.Rate > MaxDrainRate {
		return 0, nil, fmt.Errorf("%w: rate must be 1 to %d clients each second", errInvalidRequest, MaxDrainRate)
	}
	if request.Rate == 0 {
		request.Rate = DefaultDrainRate
	}
	drained, err := h.cluster.Drain(request.Rate, delay)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, drained, nil
}

// undrain answers POST cluster/undrain.
func (h *Handler) undrain(*http.Request) (int, any, error) {
	if h.cluster == nil {
		return 0, nil, errNoCluster
	}
	drained, err := h.cluster.Undrain()
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, drained, nil
}

// forget answers POST cluster/forget with 202: replicas take time.
func (h *Handler) forget(r *http.Request) (int, any, error) {
	if h.cluster == nil {
		return 0, nil, errNoCluster
	}
	body, err := readBody(r)
	if err != nil {
		return 0, nil, err
	}
	var request ForgetRequest
	if err := decodeStrictly(body, &request); err != nil {
		return 0, nil, err
	}
	if request.Member == "" {
		return 0, nil, fmt.Errorf("%w: member must be the id or name of a member", errInvalidRequest)
	}
	member, err := h.cluster.Forget(r.Context(), request.Member, request.Force)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, member, nil
}

// Cluster returns what the node knows of its cluster.
func (c *Client) Cluster(ctx context.Context) (ClusterView, error) {
	var view ClusterView
	return view, c.call(ctx, http.MethodGet, "cluster", nil, &view)
}

// Drain takes the node out of the rotation and has it send its clients away, rate of them
// each second (0 for DefaultDrainRate), after delay (NoDelay for the node's own choice). It
// returns which node that is.
func (c *Client) Drain(ctx context.Context, rate int, delay time.Duration) (Drained, error) {
	request := DrainRequest{Rate: rate}
	if delay != NoDelay {
		ms := delay.Milliseconds()
		request.DelayMS = &ms
	}
	var drained Drained
	return drained, c.call(ctx, http.MethodPost, "cluster/drain", request, &drained)
}

// Undrain takes the node back into the rotation and returns which node that is.
func (c *Client) Undrain(ctx context.Context) (Drained, error) {
	var drained Drained
	return drained, c.call(ctx, http.MethodPost, "cluster/undrain", nil, &drained)
}

// Forget begins to take a member that is dead for good out of the cluster and returns it.
// Cluster tells how far that is.
func (c *Client) Forget(ctx context.Context, member string, force bool) (ClusterMember, error) {
	var forgotten ClusterMember
	return forgotten, c.call(ctx, http.MethodPost, "cluster/forget", ForgetRequest{Member: member, Force: force}, &forgotten)
}
