package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"
)

// What the npm client 1.0.4 writes, with the key and the salt given; recorded from it.
func TestGoldenVectors(t *testing.T) {
	c, err := NewCipher("0123456789abcdef", "fedcba9876543210")
	if err != nil {
		t.Fatal(err)
	}
	send := &Send{
		Flags: RedDot, ClientSeq: 1, ClientMsgNo: "c1", ChannelID: "bob", ChannelType: 1,
		Payload: []byte(`{"content":"hi","type":1}`),
	}
	c.SealSend(send)
	for _, v := range []struct {
		name   string
		packet Packet
		hex    string
	}{
		{"SEND", send, "325d0000000001000263310003626f6201002063646337643832366663363036656263366232306264656538393466626663" +
			"336c746f734142334270476b5852335a505974796a3875646d3065476d4667307971784f764554707264386b3d"},
		{"RECVACK", &Recvack{Flags: RedDot, MessageID: 1779384938495934465, MessageSeq: 11}, "620c18b1a52c89bb00010000000b"},
		{"SUB", &Sub{ChannelID: "g1", ChannelType: 7, Param: `{"a":"1"}`}, "a01400000000026731070000097b2261223a2231227d"},
		{"PING", &Ping{}, "70"},
		{"PONG", &Pong{}, "80"},
	} {
		wire := Append(nil, v.packet, 2)
		if got := hex.EncodeToString(wire); got != v.hex {
			t.Errorf("%s:\n got %s\nwant %s", v.name, got, v.hex)
		}
		if n, err := Split(wire); n != len(wire) || err != nil {
			t.Errorf("%s: split %d of %d, %v", v.name, n, len(wire), err)
		}
		read, err := Decode(wire, 2)
		if err != nil || !reflect.DeepEqual(read, v.packet) {
			t.Errorf("%s: read back %+v, %v", v.name, read, err)
		}
	}
	if err := c.OpenSend(send); err != nil || string(send.Payload) != `{"content":"hi","type":1}` {
		t.Errorf("opened %s, %v", send.Payload, err)
	}
}

// packets has one of each kind with every field that the version carries.
func packets(version uint8) []Packet {
	expire := func(v uint32) uint32 {
		if version < versionWithExpire {
			return 0
		}
		return v
	}
	connack := &Connack{TimeDiff: -5, Reason: ReasonSuccess, ServerKey: "key", Salt: "salt"}
	if version >= versionWithNode {
		connack.ServerVersion, connack.NodeID = 5, 1001
	}
	sendack := &Sendack{Flags: RedDot, MessageID: 1 << 60, ClientSeq: 7, MessageSeq: 9, Reason: ReasonSuccess}
	send := &Send{
		Flags: RedDot | Dup, Setting: SettingReceipt | SettingTopic, ClientSeq: 3, ClientMsgNo: "no", ChannelID: "g",
		ChannelType: 2, Expire: expire(60), MsgKey: "k", Topic: "t", Payload: []byte("p"),
	}
	streamed := &Send{Setting: SettingStreamOld, ClientSeq: 4, ChannelID: "g", Payload: []byte{}}
	if inStream(SettingStreamOld, version) {
		streamed.StreamNo = "s"
	}
	if version >= VersionMax {
		sendack.MessageSeq, sendack.ClientMsgNo = 1<<40, "no"
	}
	return []Packet{
		&Connect{Version: version, DeviceFlag: 1, DeviceID: "d", UID: "u", Token: "t", Timestamp: 12, ClientKey: "c"},
		connack, send, streamed, sendack,
		&Recv{
			Flags: RedDot, Setting: SettingTopic, MsgKey: "k", FromUID: "f", ChannelID: "c", ChannelType: 2,
			Expire: expire(5), ClientMsgNo: "n", MessageID: 4, MessageSeq: 5, Timestamp: 6, Topic: "t",
			Payload: bytes.Repeat([]byte("x"), 300),
		},
		&Recvack{MessageID: 1, MessageSeq: 2}, &Ping{}, &Pong{}, &Disconnect{ReasonKicked, "elsewhere"},
		&Sub{SubNo: "1", ChannelID: "c", ChannelType: 9, Action: Unsubscribe, Param: "{}"},
		&Suback{SubNo: "1", ChannelID: "c", ChannelType: 9, Reason: ReasonSuccess},
		&Event{ID: "i", Name: "n", Timestamp: 3, Data: []byte("d")},
	}
}

func TestPacketsOfAllVersions(t *testing.T) {
	for version := uint8(VersionMin); version <= VersionMax; version++ {
		for _, p := range packets(version) {
			wire := Append([]byte("before"), p, version)[len("before"):]
			for i := range wire {
				if n, err := Split(wire[:i]); n != 0 || err != nil {
					t.Errorf("version %d, %v: %d bytes of %d are split to %d, %v", version, p.kind(), i, len(wire), n, err)
				}
			}
			if n, err := Split(append(wire, 0xff)); n != len(wire) || err != nil {
				t.Errorf("version %d, %v: split %d of %d, %v", version, p.kind(), n, len(wire), err)
			}
			if read, err := Decode(wire, version); err != nil || !reflect.DeepEqual(read, p) {
				t.Errorf("version %d, %v:\n got %+v, %v\nwant %+v", version, p.kind(), read, err, p)
			}
		}
	}
}

func TestBadFrames(t *testing.T) {
	for name, v := range map[string]struct {
		data []byte
		want error
	}{
		"type 0":             {[]byte{0x00, 0x01, 0x00}, ErrType},
		"type 13":            {[]byte{0xd0, 0x01, 0x00}, ErrType},
		"length never ends":  {[]byte{0x30, 0x80, 0x80, 0x80, 0x80, 0x80}, ErrLength},
		"over 1 MiB":         {[]byte{0x30, 0x81, 0x80, 0x40}, ErrTooLarge},
		"over 1 MiB, early":  {[]byte{0x30, 0xff, 0xff, 0xff}, ErrTooLarge},
		"the largest length": {[]byte{0x30, 0x80, 0x80, 0x40}, nil},
	} {
		if n, err := Split(v.data); n != 0 || !errors.Is(err, v.want) {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	for name, v := range map[string]struct {
		data []byte
		want error
	}{
		"empty":         {nil, ErrTruncated},
		"no length":     {[]byte{0x30}, ErrTruncated},
		"short":         {[]byte{0x30, 0x05, 0x00}, ErrTruncated},
		"fields end":    {[]byte{0x30, 0x03, 0x00, 0x00, 0x00}, ErrTruncated},
		"string ends":   {[]byte{0x90, 0x04, 0x01, 0x00, 0x05, 'x'}, ErrTruncated},
		"negative size": {append([]byte{0x90, 0x83, 0x80, 0x02, 0x01, 0x80, 0x00}, make([]byte, 0x8000)...), ErrString},
		"type":          {[]byte{0xf0, 0x01, 0x00}, ErrType},
	} {
		if _, err := Decode(v.data, 5); !errors.Is(err, v.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCipher(t *testing.T) {
	server, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	client, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	salt := NewSalt()
	a, err := server.Cipher(client.Public(), salt)
	if err != nil {
		t.Fatal(err)
	}
	b, err := client.Cipher(server.Public(), salt)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 15, 16, 17, 1000} {
		plain := bytes.Repeat([]byte("m"), size)
		recv := &Recv{MessageID: -3, MessageSeq: 4, FromUID: "f", ChannelID: "c", ChannelType: 1, Payload: plain}
		a.SealRecv(recv)
		changed := *recv
		changed.FromUID = "other"
		if err := b.OpenRecv(&changed); !errors.Is(err, ErrSealed) {
			t.Errorf("%d bytes with another sender: %v", size, err)
		}
		if err := b.OpenRecv(recv); err != nil || !bytes.Equal(recv.Payload, plain) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	for _, sealed := range []string{"", "no base64!", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA=="} {
		if _, err := a.Open([]byte(sealed)); !errors.Is(err, ErrSealed) {
			t.Errorf("open %q: %v", sealed, err)
		}
	}
	for name, public := range map[string]string{
		"no base64": "###", "short": "AAAA", "zero": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	} {
		if _, err := server.Cipher(public, salt); !errors.Is(err, ErrSealed) {
			t.Errorf("public key %s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for version := uint8(VersionMin); version <= VersionMax; version++ {
		for _, p := range packets(version) {
			f.Add(Append(nil, p, version), version)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, version uint8) {
		n, err := Split(data)
		if n > len(data) || n < 0 || err != nil && n != 0 {
			t.Fatalf("split %d of %d, %v", n, len(data), err)
		}
		p, err := Decode(data, version)
		if err != nil {
			return
		}
		again, err := Decode(Append(nil, p, version), version)
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%+v became %+v, %v", p, again, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	c, err := NewCipher("0123456789abcdef", "fedcba9876543210")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Seal([]byte("text")))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		plain, err := c.Open(sealed)
		if err != nil && !errors.Is(err, ErrSealed) {
			t.Fatal(err)
		}
		if again, err2 := c.Open(c.Seal(plain)); err == nil && (err2 != nil || !bytes.Equal(again, plain)) {
			t.Fatalf("%x, %v", again, err2)
		}
	})
}
