package node

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/pusher/admin"
)

var _ admin.Cluster = (*Node)(nil)

// viewTimeout bounds a look at the engine.
const viewTimeout = 2 * time.Second

// ClusterView implements admin.Cluster.
func (n *Node) ClusterView() admin.ClusterView {
	k := n.cluster
	view, loads := k.membership.View(), k.membership.Loads()
	loads[view.Self] = n.hub.Connections()
	shown := admin.ClusterView{
		Domain:   n.config.Cluster.Domain,
		ID:       k.decision.Cluster,
		Epoch:    view.Epoch,
		Self:     view.Self,
		Replicas: k.replicas(),
		Members:  []admin.ClusterMember{},
		Missing:  []admin.ClusterMember{},
		Engine:   n.engineView(),
	}
	for _, m := range view.Members {
		member := memberView(m)
		member.State, member.Connections = string(m.State), loads[m.ID]
		shown.Members = append(shown.Members, member)
	}
	for _, m := range k.decision.Members {
		if _, alive := view.Member(m.ID); !alive {
			shown.Missing = append(shown.Missing, memberView(m))
		}
	}
	return shown
}

func memberView(m cluster.Member) admin.ClusterMember {
	return admin.ClusterMember{
		ID: m.ID, Name: m.Name, Roles: m.Roles, SubDomain: m.SubDomain, Version: m.Version,
		Addresses: reachable(m.Addresses),
	}
}

// reachable returns addresses with the host that the node advertises where it listens on
// all of its own.
func reachable(addresses map[string]string) map[string]string {
	advertised, _, _ := net.SplitHostPort(addresses[cluster.AddressHello])
	result := map[string]string{}
	for kind, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			continue // a port that is not open
		}
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			address = net.JoinHostPort(advertised, port)
		}
		result[kind] = address
	}
	return result
}

func (n *Node) engineView() admin.EngineView {
	shown := admin.EngineView{
		Healthy: true, Store: n.cluster.decision.Self.HasRole(cluster.RoleStore),
		Peers: []admin.EnginePeer{}, Leaderless: []string{}, Lagging: map[string]uint64{},
	}
	ctx, cancel := context.WithTimeout(context.Background(), viewTimeout)
	defer cancel()
	health := n.engine.Health(ctx)
	status, err := n.engine.Status()
	if err := cmp.Or(health, err); err != nil {
		shown.Healthy, shown.Error = false, err.Error()
	}
	shown.Leader, shown.Quorum, shown.Size = status.Leader, status.Quorum, status.Size
	shown.Leaderless = append(shown.Leaderless, status.Leaderless...)
	if status.Lagging != nil {
		shown.Lagging = status.Lagging
	}
	for _, peer := range status.Peers {
		shown.Peers = append(shown.Peers, admin.EnginePeer{
			ID: peer.Name, Current: peer.Current, Offline: peer.Offline,
			Lag: peer.Lag, ActiveMS: peer.Active.Milliseconds(),
		})
	}
	slices.SortFunc(shown.Peers, func(a, b admin.EnginePeer) int { return strings.Compare(a.ID, b.ID) })
	return shown
}
