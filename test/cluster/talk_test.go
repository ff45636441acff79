package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
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

// Members of the group beside those who receive: who reads now and then, and who never does.
const (
	reader  = "reader"
	sleeper = "sleeper"
)

// senders are those who send to the group.
var senders = []string{"s0", "s1", "s2"}

// talk is a group of three nodes, with what its senders and receivers have seen.
type talk struct {
	*nodes
	token string
	group string
	read  int // how far the reader has read
	round int // of sending

	mu      sync.Mutex        // guards the following fields, and the list while somebody sends
	acked   map[string]uint64 // by the sender's number
	last    time.Time         // of the last acknowledgement
	longest time.Duration     // without one
}

// newTalk starts three nodes with a group.
func newTalk(t *testing.T) *talk {
	t.Helper()
	c := &talk{nodes: start(t, "[im]\nenabled = true\nhost = \"127.0.0.1\"\n"), group: "g", acked: map[string]uint64{}}
	token, err := os.ReadFile(filepath.Join(c.dir, "node1", "im-token"))
	if err != nil {
		t.Fatal(err)
	}
	c.token = strings.TrimSpace(string(token))
	members := append([]string{reader, sleeper}, senders...)
	for i := range count + 1 {
		members = append(members, fmt.Sprintf("r%d", i))
	}
	c.must(c.list[0], "/channel", map[string]any{"channel_id": c.group, "channel_type": 2, "subscribers": members}, nil)
	return c
}

func (c *talk) post(n *node, path string, body any, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(c.Context(), http.MethodPost, "http://"+process.Address(n.port+imHTTP)+path, bytes.NewReader(data))
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

func (c *talk) must(n *node, path string, body any, into any) {
	c.Helper()
	if err := c.post(n, path, body, into); err != nil {
		c.Fatalf("%s: %v", n.name, err)
	}
}

// together waits until nodes are ready and see each other.
func (c *talk) together(list ...*node) {
	c.Helper()
	for _, n := range list {
		eventually(c.T, n.name+" is ready", func() bool { return n.ready() && n.sees("ready") == len(list) })
	}
}

// hearer is a member that receives at one node.
type hearer struct {
	uid   string
	first uint64        // the first message that it must receive
	ended chan struct{} // closed with its connection

	mu   sync.Mutex
	seqs []uint64
}

// listen has a member receive at each of the nodes, until the end of the test or the node. Nobody
// sends meanwhile.
func (c *talk) listen(list ...*node) (hearers []*hearer) {
	c.Helper()
	for _, n := range list {
		h := &hearer{uid: fmt.Sprintf("r%d", n.number), first: uint64(len(c.acked) + 1), ended: make(chan struct{})}
		client, err := chat(n, h.uid, patience)
		if err != nil {
			c.Fatalf("%s at %s: %v", h.uid, n.name, err)
		}
		c.Cleanup(func() { _ = client.Close(); <-h.ended })
		go h.listen(client)
		hearers = append(hearers, h)
	}
	return hearers
}

func (h *hearer) listen(client *chatter) {
	defer close(h.ended)
	for {
		p, err := client.read()
		if err != nil {
			return
		}
		if recv, is := p.(*wire.Recv); is {
			client.write(&wire.Recvack{MessageID: recv.MessageID, MessageSeq: recv.MessageSeq})
			h.mu.Lock()
			h.seqs = append(h.seqs, recv.MessageSeq)
			h.mu.Unlock()
		}
	}
}

// heard demands that the member received everything from its first message on, once and in order,
// over the connection that it has.
func (c *talk) heard(h *hearer) {
	c.Helper()
	all := func() []uint64 {
		h.mu.Lock()
		defer h.mu.Unlock()
		return slices.Clone(h.seqs)
	}
	last := uint64(len(c.acked))
	eventually(c.T, h.uid+" has received all", func() bool { return slices.Contains(all(), last) })
	got := all()
	for i, seq := range got {
		if got[0] > h.first || seq != got[0]+uint64(i) {
			c.Errorf("%s received %d as message %d after %d", h.uid, seq, i+1, got[max(i-1, 0)])
			break
		}
	}
	select {
	case <-h.ended:
		c.Errorf("the connection of %s ended", h.uid)
	default:
	}
}

// send has all senders send until it is told to stop, each at a node of its own first. Stopping waits
// until all that was sent is acknowledged.
func (c *talk) send() (stop func()) {
	c.round++
	c.last, c.longest = time.Now(), 0
	var sending sync.WaitGroup
	end := make(chan struct{})
	for i, uid := range senders {
		sending.Go(func() { c.sendAll(i, uid, end) })
	}
	return func() {
		c.Helper()
		close(end)
		sending.Wait()
		c.Logf("round %d: %d messages are acknowledged, the longest time without one is %v", c.round, len(c.acked), c.longest.Round(time.Millisecond))
	}
}

// sendAll sends messages one by one, each until it is acknowledged, on whichever node lets it in.
func (c *talk) sendAll(at int, uid string, end <-chan struct{}) {
	var client *chatter
	defer func() {
		if client != nil {
			_ = client.Close()
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-end:
			return
		default:
		}
		no := fmt.Sprintf("%s-%d-%d", uid, c.round, i)
		for seq := uint64(0); seq == 0; {
			if c.Context().Err() != nil {
				return
			}
			var err error
			if client == nil {
				if client, err = chat(c.pick(at), uid, sendersWait); err != nil {
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
				c.note(no, seq)
			}
		}
	}
}

// serves says which nodes clients go to from now on.
func (c *talk) serves(list ...*node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = list
}

func (c *talk) pick(i int) *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list[i%len(c.list)]
}

// acknowledges waits until so many more messages are acknowledged.
func (c *talk) acknowledges(more int) {
	c.Helper()
	number := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.acked)
	}
	before := number()
	eventually(c.T, fmt.Sprintf("%d more messages are acknowledged", more), func() bool { return number() >= before+more })
}

// note keeps an acknowledgement.
func (c *talk) note(no string, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[no] = seq
	c.longest = max(c.longest, time.Since(c.last))
	c.last = time.Now()
}

// said is a message as the HTTP API tells it.
type said struct {
	Seq     uint64 `json:"message_seq"`
	No      string `json:"client_msg_no"`
	From    string `json:"from_uid"`
	Payload string `json:"payload"`
}

// history is everything that a node has of a channel.
func (c *talk) history(n *node, uid, channel string, kind int) (all []said, err error) {
	for {
		var page struct {
			More     int    `json:"more"`
			Messages []said `json:"messages"`
		}
		err := c.post(n, "/channel/messagesync", map[string]any{"login_uid": uid, "channel_id": channel, "channel_type": kind,
			"start_message_seq": len(all) + 1, "limit": 1000, "pull_mode": 1}, &page)
		if all = append(all, page.Messages...); err != nil || page.More == 0 {
			return all, err
		}
	}
}

// check compares what nodes have with what was acknowledged and received. Nobody sends meanwhile.
func (c *talk) check(list []*node, hearers []*hearer) {
	c.Helper()
	for _, n := range list {
		var all []said
		eventually(c.T, n.name+" has all messages", func() bool {
			var err error
			all, err = c.history(n, senders[0], c.group, 2)
			return err == nil && len(all) >= len(c.acked)
		})
		found := map[string]uint64{}
		for i, m := range all {
			if m.Seq != uint64(i+1) {
				c.Fatalf("%s: message %d has the number %d", n.name, i+1, m.Seq)
			}
			if found[m.No] != 0 {
				c.Errorf("%s: %s is there twice", n.name, m.No)
			}
			if payload, err := base64.StdEncoding.DecodeString(m.Payload); err != nil || string(payload) != m.No {
				c.Errorf("%s: %s has the payload %q, %v", n.name, m.No, payload, err)
			}
			found[m.No] = m.Seq
		}
		if !maps.Equal(found, c.acked) {
			c.Errorf("%s: %d messages are there, %d were acknowledged", n.name, len(found), len(c.acked))
		}
	}
	for _, h := range hearers {
		c.heard(h)
	}
	c.unread(list)
}

// unread demands the numbers that each node tells its members, before and after one of them reads.
func (c *talk) unread(list []*node) {
	c.Helper()
	last := len(c.acked)
	sent := 0 // by the first sender, who has read that
	for no, seq := range c.acked {
		if strings.HasPrefix(no, senders[0]+"-") {
			sent = max(sent, int(seq))
		}
	}
	for _, n := range list {
		c.hasUnread(n, sleeper, last)
		c.hasUnread(n, reader, last-c.read)
		c.hasUnread(n, senders[0], last-sent)
	}
	c.must(list[c.round%len(list)], "/conversations/clearUnread", map[string]any{"uid": reader, "channel_id": c.group, "channel_type": 2}, nil)
	c.read = last
	for _, n := range list {
		eventually(c.T, n.name+" has heard that all is read", func() bool { // it may lag behind the one that was told
			unread, read := c.unreadAt(n, reader)
			return unread == 0 && read == last
		})
	}
}

func (c *talk) hasUnread(n *node, uid string, want int) {
	c.Helper()
	if unread, last := c.unreadAt(n, uid); unread != want || last != len(c.acked) {
		c.Errorf("%s tells %s of %d unread messages up to %d, want %d up to %d", n.name, uid, unread, last, want, len(c.acked))
	}
}

// unreadAt is what a node tells a member of the group; -1 when that is nothing.
func (c *talk) unreadAt(n *node, uid string) (unread, last int) {
	c.Helper()
	var rows []struct {
		Channel string `json:"channel_id"`
		Unread  int    `json:"unread"`
		Last    int    `json:"last_msg_seq"`
	}
	c.must(n, "/conversation/sync", map[string]any{"uid": uid, "msg_count": 1}, &rows)
	for _, row := range rows {
		if row.Channel == c.group {
			return row.Unread, row.Last
		}
	}
	return -1, -1
}
