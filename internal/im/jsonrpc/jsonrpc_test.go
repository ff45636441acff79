package jsonrpc

import (
	"errors"
	"reflect"
	"testing"

	"github.com/parleyio/parley/internal/im/wire"
)

func TestDecode(t *testing.T) {
	for text, want := range map[string]struct {
		packet wire.Packet
		id     string
		rest   string
		err    error
	}{
		`{"method":"connect","id":"a","params":{"uid":"u","token":"t","deviceId":"d","deviceFlag":1,"clientTimestamp":7}}`: {
			packet: &wire.Connect{UID: "u", Token: "t", DeviceID: "d", DeviceFlag: 1, Timestamp: 7}, id: `"a"`,
		},
		`{"jsonrpc":"2.0","method":"send","id":"1","params":{"channelId":"g","channelType":2,"payload":"aGk=",` +
			`"clientMsgNo":"n","header":{"redDot":true,"noPersist":true},"setting":{"receipt":true},"topic":"x","expire":9}}`: {
			packet: &wire.Send{
				Flags: wire.RedDot | wire.NoPersist, Setting: wire.SettingReceipt | wire.SettingTopic, ClientMsgNo: "n",
				ChannelID: "g", ChannelType: 2, Expire: 9, Topic: "x", Payload: []byte("hi"),
			}, id: `"1"`,
		},
		`{"method":"ping","id":3} {"method":"x"}`: {packet: &wire.Ping{}, id: "3", rest: ` {"method":"x"}`},
		`{"method":"recvack","params":{"messageId":"-5","messageSeq":6,"header":{"redDot":true}}}`: {
			packet: &wire.Recvack{Flags: wire.RedDot, MessageID: -5, MessageSeq: 6},
		},
		`{"method":"unsubscribe","id":"s","params":{"subNo":"n","channelId":"l","channelType":9,"param":"{}"}}`: {
			packet: &wire.Sub{SubNo: "n", ChannelID: "l", ChannelType: 9, Action: wire.Unsubscribe, Param: "{}"}, id: `"s"`,
		},
		`{"method":"disconnect","id":null,"params":{"reasonCode":2,"reason":"bye"}}`: {
			packet: &wire.Disconnect{Reason: 2, Text: "bye"},
		},
		"":                     {},
		" \n":                  {},
		`{"method":"ping"`:     {rest: `{"method":"ping"`, err: ErrIncomplete},
		`{"method":"nothing"}`: {err: ErrMethod},
		`[1]`:                  {err: ErrMalformed},
		`{"method":"send","params":{"channelType":300}}`:     {err: ErrMalformed},
		`{"method":"send","params":{"payload":"no base"}}`:   {err: ErrMalformed},
		`{"method":"recvack","params":{"messageId":"many"}}`: {err: ErrMalformed},
		`{x`: {err: ErrMalformed},
	} {
		p, id, rest, err := Decode([]byte(text))
		if !errors.Is(err, want.err) {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err == nil && (!reflect.DeepEqual(p, want.packet) || id != want.id) || string(rest) != want.rest {
			t.Errorf("%s:\n got %+v, %s, %q\nwant %+v", text, p, id, rest, want)
		}
	}
}

func TestEncode(t *testing.T) {
	for want, data := range map[string][]byte{
		`{"jsonrpc":"2.0","id":"a","result":{"serverVersion":5,"serverKey":"","salt":"","timeDiff":-1,"reasonCode":1,"nodeId":2}}`: Encode(
			&wire.Connack{ServerVersion: 5, TimeDiff: -1, Reason: 1, NodeID: 2}, `"a"`),
		`{"jsonrpc":"2.0","id":"b","result":{"header":{"redDot":true},"messageId":"9007199254740993","messageSeq":4,"reasonCode":1}}`: Encode(
			&wire.Sendack{Flags: wire.RedDot, MessageID: 1<<53 + 1, ClientSeq: 3, MessageSeq: 4, Reason: 1}, `"b"`),
		`{"jsonrpc":"2.0","id":"c"}`: Encode(&wire.Pong{}, `"c"`),
		`{"jsonrpc":"2.0","id":"d","result":{"channelId":"l","channelType":9,"action":0,"reasonCode":1}}`: Encode(
			&wire.Suback{ChannelID: "l", ChannelType: 9, Reason: 1}, `"d"`),
		`{"jsonrpc":"2.0","method":"disconnect","params":{"reasonCode":12,"reason":"out"}}`: Encode(
			&wire.Disconnect{Reason: 12, Text: "out"}, ""),
		`{"jsonrpc":"2.0","method":"recv","params":{"header":{"redDot":true},"setting":{"topic":true},"messageId":"1","messageSeq":2,` +
			`"clientMsgNo":"n","timestamp":3,"channelId":"c","channelType":2,"topic":"t","fromUid":"u","payload":"aGk="}}`: Encode(
			&wire.Recv{
				Flags: wire.RedDot, Setting: wire.SettingTopic, MessageID: 1, MessageSeq: 2, ClientMsgNo: "n", Timestamp: 3,
				ChannelID: "c", ChannelType: 2, Topic: "t", FromUID: "u", Payload: []byte("hi"),
			}, ""),
		`{"jsonrpc":"2.0","method":"event","params":{"id":"i","type":"n","timestamp":3,"data":"d"}}`: Encode(
			&wire.Event{ID: "i", Name: "n", Timestamp: 3, Data: []byte("d")}, ""),
		`{"jsonrpc":"2.0","id":"e","error":{"code":0,"message":"unknown method"}}`: Error(`"e"`, ErrMethod),
		`{"jsonrpc":"2.0","error":{"code":0,"message":"unknown method"}}`:          Error(`not json`, ErrMethod),
	} {
		if string(data) != want {
			t.Errorf("got  %s\nwant %s", data, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"method":"send","id":"1","params":{"channelId":"g","channelType":2,"payload":"aGk="}}`))
	f.Add([]byte(`{"method":"recvack","params":{"messageId":"5"}} {`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, id, rest, err := Decode(data)
		if len(rest) > len(data) || err == nil && p == nil && id != "" {
			t.Fatalf("%+v, %q, %q", p, id, rest)
		}
		Encode(&wire.Pong{}, id)
	})
}
