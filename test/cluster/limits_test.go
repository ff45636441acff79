package cluster

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/pusher/admin"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
	"github.com/parleyio/parley/test/process"
)

// The quotas of the limited app. A window is a second.
const (
	eventsQuota      = 200
	connectionsQuota = 30
)

// Between two tellings and the way of one lie a few milliseconds; here, where everything runs
// on one machine, the time that a process waits for a processor comes to it.
const tellDelay = 100 * time.Millisecond

// createLimited makes an app with quotas and waits until every node has it.
func (c *nodes) createLimited() admin.NewApp {
	c.Helper()
	app := admin.NewApp{ID: "8", Key: "limited-key", Secret: "limited-secret", Limits: apps.Limits{
		MaxBackendEventsPerSecond: eventsQuota, MaxConnections: connectionsQuota,
	}}
	if _, err := c.list[0].admin.CreateApp(c.Context(), app); err != nil {
		c.Fatal(err)
	}
	for _, n := range c.list {
		eventually(c.T, n.name+" has the app", func() bool {
			_, err := n.admin.ShowApp(c.Context(), app.ID, false)
			return err == nil
		})
	}
	return app
}

// backend publishes one event after the other at one node, and notes when which were accepted.
type backend struct {
	node     *node
	app      admin.NewApp
	sent     int
	accepted []time.Duration // since the start
	gap      time.Duration   // the longest from one answer to the next
	err      error
}

func (b *backend) run(start time.Time, lasting time.Duration) {
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	last := time.Now()
	for time.Since(start) < lasting && b.err == nil {
		status, header, err := b.publish(client)
		b.sent++
		b.gap, last = max(b.gap, time.Since(last)), time.Now()
		switch {
		case err != nil:
			b.err = err
		case status == http.StatusOK:
			b.accepted = append(b.accepted, time.Since(start))
		case status != http.StatusTooManyRequests:
			b.err = fmt.Errorf("status %d", status)
		case header.Get("X-RateLimit-Limit") != strconv.Itoa(eventsQuota) || header.Get("X-RateLimit-Remaining") != "0" ||
			header.Get("X-RateLimit-Reset") != "1" || header.Get("Retry-After") != "1":
			b.err = fmt.Errorf("headers %v", header)
		}
	}
}

func (b *backend) publish(client *http.Client) (status int, header http.Header, err error) {
	body := []byte(`{"name":"e","channels":["c"],"data":"d"}`)
	path, query := "/apps/"+b.app.ID+"/events", url.Values{}
	protocol.SignRequest(b.app.Key, b.app.Secret, http.MethodPost, path, query, body, time.Now().Unix())
	response, err := client.Post(b.node.url()+path+"?"+query.Encode(), "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	var drain json.RawMessage
	_ = json.NewDecoder(response.Body).Decode(&drain) // so that the connection is used again
	return response.StatusCode, response.Header, nil
}

// Three backends send as fast as they can, each to another node: together they get the quota,
// and at most what two of them send before the nodes have told each other.
func TestQuotaOfThreeNodes(t *testing.T) {
	t.Parallel()
	c := start(t)
	app := c.createLimited()
	const lasting = 4 * time.Second
	backends := make([]*backend, count)
	var wg sync.WaitGroup
	begun := time.Now()
	for i, n := range c.list {
		backends[i] = &backend{node: n, app: app}
		wg.Go(func() { backends[i].run(begun, lasting) })
	}
	wg.Wait()
	sent, accepted, gap := 0, 0, time.Duration(0)
	for _, b := range backends {
		if b.err != nil {
			t.Fatal(b.err)
		}
		sent, accepted = sent+b.sent, accepted+len(b.accepted)
		gap = max(gap, b.gap)
	}
	if sent < 2*count*eventsQuota*int(lasting/time.Second) {
		t.Skipf("the machine is too slow: %d requests in %v", sent, lasting)
	}
	// Windows end at different nodes at slightly different times, and one more may begin.
	windows := int(lasting/time.Second) + 1
	over := sent * 2 / 3 * int(2*tellDelay) / int(lasting) // in a window
	t.Logf("%d requests, %d accepted, %d a window is the quota, %d windows, the longest gap %v", sent, accepted, eventsQuota, windows-1, gap)
	if least, most := (windows-1)*eventsQuota*9/10, windows*(eventsQuota+over); accepted < least || accepted > most {
		if gap > tellDelay { // nobody asked for what a window had left, or a node could not tell
			t.Skipf("the machine stood still for %v: %d are accepted, %d to %d are due", gap, accepted, least, most)
		}
		t.Errorf("%d are accepted, want %d to %d", accepted, least, most)
	}
}

// Near the quota the nodes tell each other of every connection. Connects that come to several
// nodes at the same moment go over it, until the nodes have heard of each other.
func TestConnectionQuotaOfThreeNodes(t *testing.T) {
	t.Parallel()
	c := start(t)
	app := c.createLimited()
	dial := func(n *node) (*socket, error) {
		return dialing{url: "ws://" + process.Address(n.port), key: app.Key}.connect()
	}
	var mu sync.Mutex // guards stay
	stay := map[*socket]bool{}
	connected := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(stay)
	}
	var connecting, reading sync.WaitGroup
	const connects = 5 * connectionsQuota
	for i := range connects { // all at once
		connecting.Go(func() {
			s, err := dial(c.list[i%count])
			if err != nil {
				if !strings.Contains(err.Error(), "4004") {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			stay[s] = true
			mu.Unlock()
			reading.Go(func() {
				code := s.lastCode()
				mu.Lock()
				defer mu.Unlock()
				if delete(stay, s); code != 0 && code != protocol.CodeOverQuota {
					t.Errorf("closed with %d", code)
				}
			})
		})
	}
	connecting.Wait()
	t.Cleanup(func() { // a lost connection is closed
		mu.Lock()
		for s := range stay {
			_ = s.Close()
		}
		mu.Unlock()
		reading.Wait()
	})
	t.Logf("%d of %d connects at once were accepted at first, the quota is %d", connected(), connects, connectionsQuota)
	eventually(t, "those who are too many have gone", func() bool { return connected() <= connectionsQuota })
	time.Sleep(tellDelay) // nothing tells that no more will go
	if got := connected(); got != connectionsQuota {
		t.Errorf("%d stay, the quota is %d", got, connectionsQuota)
	}
	// Once all know, there is no place on any node.
	mu.Lock()
	for s := range stay {
		_ = s.Close()
		break
	}
	mu.Unlock()
	first := c.list[0]
	eventually(t, "there is a place", func() bool {
		s, err := dial(first)
		if err == nil {
			t.Cleanup(func() { _ = s.Close() })
		}
		return err == nil
	})
	for _, n := range c.list[1:] {
		eventually(t, n.name+" hears that it is taken", func() bool {
			s, err := dial(n)
			if err == nil {
				_ = s.Close()
			}
			return err != nil && strings.Contains(err.Error(), "4004")
		})
	}
}
