package fabrictest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/parleyio/parley/internal/fabric"
)

func openReplay(t *testing.T, l fabric.Log, id string) *fabric.Replay {
	t.Helper()
	r, err := fabric.NewReplay(l, id)
	must(t, "open replay", err)
	return r
}

// say publishes and returns the position.
func say(t *testing.T, r *fabric.Replay, subject, payload string) uint64 {
	t.Helper()
	position, err := r.Publish(context.Background(), subject, []byte(payload))
	must(t, "publish on "+subject, err)
	return position
}

// heard follows a replay and returns "sender subject payload" of what comes, and gaps.
func heard(
	t *testing.T, r *fabric.Replay, pattern string, after uint64, options ...fabric.SubscribeOption,
) (<-chan string, func()) {
	t.Helper()
	texts := make(chan string, 1000)
	stop := background(t, "subscribe", func(ctx context.Context) error {
		return r.Subscribe(ctx, pattern, after, func(m fabric.Kept) {
			texts <- fmt.Sprintf("%s %s %s", m.Sender, m.Subject, m.Payload)
		}, func(gap fabric.Gap) { texts <- string(gap) }, options...)
	})
	return texts, stop
}

func wantHeard(t *testing.T, texts <-chan string, want ...string) {
	t.Helper()
	for _, text := range want {
		if got := receive(t, text, texts); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}

// testLogReplay has one away while things are said, and each skip what it said itself.
func testLogReplay(t *testing.T, p fabric.Provider) {
	l := openLog(t, p)
	one, two := openReplay(t, l, "one"), openReplay(t, l, "two")
	if other := openReplay(t, l, ""); other.ID() == "" || other.ID() == openReplay(t, l, "").ID() {
		t.Errorf("an id that was not given is %q", other.ID())
	}
	if position, err := one.Position(context.Background()); err != nil || position != 0 {
		t.Errorf("position %d, %v", position, err)
	}
	first := say(t, one, "a.1", "before")
	texts, stop := heard(t, two, "a.*", 0, fabric.SkipSelf())
	say(t, two, "a.1", "own")
	say(t, one, "b", "elsewhere")
	say(t, one, "a.2", "live")
	wantHeard(t, texts, "one a.1 before", "one a.2 live")
	stop()
	missed := say(t, one, "a.3", "missed")
	say(t, one, "a.1", "") // an empty one
	texts, _ = heard(t, two, "a.*", missed-1, fabric.SkipSelf())
	wantHeard(t, texts, "one a.3 missed", "one a.1 ")
	texts, _ = heard(t, one, ">", first)
	wantHeard(t, texts, "two a.1 own", "one b elsewhere", "one a.2 live", "one a.3 missed", "one a.1 ")
	position, err := two.Position(context.Background())
	must(t, "position", err)
	texts, _ = heard(t, one, ">", position)
	say(t, two, "c", "new")
	wantHeard(t, texts, "two c new")
	_, err = fabric.NewReplay(l, string(make([]byte, fabric.MaxKeySize+1)))
	wantError(t, "a long id", err, fabric.ErrInvalidKey)
}

// testLogReplayFrom asks from positions that are no longer there, or never were.
func testLogReplayFrom(t *testing.T, p fabric.Provider) {
	l := openLog(t, p)
	r := openReplay(t, l, "x")
	for i := range 5 {
		say(t, r, "s", fmt.Sprint(i))
	}
	texts, _ := heard(t, r, "s", 99)
	wantHeard(t, texts, string(fabric.GapForgotten), "x s 0")
	for seq := range uint64(3) {
		must(t, "delete", l.Delete(context.Background(), seq+1))
	}
	texts, _ = heard(t, r, "s", 3)
	wantHeard(t, texts, "x s 3", "x s 4")
	texts, _ = heard(t, r, "s", 1)
	wantHeard(t, texts, string(fabric.GapForgotten), "x s 3", "x s 4")
}

// testLogReplayPages reads what is kept page by page.
func testLogReplayPages(t *testing.T, p fabric.Provider) {
	ctx := context.Background()
	l := openLog(t, p)
	r := openReplay(t, l, "x")
	began := time.Now().Add(-time.Minute)
	for i := range 7 {
		say(t, r, fmt.Sprintf("s.%d", i%2), fmt.Sprint(i))
	}
	_, err := l.Append(ctx, "s.0", []byte{200, 1}) // not by a Replay
	must(t, "append", err)
	var texts []string
	for after, calls := uint64(0), 0; ; calls++ {
		messages, next, err := r.Read(ctx, "s.0", after, 2)
		must(t, "read", err)
		if next == after {
			break
		}
		if calls > 10 || next < after {
			t.Fatalf("position %d behind %d", next, after)
		}
		for _, m := range messages {
			texts = append(texts, fmt.Sprintf("%s%s@%d", m.Sender, m.Payload, m.Position))
			if m.Time.Before(began) || m.Time.After(time.Now().Add(time.Minute)) {
				t.Errorf("said at %v", m.Time)
			}
		}
		after = next
	}
	if got := fmt.Sprint(texts); got != "[x0@1 x2@3 x4@5 x6@7]" {
		t.Errorf("read %s", got)
	}
	if first, err := r.First(ctx); err != nil || first != 1 {
		t.Errorf("first is %d, %v", first, err)
	}
}
