package pusher

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/pusher/protocol"
)

// truth is what a random run did: who is where.
type truth struct {
	*hubs
	random *rand.Rand
	ears   []*person
	names  int
}

// person is a client with what it asked for.
type person struct {
	*ear
	node     *hubNode
	user     string
	signed   bool
	channels map[string]bool
}

var randomChannels = []string{"news", "presence-1", "presence-2", "cache-1"}

// Clients come, go, subscribe and sign in on nodes that die and start; in the end everybody's
// view is the truth, and on the way nobody is told anything twice.
func TestRandomRuns(t *testing.T) {
	for seed := range uint64(60) {
		kills := seed%2 == 1
		synctest.Test(t, func(t *testing.T) {
			w := &truth{hubs: newHubs(t, "a", "b", "c"), random: rand.New(rand.NewPCG(seed, 0))}
			for range 250 {
				w.act(kills)
			}
			time.Sleep(5 * time.Second) // digests bring a new node what it missed
			synctest.Wait()
			w.check(t)
			if !kills {
				w.checkWebhooks(t)
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// The same from many connections at once, as event loops do it.
func TestConcurrentRuns(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			hs := newHubs(t, "a", "b", "c")
			parts := make([]*truth, 8)
			var running sync.WaitGroup
			for i := range parts {
				parts[i] = &truth{hubs: hs, random: rand.New(rand.NewPCG(seed, uint64(i)))}
				running.Go(func() {
					for range 200 {
						parts[i].act(false)
					}
				})
			}
			running.Wait()
			all := &truth{hubs: hs}
			for _, part := range parts {
				all.ears = append(all.ears, part.ears...)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			all.check(t)
			all.checkWebhooks(t)
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

func (w *truth) act(kills bool) {
	switch dice := w.random.IntN(100); {
	case dice < 20 || len(w.ears) == 0:
		node := w.nodes[w.random.IntN(len(w.nodes))]
		w.ears = append(w.ears, &person{ear: node.connect(), node: node,
			user: fmt.Sprint("u", w.random.IntN(4)), channels: make(map[string]bool)})
	case dice < 30:
		i := w.random.IntN(len(w.ears))
		w.ears[i].leave()
		w.ears = slices.Delete(w.ears, i, i+1)
	case dice < 60:
		p := w.ears[w.random.IntN(len(w.ears))]
		channel := randomChannels[w.random.IntN(len(randomChannels))]
		p.subscribe(channel, p.user, "i")
		p.channels[channel] = true
	case dice < 75:
		p := w.ears[w.random.IntN(len(w.ears))]
		channel := randomChannels[w.random.IntN(len(randomChannels))]
		p.unsubscribe(channel)
		p.mu.Lock()
		delete(p.members, channel)
		p.mu.Unlock()
		delete(p.channels, channel)
	case dice < 80:
		p := w.ears[w.random.IntN(len(w.ears))]
		p.signin(p.user, "u0", "u1", "u2", "u3")
		p.signed = true
	case dice < 82 && kills && len(w.nodes) > 1:
		n := w.nodes[w.random.IntN(len(w.nodes))]
		w.kill(n)
		w.ears = slices.DeleteFunc(w.ears, func(p *person) bool { return p.node == n })
	case dice < 84 && kills && len(w.nodes) < 4:
		w.names++
		w.start(fmt.Sprint("n", w.names))
	case dice < 85 && kills && len(w.nodes) > 1: // one that is only slow is taken for dead
		w.nodes[0].directory.NodeGone(w.nodes[1].name)
	default:
		time.Sleep(time.Duration(w.random.IntN(30)) * time.Millisecond)
	}
}

// state is what is to be known of the channels.
func (w *truth) state() (counts map[string]int, members map[string]map[string]string, online map[string]bool) {
	counts, members, online = make(map[string]int), make(map[string]map[string]string), make(map[string]bool)
	for _, p := range w.ears {
		for channel := range p.channels {
			counts[channel]++
			if members[channel] == nil {
				members[channel] = make(map[string]string)
			}
			if protocol.KindOf(channel).Has(protocol.Presence) {
				members[channel][p.user] = `"i"`
			}
		}
		if p.signed {
			online[p.user] = true
		}
	}
	return counts, members, online
}

func (w *truth) check(t *testing.T) {
	counts, members, online := w.state()
	for _, n := range w.nodes {
		got := make(map[string]int)
		for _, c := range n.Channels(w.app, "") {
			got[c.Channel] = c.Subscriptions
			if c.Users != len(members[c.Channel]) || len(n.Members(w.app, c.Channel)) != c.Users {
				t.Errorf("%s counts %d users of %s, want %d", n.name, c.Users, c.Channel, len(members[c.Channel]))
			}
		}
		if !maps.Equal(got, counts) {
			t.Errorf("%s counts %v, want %v", n.name, got, counts)
		}
		r := n.realm(w.app)
		if got := len(r.clients) + r.elsewhereSum; got != len(w.ears) {
			t.Errorf("%s counts %d connections, want %d", n.name, got, len(w.ears))
		}
		if len(r.users.online) != len(online) {
			t.Errorf("%s knows %d users, want %v", n.name, len(r.users.online), online)
		}
	}
	for i, p := range w.ears {
		p.heard()
		for channel := range p.channels {
			if want := members[channel]; !maps.Equal(p.members[channel], want) {
				t.Errorf("client %d on %s sees on %s %v, want %v", i, p.node.name, channel, p.members[channel], want)
			}
		}
		if !p.signed {
			continue
		}
		for id, there := range p.online {
			if there != online[id] {
				t.Errorf("client %d on %s sees %s online %t", i, p.node.name, id, there)
			}
		}
	}
}

// checkWebhooks checks that coming and going alternate, and end with the truth.
func (w *truth) checkWebhooks(t *testing.T) {
	there := make(map[string]bool)
	for _, text := range w.emits {
		var e struct {
			Name, Channel string
			UserID        string `json:"user_id"`
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		came := e.Name == "channel_occupied" || e.Name == "member_added"
		if !came && e.Name != "channel_vacated" && e.Name != "member_removed" {
			continue
		}
		key := e.Channel + " " + e.UserID
		if there[key] == came {
			t.Errorf("%s twice in a row", text)
		}
		if there[key] = came; !came {
			delete(there, key)
		}
	}
	counts, members, _ := w.state()
	want := make(map[string]bool)
	for channel := range counts {
		want[channel+" "] = true
		for user := range members[channel] {
			want[channel+" "+user] = true
		}
	}
	if !maps.Equal(there, want) {
		t.Errorf("webhooks tell of %v, want %v", there, want)
	}
}
