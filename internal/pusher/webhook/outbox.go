package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// outbox is the content of a node's own document in the ledger: the changes of its last
// commit, which may not be in the queue yet. They were written in one step with the facts
// that they tell of, so whoever finds them may send them, as often as it takes: the jobs have
// the same ids each time, and the queue takes each once (within fabric.DedupWindow).
//
// The document is a fence too. A node commits at the revision that its outbox has, and who
// takes over from a dead node removes its outbox: a commit of that node that comes later,
// from a buffer or after a pause, finds another revision and changes nothing.
type outbox struct {
	ID      string   `json:"id,omitempty"` // of the commit; the ids of its jobs begin with it
	TimeMS  int64    `json:"time_ms,omitempty"`
	Changes []record `json:"changes,omitempty"`
}

// record is one change in an outbox.
type record struct {
	AppID   string `json:"app"`
	Name    string `json:"name"`
	Channel string `json:"channel"`
	UserID  string `json:"user,omitempty"`
}

func (r record) event() Event { return Event{name: r.Name, channel: r.Channel, userID: r.UserID} }

// decodeOutbox is the inverse of encoding one as JSON.
func decodeOutbox(value []byte) (outbox, error) {
	var box outbox
	if json.Unmarshal(value, &box) != nil || len(box.Changes) > 0 && box.ID == "" {
		return outbox{}, errUnreadableFact
	}
	return box, nil
}

// part is what one job of an outbox carries.
type part struct {
	to     destination
	events []json.RawMessage
	bytes  int
	number int // of this destination
}

// parts divides an outbox into jobs, by the hooks that the apps have now.
func (e *Emitter) parts(box outbox, find func(id string) *apps.App) []*part {
	var list []*part
	open := make(map[destination]*part)
	for _, r := range box.Changes {
		app := find(r.AppID)
		if app == nil {
			continue
		}
		event := r.event()
		body := event.encode()
		for _, url := range wantedBy(app, event.name, event.channel) {
			if len(body) > eventBytesMax || len(url) > urlBytesMax {
				e.metrics.Dropped(DropTooLarge, 1)
				continue
			}
			to := destination{appID: r.AppID, url: url}
			p := open[to]
			if p == nil || len(p.events) >= e.options.BatchSize || p.bytes+len(body)+separatorBytes > softBodyBytes {
				next := &part{to: to}
				if p != nil {
					next.number = p.number + 1
				}
				p = next
				open[to] = p
				list = append(list, p)
			}
			p.events = append(p.events, body)
			p.bytes += len(body) + separatorBytes
		}
	}
	return list
}

// jobID is the same whoever sends the outbox.
func (p *part) jobID(box outbox) string {
	sum := sha256.Sum256([]byte(p.to.appID + "\x00" + p.to.url))
	return box.ID + "." + hex.EncodeToString(sum[:8]) + "." + strconv.Itoa(p.number)
}

// finder returns what finds the apps of an outbox, nil for one that is gone. All its calls
// together wait EnqueueTimeout for apps of which nobody can tell; then it counts as lost what is
// about them.
func (l *ledger) finder(parent context.Context) (find func(id string) *apps.App, end func()) {
	ctx, cancel := context.WithTimeout(parent, l.options.EnqueueTimeout)
	return func(id string) *apps.App {
		for wait := retryMin; ; wait = min(2*wait, retryMax) {
			app, err := l.apps.FindByID(ctx, id)
			if err == nil || errors.Is(err, apps.ErrNotFound) {
				return app
			}
			select {
			case <-time.After(wait):
				continue
			case <-ctx.Done():
			}
			if parent.Err() == nil {
				l.metrics.Dropped(DropAppUnavailable, 1)
				l.log.Error("webhook events dropped", "app_id", id, "reason", DropAppUnavailable, "events", 1, "error", err)
			}
			return nil
		}
	}, cancel
}

// send puts an outbox into the queue. It returns false if ctx ended before all of it was.
func (l *ledger) send(ctx context.Context, box outbox) bool {
	find, end := l.finder(ctx)
	defer end()
	parts := l.parts(box, find)
	if ctx.Err() != nil {
		return false // what is in the outbox is not lost
	}
	for _, p := range parts {
		job := fabric.Job{ID: p.jobID(box), Payload: encodeJSON(payload{
			AppID: p.to.appID, URL: p.to.url, TimeMS: box.TimeMS, Events: p.events,
		})}
		reason, err := l.enqueueJob(ctx, job)
		if reason == DropShutdown {
			return false // what is in the outbox is not lost
		}
		if err != nil {
			l.metrics.Dropped(reason, len(p.events))
			l.log.Error("webhook events dropped", "app_id", p.to.appID, "reason", reason,
				"events", len(p.events), "error", err)
		}
	}
	return true
}

func (l *ledger) outboxKey() string { return outboxPrefix + l.Node }

// open learns the revision of this node's outbox, making it when there is none, and sends
// what is in it: of an earlier life, or of a commit that was not answered.
func (l *ledger) open(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, storeTimeout)
	defer cancel()
	found, err := l.get(ctx, l.outboxKey())
	if errors.Is(err, fabric.ErrNotFound) {
		l.revision, err = l.Ledger.Put(ctx, l.outboxKey(), encodeJSON(outbox{}), 0)
		l.full, l.unsent = false, false
		return err
	}
	if err != nil {
		return err
	}
	if !l.sendFound(parent, found) {
		return parent.Err()
	}
	l.revision = found.Revision
	return nil
}

// sendFound sends an outbox that was not made by the commit that ended just now.
func (l *ledger) sendFound(ctx context.Context, found fabric.Document) bool {
	box, err := decodeOutbox(found.Value)
	if err != nil {
		l.log.Error("webhook outbox left out", "key", found.Key, "error", err)
	}
	if len(box.Changes) > 0 {
		l.metrics.Ledger(LedgerRecovered, len(box.Changes))
	}
	sent := l.send(ctx, box)
	if found.Key == l.outboxKey() {
		l.full, l.unsent = len(box.Changes) > 0, !sent
	}
	return sent
}

// clear empties this node's outbox, all of which is in the queue.
func (l *ledger) clear(parent context.Context) {
	ctx, cancel := context.WithTimeout(parent, storeTimeout)
	defer cancel()
	revision, err := l.Ledger.Put(ctx, l.outboxKey(), encodeJSON(outbox{}), l.revision)
	l.revision, l.full = revision, false
	if err != nil {
		l.revision = 0 // to be opened before the next commit
		l.log.Debug("webhook outbox not emptied", "error", err)
	}
}

// close removes this node's outbox, unless something in it is still to be sent: then it is
// for who comes next.
func (l *ledger) close() {
	if l.revision == 0 || l.unsent {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := l.Ledger.Delete(ctx, l.outboxKey(), l.revision); err != nil {
		l.log.Debug("webhook outbox not removed", "error", err)
	}
}

// takeOver sends what dead nodes left in their outboxes and removes those.
func (l *ledger) takeOver(parent context.Context) {
	for _, node := range l.others() {
		if !l.TakesOver(node) {
			continue
		}
		if err := l.takeOverFrom(parent, node); err != nil {
			l.log.Warn("webhook outbox of a dead node not taken over", "node", node, "error", err)
			l.behind.Store(true)
		}
	}
}

func (l *ledger) takeOverFrom(parent context.Context, node string) error {
	ctx, cancel := context.WithTimeout(parent, storeTimeout)
	defer cancel()
	key := outboxPrefix + node
	found, err := l.get(ctx, key)
	if err == nil {
		if !l.sendFound(parent, found) {
			return parent.Err()
		}
		err = l.Ledger.Delete(ctx, key, found.Revision)
	}
	if err != nil && !errors.Is(err, fabric.ErrNotFound) {
		return err
	}
	l.forget(node)
	return nil
}
