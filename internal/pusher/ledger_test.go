package pusher

import (
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
	"github.com/parleyio/parley/internal/pusher/webhook"
)

// joinLedger gives a node webhooks as a real one has them, up to the queue.
func (n *hubNode) joinLedger() {
	n.emitter = webhook.New(webhook.Options{}, n, &jobQueue{n}, slog.New(slog.DiscardHandler), n)
	ledger, err := n.provider.Documents(n.hubs.t.Context(), webhook.LedgerName)
	n.hubs.must(err)
	n.emitter.Join(webhook.Cluster{
		Ledger: ledger, Node: n.name,
		Reports:   func(appID, channel string) bool { return n.hubs.owner(ChannelKey(appID, channel)) == n.name },
		TakesOver: func(node string) bool { return n.hubs.owner(node) == n.name && !n.hubs.lives(node) },
	})
}

func (n *hubNode) runEmitter(ctx context.Context) error {
	if n.emitter == nil {
		return nil
	}
	return n.emitter.Run(ctx)
}

// ByID implements webhook.Apps.
func (n *hubNode) ByID(id string) (*apps.App, bool) { return n.hubs.app, id == n.hubs.app.ID }

// FindByID implements webhook.Apps.
func (n *hubNode) FindByID(_ context.Context, id string) (*apps.App, error) {
	if app, found := n.ByID(id); found {
		return app, nil
	}
	return nil, apps.ErrNotFound
}

// Sent, Dropped and Ledger implement webhook.Metrics.
func (n *hubNode) Sent(string, int) {}
func (n *hubNode) Dropped(reason string, lost int) {
	if reason == webhook.DropShutdown && !n.hubs.lives(n.name) {
		return // it is dead, and these are of no channel's coming and going
	}
	n.hubs.t.Errorf("%d webhooks dropped: %s", lost, reason)
}
func (n *hubNode) Ledger(string, int) {}

func (hs *hubs) lives(name string) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.alive[name]
}

// jobQueue writes down the webhooks of a node, each job once.
type jobQueue struct{ node *hubNode }

func (q *jobQueue) Enqueue(ctx context.Context, job fabric.Job) (string, error) {
	var payload struct{ Events []json.RawMessage }
	if err := json.Unmarshal(job.Payload, &payload); err != nil {
		return "", err
	}
	hs := q.node.hubs
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if !hs.alive[q.node.name] {
		return "", context.Canceled // its last commit is in its outbox
	}
	if hs.jobs[job.ID] {
		return job.ID, nil
	}
	hs.jobs[job.ID] = true
	for _, event := range payload.Events {
		hs.emits = append(hs.emits, string(event))
	}
	return job.ID, nil
}

func (q *jobQueue) Work(ctx context.Context, _ fabric.Handler) error {
	<-ctx.Done()
	return nil
}
func (q *jobQueue) Len(context.Context) (int, error) { return 0, nil }
func (q *jobQueue) DeadLetters(context.Context, string, int) ([]fabric.DeadLetter, error) {
	return nil, nil
}
func (q *jobQueue) Replay(context.Context, string) error  { return fabric.ErrNotFound }
func (q *jobQueue) Discard(context.Context, string) error { return fabric.ErrNotFound }

// compare has all nodes look for what they missed, as after a change of the view.
func (hs *hubs) compare() {
	hs.settle()
	for _, n := range hs.nodes {
		n.emitter.TakeOver()
		if !n.emitter.CatchUp(hs.t.Context()) {
			hs.t.Errorf("%s cannot catch up", n.name)
		}
		n.Compare()
	}
	hs.settle()
}

// Nodes die and start under random traffic: what webhooks were told is the truth in the end,
// and each transition was told once: as often that something began as that it ended, and
// once more for what is there.
func TestRandomRunsWithLedger(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			w := &truth{hubs: newHubsWith(t, true, "a", "b", "c"), random: rand.New(rand.NewPCG(seed, 1))}
			for range 300 {
				before := len(w.alive)
				w.act(true)
				if len(w.alive) != before {
					w.compare()
				}
			}
			time.Sleep(5 * time.Second) // digests bring a new node what it missed
			synctest.Wait()
			w.compare()
			time.Sleep(5 * time.Second) // leaves that a comparison found wait
			synctest.Wait()
			w.check(t)
			w.checkBalance(t)
			for _, n := range w.nodes {
				n.stop()
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		})
	}
}

// checkBalance checks what was told, whatever the order: webhooks of two nodes may overtake
// each other.
func (w *truth) checkBalance(t *testing.T) {
	balance := make(map[string]int)
	for _, text := range w.emits {
		var e struct {
			Name, Channel string
			UserID        string `json:"user_id"`
		}
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		switch e.Name {
		case "channel_occupied", "member_added":
			balance[e.Channel+" "+e.UserID]++
		case "channel_vacated", "member_removed":
			balance[e.Channel+" "+e.UserID]--
		}
	}
	counts, members, _ := w.state()
	for channel := range counts {
		balance[channel+" "]--
		for user := range members[channel] {
			balance[channel+" "+user]--
		}
	}
	for what, n := range balance {
		if n != 0 {
			t.Errorf("%q was told %+d times too often", what, n)
		}
	}
	if len(w.emits) < 20 {
		t.Errorf("%d webhooks, too few to test anything", len(w.emits))
	}
}

// What the owner of a channel missed, it reports when it compares.
func TestCompare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := newHubsWith(t, true, "a", "b")
		a, b := hs.nodes[0], hs.nodes[1]
		one := a.connect().subscribe("presence-x", "u")
		two := a.connect().subscribe("presence-x", "v")
		b.connect().subscribe("news")
		time.Sleep(time.Second)
		expectWebhooks(t, hs,
			`{"name":"channel_occupied","channel":"news"}`,
			`{"name":"channel_occupied","channel":"presence-x"}`,
			`{"name":"member_added","channel":"presence-x","user_id":"u"}`,
			`{"name":"member_added","channel":"presence-x","user_id":"v"}`)
		hs.mu.Lock() // nobody owns anything
		alive := hs.alive
		hs.alive = map[string]bool{}
		hs.mu.Unlock()
		one.leave()
		b.connect().subscribe("presence-x", "w")
		b.connect().subscribe("sport")
		time.Sleep(5 * time.Second)
		expectWebhooks(t, hs)
		hs.mu.Lock()
		hs.alive = alive
		hs.mu.Unlock()
		hs.compare()
		time.Sleep(time.Second)
		expectWebhooks(t, hs,
			`{"name":"channel_occupied","channel":"sport"}`,
			`{"name":"member_added","channel":"presence-x","user_id":"w"}`)
		a.connect().subscribe("presence-x", "u") // while the leave is held back
		time.Sleep(5 * time.Second)
		expectWebhooks(t, hs)
		two.leave()
		time.Sleep(time.Second)
		expectWebhooks(t, hs, `{"name":"member_removed","channel":"presence-x","user_id":"v"}`)
		for _, n := range hs.nodes {
			n.stop()
		}
	})
}
