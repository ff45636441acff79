package webhook

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
	"github.com/parleyio/parley/internal/pusher/apps"
)

// team is several nodes over one ledger and one queue, in a synctest bubble.
type team struct {
	t       *testing.T
	options Options
	store   *memory.Provider
	apps    *registry
	sent    *recorder

	mu    sync.Mutex
	alive map[string]bool
}

// mate is a node of a team.
type mate struct {
	*Emitter
	team   *team
	name   string
	ledger *faulty
	queue  *mateQueue
	counts *counts
	stop   func() // ends it in order
	die    func() // and without a word

	mu   sync.Mutex
	owns func(channel string) bool

	settling atomic.Bool
	view     atomic.Uint64
	there    sync.Map // facts that are so, as the node sees it
}

// onTeam runs a test on a team without nodes.
func onTeam(t *testing.T, options Options, test func(*testing.T, *team)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		tm := &team{t: t, options: options, store: memory.New(), sent: &recorder{},
			apps: newRegistry(t, oneHook("a")), alive: make(map[string]bool)}
		test(t, tm)
	})
}

// join starts a node that owns everything.
func (tm *team) join(name string) *mate {
	tm.t.Helper()
	documents, err := tm.store.Join(memory.Options{}).Documents(tm.t.Context(), LedgerName)
	if err != nil {
		tm.t.Fatal(err)
	}
	m := &mate{team: tm, name: name, ledger: &faulty{Documents: documents}, counts: newCounts(),
		owns: func(string) bool { return true }}
	m.queue = &mateQueue{recorder: tm.sent}
	m.Emitter = New(tm.options, tm.apps, m.queue, slog.New(slog.DiscardHandler), m.counts)
	m.Join(Cluster{
		Ledger: m.ledger, Node: name,
		Reports: func(_, channel string) bool {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.owns(channel)
		},
		Settling: m.settling.Load,
		TakesOver: func(node string) bool {
			tm.mu.Lock()
			defer tm.mu.Unlock()
			return !tm.alive[node]
		},
		View: func() uint64 { return 1 + m.view.Load() },
		Holds: func(appID, channel, userID string) bool {
			_, holds := m.there.Load(fact{appID, channel, userID})
			return holds
		},
	})
	tm.mu.Lock()
	tm.alive[name] = true
	tm.mu.Unlock()
	end := start(tm.t, m.Emitter)
	m.stop = func() {
		end()
		tm.mu.Lock()
		defer tm.mu.Unlock()
		delete(tm.alive, name)
	}
	m.die = func() {
		m.ledger.set(func(l *faulty) { l.dead = true })
		m.stop()
	}
	synctest.Wait()
	return m
}

// sees notes what is so as the node sees it.
func (m *mate) sees(about fact, holds bool) {
	if holds {
		m.there.Store(about, true)
	} else {
		m.there.Delete(about)
	}
}

// Emit is that of the emitter, of what the node sees.
func (m *mate) Emit(appID string, event Event) {
	m.sees(event.about(appID), !event.leaves())
	m.Emitter.Emit(appID, event)
}

// Compare is that of the emitter, of what the node sees.
func (m *mate) Compare(appID, channel string, occupied bool, members []string) {
	m.there.Range(func(about, _ any) bool {
		if f := about.(fact); f.place() == (Place{appID, channel}) {
			m.there.Delete(f)
		}
		return true
	})
	m.sees(fact{appID, channel, ""}, occupied)
	for _, user := range members {
		m.sees(fact{appID, channel, user}, true)
	}
	m.Emitter.Compare(appID, channel, occupied, members)
}

func (m *mate) setOwns(owns func(string) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.owns = owns
}

func always(string) bool { return true }
func never(string) bool  { return false }

// told returns what was sent since the last call, as "name channel user", in order.
func (tm *team) told() []string {
	var list []string
	for _, text := range tm.sent.events(tm.t) {
		list = append(list, shorten(text))
	}
	tm.sent.mu.Lock()
	defer tm.sent.mu.Unlock()
	tm.sent.jobs = nil
	return list
}

// expect checks what was sent since the last call, in any order.
func (tm *team) expect(what string, want ...string) {
	tm.t.Helper()
	got := tm.told()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		tm.t.Errorf("%s: sent %q, want %q", what, got, want)
	}
}

// shorten turns an event's JSON into its values.
func shorten(text string) string {
	parts := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(`{}":,`, r) })
	var values []string
	for i := 1; i < len(parts); i += 2 {
		values = append(values, parts[i])
	}
	return strings.Join(values, " ")
}

// facts returns how many facts the ledger has.
func (tm *team) facts() (n int) {
	documents, err := tm.store.Documents(tm.t.Context(), LedgerName)
	if err != nil {
		tm.t.Fatal(err)
	}
	list, err := documents.List(tm.t.Context())
	if err != nil {
		tm.t.Fatal(err)
	}
	for _, d := range list {
		if isFact(d.Key) {
			n++
		}
	}
	return n
}

// mateQueue is a node's way to the shared recorder. Jobs of one id are one, as in a queue.
type mateQueue struct {
	*recorder
	mu      sync.Mutex
	failure error
}

func (q *mateQueue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failure = err
}

func (q *mateQueue) Enqueue(ctx context.Context, job fabric.Job) (string, error) {
	q.mu.Lock()
	failure := q.failure
	q.mu.Unlock()
	if failure != nil {
		return "", failure
	}
	q.recorder.mu.Lock()
	defer q.recorder.mu.Unlock()
	if q.recorder.ids == nil {
		q.recorder.ids = make(map[string]bool)
	}
	if !q.recorder.ids[job.ID] {
		q.recorder.ids[job.ID] = true
		q.recorder.jobs = append(q.recorder.jobs, job)
	}
	return job.ID, nil
}

// faulty is a ledger that can fail.
type faulty struct {
	fabric.Documents
	mu       sync.Mutex
	dead     bool          // nothing works any more
	refuse   bool          // Commit fails and writes nothing
	unheard  int           // so many times, Commit writes and fails
	held     chan struct{} // Commit waits until it is closed
	late     chan struct{} // closed when a held Commit was made
	lag      chan struct{} // the watch tells nothing until it is closed
	deaf     bool          // Put fails
	slow     time.Duration // a Commit takes so long
	commits  int
	attempts int
}

// Watch implements fabric.Documents.
func (f *faulty) Watch(ctx context.Context, changed func(fabric.Change), ready func()) error {
	return f.Documents.Watch(ctx, func(c fabric.Change) {
		f.mu.Lock()
		lag := f.lag
		f.mu.Unlock()
		if lag != nil {
			select {
			case <-lag:
			case <-ctx.Done():
			}
		}
		changed(c)
	}, ready)
}

var errFaulty = errors.New("no answer")

func (f *faulty) set(change func(*faulty)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faulty) Commit(ctx context.Context, writes []fabric.Write) ([]uint64, error) {
	f.mu.Lock()
	dead, refuse, held, late, slow := f.dead, f.refuse, f.held, f.late, f.slow
	f.attempts++
	f.mu.Unlock()
	time.Sleep(slow)
	if dead || refuse {
		return nil, errFaulty
	}
	if held != nil { // it is on its way, and arrives when nobody waits any more
		go func() {
			<-held
			_, _ = f.Documents.Commit(context.WithoutCancel(ctx), writes) // nobody hears
			close(late)
		}()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	revisions, err := f.Documents.Commit(ctx, writes)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.commits++
	}
	if f.unheard > 0 {
		f.unheard--
		return nil, errFaulty
	}
	return revisions, err
}

func (f *faulty) Put(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	f.mu.Lock()
	deaf := f.deaf
	f.mu.Unlock()
	if deaf {
		return 0, errFaulty
	}
	return f.Documents.Put(ctx, key, value, revision)
}

func (f *faulty) Delete(ctx context.Context, key string, revision uint64) error {
	f.mu.Lock()
	dead := f.dead
	f.mu.Unlock()
	if dead {
		return errFaulty
	}
	return f.Documents.Delete(ctx, key, revision)
}

// hookFor is an app with one hook for some events.
func hookFor(id string, events ...string) apps.App {
	app := oneHook(id)
	app.Webhooks[0].EventTypes = events
	return app
}

const second = time.Second
