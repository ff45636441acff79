package directory

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/memory"
)

const (
	batch  = 20 * time.Millisecond
	digest = time.Second
)

// peer is one node with its directory and what its listener was told.
type peer struct {
	*Directory
	signal *tapped
	stop   func()

	mu      sync.Mutex // guards the following fields
	view    view
	problem string
	calls   int
	dropped map[string]int
}

// tapped is a signal that counts what it publishes, and may lose it.
type tapped struct {
	fabric.Signal
	mu   sync.Mutex // guards the following fields
	sent map[kind]int
	lose map[kind]bool
}

func (s *tapped) Publish(ctx context.Context, subject string, payload []byte) error {
	s.mu.Lock()
	k := kind(payload[0])
	s.sent[k]++
	lose := s.lose[k]
	s.mu.Unlock()
	if lose {
		return nil
	}
	return s.Signal.Publish(ctx, subject, payload)
}

func (s *tapped) count(k kind) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[k]
}

func (s *tapped) losing(lose map[kind]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = lose
}

// newPeer makes a node on the store of base; it runs only when run is called.
func newPeer(t *testing.T, base *memory.Provider, name string, incarnation uint64) *peer {
	t.Helper()
	provider := base.Join(memory.Options{})
	t.Cleanup(func() { _ = provider.Close() })
	signal, err := provider.Signal(t.Context(), "directory")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{
		signal:  &tapped{Signal: signal, sent: make(map[kind]int)},
		view:    make(view),
		dropped: make(map[string]int),
		stop:    func() {},
	}
	p.Directory, err = New(Options{
		Node: name, Incarnation: incarnation, Signal: p.signal,
		BatchInterval: batch, DigestInterval: digest,
		Changed: p.changed, Logger: slog.New(slog.DiscardHandler),
		Dropped: func(reason string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.dropped[reason]++
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) changed(changes []Change) {
	p.Rows() // Changed may use the directory
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls++
	if problem := p.view.apply(changes); problem != "" && p.problem == "" {
		p.problem = problem
	}
}

// run runs the directory until stop is called or the test ends.
func (p *peer) run(t *testing.T) *peer {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { p.stop() })
	return p
}

func running(t *testing.T, base *memory.Provider, names ...string) []*peer {
	var peers []*peer
	for _, name := range names {
		peers = append(peers, newPeer(t, base, name, 1).run(t))
	}
	synctest.Wait()
	return peers
}

// told returns what the listener knows, as text.
func (p *peer) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := newRows()
	for id, value := range p.view {
		r.set(id.node+":"+id.key, id.entry, value)
	}
	return listed(r.all())
}

func (p *peer) expect(t *testing.T, want string) {
	t.Helper()
	synctest.Wait()
	if got := p.told(); got != want {
		t.Errorf("%s was told %q, want %q", p.options.Node, got, want)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem != "" {
		t.Error(p.problem)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{{DigestInterval: time.Second}, {Node: "a"},
		{Node: strings.Repeat("n", maxText+1), DigestInterval: time.Second}} {
		if _, err := New(o); err == nil {
			t.Errorf("%.20q with %v was taken", o.Node, o.DigestInterval)
		}
	}
}

func TestChangesTravelInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := memory.New()
		peers := running(t, base, "a", "b", "c")
		a, b := peers[0], peers[1]
		time.Sleep(batch)

		a.Set("k", "e", []byte("1"))
		start := time.Now()
		b.expect(t, "a:k/e=1")
		if time.Since(start) != 0 {
			t.Error("the first change waited")
		}
		for i := range 100 {
			a.Set("k", "e", []byte(fmt.Sprint("again", i)))
			a.Set("l", fmt.Sprint(i%2), []byte{})
		}
		time.Sleep(batch - time.Nanosecond)
		b.expect(t, "a:k/e=1")
		time.Sleep(time.Nanosecond)
		for _, p := range peers[1:] {
			p.expect(t, "a:k/e=again99 a:l/0= a:l/1=")
		}
		if sent := a.signal.count(kindDelta); sent != 2 || b.calls != 2 {
			t.Errorf("%d messages sent, %d calls, want 2: one at once and one batch", sent, b.calls)
		}
		time.Sleep(batch)
		a.Set("l", "0", nil)
		a.Set("l", "1", nil)
		b.expect(t, "a:k/e=again99 a:l/1=")
		time.Sleep(batch)
		b.expect(t, "a:k/e=again99")
		if own, others := b.Rows(); own != 0 || others != 1 {
			t.Errorf("b has %d rows and %d of others", own, others)
		}
		var each []string
		b.Each("k", func(node, entry string, value []byte) { each = append(each, node+entry+string(value)) })
		if len(each) != 1 || each[0] != "aeagain99" {
			t.Errorf("under k there is %q", each)
		}
		if asked := b.signal.count(kindAsk); asked != 0 {
			t.Errorf("b asked %d times", asked)
		}
	})
}

// A directory tells nobody anything before it runs and after it stopped: what Changed needs
// may not be there.
func TestChangedIsCalledWhileItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := memory.New()
		a := running(t, base, "a")[0]
		late := newPeer(t, base, "late", 1)
		a.Set("k", "e", []byte("1"))
		late.Set("own", "e", []byte("1"))
		time.Sleep(3 * digest)
		late.expect(t, "")
		late.run(t)
		time.Sleep(digest + batch)
		late.expect(t, "a:k/e=1")
		a.expect(t, "late:own/e=1")
		late.stop()
		a.Set("l", "e", []byte("1"))
		time.Sleep(3 * digest)
		late.expect(t, "a:k/e=1")
	})
}

func TestNodesGoAndComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := memory.New()
		peers := running(t, base, "a", "b", "c")
		a, b, c := peers[0], peers[1], peers[2]
		a.Set("k", "e", []byte("1"))
		c.Set("k", "e", []byte("3"))
		b.expect(t, "a:k/e=1 c:k/e=3")
		b.NodeGone("a")
		b.expect(t, "c:k/e=3")
		c.expect(t, "a:k/e=1")
		b.NodeGone("a")
		b.NodeGone("nobody")

		// It was only slow: its next digest brings it back, with the incarnation it had.
		time.Sleep(digest)
		b.expect(t, "a:k/e=1 c:k/e=3")

		// It dies and starts again, and has other rows.
		a.stop()
		again := newPeer(t, base, "a", 2).run(t)
		synctest.Wait()
		again.Set("l", "e", []byte("2"))
		b.expect(t, "a:l/e=2 c:k/e=3")
		time.Sleep(2 * digest)
		again.expect(t, "c:k/e=3")
	})
}

func TestLostMessagesAreMadeUpFor(t *testing.T) {
	for _, test := range []struct {
		name string
		lose func(a, b *peer, lost bool)
		busy bool
		seen string // while they are lost
	}{
		{"a change", func(a, _ *peer, lost bool) { a.signal.losing(map[kind]bool{kindDelta: lost}) }, false, "a:k/e=1"},
		{"everything", func(a, b *peer, lost bool) {
			all := map[kind]bool{kindDelta: lost, kindDigest: lost, kindAsk: lost, kindSnapshot: lost}
			a.signal.losing(all)
			b.signal.losing(all)
		}, false, ""},
		{"the question of a busy node", func(a, b *peer, lost bool) {
			a.signal.losing(map[kind]bool{kindDelta: lost, kindSnapshot: lost})
			b.signal.losing(map[kind]bool{kindAsk: lost})
		}, true, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peers := running(t, memory.New(), "a", "b")
				a, b := peers[0], peers[1]
				time.Sleep(batch)
				change := func(until time.Time) {
					for i := 0; time.Now().Before(until); i++ {
						if test.busy {
							a.Set("busy", "e", []byte(fmt.Sprint(i)))
						}
						time.Sleep(batch / 4)
					}
				}
				test.lose(a, b, true)
				a.Set("k", "e", []byte("1"))
				change(time.Now().Add(2*digest + digest/2))
				b.expect(t, test.seen)
				test.lose(a, b, false)
				change(time.Now().Add(3 * digest))
				a.Set("busy", "e", nil)
				time.Sleep(batch)
				b.expect(t, "a:k/e=1")
			})
		})
	}
}

func TestLateNodeGetsManyRows(t *testing.T) {
	const count = 50_000
	synctest.Test(t, func(t *testing.T) {
		base := memory.New()
		peers := running(t, base, "a", "b")
		a, b := peers[0], peers[1]
		for i := range count {
			a.Set(fmt.Sprint("c1\x00presence-room-", i), "muser", bytes.Repeat([]byte("i"), 30))
		}
		time.Sleep(batch)
		synctest.Wait()
		if _, others := b.Rows(); others != count {
			t.Fatalf("b was told of %d rows", others)
		}
		late := newPeer(t, base, "late", 1).run(t)
		time.Sleep(digest / 2) // the digest comes in the middle of what follows
		for i := range 1000 {
			a.Set(fmt.Sprint("c1\x00presence-room-", i), "muser", nil)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(batch)
		synctest.Wait()
		for _, p := range []*peer{b, late} {
			if _, others := p.Rows(); others != count-1000 || len(p.view) != others || p.problem != "" {
				t.Errorf("%s has %d rows, was told of %d; %s", p.options.Node, others, len(p.view), p.problem)
			}
		}
		if asked := late.signal.count(kindAsk); asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		if parts := a.signal.count(kindSnapshot); parts < 10 || parts > 100 {
			t.Errorf("%d parts", parts)
		}
	})
}

// What no message can carry must not keep everything else from others.
func TestTooLargeRowsAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		peers := running(t, memory.New(), "a", "b")
		a, b := peers[0], peers[1]
		a.Set("big", "e", []byte("small"))
		a.Set("big", "e", make([]byte, maxRow+1))
		a.Set(strings.Repeat("k", maxText+1), "e", []byte("1"))
		a.Set("k", strings.Repeat("e", maxText+1), []byte("1"))
		a.Set("fits", "e", []byte("1"))
		time.Sleep(2 * digest)
		b.expect(t, "a:fits/e=1")
		if a.dropped["directory_row_too_large"] != 3 || b.dropped["directory_malformed"] != 0 {
			t.Errorf("dropped %v and %v", a.dropped, b.dropped)
		}
	})
}

func TestLossesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := memory.New()
		peers := running(t, base, "a")
		a := peers[0]
		other, err := base.Signal(t.Context(), "directory")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = base.Close() }()
		send := func(subject string, payload []byte) {
			if err := other.Publish(t.Context(), subject, payload); err != nil {
				t.Fatal(err)
			}
		}
		send(subjectChanges, []byte{9})
		send(subjectAsk+"a", []byte{9})
		send(subjectAsk+"a", (&message{kind: kindDelta, node: "x"}).encode())
		synctest.Wait()
		a.mu.Lock()
		if a.dropped["directory_malformed"] != 3 {
			t.Errorf("dropped %v", a.dropped)
		}
		a.mu.Unlock()

		a.stop() // nobody answers the askers now
		for i := range maxAskers + 5 {
			a.answer(fabric.Message{Payload: (&message{kind: kindAsk, node: fmt.Sprint(i)}).encode()})
		}
		a.signal.Signal = closed{a.signal.Signal}
		a.Set("k", "e", []byte("1"))
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.dropped["directory_askers"] != 5 || a.dropped["directory_publish"] != 1 {
			t.Errorf("dropped %v", a.dropped)
		}
	})
}

// closed is a signal on which nothing can be sent.
type closed struct{ fabric.Signal }

func (closed) Publish(context.Context, string, []byte) error { return fabric.ErrClosed }

// Real time and many goroutines, for the race detector.
func TestConcurrentUse(t *testing.T) {
	base := memory.New()
	var peers []*peer
	for _, name := range []string{"a", "b", "c"} {
		p := newPeer(t, base, name, 1)
		p.options.BatchInterval, p.options.DigestInterval = time.Millisecond, 5*time.Millisecond
		peers = append(peers, p.run(t))
	}
	var writers sync.WaitGroup
	for _, p := range peers {
		for g := range 4 {
			writers.Go(func() {
				for i := range 500 {
					p.Set(fmt.Sprint("k", i%7), fmt.Sprint("e", g), []byte(fmt.Sprint(i)))
					if i%50 == 0 {
						p.NodeGone(peers[(g+1)%3].options.Node)
					}
				}
				for i := range 7 {
					p.Set(fmt.Sprint("k", i), fmt.Sprint("e", g), []byte("end"))
				}
			})
		}
	}
	writers.Wait()
	var entries []string
	for k := range 7 {
		for e := range 4 {
			entries = append(entries, fmt.Sprintf("k%d/e%d=end", k, e))
		}
	}
	deadline := time.Now().Add(10 * time.Second)
	for i, p := range peers {
		want := make([]string, 0, 2*len(entries))
		for j, other := range peers {
			for _, entry := range entries {
				if i != j {
					want = append(want, other.options.Node+":"+entry)
				}
			}
		}
		for p.told() != strings.Join(want, " ") {
			if time.Now().After(deadline) {
				t.Fatalf("%s was told %s", p.options.Node, p.told())
			}
			time.Sleep(time.Millisecond)
		}
		if p.problem != "" {
			t.Error(p.problem)
		}
	}
}
