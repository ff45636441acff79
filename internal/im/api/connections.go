package api

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/im"
)

// here refuses requests about another node: each answers for itself.
func (a *API) here(c *call) error {
	id := c.request.URL.Query().Get("node_id")
	if id != "" && id != "0" && id != strconv.Itoa(int(a.options.Node.ID)) {
		return badRequest("node not found: this is node " + strconv.Itoa(int(a.options.Node.ID)) +
			", and each node answers for itself")
	}
	return nil
}

const (
	// defaultConnections is a page of /connz, maxConnections the largest.
	defaultConnections = 20
	maxConnections     = 1000
)

// connectionOrders are the values of sort; with Desc behind them they are the other way around.
var connectionOrders = map[string]func(x, y im.Connection) int{
	"id":             func(x, y im.Connection) int { return cmp.Compare(x.ID, y.ID) },
	"inMsg":          func(x, y im.Connection) int { return cmp.Compare(x.InMessages, y.InMessages) },
	"outMsg":         func(x, y im.Connection) int { return cmp.Compare(x.OutMessages, y.OutMessages) },
	"inMsgBytes":     func(x, y im.Connection) int { return cmp.Compare(x.InMessageBytes, y.InMessageBytes) },
	"outMsgBytes":    func(x, y im.Connection) int { return cmp.Compare(x.OutMessageBytes, y.OutMessageBytes) },
	"inPacket":       func(x, y im.Connection) int { return cmp.Compare(x.InPackets, y.InPackets) },
	"outPacket":      func(x, y im.Connection) int { return cmp.Compare(x.OutPackets, y.OutPackets) },
	"inPacketBytes":  func(x, y im.Connection) int { return cmp.Compare(x.InBytes, y.InBytes) },
	"outPacketBytes": func(x, y im.Connection) int { return cmp.Compare(x.OutBytes, y.OutBytes) },
	"pendingBytes":   func(x, y im.Connection) int { return cmp.Compare(x.PendingBytes, y.PendingBytes) },
	"uptime":         func(x, y im.Connection) int { return y.Since.Compare(x.Since) },
	"idle":           func(x, y im.Connection) int { return y.LastActivity.Compare(x.LastActivity) },
	"protoVersion":   func(x, y im.Connection) int { return cmp.Compare(x.Version, y.Version) },
}

// sortConnections orders by the name of an order; without one by id.
func sortConnections(list []im.Connection, by string) error {
	name, down := strings.CutSuffix(by, "Desc")
	if name == "" {
		name = "id"
	}
	order, known := connectionOrders[name]
	if !known {
		return badRequest("sort is unknown")
	}
	slices.SortFunc(list, func(x, y im.Connection) int {
		n := order(x, y)
		if down {
			n = -n
		}
		return cmp.Or(n, cmp.Compare(x.ID, y.ID))
	})
	return nil
}

// connection is one row of /connz.
type connection struct {
	im.Connection
	ProxyType string `json:"proxy_type_format"`
	LeaderID  uint64 `json:"leader_id"` // the node that has the connection, as none leads it
}

func connectionRows(list []im.Connection) []connection {
	rows := make([]connection, len(list))
	for i, one := range list {
		rows[i] = connection{one, "local", one.NodeID}
	}
	return rows
}

func (a *API) connections(c *call) (any, error) {
	if err := a.here(c); err != nil {
		return nil, err
	}
	query := c.request.URL.Query()
	offset, _ := strconv.Atoi(query.Get("offset"))
	limit, _ := strconv.Atoi(query.Get("limit"))
	if limit <= 0 {
		limit = defaultConnections
	}
	limit = min(limit, maxConnections)
	list := a.server.Connections(query.Get("uid"))
	if err := sortConnections(list, query.Get("sort")); err != nil {
		return nil, err
	}
	total := len(list)
	offset = max(0, min(offset, total))
	return bare{struct {
		Connections []connection `json:"connections"`
		Now         time.Time    `json:"now"`
		Total       int          `json:"total"`
		Offset      int          `json:"offset"`
		Limit       int          `json:"limit"`
	}{connectionRows(list[offset:min(total, offset+limit)]), time.Now(), total, offset, limit}}, nil
}
