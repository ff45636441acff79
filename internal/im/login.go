package im

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
	"github.com/parleyio/parley/internal/im/wire"
)

// login answers a CONNECT.
func (c *session) login(p *wire.Connect, request string) {
	s := c.server
	answer := &wire.Connack{
		ServerVersion: wire.VersionLatest,
		TimeDiff:      time.Now().UnixMilli() - p.Timestamp,
		NodeID:        uint64(s.options.NodeID),
	}
	level, reason := s.authenticate(p)
	c.mu.Lock()
	rpc := c.rpc
	c.mu.Unlock()
	var cipher *wire.Cipher
	if reason == wire.ReasonSuccess && !rpc && s.options.Encryption {
		cipher, reason = agree(p, answer)
	}
	answer.Reason = reason
	s.metrics.logins.WithLabelValues(reasonText(reason)).Inc()
	if reason != wire.ReasonSuccess {
		c.write(c.encode(answer, request))
		c.end()
		return
	}
	c.mu.Lock()
	if c.phase != phaseLogin { // it was closed meanwhile
		c.mu.Unlock()
		return
	}
	c.uid, c.flag, c.level, c.device, c.cipher = p.UID, p.DeviceFlag, level, p.DeviceID, cipher
	c.mu.Unlock()
	login := loginNote{
		UID: p.UID, Flag: p.DeviceFlag, Level: level, Device: p.DeviceID, Conn: c.id,
	}
	s.hub.replace(login)
	s.tell(subjectLogin, login)
	// From here on the session is delivered to. The answer goes before the first message, which waits
	// for it.
	s.hub.add(c)
	c.write(c.encode(answer, request))
	c.mu.Lock()
	open := c.phase == phaseLogin
	if open {
		c.phase = phaseOpen
	}
	early := c.early
	c.early = nil
	c.mu.Unlock()
	if !open { // closed while it was added
		s.hub.remove(c)
		return
	}
	c.conn.SetTimer(s.options.IdleTimeout)
	for _, m := range early {
		c.recv(&delivery{message: m}, false)
	}
}

// authenticate tells whether a client may log in, and the level of its device.
func (s *Server) authenticate(p *wire.Connect) (level uint8, reason wire.Reason) {
	o := s.options
	switch {
	case !message.CheckID(p.UID), p.UID == SystemUID:
		return 0, wire.ReasonAuthFailed
	case p.UID == o.ManagerUID && o.ManagerUID != "":
		if o.ManagerToken != "" && p.Token != o.ManagerToken {
			return 0, wire.ReasonAuthFailed
		}
	case strings.HasSuffix(p.UID, visitorSuffix):
	case o.TokenAuth:
		u, err := s.registry.User(p.UID)
		if err != nil {
			return 0, wire.ReasonSystemError
		}
		var ok bool
		if level, ok = u.Check(p.DeviceFlag, p.Token); !ok {
			return 0, wire.ReasonAuthFailed
		}
	}
	known, _, err := s.registry.Channel(message.Channel{ID: p.UID, Type: message.Person})
	switch {
	case err != nil:
		return 0, wire.ReasonSystemError
	case known.Ban:
		return 0, wire.ReasonBanned
	case known.Disband:
		return 0, wire.ReasonDisbanded
	}
	return level, wire.ReasonSuccess
}

// agree makes the keys of a connection, and puts the server's half into the answer.
func agree(p *wire.Connect, answer *wire.Connack) (*wire.Cipher, wire.Reason) {
	if p.ClientKey == "" {
		return nil, wire.ReasonNoClientKey
	}
	keys, err := wire.NewKeys()
	if err != nil {
		return nil, wire.ReasonSystemError
	}
	salt := wire.NewSalt()
	cipher, err := keys.Cipher(p.ClientKey, salt)
	if err != nil {
		return nil, wire.ReasonAuthFailed
	}
	answer.ServerKey, answer.Salt = keys.Public(), salt
	return cipher, wire.ReasonSuccess
}

// loginNote tells all nodes of a login, so that they end the connections that it replaces.
type loginNote struct {
	UID    string `json:"uid"`
	Flag   uint8  `json:"flag"`
	Level  uint8  `json:"level"`
	Device string `json:"device"`
	Conn   int64  `json:"conn"`
}

// loggedIn hears of a login on another node.
func (h *hub) loggedIn(raw fabric.Message) {
	var login loginNote
	if json.Unmarshal(raw.Payload, &login) != nil {
		h.server.metrics.dropped(dropMalformed)
		return
	}
	h.replace(login)
}

// replace ends the connections here that a login replaces: of a master all others with the same flag,
// of a slave those of the same device.
func (h *hub) replace(login loginNote) {
	for _, c := range h.sessionsOf(login.UID) {
		if c.flag != login.Flag || c.id == login.Conn {
			continue
		}
		switch {
		case c.device == login.Device:
			c.mu.Lock()
			c.phase = phaseClosing // it knows: it has just connected again
			c.mu.Unlock()
			h.server.metrics.kicks.Inc()
			c.conn.SetTimer(kickDelay)
		case login.Level == registry.LevelMaster:
			c.disconnect(wire.ReasonKicked, "logged in on another device", kickDelay)
		}
	}
}

// kickNote tells all nodes to end connections of a user.
type kickNote struct {
	UID    string        `json:"uid"`
	Flags  []uint8       `json:"flags,omitempty"` // none is all
	Conn   int64         `json:"conn,omitempty"`  // this one alone
	Reason wire.Reason   `json:"reason"`
	Text   string        `json:"text,omitempty"`
	Delay  time.Duration `json:"delay"`
}

// kicked hears of a kick on another node.
func (h *hub) kicked(raw fabric.Message) {
	var kick kickNote
	if json.Unmarshal(raw.Payload, &kick) != nil {
		h.server.metrics.dropped(dropMalformed)
		return
	}
	h.kick(kick)
}

func (h *hub) kick(kick kickNote) {
	for _, c := range h.sessionsOf(kick.UID) {
		wanted := len(kick.Flags) == 0
		for _, flag := range kick.Flags {
			wanted = wanted || flag == c.flag
		}
		if wanted && (kick.Conn == 0 || kick.Conn == c.id) {
			c.disconnect(kick.Reason, kick.Text, kick.Delay)
		}
	}
}

// Kick ends connections of a user on all nodes: those with one of the device flags, or all.
func (s *Server) Kick(uid string, text string, delay time.Duration, flags ...uint8) {
	kick := kickNote{UID: uid, Flags: flags, Reason: wire.ReasonKicked, Text: text, Delay: delay}
	s.hub.kick(kick)
	s.tell(subjectKick, kick)
}

// KickConn ends one connection of a user, on whichever node it is.
func (s *Server) KickConn(uid string, conn int64) {
	kick := kickNote{UID: uid, Conn: conn, Reason: wire.ReasonKicked, Delay: kickDelay}
	s.hub.kick(kick)
	s.tell(subjectKick, kick)
}
