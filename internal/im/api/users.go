package api

import (
	"io"
	"net/http"
	"time"

	"github.com/parleyio/parley/internal/im"
	"github.com/parleyio/parley/internal/im/message"
	"github.com/parleyio/parley/internal/im/registry"
	"github.com/parleyio/parley/internal/im/wire"
)

// Flags of devices.
const (
	flagApp = 0
	flagWeb = 1
	flagPC  = 2
)

// How long clients may take to close that were told to go.
const (
	tokenKickDelay = 10 * time.Second
	quitKickDelay  = 2 * time.Second
)

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(r) }

func (a *API) setToken(c *call) (any, error) {
	var q struct {
		UID   string `json:"uid"`
		Token string `json:"token"`
		Flag  uint8  `json:"device_flag"`
		Level uint8  `json:"device_level"`
	}
	if err := c.read(&q); err != nil {
		return nil, err
	}
	switch {
	case !message.CheckID(q.UID):
		return nil, badID
	case q.UID == im.SystemUID:
		return nil, badRequest("the system account cannot log in")
	case q.Token == "":
		return nil, badRequest("token is missing")
	case q.Level > registry.LevelMaster:
		return nil, badRequest("device_level must be 0 or 1")
	}
	known, _, err := a.server.Registry().Channel(message.Channel{ID: q.UID, Type: message.Person})
	if err != nil {
		return nil, err
	}
	if known.Ban {
		return status(wire.ReasonBanned), nil
	}
	seq, err := a.server.Registry().SetToken(c, q.UID, q.Flag, q.Token, q.Level)
	if err != nil {
		return nil, err
	}
	a.server.Spread(c, seq)
	if q.Level == registry.LevelMaster {
		a.server.Kick(q.UID, "the token was renewed", tokenKickDelay, q.Flag)
	}
	return nil, nil
}

func (a *API) deviceQuit(c *call) (any, error) {
	var q struct {
		UID  string `json:"uid"`
		Flag int    `json:"device_flag"`
	}
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if !message.CheckID(q.UID) {
		return nil, badID
	}
	flags := []uint8{flagApp, flagWeb, flagPC}
	if q.Flag >= 0 {
		flags = []uint8{uint8(q.Flag)}
	}
	seq, err := a.server.Registry().DropTokens(c, q.UID, flags...)
	if err != nil {
		return nil, err
	}
	a.server.Spread(c, seq)
	a.server.Kick(q.UID, "", quitKickDelay, flags...)
	return nil, nil
}

func (a *API) onlineStatus(c *call) (any, error) {
	var uids []string
	if err := c.read(&uids); err != nil {
		return nil, err
	}
	type row struct {
		UID    string `json:"uid"`
		Flag   uint8  `json:"device_flag"`
		Online int    `json:"online"`
	}
	rows := []row{}
	for _, uid := range uids {
		for _, d := range a.server.Devices(uid) {
			rows = append(rows, row{uid, d.Flag, 1})
		}
	}
	return bare{rows}, nil
}

type uidList struct {
	UIDs []string `json:"uids"`
}

func (a *API) systemAdd(c *call) (any, error) {
	var q uidList
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if err := checkUIDs(q.UIDs); err != nil {
		return nil, err
	}
	seq, err := a.server.Registry().Add(c, registry.System, registry.SystemChannel, membersOf(q.UIDs, 0))
	return a.spread(c, seq, err)
}

func (a *API) systemRemove(c *call) (any, error) {
	var q uidList
	if err := c.read(&q); err != nil {
		return nil, err
	}
	seq, err := a.server.Registry().Remove(c, registry.System, registry.SystemChannel, q.UIDs)
	return a.spread(c, seq, err)
}

func (a *API) systemList(*call) (any, error) {
	list, err := a.server.Registry().List(registry.System, registry.SystemChannel)
	return bare{list}, err
}

// spread answers a change when all nodes know of it.
func (a *API) spread(c *call, seq uint64, err error) (any, error) {
	if err == nil {
		a.server.Spread(c, seq)
	}
	return nil, err
}

func membersOf(uids []string, joined uint64) []registry.Member {
	list := make([]registry.Member, len(uids))
	for i, uid := range uids {
		list[i] = registry.Member{UID: uid, Joined: joined}
	}
	return list
}

func (a *API) kickConn(c *call) (any, error) {
	var q struct {
		UID    string `json:"uid"`
		ConnID int64  `json:"conn_id"`
	}
	if err := c.read(&q); err != nil {
		return nil, err
	}
	if q.UID == "" || q.ConnID == 0 {
		return nil, badRequest("uid and conn_id are missing")
	}
	a.server.KickConn(q.UID, q.ConnID)
	return nil, nil
}

func (a *API) route(c *call) (any, error) {
	return bare{a.options.Addresses(c.request, c.request.URL.Query().Get("intranet") == "1")}, nil
}

func (a *API) routeBatch(c *call) (any, error) {
	var uids []string
	if err := c.read(&uids); err != nil {
		return nil, err
	}
	type row struct {
		UIDs []string `json:"uids"`
		Addresses
	}
	return bare{[]row{{uids, a.options.Addresses(c.request, c.request.URL.Query().Get("intranet") == "1")}}}, nil
}

var _ http.Handler = (*API)(nil)
