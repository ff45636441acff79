package im

import (
	"net"
	"strconv"
	"time"
)

// Connection is one connection as the application sees it.
type Connection struct {
	ID              int64     `json:"id"`
	UID             string    `json:"uid"`
	IP              string    `json:"ip"`
	Port            int       `json:"port"`
	Since           time.Time `json:"-"`
	LastActivity    time.Time `json:"last_activity"`
	Uptime          string    `json:"uptime"`
	Idle            string    `json:"idle"`
	PendingBytes    int64     `json:"pending_bytes"` // that wait for the client
	InMessages      int64     `json:"in_msgs"`
	OutMessages     int64     `json:"out_msgs"`
	InMessageBytes  int64     `json:"in_msg_bytes"`
	OutMessageBytes int64     `json:"out_msg_bytes"`
	InPackets       int64     `json:"in_packets"`
	OutPackets      int64     `json:"out_packets"`
	InBytes         int64     `json:"in_packet_bytes"`
	OutBytes        int64     `json:"out_packet_bytes"`
	Device          string    `json:"device"`
	DeviceID        string    `json:"device_id"`
	Version         uint8     `json:"version"`
	NodeID          uint64    `json:"node_id"`
	Unacked         int       `json:"-"` // RECVs that it has not confirmed
}

// Connections returns the connections of this node, of one user or of all.
func (s *Server) Connections(uid string) []Connection {
	sessions := s.hub.all()
	if uid != "" {
		sessions = s.hub.sessionsOf(uid)
	}
	list := make([]Connection, 0, len(sessions))
	for _, c := range sessions {
		list = append(list, c.describe())
	}
	return list
}

var deviceNames = map[uint8]string{0: "APP", 1: "WEB", 2: "PC", 99: "SYSTEM"}

func (c *session) describe() Connection {
	idle := c.conn.Idle()
	host, number, _ := net.SplitHostPort(c.address)
	port, _ := strconv.Atoi(number)
	pending := c.conn.Waiting()
	c.mu.Lock()
	defer c.mu.Unlock()
	return Connection{
		ID: c.id, UID: c.uid, IP: host, Port: port, Since: c.since,
		LastActivity: time.Now().Add(-idle), Uptime: time.Since(c.since).Truncate(time.Second).String(),
		Idle:         idle.Truncate(time.Second).String(),
		PendingBytes: pending, Unacked: len(c.unacked),
		InMessages: c.counts.inMessages, OutMessages: c.counts.outMessages,
		InMessageBytes: c.counts.inMessageBytes, OutMessageBytes: c.counts.outMessageBytes,
		InPackets: c.counts.inPackets, OutPackets: c.counts.outPackets,
		InBytes: c.counts.inBytes, OutBytes: c.counts.outBytes,
		Device: deviceNames[c.flag], DeviceID: c.device, Version: c.version, NodeID: uint64(c.server.options.NodeID),
	}
}
