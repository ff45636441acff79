package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/cluster"
	"github.com/parleyio/parley/internal/engine"
	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/telemetry"
)

var _ admin.Cluster = (*Node)(nil)

// viewTimeout bounds a look at the engine.
const viewTimeout = 2 * time.Second

// ClusterView implements admin.Cluster. It answers while the node starts, too.
func (n *Node) ClusterView() admin.ClusterView {
	shown := admin.ClusterView{
		Domain: n.config.Cluster.Domain, Members: []admin.ClusterMember{}, Missing: []admin.ClusterMember{},
		Replicas: admin.ReplicaView{Behind: []string{}},
		Engine:   admin.EngineView{Peers: []admin.EnginePeer{}, Leaderless: []string{}, Lagging: map[string]uint64{}},
	}
	waiting, starting := n.health.Waiting()
	shown.Starting = waiting
	k := n.found.Load()
	if k == nil {
		return shown
	}
	shown.ID, shown.Self = k.decision.Cluster, k.decision.Self.ID
	n.viewMembers(&shown, k, starting)
	shown.Forgetting = n.forgetter.view(func(id string) bool {
		return slices.ContainsFunc(shown.Missing, func(m admin.ClusterMember) bool { return m.ID == id })
	})
	if !starting || k.bus != nil {
		shown.Brokers = n.brokersView()
	}
	if !starting && k.bus == nil {
		n.viewReplicas(&shown.Replicas)
		shown.Engine = n.engineView()
	}
	return shown
}

// brokersView tells how the brokers are that the nodes share.
func (n *Node) brokersView() []admin.BrokerView {
	var list []admin.BrokerView
	for _, c := range n.carriers.list {
		if !c.isBroker() {
			continue
		}
		shown := admin.BrokerView{Driver: c.driver, Carries: slices.Clone(c.parts)}
		if err := c.probe(context.Background()); err != nil {
			shown.Error = err.Error()
		}
		list = append(list, shown)
	}
	return list
}

// viewMembers tells who is there and who is not.
func (n *Node) viewMembers(shown *admin.ClusterView, k *clustered, starting bool) {
	known := k.known()
	shown.Replicas.Stores = cluster.Stores(known)
	view, loads := cluster.View{Members: []cluster.Member{k.decision.Self}}, map[string]int{}
	if m := k.started.Load(); m != nil {
		view, loads = m.View(), m.Loads()
		shown.Epoch = view.Epoch
		if !starting {
			loads[view.Self] = n.hub.Connections()
		}
	}
	alive := map[string]bool{}
	for _, m := range view.Members {
		member := memberView(m)
		member.State, member.Connections = string(cmp.Or(m.State, cluster.StateStarting)), loads[m.ID]
		shown.Members = append(shown.Members, member)
		alive[m.ID] = true
	}
	for _, m := range known {
		if alive[m.ID] {
			continue
		}
		shown.Missing = append(shown.Missing, memberView(m))
		if m.HasRole(cluster.RoleStore) {
			shown.Replicas.Away++
		}
	}
}

// viewReplicas tells how the replicas are, as far as the engine answers.
func (n *Node) viewReplicas(shown *admin.ReplicaView) {
	shown.Want = survivable(shown.Stores)
	ctx, cancel := context.WithTimeout(context.Background(), viewTimeout)
	defer cancel()
	replicas, err := n.kept(ctx)
	if err == nil {
		for name, stream := range replicas {
			if stream.Memory {
				continue // a cache, which may be lost
			}
			if stream.Have < shown.Want {
				shown.Behind = append(shown.Behind, name)
			}
			if shown.Have == 0 || stream.Have < shown.Have {
				shown.Have = stream.Have
			}
		}
		slices.Sort(shown.Behind)
		shown.Survives = survives(shown.Stores, shown.Have)
	}
	if work := n.grower.work.Load(); work != nil {
		shown.Work = *work
	}
}

func memberView(m cluster.Member) admin.ClusterMember {
	shown := admin.ClusterMember{
		ID: m.ID, Name: m.Name, Roles: m.Roles, SubDomain: m.SubDomain, Version: m.Version,
		Addresses: reachable(m.Addresses), Properties: maps.Clone(m.Properties),
	}
	maps.DeleteFunc(shown.Properties, func(key, _ string) bool { return strings.HasPrefix(key, ownProperties) })
	if address := shown.Addresses["channels"]; address != "" {
		shown.URL = cmp.Or(m.Properties[propertyScheme], "http") + "://" + address + m.Properties[propertyPrefix]
	}
	return shown
}

// Properties of a member that the node tells itself, where they are not the usual.
const (
	ownProperties  = "parley."
	propertyScheme = ownProperties + "channels.scheme"
	propertyPrefix = ownProperties + "channels.path_prefix"
)

// properties returns what the node tells of itself, beside roles and addresses; host is that which
// others are told.
func (n *Node) properties(host string) map[string]string {
	properties := map[string]string{}
	for key, value := range n.config.Cluster.Properties {
		properties[key] = n.fill(value, host)
	}
	if scheme := n.Scheme(); scheme != "http" {
		properties[propertyScheme] = scheme
	}
	if prefix := strings.TrimSuffix(n.config.Channels.PathPrefix, "/"); prefix != "" {
		properties[propertyPrefix] = prefix
	}
	return properties
}

// placeholder may stand in the value of a property, as in WSO2's axis2.xml.
var placeholder = regexp.MustCompile(`\$\{[^{}]+\}`)

// fill replaces the placeholders ${hostName}, ${httpPort} and ${httpsPort}, and those with the name
// of an environment variable. Others stay as they are.
func (n *Node) fill(value, host string) string {
	return placeholder.ReplaceAllStringFunc(value, func(text string) string {
		switch name := text[2 : len(text)-1]; name {
		case "hostName":
			return host
		case "httpPort", "httpsPort": // one port serves both
			return n.portLabel()
		default:
			if found, is := os.LookupEnv(name); is {
				return found
			}
			n.log.Warn("a placeholder in cluster.properties stands for nothing", "part", "cluster", "placeholder", name)
			return text
		}
	})
}

// tellNamesake logs that a node which has come has the name of another.
func (n *Node) tellNamesake(view cluster.View, came cluster.Member) {
	for _, m := range view.Members {
		if m.Name == came.Name && m.ID != came.ID {
			n.log.Warn("two nodes have the same name, which makes logs and lists hard to read: "+
				"give each a node.name of its own", "part", "cluster", "node", came.Name,
				"id", came.ID, "address", came.Addresses[cluster.AddressHello],
				"other_id", m.ID, "other_address", m.Addresses[cluster.AddressHello])
			return
		}
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

// engineHealth is the engine's check. A node whose replicas follow behind serves all the same:
// were it taken out of the rotation, all would be while the replicas of a cluster are raised.
// A node without a store serves channels although nothing can be stored: no client is better
// off with another node, unless this one is cut off.
func (n *Node) engineHealth(ctx context.Context) error {
	err := n.engine.Health(ctx)
	if errors.Is(err, engine.ErrBehind) || errors.Is(err, engine.ErrNoQuorum) && n.servesAnyway() {
		return fmt.Errorf("%w: %w", telemetry.ErrDegraded, err)
	}
	return err
}

// servesAnyway tells whether this node is of use to clients while nothing can be stored.
func (n *Node) servesAnyway() bool {
	k := n.cluster
	return k != nil && !k.decision.Self.HasRole(cluster.RoleStore) && !cutOff(k.membership.View(), k.known())
}

// cutOff tells whether a node sees no other and some of those that it knows serve clients, so
// that these may be well elsewhere.
func cutOff(view cluster.View, known []cluster.Member) bool {
	return len(view.Members) == 1 && slices.ContainsFunc(known, func(m cluster.Member) bool {
		return m.ID != view.Self && m.HasRole(cluster.RoleGateway)
	})
}
