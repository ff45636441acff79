package api

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/parleyio/parley/internal/im/journal"
)

// Node is what /varz says of the node.
type Node struct {
	ID         uint16 // in message IDs
	Name       string
	Version    string
	Started    time.Time
	ManagerUID string
}

// varz is the state of the node in the original's fields. What there is no such thing of here is 0, or
// empty.
type varz struct {
	ServerID               string       `json:"server_id"`
	ServerName             string       `json:"server_name"`
	Version                string       `json:"version"`
	Connections            int          `json:"connections"`
	UserHandlerCount       int          `json:"user_handler_count"`
	UserHandlerConnCount   int          `json:"user_handler_conn_count"`
	Uptime                 string       `json:"uptime"`
	Goroutine              int          `json:"goroutine"`
	Mem                    uint64       `json:"mem"` // bytes
	CPU                    float64      `json:"cpu"`
	InMsgs                 int64        `json:"in_msgs"`
	OutMsgs                int64        `json:"out_msgs"`
	InBytes                int64        `json:"in_bytes"`
	OutBytes               int64        `json:"out_bytes"`
	SlowClients            int64        `json:"slow_clients"`
	RetryQueue             int          `json:"retry_queue"`
	TCPAddr                string       `json:"tcp_addr"`
	WSAddr                 string       `json:"ws_addr"`
	WSSAddr                string       `json:"wss_addr"`
	ManagerAddr            string       `json:"manager_addr"`
	ManagerOn              flag         `json:"manager_on"`
	Commit                 string       `json:"commit"`
	CommitDate             string       `json:"commit_date"`
	TreeState              string       `json:"tree_state"`
	APIURL                 string       `json:"api_url"`
	ManagerUID             string       `json:"manager_uid"`
	ManagerTokenOn         flag         `json:"manager_token_on"`
	Conns                  []connection `json:"conns,omitempty"`
	ConversationCacheCount int          `json:"conversation_cache_count"`
}

func (a *API) varz(c *call) (any, error) {
	if err := a.here(c); err != nil {
		return nil, err
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	list := a.server.Connections("")
	node, at := a.options.Node, a.options.Addresses(c.request, false)
	v := varz{
		ServerID: strconv.Itoa(int(node.ID)), ServerName: node.Name, Version: node.Version, Connections: len(list),
		UserHandlerConnCount: len(list), Uptime: time.Since(node.Started).Truncate(time.Second).String(),
		Goroutine: runtime.NumGoroutine(), Mem: memory.HeapInuse, TCPAddr: at.TCP, WSAddr: at.WS, WSSAddr: at.WSS,
		APIURL: "http://" + c.request.Host, ManagerUID: node.ManagerUID, ManagerTokenOn: a.options.Token != "",
	}
	v.Commit, v.CommitDate, v.TreeState = built()
	users := map[string]struct{}{}
	for _, one := range list {
		users[one.UID] = struct{}{}
		v.InMsgs, v.OutMsgs = v.InMsgs+one.InMessages, v.OutMsgs+one.OutMessages
		v.InBytes, v.OutBytes = v.InBytes+one.InBytes, v.OutBytes+one.OutBytes
		v.RetryQueue += one.Unacked
	}
	v.UserHandlerCount = len(users)
	if query := c.request.URL.Query(); query.Get("show") == "conn" {
		limit, _ := strconv.Atoi(query.Get("conn_limit"))
		if limit <= 0 {
			limit = defaultConnections
		}
		if err := sortConnections(list, "inMsgDesc"); err != nil {
			return nil, err
		}
		v.Conns = connectionRows(list[:min(len(list), limit, maxConnections)])
	}
	return bare{v}, nil
}

// built returns the commit that the program was built from, its time, and whether the tree was clean;
// empty when it was built without them.
func built() (commit, date, tree string) {
	info, _ := debug.ReadBuildInfo()
	if info == nil {
		return "", "", ""
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			commit = setting.Value
		case "vcs.time":
			date = setting.Value
		case "vcs.modified":
			tree = map[string]string{"true": "dirty", "false": "clean"}[setting.Value]
		}
	}
	return commit, date, tree
}

func (a *API) varzSetting(*call) (any, error) {
	return bare{map[string]any{
		"logger": map[string]int{"trace_on": 0, "loki_on": 0}, "prometheus_on": 1, "stress_on": 0,
	}}, nil
}

// nothing answers what there is no need for here.
func (a *API) nothing(*call) (any, error) { return nil, nil }

// migrateResult says that nothing of WuKongIM 1 is to be taken over.
func (a *API) migrateResult(*call) (any, error) {
	return bare{map[string]any{"status": "completed", "step": "", "last_err": nil, "try_count": 0}}, nil
}

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
