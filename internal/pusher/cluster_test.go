package pusher

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/directory"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/protocol"
)

// onThree runs a test on three nodes.
func onThree(t *testing.T, f func(t *testing.T, hs *hubs, a, b, c *hubNode)) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHubs(t, "a", "b", "c")
		f(t, hs, hs.nodes[0], hs.nodes[1], hs.nodes[2])
	})
}

func expect(t *testing.T, who string, e *ear, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := e.heard(); got != strings.Join(want, "\n") {
		t.Errorf("%s heard\n%s\nwant\n%s", who, got, strings.Join(want, "\n"))
	}
}

func expectWebhooks(t *testing.T, hs *hubs, want ...string) {
	t.Helper()
	hs.settle()
	slices.Sort(want)
	if got := hs.webhooks(); !slices.Equal(got, want) {
		t.Errorf("webhooks\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEventsReachInterestedNodesOnly(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		here, there := a.connect().subscribe("news"), b.connect().subscribe("news")
		other := c.connect().subscribe("sport")
		for _, e := range []*ear{here, there, other} {
			synctest.Wait()
			e.heard()
		}
		for i := range 10 {
			a.publish("news", fmt.Sprint(i))
		}
		var want []string
		for i := range 10 {
			want = append(want, event("news", fmt.Sprint(i)))
		}
		expect(t, "here", here, want...)
		expect(t, "there", there, want...)
		expect(t, "other", other)
		if got := c.signal.total(); got != 0 {
			t.Errorf("c received %d messages of a channel that nobody there is on", got)
		}
		if got := b.signal.total(); got != 10 {
			t.Errorf("b received %d messages", got)
		}

		// From a node without clients, and with the last subscriber gone.
		c.publish("news", "x")
		expect(t, "there", there, event("news", "x"))
		there.unsubscribe("news")
		c.publish("news", "y")
		expect(t, "there", there)
		if got := b.signal.total(); got != 11 {
			t.Errorf("b received %d messages", got)
		}
		there.subscribe("news")
		synctest.Wait()
		there.heard()
		c.publish("news", "z")
		expect(t, "there", there, event("news", "z"))
	})
}

func TestExcludedSocketIsOnAnyNode(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		one, two := b.connect().subscribe("news"), b.connect().subscribe("news")
		one.heard()
		two.heard()
		a.publish("news", "1", one.client.session.ID)
		expect(t, "one", one)
		expect(t, "two", two, event("news", "1"))
		b.publish("news", "2", two.client.session.ID)
		expect(t, "one", one, event("news", "2"))
		expect(t, "two", two)
	})
}

func TestClientEventsCrossNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		sender := a.connect().subscribe("presence-x", "u")
		near, far := a.connect().subscribe("presence-x", "v"), b.connect().subscribe("presence-x", "w")
		hs.settle()
		for _, e := range []*ear{sender, near, far} {
			e.heard()
		}
		hs.webhooks()
		sender.client.message([]byte(`{"event":"client-hi","channel":"presence-x","data":{"n":1}}`))
		want := `{"event":"client-hi","channel":"presence-x","data":{"n":1},"user_id":"u"}`
		expect(t, "sender", sender)
		expect(t, "near", near, want)
		expect(t, "far", far, want)
		if list := hs.webhooks(); len(list) != 1 || !strings.Contains(list[0], "client_event") {
			t.Errorf("webhooks %v", list)
		}
	})
}

func TestMalformedSignalsAreLeftOut(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		there := b.connect().subscribe("news")
		there.heard()
		subject := a.realm(hs.app).eventsSubject("news")
		for _, payload := range []string{"", "\x00", "\x01", "\x01\x05abc", "\x03abc"} {
			a.Hub.signal(subject, []byte(payload))
		}
		a.Hub.signal(subjectTerminate+"1", []byte("no separator"))
		expect(t, "there", there)
		a.publish("news", "1")
		expect(t, "there", there, event("news", "1"))
		a.AppChanged(hs.app, nil)
		b.Changed([]directory.Change{{Node: "a", Key: "", After: []byte{1}}, {Node: "a", Key: "c", After: []byte{1}}})
	})
}

func TestPresenceIsOneOverNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		const channel = "presence-x"
		added := func(user string) string {
			return string(protocol.MemberAdded(channel, protocol.Member{UserID: user, Info: []byte(`"i"`)}))
		}
		removed := func(user string) string { return string(protocol.MemberRemoved(channel, user)) }
		watcher := a.connect().subscribe(channel, "w", "i")
		hs.settle()
		watcher.heard()

		u1 := b.connect().subscribe(channel, "u", "i")
		hs.settle()
		expect(t, "watcher", watcher, added("u"))
		if got := fmt.Sprint(u1.members[channel]); got != `map[u:"i" w:"i"]` {
			t.Errorf("the list at the subscription is %s", got)
		}
		u1.heard()
		// The same user on the other nodes: nobody hears of it.
		u2, u3 := c.connect().subscribe(channel, "u", "i"), a.connect().subscribe(channel, "u", "i")
		hs.settle()
		expect(t, "watcher", watcher)
		expect(t, "u1", u1)
		if got := fmt.Sprint(u2.members[channel]); got != `map[u:"i" w:"i"]` {
			t.Errorf("the list at the subscription is %s", got)
		}
		for _, n := range hs.nodes {
			if got := fmt.Sprint(n.Channel(hs.app, channel), n.Members(hs.app, channel)); !strings.HasPrefix(got, "{presence-x 4 2}") {
				t.Errorf("%s tells %s", n.name, got)
			}
		}
		u1.leave()
		u3.leave()
		hs.settle()
		expect(t, "watcher", watcher)
		u2.leave()
		hs.settle()
		expect(t, "watcher", watcher, removed("u"))

		// Gone and back with another user_info within a batch.
		u1 = b.connect().subscribe(channel, "u", "i")
		hs.settle()
		watcher.heard()
		b.connect().subscribe("busy") // the next changes wait for each other
		u1.unsubscribe(channel)
		u1.subscribe(channel, "u", "j")
		hs.settle()
		if got := watcher.heard(); strings.Count(got, "\n") != 1 || watcher.members[channel]["u"] != `"j"` {
			t.Errorf("of another user_info the watcher heard\n%s", got)
		}
	})
}

func TestEveryNodeTellsTheSame(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		for i, n := range []*hubNode{a, a, b, c} {
			e := n.connect().subscribe("news").subscribe("presence-x", fmt.Sprint("u", i/2)).subscribe("cache-x")
			if i == 3 {
				e.subscribe("only-c")
			}
		}
		hs.settle()
		b.publish("cache-x", "data")
		b.publish("cache-nobody", "other")
		hs.settle()
		var want string
		for _, n := range hs.nodes {
			cached := n.Cached(hs.app, "cache-x", "cache-nobody", "cache-never", "news")
			ttl := cached["cache-x"].TTL
			got := fmt.Sprintln(n.Channels(hs.app, ""), n.Channels(hs.app, "pres"), n.Channel(hs.app, "news"),
				n.Channel(hs.app, "nothing"), n.Members(hs.app, "presence-x"), len(cached), cached["cache-x"].Data, cached["cache-nobody"].Data)
			if ttl <= 0 || ttl > time.Minute {
				t.Errorf("%s: the event is kept for %v", n.name, ttl)
			}
			if want == "" {
				want = got
			}
			if got != want || !strings.Contains(got, "{news 4 0} {only-c 1 0} {presence-x 4 2}") ||
				!strings.HasSuffix(got, "2 data other\n") {
				t.Errorf("%s tells\n%s, another\n%s", n.name, got, want)
			}
		}
	})
}

func TestSubscriptionCountIsOfAllNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		hs.app.EnableSubscriptionCount = true
		here := a.connect().subscribe("news")
		hs.settle()
		here.heard()
		there := b.connect().subscribe("news")
		hs.settle()
		expect(t, "here", here, string(protocol.SubscriptionCount("news", 2)))
		there.leave()
		hs.settle()
		expect(t, "here", here, string(protocol.SubscriptionCount("news", 1)))
		hook := func(n int) string {
			return fmt.Sprintf(`{"name":"subscription_count","channel":"news","subscription_count":%d}`, n)
		}
		expectWebhooks(t, hs, `{"name":"channel_occupied","channel":"news"}`, hook(1), hook(2), hook(1))
	})
}

func TestWatchlistsSpanNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		there := b.connect().signin("bo")
		hs.settle()
		watcher := a.connect().signin("al", "bo", "cy")
		expect(t, "watcher", watcher, string(protocol.Watchlist([]string{"bo"}, []string{"cy"})))
		hs.settle()
		cy := c.connect().signin("cy", "al")
		hs.settle()
		expect(t, "watcher", watcher, string(protocol.Watchlist([]string{"cy"}, nil)))
		expect(t, "cy", cy, string(protocol.Watchlist([]string{"al"}, nil)))
		second := c.connect().signin("bo")
		hs.settle()
		there.leave()
		hs.settle()
		expect(t, "watcher", watcher)
		second.leave()
		hs.settle()
		expect(t, "watcher", watcher, string(protocol.Watchlist(nil, []string{"bo"})))
		hs.kill(c)
		expect(t, "watcher", watcher, string(protocol.Watchlist(nil, []string{"cy"})))
	})
}

func TestUsersAreReachedOnAllNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		channel := protocol.UserChannel("ü user")
		var users []*ear
		for _, n := range hs.nodes {
			e := n.connect().signin("ü user").subscribe(channel)
			synctest.Wait()
			e.heard()
			users = append(users, e)
		}
		other := b.connect().signin("other").subscribe(protocol.UserChannel("other"))
		other.heard()
		a.publish(channel, "1")
		for i, e := range users {
			expect(t, fmt.Sprint("user ", i), e, event(channel, "1"))
		}
		expect(t, "other", other)
		if list := b.Channels(hs.app, ""); len(list) != 0 {
			t.Errorf("users' channels are listed: %v", list)
		}
		c.Terminate(hs.app, "ü user")
		synctest.Wait()
		for i, e := range users {
			if e.closed != protocol.CodeUnauthorized {
				t.Errorf("user %d was closed with %d", i, e.closed)
			}
		}
		if other.closed != 0 {
			t.Error("another user was terminated")
		}
		expectWebhooks(t, hs)
	})
}

// Near the quota a node tells of each new client at once: within the same batch nobody else
// takes its place.
func TestConnectionQuotaWaitsForNoBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHubs(t, "a", "b", "c")
		hs.app.Limits.MaxConnections = 10
		let := 0
		for i := range 30 {
			if e := hs.nodes[i%3].connect(); e.closed == 0 {
				let++
			}
			synctest.Wait() // until it is told, without any time passing
		}
		if let != 10 {
			t.Errorf("%d clients are let in", let)
		}
	})
}

// Those who come to all nodes at one moment may be too many: the newest of them go again, so that
// the quota is met and not missed. Who was there before stays, also when two parts of a cluster
// find together.
func TestConnectionQuotaOfThoseWhoComeAtOnce(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		hs.app.Limits.MaxConnections = 10
		old := c.connect()
		hs.settle()
		time.Sleep(2 * overTime)
		var ears []*ear
		for i := range 36 {
			ears = append(ears, hs.nodes[i%3].connect())
		}
		refused := map[*ear]bool{}
		for range 3 { // until all have heard of all
			hs.settle()
			for _, e := range ears {
				if e.closedWith() == protocol.CodeOverQuota && !refused[e] {
					refused[e] = true
					e.leave()
				}
			}
		}
		if stay := 1 + len(ears) - len(refused); stay != 10 || old.closedWith() != 0 {
			t.Errorf("%d stay, and the oldest was closed with %d", stay, old.closedWith())
		}
		time.Sleep(2 * overTime)
		hs.app.Limits.MaxConnections = 5
		first := a.connect()
		hs.settle()
		for _, e := range append(ears, old) {
			if !refused[e] && e.closedWith() != 0 {
				t.Errorf("who was there was closed with %d", e.closedWith())
			}
		}
		if first.closedWith() != protocol.CodeOverQuota {
			t.Errorf("who came then was answered with %d", first.closedWith())
		}
	})
}

func TestConnectionQuotaIsOfAllNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		hs.app.Limits.MaxConnections = 3
		first := a.connect()
		a.connect()
		hs.settle()
		b.connect()
		hs.settle()
		if e := c.connect(); e.closed != protocol.CodeOverQuota {
			t.Errorf("the fourth was answered with %d", e.closed)
		}
		first.leave()
		hs.settle()
		if e := c.connect(); e.closed != 0 {
			t.Errorf("after one went the next was answered with %d", e.closed)
		}
		hs.kill(a)
		if e := b.connect(); e.closed != 0 {
			t.Errorf("after a node died the next was answered with %d", e.closed)
		}
	})
}

func TestWebhooksAreOneOverNodes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		var occupied, vacated []string
		var ears []*ear
		for i := range 10 { // so that each node owns some
			channel := fmt.Sprint("presence-", i)
			for _, n := range hs.nodes {
				ears = append(ears, n.connect().subscribe(channel, "u"))
				hs.settle()
			}
			occupied = append(occupied, fmt.Sprintf(`{"name":"channel_occupied","channel":%q}`, channel),
				fmt.Sprintf(`{"name":"member_added","channel":%q,"user_id":"u"}`, channel))
			vacated = append(vacated, fmt.Sprintf(`{"name":"channel_vacated","channel":%q}`, channel),
				fmt.Sprintf(`{"name":"member_removed","channel":%q,"user_id":"u"}`, channel))
		}
		expectWebhooks(t, hs, occupied...)
		for _, e := range ears {
			e.leave()
			hs.settle()
		}
		expectWebhooks(t, hs, vacated...)
		for _, n := range hs.nodes {
			if rooms := n.Channels(hs.app, ""); len(rooms) != 0 {
				t.Errorf("%s still has %v", n.name, rooms)
			}
			if own, others := n.directory.Rows(); own != 0 || others != 0 {
				t.Errorf("%s still has %d rows and %d of others", n.name, own, others)
			}
		}
	})
}

func TestDeadNodesClientsLeave(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		var want []string
		watcher := a.connect()
		for i := range 6 {
			channel := fmt.Sprint("presence-", i)
			b.connect().subscribe(channel, "u")
			c.connect().subscribe(channel, "both").subscribe(fmt.Sprint("only-c-", i))
			watcher.subscribe(channel, "both")
			want = append(want, fmt.Sprintf(`{"name":"channel_vacated","channel":"only-c-%d"}`, i))
		}
		b.connect().subscribe("presence-0", "u")
		c.connect().subscribe("presence-0", "v")
		hs.settle()
		watcher.heard()
		hs.webhooks()
		hs.kill(c)
		expect(t, "watcher", watcher, string(protocol.MemberRemoved("presence-0", "v")))
		expectWebhooks(t, hs, append(want, `{"name":"member_removed","channel":"presence-0","user_id":"v"}`)...)
		for _, n := range hs.nodes {
			if got := n.Channel(hs.app, "presence-0"); got.Subscriptions != 3 || got.Users != 2 {
				t.Errorf("%s tells %+v", n.name, got)
			}
		}
		// One that was only slow comes back in everybody's view.
		a.directory.NodeGone("b")
		expect(t, "watcher", watcher, func() (list []string) {
			for i := range 6 {
				list = append(list, string(protocol.MemberRemoved(fmt.Sprint("presence-", i), "u")))
			}
			return list
		}()...)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := strings.Count(watcher.heard(), protocol.EventMemberAdded); got != 6 {
			t.Errorf("%d members came back", got)
		}
	})
}

// What other nodes say of an app that this node does not know yet, or not any more.
func TestRowsOfUnknownApps(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		late := &apps.App{ID: "late", Key: "late", Secret: "s", Enabled: true, Limits: apps.Limits{MaxConnections: 1}}
		b.Changed([]directory.Change{
			{Node: "a", Key: "alate", After: []byte{1}},
			{Node: "a", Key: "clate\x00news", After: []byte{3}},
		})
		if !b.Knows("late") || !b.Uses("late") || b.Knows("other") || b.Uses("other") {
			t.Error("the hub does not know which apps it has to do with")
		}
		b.AppChanged(nil, late)
		if got := b.Channel(late, "news").Subscriptions; got != 3 {
			t.Errorf("%d subscriptions", got)
		}
		e := &ear{hubs: hs}
		e.client = b.Connection(late, "").(handler).client
		if e.client.open(e); e.closed != protocol.CodeOverQuota {
			t.Errorf("the second connection was answered with %d", e.closed)
		}
		b.AppChanged(late, nil)
		b.Changed([]directory.Change{
			{Node: "a", Key: "alate", Before: []byte{1}},
			{Node: "a", Key: "clate\x00news", Before: []byte{3}},
		})
		if b.find("late") != nil {
			t.Error("what goes from a deleted app makes it come back")
		}
	})
}

// An app may be made known while this node asks for it, and be changed before it has the answer.
func TestRowsOfAppThatComes(t *testing.T) {
	onThree(t, func(t *testing.T, hs *hubs, a, b, c *hubNode) {
		first := &apps.App{ID: "late", Key: "late", Secret: "s"}
		second := &apps.App{ID: "late", Key: "late", Secret: "s", Enabled: true}
		for what, app := range map[string]func(string) (*apps.App, bool){
			"comes meanwhile":      func(string) (*apps.App, bool) { b.AppChanged(nil, second); return nil, false },
			"is changed meanwhile": func(string) (*apps.App, bool) { b.AppChanged(first, second); return first, true },
			"is there":             func(string) (*apps.App, bool) { return second, true },
			"comes after the rows": func(string) (*apps.App, bool) { return nil, false },
		} {
			b.cluster.App = app
			b.Changed([]directory.Change{{Node: "a", Key: "alate", After: []byte{1}}})
			if what == "comes after the rows" {
				b.AppChanged(nil, second)
			}
			if got := b.find("late").app.Load(); got != second {
				t.Errorf("an app that %s is %+v", what, got)
			}
			b.AppChanged(second, nil)
		}
	})
}
