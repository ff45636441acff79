package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// streamInfo is the part of a stream's information that is looked at here.
type streamInfo struct {
	apiResponse
	Config  streamConfig        `json:"config"`
	State   server.StreamState  `json:"state"`
	Cluster *server.ClusterInfo `json:"cluster"`
}

type streamConfig struct {
	Name        string            `json:"name"`
	Storage     string            `json:"storage"`
	Replicas    int               `json:"num_replicas"`
	MaxAge      time.Duration     `json:"max_age"`
	AllowMsgTTL bool              `json:"allow_msg_ttl"`
	Metadata    map[string]string `json:"metadata"`
}

// expires says whether messages of the stream go by themselves.
func (c *streamConfig) expires() bool { return c.MaxAge > 0 || c.AllowMsgTTL }

// consumerInfo is the part of a consumer's information that is looked at here.
type consumerInfo struct {
	Name     string         `json:"name"`
	Config   consumerConfig `json:"config"`
	AckFloor struct {
		Stream uint64 `json:"stream_seq"`
	} `json:"ack_floor"`
	Cluster *server.ClusterInfo `json:"cluster"`
}

type consumerConfig struct {
	Durable  string `json:"durable_name"`
	Replicas int    `json:"num_replicas"`
}

// replicas is how many a consumer has, which are those of its stream unless it says so.
func (c *consumerConfig) replicas(stream int) int {
	if c.Replicas > 0 {
		return c.Replicas
	}
	return stream
}

func readStream(ctx context.Context, conn *nats.Conn, name string) (*streamInfo, error) {
	var info streamInfo
	if err := request(ctx, conn, "$JS.API.STREAM.INFO."+name, nil, &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// pages goes through an answer of the API that comes in pages. The function takes one page
// and returns how many entries it had and how many there are.
func pages(fetch func(offset int) (got, total int, err error)) error {
	for offset := 0; ; {
		got, total, err := fetch(offset)
		if err != nil {
			return err
		}
		if offset += got; got == 0 || offset >= total {
			return nil
		}
	}
}

type pageRequest struct {
	Offset int `json:"offset"`
}

// streamNames returns the names of all streams, sorted as the server sorts them.
func streamNames(ctx context.Context, conn *nats.Conn) ([]string, error) {
	var names []string
	err := pages(func(offset int) (int, int, error) {
		var page struct {
			apiResponse
			Total   int      `json:"total"`
			Streams []string `json:"streams"`
		}
		err := request(ctx, conn, "$JS.API.STREAM.NAMES", pageRequest{offset}, &page)
		names = append(names, page.Streams...)
		return len(page.Streams), page.Total, err
	})
	return names, err
}

// consumers returns what the leaders know of all consumers of a stream, by name.
func consumers(ctx context.Context, conn *nats.Conn, stream string) (map[string]consumerInfo, error) {
	all := map[string]consumerInfo{}
	err := pages(func(offset int) (int, int, error) {
		var page struct {
			apiResponse
			Total     int            `json:"total"`
			Consumers []consumerInfo `json:"consumers"`
			Missing   []string       `json:"missing"`
		}
		err := request(ctx, conn, "$JS.API.CONSUMER.LIST."+stream, pageRequest{offset}, &page)
		if err == nil && len(page.Missing) > 0 {
			err = fmt.Errorf("consumers of %s without an answer: %v", stream, page.Missing)
		}
		for _, consumer := range page.Consumers {
			all[consumer.Name] = consumer
		}
		return len(page.Consumers), page.Total, err
	})
	return all, err
}

// replica is a stream as one server has it on its own disk.
type replica struct {
	State     server.StreamState
	Metadata  map[string]string
	Consumers map[string]bool
}

// replicaTimeout bounds the wait for servers to tell of their own streams.
const replicaTimeout = 2 * time.Second

// replicas asks each of the named servers for its own copies: server, then stream. Without
// names it takes the answers of those who give one in time.
func (e *Engine) replicas(ctx context.Context, servers []string) (map[string]map[string]replica, error) {
	options := server.JSzOptions{Account: mainAccount, Streams: true, Consumer: true, Config: true}
	result := map[string]map[string]replica{}
	if e.cluster == nil {
		info, err := e.server.Jsz(&options)
		if err != nil {
			return nil, err
		}
		result[e.server.Name()] = ownReplicas(info)
		return result, nil
	}
	missing := map[string]bool{}
	for _, name := range servers {
		missing[name] = true
	}
	body, err := json.Marshal(options)
	if err != nil {
		return nil, err
	}
	conn, err := e.internal(userSystem)
	if err != nil {
		return nil, err
	}
	inbox := conn.NewRespInbox()
	answers, err := conn.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answers.Unsubscribe() }()
	if err := conn.PublishRequest("$SYS.REQ.SERVER.PING.JSZ", inbox, body); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, replicaTimeout)
	defer cancel()
	for len(missing) > 0 || servers == nil {
		msg, err := answers.NextMsgWithContext(ctx)
		if err != nil && servers == nil {
			return result, nil
		}
		if err != nil {
			return nil, fmt.Errorf("servers that do not tell of their streams %v: %w", missing, err)
		}
		var answer struct {
			Server *server.ServerInfo `json:"server"`
			Data   *server.JSInfo     `json:"data"`
		}
		if err := json.Unmarshal(msg.Data, &answer); err != nil {
			return nil, fmt.Errorf("understand a server's streams: %w", err)
		}
		if answer.Server != nil && answer.Data != nil && (servers == nil || missing[answer.Server.Name]) {
			delete(missing, answer.Server.Name)
			result[answer.Server.Name] = ownReplicas(answer.Data)
		}
	}
	return result, nil
}

func ownReplicas(info *server.JSInfo) map[string]replica {
	own := map[string]replica{}
	for _, account := range info.AccountDetails {
		for _, stream := range account.Streams {
			consumers := map[string]bool{}
			for _, consumer := range stream.Consumer {
				consumers[consumer.Name] = true
			}
			copied := replica{State: stream.State, Consumers: consumers}
			if stream.Config != nil {
				copied.Metadata = stream.Config.Metadata
			}
			own[stream.Name] = copied
		}
	}
	return own
}

// settled returns nil when the group has a leader and that many members, all of them
// current, and otherwise what is missing.
func settled(cluster *server.ClusterInfo, replicas int) error {
	return settling(cluster, replicas, map[string]bool{})
}

// settling is settled for one who looks again and again while others write: there is hardly a
// moment then at which no replica is one message behind, so that each has to be found current
// at some look. It keeps in current which were.
func settling(cluster *server.ClusterInfo, replicas int, current map[string]bool) error {
	if cluster == nil {
		if replicas > 1 {
			return ErrStandalone
		}
		return nil
	}
	if cluster.Leader == "" {
		return errors.New("no leader")
	}
	if len(cluster.Replicas) != replicas-1 {
		return fmt.Errorf("%d of %d replicas", len(cluster.Replicas)+1, replicas)
	}
	for _, peer := range cluster.Replicas {
		if peer.Offline || peer.Pending {
			delete(current, peer.Name)
		} else if peer.Current {
			current[peer.Name] = true
		}
	}
	for _, peer := range cluster.Replicas {
		if !current[peer.Name] {
			return fmt.Errorf("replica on %s is not current, %d behind", peer.Name, peer.Lag)
		}
	}
	return nil
}

// members are the servers of a group.
func members(cluster *server.ClusterInfo, self string) []string {
	if cluster == nil {
		return []string{self}
	}
	names := []string{cluster.Leader}
	for _, peer := range cluster.Replicas {
		names = append(names, peer.Name)
	}
	return names
}
