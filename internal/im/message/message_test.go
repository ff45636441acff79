package message

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/parleyio/parley/internal/im/wire"
)

// The ids and slots that existing installations have.
func TestStoredIDs(t *testing.T) {
	for pair, want := range map[[2]string]string{
		{"alice", "bob"}: "bob@alice", {"u1", "u2"}: "u2@u1", {"user1", "user2"}: "user1@user2",
		{"alice", "____system"}: "alice@____system",
	} {
		for _, c := range []Channel{PersonChannel(pair[0], pair[1]), Stored(pair[1], pair[0], Person)} {
			if c.ID != want || c.Type != Person {
				t.Errorf("%v: %+v", pair, c)
			}
			for i, uid := range pair {
				if c.SeenBy(uid) != pair[1-i] || c.Commands().SeenBy(uid) != pair[1-i] {
					t.Errorf("%v as seen by %s: %s", c, uid, c.SeenBy(uid))
				}
			}
		}
	}
	for id, want := range map[string]int{"alice": 7, "bob": 0, "g1": 37, "bob@alice": 33, "u2@u1": 1, "user1@user2": 56} {
		if got := (Channel{ID: id}).Slot(64); got != want {
			t.Errorf("slot of %s: %d, want %d", id, got, want)
		}
	}
	// Two with the same CRC-32.
	if a, b := PersonChannel("plumless", "buckeroo"), PersonChannel("buckeroo", "plumless"); a != b {
		t.Errorf("%v and %v", a, b)
	}
}

func TestChannels(t *testing.T) {
	for _, c := range []Channel{{"g1", Group}, {"a@b", Person}, {"x:y", Live}} {
		if back, ok := ParseKey(c.Key()); !ok || back != c {
			t.Errorf("%v: %v, %v", c, back, ok)
		}
		if c.Commands().Base() != c || !c.Commands().IsCommands() || c.IsCommands() || c.Commands().Commands() != c.Commands() {
			t.Errorf("shadow of %v: %v", c, c.Commands())
		}
		if c.Slot(16) != c.Commands().Slot(16) {
			t.Errorf("%v and its shadow are in different slots", c)
		}
	}
	for _, key := range []string{"", "2", "2:", "x:g", "300:g", ":g"} {
		if c, ok := ParseKey(key); ok {
			t.Errorf("%q is %v", key, c)
		}
	}
	for id, want := range map[string]bool{
		"a": true, "Ä b": true, "": false, "a@b": false, "a#": false, "&": false, "a\x00": false, "a\n": false,
		"a____cmd": false, strings.Repeat("x", MaxID): true, strings.Repeat("x", MaxID+1): false,
	} {
		if CheckID(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

func full() *Message {
	return &Message{
		ID: 1<<62 + 1, Seq: 1 << 40, Prev: 9, Channel: Channel{"g", Group}, From: "u", ClientMsgNo: "no", Flags: wire.RedDot,
		Setting: wire.SettingTopic, Topic: "t", Expire: 7, Time: 1 << 41, Payload: []byte("p"), To: []string{"x", "y"},
	}
}

func TestEncoding(t *testing.T) {
	for _, m := range []*Message{full(), {Payload: []byte{}}} {
		data := m.Append(nil)
		back, err := Decode(data)
		if err != nil || !reflect.DeepEqual(back, m) {
			t.Errorf("got %+v, %v\nwant %+v", back, err, m)
		}
		if m.Size() < len(data) {
			t.Errorf("a size of %d, and %d bytes", m.Size(), len(data))
		}
		for i := range len(data) - len(m.Payload) {
			if _, err := Decode(data[:i]); !errors.Is(err, ErrEncoding) {
				t.Errorf("%d bytes of %d: %v", i, len(data), err)
			}
		}
	}
	m := full()
	if end := m.Time + 7000; m.Expired(end-1) || !m.Expired(end) || (&Message{}).Expired(end) {
		t.Error("expires at another time")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(full().Append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Decode(m.Append(nil))
		if err != nil || again.ID != m.ID || !bytes.Equal(again.Payload, m.Payload) || len(again.To) != len(m.To) {
			t.Fatalf("%+v became %+v, %v", m, again, err)
		}
	})
}
