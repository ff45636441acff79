package im

import (
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
)

// OnlineStatus is a login or logout, with how many connections of the user there are then, on all
// nodes.
type OnlineStatus struct {
	UID    string
	Flag   uint8
	Online bool
	Conn   int64
	OfFlag int // connections with that flag
	Total  int
}

// Device is a connection of a user.
type Device struct {
	UID   string
	Flag  uint8
	Level uint8
}

// Devices returns the connections of a user on all nodes.
func (s *Server) Devices(uid string) []Device {
	s.hub.mu.RLock()
	list := s.hub.devices(uid)
	s.hub.mu.RUnlock()
	return list
}

// devices is Devices; h.mu is held.
func (h *hub) devices(uid string) []Device {
	var list []Device
	if u := h.users[uid]; u != nil {
		for _, c := range u.sessions {
			list = append(list, Device{uid, c.flag, c.level})
		}
	}
	if p := h.server.options.Presence; p != nil {
		p.Each(uid, func(_, _ string, value []byte) {
			if len(value) == 2 {
				list = append(list, Device{uid, value[0], value[1]})
			}
		})
	}
	return list
}

// status describes a login or logout; h.mu is held.
func (h *hub) status(c *session, online bool) OnlineStatus {
	status := OnlineStatus{UID: c.uid, Flag: c.flag, Online: online, Conn: c.id}
	for _, d := range h.devices(c.uid) {
		status.Total++
		if d.Flag == c.flag {
			status.OfFlag++
		}
	}
	return status
}

func (s *Server) reportOnline(status OnlineStatus) {
	if s.options.Reports != nil {
		s.options.Reports.Online(status)
	}
}

// Away returns the recipients of a message who have no connection anywhere.
func (s *Server) Away(m *message.Message) []string {
	var away []string
	look := func(uid string) {
		if uid != m.From && uid != SystemUID && len(s.Devices(uid)) == 0 {
			away = append(away, uid)
		}
	}
	c := m.Channel.Base()
	if c.Type == message.Agent {
		return nil
	}
	uids, members := named(m, c)
	for _, uid := range uids {
		look(uid)
	}
	if members {
		err := s.registry.Each(registry.Members, c, func(m registry.Member) bool { look(m.UID); return true })
		if err != nil {
			s.options.Logger.Error("read the members of a channel", "channel", c.Key(), "error", err)
		}
	}
	return away
}
