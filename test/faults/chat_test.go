//go:build linux

package faults

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// messagingToken is that of the messaging API.
const messagingToken = "faults-messaging-token"

// chatPause is between two messages of a sender.
const chatPause = 5 * time.Millisecond

// moverPatience is how long a client waits for an acknowledgement before it goes to another node.
const moverPatience = 2 * time.Second

// chat is messages that are sent to groups while faults are inflicted: what was acknowledged must be
// there once, under the number that was told, and no number may be missing. Of the senders at each node
// one goes elsewhere when it gets no answer, and sends the same again; the other stays.
type chat struct {
	t       *testing.T
	cluster *cluster
	round   int
	groups  []string // of the round: more than there are logs, so that each node owns some

	mu      sync.Mutex        // guards the following fields
	acked   map[string]uint64 // the numbers, by group and the sender's number
	tries   int               // that were not acknowledged
	last    time.Time         // of the last acknowledgement
	longest time.Duration     // without one
}

func newChat(t *testing.T, c *cluster) *chat { return &chat{t: t, cluster: c} }

// begin has senders send to new groups. end stops them, and waits until what they have sent is
// acknowledged.
func (c *chat) begin() (end func()) {
	c.t.Helper()
	c.round++
	c.groups, c.acked, c.last, c.longest, c.tries = nil, map[string]uint64{}, time.Now(), 0, 0
	members := []string{}
	for i := range nodeCount {
		members = append(members, "mover"+strconv.Itoa(i), "stayer"+strconv.Itoa(i), "hearer"+strconv.Itoa(i))
	}
	for i := range 2 * nodeCount {
		group := fmt.Sprintf("g%d-%d", c.round, i)
		c.groups = append(c.groups, group)
		err := c.post(c.cluster.nodes[0], "/channel", map[string]any{"channel_id": group, "channel_type": 2, "subscribers": members}, nil)
		if err != nil {
			c.t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var sending sync.WaitGroup
	for i := range nodeCount {
		sending.Go(func() { c.send("mover"+strconv.Itoa(i), i, moverPatience, stop) })
		sending.Go(func() { c.send("stayer"+strconv.Itoa(i), i, patience, stop) })
	}
	return func() {
		c.t.Helper()
		close(stop)
		sending.Wait()
	}
}

// send sends messages one by one, each until it is acknowledged. Who gets no answer for so long goes to
// another node.
func (c *chat) send(uid string, at int, wait time.Duration, stop <-chan struct{}) {
	var client *chatter
	defer func() {
		if client != nil {
			_ = client.Close()
		}
	}()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-time.After(chatPause):
		}
		group, no := c.groups[i%len(c.groups)], fmt.Sprintf("%s-%d", uid, i)
		for begin := time.Now(); ; {
			if time.Since(begin) > patience {
				c.t.Errorf("%s to %s is not acknowledged for %v", no, group, patience)
				return
			}
			var err error
			if client == nil {
				if client, err = enter(c.cluster.nodes[at%nodeCount], uid, moverPatience); err != nil {
					at++
					time.Sleep(poll)
					continue
				}
			}
			seq, err := client.say(group, no, wait)
			if seq > 0 {
				c.note(group+" "+no, seq)
				break
			}
			c.mu.Lock()
			c.tries++
			c.mu.Unlock()
			if err != nil {
				_ = client.Close()
				client = nil
				at++
			}
		}
	}
}

// note keeps an acknowledgement.
func (c *chat) note(what string, seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked[what] = seq
	c.longest = max(c.longest, time.Since(c.last))
	c.last = time.Now()
}

// grows waits until so many more messages are acknowledged.
func (c *chat) grows(more int) {
	c.t.Helper()
	number := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.acked)
	}
	before := number()
	if !eventually(patience, func() bool { return number() >= before+more }) {
		c.t.Fatalf("%d messages are acknowledged, then no more for %v", number(), patience)
	}
}

// check demands of every node the messages of the round, as they were acknowledged.
func (c *chat) check(what string) {
	c.t.Helper()
	figure(c.t, what+", messages acknowledged", len(c.acked))
	figure(c.t, what+", tries that were not", c.tries)
	figure(c.t, what+", longest time without an acknowledgement", c.longest)
	for _, n := range c.cluster.nodes {
		found := map[string]uint64{}
		if !eventually(patience, func() bool { found = c.found(n); return len(found) >= len(c.acked) }) {
			c.t.Errorf("%s: %d messages are acknowledged, %s has %d of them after %v", what, len(c.acked), n.name, len(found), patience)
			continue
		}
		if !maps.Equal(found, c.acked) {
			c.t.Errorf("%s: %s has other messages than were acknowledged", what, n.name)
		}
	}
}

// forget removes the messages of the round.
func (c *chat) forget() {
	c.t.Helper()
	for _, group := range c.groups {
		if err := c.post(c.cluster.nodes[0], "/channel/delete", map[string]any{"channel_id": group, "channel_type": 2}, nil); err != nil {
			c.t.Errorf("remove %s: %v", group, err)
		}
	}
}

// found is what a node has of the round, by group and the sender's number.
func (c *chat) found(n *node) map[string]uint64 {
	found := map[string]uint64{}
	for _, group := range c.groups {
		for last, more := 0, 1; more == 1; {
			var page struct {
				More     int `json:"more"`
				Messages []struct {
					Seq uint64 `json:"message_seq"`
					No  string `json:"client_msg_no"`
				} `json:"messages"`
			}
			err := c.post(n, "/channel/messagesync", map[string]any{"login_uid": "mover0", "channel_id": group, "channel_type": 2,
				"start_message_seq": last + 1, "limit": 1000, "pull_mode": 1}, &page)
			if err != nil {
				c.t.Logf("%s: %v", n.name, err)
				return nil
			}
			for _, m := range page.Messages {
				last++
				if m.Seq != uint64(last) {
					c.t.Errorf("%s has the number %d in place of %d of %s", n.name, m.Seq, last, group)
					last = int(m.Seq)
				}
				if twice := found[group+" "+m.No]; twice != 0 {
					c.t.Errorf("%s has %s of %s as number %d and %d", n.name, m.No, group, twice, m.Seq)
				}
				found[group+" "+m.No] = m.Seq
			}
			more = page.More
		}
	}
	return found
}

// post asks the messaging API of a node.
func (c *chat) post(n *node, path string, body, into any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, "http://"+n.messagingAddress(2)+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	request.Header.Set("token", messagingToken)
	client := &http.Client{Timeout: answerLimit}
	response, err := client.Do(request)
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

// messagingAddress is that of clients over TCP, over WebSocket, or of the API: 0, 1 or 2.
func (n *node) messagingAddress(of int) string {
	return net.JoinHostPort(n.host, strconv.Itoa(n.messaging+of))
}

// chatter is a client of messaging: JSON-RPC over TCP.
type chatter struct {
	net.Conn
	in    *json.Decoder
	count int
}

// spoken is what comes from a node: an answer or a notification.
type spoken struct {
	ID     string `json:"id"`
	Method string `json:"method"`
	Params struct {
		MessageID string `json:"messageId"`
		Seq       uint64 `json:"messageSeq"`
		Channel   string `json:"channelId"`
		No        string `json:"clientMsgNo"`
	} `json:"params"`
	Result struct {
		Reason int    `json:"reasonCode"`
		Seq    uint64 `json:"messageSeq"`
	} `json:"result"`
}

// enter connects a user to a node that lets it in within a time.
func enter(n *node, uid string, wait time.Duration) (*chatter, error) {
	conn, err := net.DialTimeout("tcp", n.messagingAddress(0), wait)
	if err != nil {
		return nil, err
	}
	c := &chatter{Conn: conn, in: json.NewDecoder(conn)}
	answer, err := c.ask("connect", map[string]any{"uid": uid, "token": "t", "deviceId": uid + time.Now().String(), "deviceFlag": 0}, wait)
	if err == nil && answer.Result.Reason != 1 {
		err = fmt.Errorf("%s is not let in at %s: reason %d", uid, n.name, answer.Result.Reason)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *chatter) write(what map[string]any) error {
	text, err := json.Marshal(what)
	if err == nil {
		err = c.SetWriteDeadline(time.Now().Add(answerLimit))
	}
	if err == nil {
		_, err = c.Write(text)
	}
	return err
}

// confirm tells the node that a message has come.
func (c *chatter) confirm(m spoken) error {
	return c.write(map[string]any{"method": "recvack", "params": map[string]any{"messageId": m.Params.MessageID, "messageSeq": m.Params.Seq}})
}

// ask waits for the answer to a request.
func (c *chatter) ask(method string, params map[string]any, wait time.Duration) (answer spoken, err error) {
	c.count++
	id := strconv.Itoa(c.count)
	if err = c.write(map[string]any{"method": method, "id": id, "params": params}); err != nil {
		return answer, err
	}
	if err = c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return answer, err
	}
	for {
		answer = spoken{}
		if err = c.in.Decode(&answer); err != nil {
			return answer, err
		}
		switch {
		case answer.ID == id:
			return answer, nil
		case answer.Method == "recv":
			if err = c.confirm(answer); err != nil {
				return answer, err
			}
		}
	}
}

// say sends a message. It returns its number, or 0 when it is to be sent again, over another connection
// after an error.
func (c *chatter) say(group, no string, wait time.Duration) (uint64, error) {
	answer, err := c.ask("send", map[string]any{"channelId": group, "channelType": 2, "clientMsgNo": no,
		"header": map[string]any{"redDot": true}, "payload": base64.StdEncoding.EncodeToString([]byte(no))}, wait)
	switch {
	case err != nil:
		return 0, err
	case answer.Result.Reason == 1:
		return answer.Result.Seq, nil
	case answer.Result.Reason == 15: // no majority answers: the same client may try again
		return 0, nil
	}
	return 0, fmt.Errorf("%s to %s is refused with %d", no, group, answer.Result.Reason)
}

// hearer receives what is sent to the groups, at one node, over one connection.
type hearer struct {
	node  *node
	ended chan struct{}

	mu    sync.Mutex
	heard map[string][]uint64 // numbers by group
	err   error
}

// listen has a member receive at each node until the test ends.
func (c *chat) listen() (list []*hearer) {
	c.t.Helper()
	for i, n := range c.cluster.nodes {
		h := &hearer{node: n, ended: make(chan struct{}), heard: map[string][]uint64{}}
		client, err := enter(n, "hearer"+strconv.Itoa(i), patience)
		if err == nil {
			err = client.SetReadDeadline(time.Time{})
		}
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { _ = client.Close(); <-h.ended })
		go h.listen(client)
		list = append(list, h)
	}
	return list
}

func (h *hearer) listen(client *chatter) {
	defer close(h.ended)
	for {
		var m spoken
		err := client.in.Decode(&m)
		if err == nil && m.Method == "recv" {
			h.mu.Lock()
			h.heard[m.Params.Channel] = append(h.heard[m.Params.Channel], m.Params.Seq)
			h.mu.Unlock()
			err = client.confirm(m)
		}
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				h.mu.Lock()
				h.err = err
				h.mu.Unlock()
			}
			return
		}
	}
}

// heard demands that each of them got every message of the round once and in order, over the connection
// that it has.
func (c *chat) heard(what string, list []*hearer) {
	c.t.Helper()
	want := map[string]uint64{}
	for of, seq := range c.acked {
		for _, group := range c.groups {
			if len(of) > len(group) && of[:len(group)+1] == group+" " {
				want[group] = max(want[group], seq)
			}
		}
	}
	for _, h := range list {
		complete := func(group string) bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return uint64(len(h.heard[group])) >= want[group]
		}
		for _, group := range c.groups {
			if !eventually(patience, func() bool { return complete(group) }) {
				c.t.Errorf("%s: a member has heard too little of %s at %s", what, group, h.node.name)
			}
		}
		h.mu.Lock()
		for _, group := range c.groups {
			if got := h.heard[group]; !slices.Equal(got, upTo(want[group])) {
				c.t.Errorf("%s: at %s %d of %d messages of %s came, or not in order", what, h.node.name, len(got), want[group], group)
			}
		}
		if h.err != nil {
			c.t.Errorf("%s: the connection of a member at %s ended: %v", what, h.node.name, h.err)
		}
		h.mu.Unlock()
	}
}

func upTo(last uint64) (all []uint64) {
	for seq := uint64(1); seq <= last; seq++ {
		all = append(all, seq)
	}
	return all
}
