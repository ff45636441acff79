package cluster

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/im/wire"
	"github.com/parleyio/parley/test/process"
)

// chatter is a client of messaging over TCP.
type chatter struct {
	net.Conn
	in     *bufio.Reader
	cipher *wire.Cipher
	uid    string
}

// sendersWait is how long senders wait for a node to let them in, before they try another.
const sendersWait = 3 * time.Second

// chat connects a client to a node that lets it in within a time.
func chat(n *node, uid string, within time.Duration) (*chatter, error) {
	end := time.Now().Add(within)
	nc, err := net.DialTimeout("tcp", process.Address(n.port+imTCP), within)
	if err != nil {
		return nil, err
	}
	keys, err := wire.NewKeys()
	if err != nil {
		return nil, err
	}
	c := &chatter{Conn: nc, in: bufio.NewReader(nc), uid: uid}
	_ = nc.SetDeadline(end)
	c.write(&wire.Connect{Version: 5, DeviceID: uid + time.Now().String(), UID: uid, ClientKey: keys.Public()})
	p, err := c.read()
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	ack, ok := p.(*wire.Connack)
	if !ok || ack.Reason != wire.ReasonSuccess {
		_ = nc.Close()
		return nil, fmt.Errorf("%s is not let in: %+v", uid, p)
	}
	_ = nc.SetDeadline(time.Time{})
	c.cipher, err = keys.Cipher(ack.ServerKey, ack.Salt)
	return c, err
}

func (c *chatter) write(p wire.Packet) { _, _ = c.Write(wire.Append(nil, p, 5)) } // reading tells of the end

// read returns the next packet, with its payload opened.
func (c *chatter) read() (wire.Packet, error) {
	for size := 2; ; size++ {
		head, err := c.in.Peek(size)
		if err != nil {
			return nil, err
		}
		n, err := wire.Split(head)
		if err != nil {
			return nil, err
		}
		if n == 0 && size < c.in.Size() {
			continue
		}
		p, err := wire.Decode(head[:n], 5)
		if err == nil {
			_, err = c.in.Discard(n)
		}
		if recv, is := p.(*wire.Recv); is && err == nil {
			err = c.cipher.OpenRecv(recv)
		}
		return p, err
	}
}

// say sends one message and waits for its number; 0 when it is to be sent again.
func (c *chatter) say(group, no string) (uint64, error) {
	send := &wire.Send{Flags: wire.RedDot, ClientSeq: 1, ClientMsgNo: no, ChannelID: group, ChannelType: 2, Payload: []byte(no)}
	c.cipher.SealSend(send)
	c.write(send)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		p, err := c.read()
		if err != nil {
			return 0, err
		}
		switch p := p.(type) {
		case *wire.Sendack:
			if p.Reason == wire.ReasonSuccess {
				return p.MessageSeq, nil
			}
			return 0, nil
		case *wire.Recv:
			c.write(&wire.Recvack{MessageID: p.MessageID, MessageSeq: p.MessageSeq})
		}
	}
}

// Each node in turn is killed while three clients send to a group, and started again: what was
// acknowledged is there once, on every node, under the number that was told, no number is missing, and
// clients of the others go on receiving over the connections that they have. Who has read how much is
// exact.
func TestMessagesOverKill(t *testing.T) {
	t.Parallel()
	newTalk(t).inTurn(func(c *talk, n *node) {
		n.Kill()
		c.acknowledges(100) // without the node
	})
}

// Each node in turn is stopped as a process manager does it, and started again: the same holds.
func TestMessagesOverRestarts(t *testing.T) {
	if testing.Short() {
		t.Skip("TestMessagesOverKill does the same with kills")
	}
	t.Parallel()
	newTalk(t).inTurn(func(_ *talk, n *node) {
		if code := n.Terminate(); code != 0 {
			t.Errorf("%s ended with %d", n.name, code)
		}
	})
}

// inTurn ends each node under steady sending and starts it again.
func (c *talk) inTurn(end func(c *talk, n *node)) {
	hearers := c.listen(c.list...)
	for i, n := range c.list {
		stop := c.send()
		c.acknowledges(100)
		end(c, n)
		n.start()
		c.together(c.list...)
		c.acknowledges(100)
		stop()
		c.check(c.list, append(slices.Clone(hearers[:i]), hearers[i+1:]...))
		hearers[i] = c.listen(n)[0]
	}
}

// A fourth node comes, and two of the first three go, one after the other: the first is forgotten, so
// that the newcomer takes its place, and the second is just away. What nobody has touched since is
// still there, on the newcomer too.
func TestMessagesMoveToFourthNode(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long to forget a node")
	}
	t.Parallel()
	c := newTalk(t)
	type quiet struct {
		uid, channel string
		kind         int
		said         []said
	}
	untouched := []*quiet{{uid: "ann", channel: "library", kind: 2}, {uid: "ann", channel: "bea", kind: 1}}
	c.must(c.list[0], "/channel", map[string]any{"channel_id": "library", "channel_type": 2, "subscribers": []string{"ann", "bea"}}, nil)
	for _, q := range untouched {
		for i := range 20 {
			c.must(c.list[i%count], "/message/send", map[string]any{"from_uid": q.uid, "channel_id": q.channel, "channel_type": q.kind,
				"client_msg_no": fmt.Sprintf("%s-%d", q.channel, i), "payload": base64.StdEncoding.EncodeToString([]byte(q.channel))}, nil)
		}
		eventually(t, "the node that is asked has read what others stored", func() bool {
			var err error
			q.said, err = c.history(c.list[0], q.uid, q.channel, q.kind)
			return err == nil && len(q.said) == 20
		})
	}
	same := func(list ...*node) {
		t.Helper()
		for _, n := range list {
			for _, q := range untouched {
				if all, err := c.history(n, q.uid, q.channel, q.kind); err != nil || !slices.Equal(all, q.said) {
					t.Errorf("%s has other messages of %s: %v, %v", n.name, q.channel, all, err)
				}
			}
		}
	}
	// step does something while messages are sent, which survivors hear, and checks those who are left.
	step := func(what func(), survivors ...*node) {
		t.Helper()
		hearers := c.listen(survivors...)
		stop := c.send()
		c.acknowledges(50)
		what()
		c.acknowledges(50)
		stop()
		c.check(c.list, hearers)
		same(c.list...)
	}
	first, second, third := c.list[0], c.list[1], c.list[2]
	fourth := c.node(count)
	step(func() {
		fourth.start()
		c.together(first, second, third, fourth)
		c.serves(first, second, third, fourth)
	}, first, second, third)
	same(fourth)
	step(func() {
		c.serves(second, third, fourth)
		if code := first.Terminate(); code != 0 {
			t.Errorf("%s ended with %d", first.name, code)
		}
		eventually(t, second.name+" misses it", func() bool { return len(second.view().Missing) == 1 })
		if _, err := c.command("cluster", "forget", first.name, "--server", second.url()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the newcomer has copies of everything", func() bool {
			view := second.view()
			return view.Engine.Healthy && view.Replicas.Have == count && view.Replicas.Stores == count && len(view.Replicas.Behind) == 0
		})
	}, second, third, fourth)
	step(func() {
		c.serves(third, fourth)
		if code := second.Terminate(); code != 0 {
			t.Errorf("%s ended with %d", second.name, code)
		}
	}, third, fourth)
}
