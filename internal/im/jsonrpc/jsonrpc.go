// Package jsonrpc is the JSON-RPC form of the protocol, which clients without a codec of their own
// speak: the packets of package wire as methods, results and notifications. It is a pure codec.
//
// It may import im/wire. It must never import another room of Parley.
package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/parleyio/parley/internal/im/wire"
)

// Causes for which a text is no packet.
var (
	// ErrIncomplete says that the text ends within a message.
	ErrIncomplete = errors.New("incomplete JSON")
	// ErrMalformed says that the text is no JSON-RPC message, or that its parameters are of other
	// types than they should be.
	ErrMalformed = errors.New("malformed JSON-RPC message")
	// ErrMethod says that there is no such method.
	ErrMethod = errors.New("unknown method")
)

// request is a message of a client.
type request struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

type header struct {
	NoPersist bool `json:"noPersist,omitempty"`
	RedDot    bool `json:"redDot,omitempty"`
	SyncOnce  bool `json:"syncOnce,omitempty"`
	Dup       bool `json:"dup,omitempty"`
}

func (h header) flags() (f wire.Flags) {
	for _, bit := range []struct {
		set  bool
		flag wire.Flags
	}{{h.NoPersist, wire.NoPersist}, {h.RedDot, wire.RedDot}, {h.SyncOnce, wire.SyncOnce}, {h.Dup, wire.Dup}} {
		if bit.set {
			f |= bit.flag
		}
	}
	return f
}

func headerOf(f wire.Flags) *header {
	if f == 0 {
		return nil
	}
	return &header{f&wire.NoPersist != 0, f&wire.RedDot != 0, f&wire.SyncOnce != 0, f&wire.Dup != 0}
}

type setting struct {
	Receipt bool `json:"receipt,omitempty"`
	Signal  bool `json:"signal,omitempty"`
	Stream  bool `json:"stream,omitempty"`
	Topic   bool `json:"topic,omitempty"`
}

func (s setting) bits() (b wire.Setting) {
	for _, bit := range []struct {
		set bool
		bit wire.Setting
	}{{s.Receipt, wire.SettingReceipt}, {s.Signal, wire.SettingSignal}, {s.Topic, wire.SettingTopic}} {
		if bit.set {
			b |= bit.bit
		}
	}
	return b
}

func settingOf(b wire.Setting) *setting {
	if b == 0 {
		return nil
	}
	return &setting{
		b&wire.SettingReceipt != 0, b&wire.SettingSignal != 0, b&wire.SettingStream != 0, b&wire.SettingTopic != 0,
	}
}

// Decode reads the first message of a text and returns the packet that it stands for, the id of the
// request (as JSON, empty for a notification), and what follows it. At the end of the text all are
// empty. Errors: ErrIncomplete with the incomplete message as rest, ErrMalformed, ErrMethod.
func Decode(data []byte) (p wire.Packet, id string, rest []byte, err error) {
	if data = bytes.TrimLeft(data, " \t\r\n"); len(data) == 0 {
		return nil, "", nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	var r request
	if err := decoder.Decode(&r); errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, "", data, ErrIncomplete
	} else if err != nil {
		return nil, "", nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	rest = data[decoder.InputOffset():]
	if id = string(r.ID); id == "null" {
		id = ""
	}
	p, err = packet(r)
	return p, id, rest, err
}

func packet(r request) (wire.Packet, error) {
	switch r.Method {
	case "connect":
		var v connect
		err := read(r.Params, &v)
		return v.packet(), err
	case "send":
		var v send
		err := read(r.Params, &v)
		return v.packet(), err
	case "ping":
		return &wire.Ping{}, nil
	case "disconnect":
		var v disconnect
		err := read(r.Params, &v)
		return &wire.Disconnect{Reason: v.Reason, Text: v.Text}, err
	case "subscribe", "unsubscribe":
		var v subscribe
		err := read(r.Params, &v)
		p := &wire.Sub{SubNo: v.SubNo, ChannelID: v.ChannelID, ChannelType: v.ChannelType, Param: v.Param}
		if r.Method == "unsubscribe" {
			p.Action = wire.Unsubscribe
		}
		return p, err
	case "recvack":
		var v recvack
		if err := read(r.Params, &v); err != nil {
			return nil, err
		}
		number, err := strconv.ParseInt(v.MessageID, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: messageId %.40q", ErrMalformed, v.MessageID)
		}
		return &wire.Recvack{Flags: v.Header.flags(), MessageID: number, MessageSeq: v.MessageSeq}, nil
	}
	return nil, fmt.Errorf("%w: %.40q", ErrMethod, r.Method)
}

func read(params json.RawMessage, into any) error {
	if len(params) == 0 {
		return nil
	}
	if err := json.Unmarshal(params, into); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

type connect struct {
	UID             string `json:"uid"`
	Token           string `json:"token"`
	DeviceID        string `json:"deviceId"`
	DeviceFlag      uint8  `json:"deviceFlag"`
	ClientTimestamp int64  `json:"clientTimestamp"`
	Version         uint8  `json:"version"`
	ClientKey       string `json:"clientKey"`
}

func (v connect) packet() *wire.Connect {
	return &wire.Connect{
		Version: v.Version, DeviceFlag: v.DeviceFlag, DeviceID: v.DeviceID, UID: v.UID, Token: v.Token,
		Timestamp: v.ClientTimestamp, ClientKey: v.ClientKey,
	}
}

type send struct {
	ChannelID   string  `json:"channelId"`
	ChannelType uint8   `json:"channelType"`
	Payload     []byte  `json:"payload"`
	ClientMsgNo string  `json:"clientMsgNo"`
	Header      header  `json:"header"`
	Setting     setting `json:"setting"`
	Topic       string  `json:"topic"`
	Expire      uint32  `json:"expire"`
}

func (v send) packet() *wire.Send {
	p := &wire.Send{
		Flags: v.Header.flags(), Setting: v.Setting.bits(), ClientMsgNo: v.ClientMsgNo, ChannelID: v.ChannelID,
		ChannelType: v.ChannelType, Expire: v.Expire, Topic: v.Topic, Payload: v.Payload,
	}
	if v.Topic != "" {
		p.Setting |= wire.SettingTopic
	}
	return p
}

type disconnect struct {
	Reason wire.Reason `json:"reasonCode"`
	Text   string      `json:"reason,omitempty"`
}

type subscribe struct {
	SubNo       string `json:"subNo"`
	ChannelID   string `json:"channelId"`
	ChannelType uint8  `json:"channelType"`
	Param       string `json:"param"`
}

type recvack struct {
	Header     header `json:"header"`
	MessageID  string `json:"messageId"`
	MessageSeq uint64 `json:"messageSeq"`
}

// message is what goes to a client.
type message struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id,omitempty"`
	Method  string          `json:"method,omitempty"`
	Params  any             `json:"params,omitempty"`
	Result  any             `json:"result,omitempty"`
	Error   *failure        `json:"error,omitempty"`
}

type failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func encode(m message) []byte {
	m.Version = "2.0"
	data, err := json.Marshal(m)
	if err != nil { // an id that is no JSON, which Decode does not return
		m.ID = nil
		data, _ = json.Marshal(m)
	}
	return data
}

// Error returns the answer to a message that cannot be read.
func Error(id string, err error) []byte {
	return encode(message{ID: json.RawMessage(id), Error: &failure{Message: err.Error()}})
}

// Encode returns a packet of the server as its client reads it. id is the request that it answers, as
// Decode returned it.
func Encode(p wire.Packet, id string) []byte {
	m := message{ID: json.RawMessage(id)}
	switch p := p.(type) {
	case *wire.Connack:
		m.Result = struct {
			ServerVersion uint8       `json:"serverVersion,omitempty"`
			ServerKey     string      `json:"serverKey"`
			Salt          string      `json:"salt"`
			TimeDiff      int64       `json:"timeDiff"`
			ReasonCode    wire.Reason `json:"reasonCode"`
			NodeID        uint64      `json:"nodeId,omitempty"`
		}{p.ServerVersion, p.ServerKey, p.Salt, p.TimeDiff, p.Reason, p.NodeID}
	case *wire.Sendack:
		m.Result = struct {
			Header     *header     `json:"header,omitempty"`
			MessageID  string      `json:"messageId"`
			MessageSeq uint64      `json:"messageSeq"`
			ReasonCode wire.Reason `json:"reasonCode"`
		}{headerOf(p.Flags), strconv.FormatInt(p.MessageID, 10), p.MessageSeq, p.Reason}
	case *wire.Pong:
	case *wire.Suback:
		m.Result = struct {
			SubNo       string      `json:"subNo,omitempty"`
			ChannelID   string      `json:"channelId"`
			ChannelType uint8       `json:"channelType"`
			Action      uint8       `json:"action"`
			ReasonCode  wire.Reason `json:"reasonCode"`
		}{p.SubNo, p.ChannelID, p.ChannelType, p.Action, p.Reason}
	case *wire.Disconnect:
		m.ID, m.Method, m.Params = nil, "disconnect", disconnect{p.Reason, p.Text}
	case *wire.Recv:
		m.ID, m.Method, m.Params = nil, "recv", recvOf(p)
	case *wire.Event:
		m.ID, m.Method, m.Params = nil, "event", struct {
			ID        string `json:"id,omitempty"`
			Type      string `json:"type"`
			Timestamp int64  `json:"timestamp,omitempty"`
			Data      string `json:"data"`
		}{p.ID, p.Name, p.Timestamp, string(p.Data)}
	}
	return encode(m)
}

type recv struct {
	Header      *header  `json:"header,omitempty"`
	Setting     *setting `json:"setting,omitempty"`
	Expire      uint32   `json:"expire,omitempty"`
	MessageID   string   `json:"messageId"`
	MessageSeq  uint64   `json:"messageSeq,omitempty"`
	ClientMsgNo string   `json:"clientMsgNo,omitempty"`
	Timestamp   int32    `json:"timestamp"`
	ChannelID   string   `json:"channelId"`
	ChannelType uint8    `json:"channelType"`
	Topic       string   `json:"topic,omitempty"`
	FromUID     string   `json:"fromUid,omitempty"`
	Payload     []byte   `json:"payload"`
}

func recvOf(p *wire.Recv) recv {
	return recv{
		Header: headerOf(p.Flags), Setting: settingOf(p.Setting), Expire: p.Expire,
		MessageID: strconv.FormatInt(p.MessageID, 10), MessageSeq: p.MessageSeq, ClientMsgNo: p.ClientMsgNo,
		Timestamp: p.Timestamp, ChannelID: p.ChannelID, ChannelType: p.ChannelType, Topic: p.Topic,
		FromUID: p.FromUID, Payload: p.Payload,
	}
}
