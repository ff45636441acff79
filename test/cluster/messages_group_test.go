package cluster

import (
	"fmt"
	"sync"
	"testing"
)

const (
	largeGroup  = 10_000 // members
	largeOnline = 2_000  // of them, on three nodes
	largeSent   = 30     // messages at least
	connecting  = 16     // members at a time
)

// Each member of a large group that is online receives each message once, in order, whichever node it
// is at and the message came to.
func TestMessagesToLargeGroup(t *testing.T) {
	c := newTalk(t)
	c.group = "large"
	members := make([]string, largeGroup)
	for i := range members {
		members[i] = fmt.Sprintf("m%d", i)
	}
	c.must(c.list[0], "/channel", map[string]any{
		"channel_id": c.group, "channel_type": 2, "subscribers": append(members, senders...),
	}, nil)
	hearers := c.connect(members[:largeOnline])
	stop := c.send()
	c.acknowledges(largeSent)
	stop()
	for _, h := range hearers {
		c.heard(h)
	}
}

// connect has members receive, each at the next node.
func (c *talk) connect(uids []string) []*hearer {
	c.Helper()
	hearers := make([]*hearer, len(uids))
	var all sync.WaitGroup
	for first := range connecting {
		all.Go(func() {
			for i := first; i < len(uids); i += connecting {
				client, err := chat(c.pick(i), uids[i], patience)
				if err != nil {
					c.Errorf("%s: %v", uids[i], err)
					return
				}
				h := &hearer{uid: uids[i], first: 1, ended: make(chan struct{})}
				c.Cleanup(func() { _ = client.Close(); <-h.ended })
				go h.listen(client)
				hearers[i] = h
			}
		})
	}
	all.Wait()
	if c.Failed() {
		c.FailNow()
	}
	return hearers
}
