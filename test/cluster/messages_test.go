package cluster

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

// chat connects a client to a node.
func chat(n *node, uid string) (*chatter, error) {
	nc, err := net.DialTimeout("tcp", process.Address(n.port+imTCP), time.Second)
	if err != nil {
		return nil, err
	}
	keys, err := wire.NewKeys()
	if err != nil {
		return nil, err
	}
	c := &chatter{Conn: nc, in: bufio.NewReader(nc), uid: uid}
	_ = nc.SetDeadline(time.Now().Add(3 * time.Second))
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

// talk is what senders and receivers of a group have seen.
type talk struct {
	*nodes
	token string
	group string

	mu       sync.Mutex
	acked    map[string]uint64   // by the sender's number
	received map[string][]uint64 // by receiver
	lost     []string            // receivers whose connection ended
	last     time.Time           // of the last acknowledgement
	longest  time.Duration       // without one
}

func (c *talk) post(n *node, path string, body any, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPost, "http://"+process.Address(n.port+imHTTP)+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("token", c.token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, response.StatusCode, text)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(text, into)
	}
	return err
}

// listen receives until the end; a connection of a survivor must not end.
func (c *talk) listen(n *node, uid string, survives bool, end <-chan struct{}) {
	client, err := chat(n, uid)
	if err != nil {
		c.Error(err)
		return
	}
	go func() { <-end; _ = client.Close() }()
	for {
		p, err := client.read()
		if err != nil {
			select {
			case <-end:
			default:
				if survives {
					c.mu.Lock()
					c.lost = append(c.lost, uid+": "+err.Error())
					c.mu.Unlock()
				}
			}
			return
		}
		if recv, is := p.(*wire.Recv); is {
			client.write(&wire.Recvack{MessageID: recv.MessageID, MessageSeq: recv.MessageSeq})
			c.mu.Lock()
			c.received[uid] = append(c.received[uid], recv.MessageSeq)
			c.mu.Unlock()
		}
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

// A node is killed while three clients send to a group: what was acknowledged is there once, on every
// node, under the number that was told, no number is missing, and clients of the others go on
// receiving over the connections that they have.
func TestMessagesOverKill(t *testing.T) {
	t.Parallel()
	c := &talk{nodes: start(t, "[im]\nenabled = true\nhost = \"127.0.0.1\"\n"), group: "g",
		acked: map[string]uint64{}, received: map[string][]uint64{}, last: time.Now()}
	token, err := os.ReadFile(filepath.Join(c.dir, "node1", "im-token"))
	if err != nil {
		t.Fatal(err)
	}
	c.token = strings.TrimSpace(string(token))
	members := []string{"s0", "s1", "s2", "r0", "r1", "r2"}
	if err := c.post(c.list[0], "/channel", map[string]any{
		"channel_id": c.group, "channel_type": 2, "subscribers": members,
	}, nil); err != nil {
		t.Fatal(err)
	}
	const victim = 1
	end := make(chan struct{})
	var listening, sending sync.WaitGroup
	for i := range count {
		listening.Go(func() { c.listen(c.list[i], fmt.Sprintf("r%d", i), i != victim, end) })
	}
	eventually(t, "receivers are online", func() bool {
		var online []struct{}
		return c.post(c.list[0], "/user/onlinestatus", []string{"r0", "r1", "r2"}, &online) == nil && len(online) == 3
	})
	until := time.Now().Add(8 * time.Second)
	for i := range count {
		sending.Go(func() { c.send(i, fmt.Sprintf("s%d", i), until) })
	}
	time.Sleep(2 * time.Second) // of steady sending
	c.list[victim].Kill()
	sending.Wait()
	t.Logf("%d messages are acknowledged, the longest time without one is %v", len(c.acked), c.longest)
	c.check(victim)
	close(end)
	listening.Wait()
	if len(c.lost) > 0 {
		t.Errorf("connections of survivors ended: %v", c.lost)
	}
}

// send sends messages one by one, each until it is acknowledged, on whichever node lets it in.
func (c *talk) send(first int, uid string, until time.Time) {
	var client *chatter
	at := first
	for i := 0; time.Now().Before(until); i++ {
		no := fmt.Sprintf("%s-%d", uid, i)
		for seq := uint64(0); seq == 0; {
			var err error
			if client == nil {
				if client, err = chat(c.list[at%count], uid); err != nil {
					client = nil
					at++
					time.Sleep(20 * time.Millisecond) // between tries
					continue
				}
			}
			if seq, err = client.say(c.group, no); err != nil {
				_ = client.Close()
				client, seq = nil, 0
				at++
				continue
			}
			if seq > 0 {
				c.mu.Lock()
				c.acked[no] = seq
				c.longest = max(c.longest, time.Since(c.last))
				c.last = time.Now()
				c.mu.Unlock()
			}
		}
	}
	if client != nil {
		_ = client.Close()
	}
}

// check compares what survivors have with what was acknowledged and received.
func (c *talk) check(victim int) {
	for i, n := range c.list {
		if i == victim {
			continue
		}
		var page struct {
			Messages []struct {
				Seq uint64 `json:"message_seq"`
				No  string `json:"client_msg_no"`
			} `json:"messages"`
		}
		eventually(c.T, n.name+" has all messages", func() bool {
			err := c.post(n, "/channel/messagesync", map[string]any{
				"login_uid": "s0", "channel_id": c.group, "channel_type": 2, "limit": 10000, "pull_mode": 1,
			}, &page)
			return err == nil && len(page.Messages) >= len(c.acked)
		})
		found := map[string]uint64{}
		for i, m := range page.Messages {
			if m.Seq != uint64(i+1) {
				c.Fatalf("%s: message %d has the number %d", n.name, i+1, m.Seq)
			}
			if found[m.No] != 0 {
				c.Errorf("%s: %s is there twice", n.name, m.No)
			}
			found[m.No] = m.Seq
		}
		if !maps.Equal(found, c.acked) {
			c.Errorf("%s: %d messages are there, %d were acknowledged", n.name, len(found), len(c.acked))
		}
		uid := fmt.Sprintf("r%d", i)
		eventually(c.T, uid+" has received all", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return len(c.received[uid]) >= len(page.Messages)
		})
		c.mu.Lock()
		got := slices.Clone(c.received[uid])
		c.mu.Unlock()
		for i, seq := range got {
			if seq != uint64(i+1) {
				c.Errorf("%s received message %d as number %d", uid, seq, i+1)
				break
			}
		}
	}
}
