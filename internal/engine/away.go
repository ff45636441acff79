package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/nats-io/nats-server/v2/server"
)

// A server whose process was killed takes part in what the others decide for minutes: it keeps
// its place when a stream gets fewer replicas, and the consumers that are on it alone hold that
// up, for only it could let them expire. A server that ends in order says so to all others. An
// eviction says it in the place of the dead, and deletes those consumers.

// shutdownSubject is where a server says that it ends; in its message only its name counts.
// (nats-server: Server.sendShutdownEvent, Server.remoteServerShutdown.)
const shutdownSubject = "$SYS.SERVER.%s.SHUTDOWN"

// consumerPage is a page of the list of consumers. Those on servers that are away have no name
// but in their configuration, and are not whole.
type consumerPage struct {
	apiResponse
	Total     int `json:"total"`
	Consumers []struct {
		Config struct {
			Name    string `json:"name"`
			Durable string `json:"durable_name"`
		} `json:"config"`
		Cluster *server.ClusterInfo `json:"cluster"`
	} `json:"consumers"`
}

// release frees a stream from the servers that are away: it tells the others that they are, and
// deletes consumers that are on one of them and not durable. Who used one makes another. It
// fails until the leader of the cluster knows; try again.
func (v *eviction) release(ctx context.Context, stream string) error {
	away, err := v.away(ctx)
	if err != nil || len(away) == 0 {
		return err
	}
	isAway := func(peer *server.PeerInfo) bool { return away[peer.Peer] }
	var stranded []string
	err = pages(func(offset int) (int, int, error) {
		var page consumerPage
		err := request(ctx, v.conn, "$JS.API.CONSUMER.LIST."+stream, pageRequest{offset}, &page)
		for _, consumer := range page.Consumers {
			if consumer.Config.Durable == "" && consumer.Cluster != nil && consumer.Cluster.Leader == "" &&
				slices.ContainsFunc(consumer.Cluster.Replicas, isAway) {
				stranded = append(stranded, consumer.Config.Name)
			}
		}
		return len(page.Consumers), page.Total, err
	})
	if err != nil && !hasCode(err, codeStreamNotFound) {
		return err
	}
	for _, consumer := range stranded {
		var answer apiResponse
		err := request(ctx, v.conn, "$JS.API.CONSUMER.DELETE."+stream+"."+consumer, nil, &answer)
		if err != nil && !hasCode(err, codeConsumerNotFound) && !hasCode(err, codeStreamNotFound) {
			return fmt.Errorf("delete consumer %s: %w", consumer, err)
		}
	}
	return nil
}

// away returns the ids of the servers that neither the leader has heard of lately nor this one
// has a route to, and tells all others of those.
func (v *eviction) away(ctx context.Context) (map[string]bool, error) {
	conn, err := v.engine.internal(userSystem)
	if err != nil {
		return nil, err
	}
	meta, err := v.engine.leaderView(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoQuorum, err)
	}
	there := append(v.engine.Peers(), v.engine.server.Name())
	away, unknown := map[string]bool{}, ""
	for _, peer := range meta.Replicas {
		if heard(peer) || slices.Contains(there, peer.Name) {
			continue
		}
		away[peer.Peer] = true
		if peer.Offline {
			continue
		}
		said, err := json.Marshal(server.ServerInfo{Name: peer.Name})
		if err != nil {
			return nil, err
		}
		if err := conn.Publish(fmt.Sprintf(shutdownSubject, peer.Name), said); err != nil {
			return nil, fmt.Errorf("tell that %s is away: %w", peer.Name, err)
		}
		unknown = peer.Name
	}
	if unknown != "" {
		return nil, fmt.Errorf("the leader does not know yet that %s is away", unknown)
	}
	return away, nil
}
