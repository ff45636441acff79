package api

import (
	"runtime"
	"time"

	"github.com/parleyio/parley/internal/im/journal"
)

// Node is what /varz says of the node.
type Node struct {
	ID      string
	Name    string
	Version string
	Started time.Time
	TCP     string
	WS      string
}

// varz is the state of the node in the original's fields, as far as there is such a thing here.
func (a *API) varz(c *call) (any, error) {
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	list := a.server.Connections("")
	row := map[string]any{
		"server_id": a.options.Node.ID, "server_name": a.options.Node.Name, "version": a.options.Node.Version,
		"connections": len(list), "uptime": time.Since(a.options.Node.Started).Truncate(time.Second).String(),
		"goroutine": runtime.NumGoroutine(), "mem": memory.HeapInuse, "tcp_addr": a.options.Node.TCP,
		"ws_addr": a.options.Node.WS, "manager_token_on": a.options.Token != "",
	}
	var in, out, inBytes, outBytes int64
	for _, one := range list {
		in, out = in+one.InMessages, out+one.OutMessages
		inBytes, outBytes = inBytes+one.InBytes, outBytes+one.OutBytes
	}
	row["in_msgs"], row["out_msgs"], row["in_bytes"], row["out_bytes"] = in, out, inBytes, outBytes
	if c.request.URL.Query().Get("show") == "conn" {
		row["conns"] = list[:min(len(list), maxConnections)]
	}
	return bare{row}, nil
}

func (a *API) varzSetting(*call) (any, error) {
	return bare{map[string]any{
		"logger": map[string]int{"trace_on": 0, "loki_on": 0}, "prometheus_on": 1, "stress_on": 0,
	}}, nil
}

// nothing answers what there is no need for here.
func (a *API) nothing(*call) (any, error) { return nil, nil }

// tags are the original's delivery lists; every node has its own from the logs.
func (a *API) tags(*call) (any, error) { return bare{[]string{}}, nil }

// syncMessages returns the newest messages of channels, each behind a number.
func (a *API) syncMessages(c *call) (any, error) {
	var q struct {
		UID      string `json:"uid"`
		Count    int    `json:"msg_count"`
		Channels []struct {
			ID   string `json:"channel_id"`
			Type uint8  `json:"channel_type"`
			Last uint64 `json:"last_msg_seq"`
		} `json:"channels"`
	}
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if len(q.Channels) > maxPage {
		return nil, badRequest("more channels than one call may name (500)")
	}
	if q.Count <= 0 {
		q.Count = defaultRecents
	}
	type row struct {
		ID       string    `json:"channel_id"`
		Type     uint8     `json:"channel_type"`
		Messages []Message `json:"messages"`
	}
	rows := []row{}
	for _, named := range q.Channels {
		channel, err := channelOf(q.UID, named.ID, named.Type)
		if err != nil {
			return nil, err
		}
		list, err := a.server.Journal().Read(channel, journal.Range{
			From: named.Last + 1, Limit: min(q.Count, maxRecents), Newest: true,
		})
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{named.ID, named.Type, views(list, q.UID)})
	}
	return bare{rows}, nil
}
